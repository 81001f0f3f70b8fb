//! Command line of block devices: options, help, and the mapping to devices of the manifest.

use clap::ValueHint;

use super::{Mismatch, Names};
use crate::cli::option::{Argument, Group, Row, Systems};
use crate::cli::value::{amount, file};
use crate::config::{BlockSource, DeviceOptions, Named};
use crate::device::BlockOptions;
use crate::image::{DeviceKind, Manifest};

/// Options of block devices.
pub(in crate::cli) static OPTIONS: &[Row] = &[
    Row::new(
        Group::Block,
        "block",
        Argument::Device("[NAME=]PATH", |options, path| {
            options.blocks.push(path.try_map(file)?.map(BlockSource::File));
            Ok(())
        }),
        "Attach a block device: the file or block device PATH",
    )
    .hint(ValueHint::FilePath),
    Row::new(
        Group::Block,
        "disk-cow",
        Argument::Device("[NAME=]PATH", |options, path| {
            options.blocks.push(path.try_map(file)?.map(BlockSource::Copy));
            Ok(())
        }),
        "Attach a copy-on-write block device: writes stay in memory, and PATH is never modified",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::FilePath),
    Row::new(
        Group::Block,
        "block-sector-size",
        Argument::Device("[NAME=]BYTES", |options, bytes| {
            options.block_sizes.push(bytes.try_map(|bytes| amount(bytes).ok_or("a number of bytes"))?);
            Ok(())
        }),
        "Block size of a block device in bytes (default: 512)",
    ),
    Row::new(
        Group::Block,
        "block-readonly",
        Argument::DeviceSwitch(|options, device| options.read_only.push(device)),
        "Refuse writes to a block device",
    ),
    Row::new(
        Group::Block,
        "block-direct",
        Argument::DeviceSwitch(|options, device| options.direct.push(device)),
        "Bypass the host's page cache (`O_DIRECT`); the block size must not be below that of the disk",
    )
    .on(Systems::LINUX),
];

/// Block device requested by the user.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct BlockPlan {
    /// Name in the manifest.
    pub(in crate::cli) name: String,
    pub(in crate::cli) source: BlockSource,
    pub(in crate::cli) options: BlockOptions,
    /// Bypasses the host's page cache.
    pub(in crate::cli) direct: bool,
}

/// Returns the requested block devices, with their names in the manifest.
pub(super) fn devices(options: &DeviceOptions, manifest: &Manifest) -> Result<Vec<BlockPlan>, Mismatch> {
    let names = Names { manifest, kind: DeviceKind::Block };
    let plan = |option: &Named<BlockSource>| {
        let flag = match option.value {
            BlockSource::File(_) => "--block",
            BlockSource::Copy(_) => "--disk-cow",
        };
        let (name, source) = (names.of(option, flag)?, option.value.clone());
        Ok(BlockPlan { name, source, options: BlockOptions::default(), direct: false })
    };
    options.blocks.iter().map(plan).collect()
}

/// Applies the options that modify block devices.
pub(super) fn describe(blocks: &mut [BlockPlan], options: &DeviceOptions, manifest: &Manifest) -> Result<(), Mismatch> {
    let names = Names { manifest, kind: DeviceKind::Block };
    for size in &options.block_sizes {
        names.find(blocks, size, "--block-sector-size")?.options.block_size = size.value;
    }
    for read_only in &options.read_only {
        names.find(blocks, read_only, "--block-readonly")?.options.read_only = true;
    }
    for direct in &options.direct {
        names.find(blocks, direct, "--block-direct")?.direct = true;
    }
    Ok(())
}

impl AsRef<str> for BlockPlan {
    fn as_ref(&self) -> &str {
        &self.name
    }
}
