//! The command line on Redox.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::devices::block::BlockPlan;
use super::devices::net::NetPlan;
use super::personality::Personality;
use super::start::start;
use super::{FAILED, devices, fault, signals};
use crate::backend::CancelToken;
use crate::config::{BlockSource, Config, DeviceOptions, NetSource};
use crate::device::{FileBlock, SchemeNet};
use crate::error_chain::ErrorChain;
use crate::monitor::Outcome;
use crate::unikernel::Unikernel;

/// Runs the command line, and returns the exit status.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    start(args, |config, personality| {
        run(config, personality).unwrap_or_else(|error| {
            personality.report(&error);
            FAILED
        })
    })
}

/// Runs a unikernel, and returns the exit status.
fn run(config: Config, personality: Personality) -> Result<i32, Failed> {
    let stop = CancelToken::new().map_err(Failed::of("cannot create a cancel token"))?;
    signals::stop_on_signals(&stop).map_err(Failed::of("cannot handle signals"))?;
    let unikernel = Unikernel::load(&config.kernel).map_err(Failed::chain)?;
    let arguments = config.arguments.into_iter().map(OsString::into_vec);
    let unikernel = unikernel.mem(config.memory).args(arguments).backend(config.backend).cancel_token(stop);
    match attach(unikernel, &config.devices)?.run_once().map_err(Failed::chain)? {
        Outcome::Exited { status, .. } => Ok(status),
        Outcome::Failed(failure) => {
            // Read only now, because only a failed guest needs symbol names.
            fault::report(personality, &failure, &fs::read(&config.kernel).unwrap_or_default());
            Ok(FAILED)
        }
        Outcome::Interrupted => {
            Err(Failed::plain(format_args!("stopped by {}", signals::received().unwrap_or("request"))))
        }
        Outcome::Asleep => Err(Failed::plain("the guest sleeps forever")),
        Outcome::Exceeded(limit) => Err(Failed::plain(limit)),
    }
}

/// Opens and attaches the devices. The table of options has rejected the values that Redox does not
/// support.
fn attach(mut unikernel: Unikernel, options: &DeviceOptions) -> Result<Unikernel, Failed> {
    let devices = devices::DevicePlan::new(options, unikernel.manifest()).map_err(Failed::chain)?;
    for BlockPlan { name, source, options, .. } in devices.blocks {
        let (BlockSource::File(path) | BlockSource::Copy(path)) = source;
        let device = FileBlock::open(path, &options);
        let device =
            device.map_err(|error| Failed::plain(format_args!("block device '{name}': {}", ErrorChain::of(&error))))?;
        unikernel = unikernel.block(name, device);
    }
    for NetPlan { name, source, mac, .. } in devices.nets {
        let NetSource::Interface(path) = source else { continue };
        let path = Path::new(&path);
        let device = SchemeNet::open(path, mac);
        let device =
            device.map_err(|error| Failed::plain(format_args!("net device '{name}': {}: {error}", path.display())))?;
        unikernel = unikernel.net(name, device);
    }
    Ok(unikernel)
}

/// Error without an exit status of a guest. The message is one line.
#[derive(Debug)]
struct Failed(String);

impl Failed {
    fn plain(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }

    fn chain(error: impl Error + 'static) -> Self {
        Self(ErrorChain::of(&error).to_string())
    }

    fn of<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
