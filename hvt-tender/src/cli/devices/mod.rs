//! Options of devices meet the manifest: each device of the unikernel gets what the user says about it.

pub(in crate::cli) mod block;
pub(in crate::cli) mod net;

use std::fmt;

use self::block::BlockPlan;
use self::net::NetPlan;
use crate::config::{DeviceOptions, Named};
use crate::device::AttachError;
use crate::device::attach::check;
use crate::image::{DeviceKind, Manifest};

/// Devices to open, by name. They match the manifest one to one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DevicePlan {
    pub(super) nets: Vec<NetPlan>,
    pub(super) blocks: Vec<BlockPlan>,
}

impl DevicePlan {
    /// Finds the device of the manifest that each option means.
    ///
    /// # Errors
    /// Returns [`Mismatch`] if an option means no device or several, and if a device has no option.
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
    /// Returns the name of the device that an option means.
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

    /// Finds the device that an option means among those to open.
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
    /// An option without a name, of a unikernel without such devices.
    #[error("{option}: the unikernel declares no {kind} device: remove the option")]
    None { option: &'static str, kind: DeviceKind },
    /// An option without a name, of a unikernel with several such devices.
    #[error("{option}: the unikernel declares the {kind} devices {names}: name one with {option} NAME=..")]
    Several { option: &'static str, kind: DeviceKind, names: String },
    /// An option of a device that does not exist.
    #[error("{option}: {kind} device '{name}' not declared in manifest")]
    Stray { option: &'static str, kind: DeviceKind, name: String },
    /// An option of user-mode networking for a device in another network.
    #[error("{option}: net device '{name}' has no user-mode networking: enable it with --net {name}=user")]
    NotUser { option: &'static str, name: String },
}

/// Option that attaches a device.
fn hint(error: &AttachError) -> impl fmt::Display {
    match error {
        AttachError::NotAttached { name, kind: DeviceKind::Net } => format!(": --net {name}=INTERFACE"),
        AttachError::NotAttached { name, kind: DeviceKind::Block } => format!(": --block {name}=PATH"),
        _ => String::new(),
    }
}
