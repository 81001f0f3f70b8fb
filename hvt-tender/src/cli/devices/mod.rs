//! Matches the device options against the manifest.

pub(in crate::cli) mod block;
pub(in crate::cli) mod net;

use std::fmt;

use self::block::BlockPlan;
use self::net::NetPlan;
use crate::config::{DeviceOptions, Named};
use crate::device::AttachError;
use crate::device::attach::check;
use crate::image::{DeviceKind, Manifest};

/// Devices to open, by name. Each device of the manifest has exactly one entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DevicePlan {
    pub(super) nets: Vec<NetPlan>,
    pub(super) blocks: Vec<BlockPlan>,
}

impl DevicePlan {
    /// Finds the device of the manifest that each option refers to.
    ///
    /// # Errors
    /// Returns [`Mismatch`] if an option matches no device or several devices, or if a device has
    /// no option.
    pub(super) fn new(options: &DeviceOptions, manifest: &Manifest) -> Result<Self, Mismatch> {
        let (mut nets, mut blocks) = (net::devices(options, manifest)?, block::devices(options, manifest)?);
        let named_nets = nets.iter().map(|net| (net.name.as_str(), Some(DeviceKind::Net)));
        let named_blocks = blocks.iter().map(|block| (block.name.as_str(), Some(DeviceKind::Block)));
        check(manifest, named_nets.chain(named_blocks)).map_err(|problem| Mismatch::Attach { problem })?;
        net::describe(&mut nets, options, manifest)?;
        block::describe(&mut blocks, options, manifest)?;
        Ok(Self { nets, blocks })
    }
}

/// Names of the devices of one kind.
struct Names<'m> {
    manifest: &'m Manifest,
    kind: DeviceKind,
}

impl Names<'_> {
    /// Returns the name of the device that an option refers to.
    fn of<T>(&self, value: &Named<T>, option: &'static str) -> Result<String, Mismatch> {
        if let Some(name) = &value.name {
            return Ok(name.clone());
        }
        let same_kind = self.manifest.devices().iter().filter(|device| device.kind == self.kind);
        let mut names: Vec<_> = same_kind.map(|device| device.name.clone()).collect();
        match (names.pop(), names.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(Mismatch::None { option, kind: self.kind }),
            (Some(last), false) => {
                names.push(last);
                Err(Mismatch::Several { option, kind: self.kind, names: names.join(", ") })
            }
        }
    }

    /// Finds the device that an option refers to among the devices to open.
    fn find<'p, P: AsRef<str>, T>(
        &self,
        plans: &'p mut [P],
        value: &Named<T>,
        option: &'static str,
    ) -> Result<&'p mut P, Mismatch> {
        let name = self.of(value, option)?;
        let found = plans.iter_mut().find(|plan| (**plan).as_ref() == name);
        found.ok_or(Mismatch::Stray { option, kind: self.kind, name })
    }
}

/// Options that do not match the manifest. The message is one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum Mismatch {
    /// Devices and manifest do not match.
    #[error("{problem}{}", hint(problem))]
    Attach { problem: AttachError },
    /// Option without a device name, for a unikernel without devices of the kind.
    #[error("{option}: the unikernel declares no {kind} device: remove the option")]
    None { option: &'static str, kind: DeviceKind },
    /// Option without a device name, for a unikernel with several devices of the kind.
    #[error("{option}: the unikernel declares the {kind} devices {names}: name one with {option} NAME=..")]
    Several { option: &'static str, kind: DeviceKind, names: String },
    /// Option for a device that does not exist.
    #[error("{option}: {kind} device '{name}' not declared in manifest")]
    Stray { option: &'static str, kind: DeviceKind, name: String },
    /// Option of user-mode networking, for a device on another network.
    #[error("{option}: net device '{name}' has no user-mode networking: enable it with --net {name}=user")]
    NotUser { option: &'static str, name: String },
}

/// Returns the option that attaches the missing device.
fn hint(error: &AttachError) -> impl fmt::Display {
    match error {
        AttachError::NotAttached { name, kind: DeviceKind::Net } => format!(": --net {name}=INTERFACE"),
        AttachError::NotAttached { name, kind: DeviceKind::Block } => format!(": --block {name}=PATH"),
        _ => String::new(),
    }
}
