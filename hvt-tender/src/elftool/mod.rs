//! `hvt-elftool`: generates manifests for builds in C, and prints the ABI and the manifest of a
//! unikernel.
//!
//! `source` parses a manifest in JSON, and `show` formats the results; both are pure. This module
//! is the command line, compatible with Solo5's `solo5-elftool`.

mod show;
mod source;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, ValueHint, value_parser};
use hvt_abi::MEM_MAX;

use crate::error_chain::ErrorChain;
use crate::image::{ImageError, query_abi, query_manifest};
use crate::{message, usage};

pub use show::{abi, c_source, manifest};
pub use source::{SourceError, devices};

/// Name of the program if `argv[0]` is missing.
const NAME: &str = "hvt-elftool";

const NOTES: &str = "\
SOURCE, OUTPUT and UNIKERNEL are files, or - for the standard input or output.
The source of a manifest with two devices:

  { \"type\": \"solo5.manifest\", \"version\": 1, \"devices\": [
    { \"name\": \"service\", \"type\": \"NET_BASIC\" },
    { \"name\": \"storage\", \"type\": \"BLOCK_BASIC\" } ] }

Compile OUTPUT with Solo5's toolchain or scripts/cc-guest, and link it with the
unikernel.";

/// Runs the command line. Returns the exit status: 0, or 1 after an error.
///
/// The first of `args` is the name of the program (`argv[0]`), and begins its messages.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut args = args.into_iter();
    let started_as = args.next().map(PathBuf::from);
    let name = started_as.as_deref().and_then(Path::file_name).unwrap_or(OsStr::new(NAME)).to_string_lossy();
    let done = Command::parse(args).and_then(Command::run);
    match done {
        Ok(()) => 0,
        Err(error) => {
            message::line(&mut message::Stderr, &name, &ErrorChain::of(&error));
            1
        }
    }
}

/// Request of a command line.
enum Command {
    GenerateManifest {
        source: PathBuf,
        output: PathBuf,
    },
    QueryAbi {
        unikernel: PathBuf,
    },
    QueryManifest {
        unikernel: PathBuf,
    },
    /// Print a text: the help or the version.
    Print(String),
}

/// Returns the command line of `hvt-elftool`, with its documentation.
#[must_use]
pub fn command() -> clap::Command {
    let subcommand = |name, about, files: &[Arg]| clap::Command::new(name).about(about).args(files);
    let file = |name, help| {
        Arg::new(name).required(true).value_parser(value_parser!(PathBuf)).value_hint(ValueHint::FilePath).help(help)
    };
    let unikernel = || file("UNIKERNEL", "File of the unikernel");
    let source = [file("SOURCE", "Manifest in JSON"), file("OUTPUT", "File for the C source")];
    clap::Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Generates and prints the manifests of Solo5 unikernels")
        .after_help(NOTES)
        .disable_help_subcommand(true)
        .propagate_version(true)
        .subcommand_required(true)
        .subcommand(subcommand("gen-manifest", "Generate the C source of a manifest from JSON", &source))
        .subcommand(subcommand("query-abi", "Print the ABI that a unikernel was built for", &[unikernel()]))
        .subcommand(subcommand("query-manifest", "Print the devices of a unikernel", &[unikernel()]))
}

impl Command {
    fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, ElftoolError> {
        let name = [OsString::from(NAME)];
        let mut matches = match command().try_get_matches_from(name.into_iter().chain(args)) {
            Ok(matches) => matches,
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                return Ok(Self::Print(error.to_string()));
            }
            Err(error) => return Err(ElftoolError::Usage(usage::problem(&error))),
        };
        let (name, mut files) = matches.remove_subcommand().unwrap_or_default();
        let mut file = |id| ArgMatches::remove_one(&mut files, id).unwrap_or_default();
        match name.as_str() {
            "gen-manifest" => Ok(Self::GenerateManifest { source: file("SOURCE"), output: file("OUTPUT") }),
            "query-abi" => Ok(Self::QueryAbi { unikernel: file("UNIKERNEL") }),
            _ => Ok(Self::QueryManifest { unikernel: file("UNIKERNEL") }),
        }
    }

    fn run(self) -> Result<(), ElftoolError> {
        let text = match self {
            Self::GenerateManifest { source, output } => {
                let json = read(&source)?;
                let devices = devices(&json).map_err(|problem| ElftoolError::Source { path: source, problem })?;
                return write(&output, &c_source(&devices));
            }
            Self::QueryAbi { unikernel } => abi(query(&unikernel, query_abi)?),
            Self::QueryManifest { unikernel } => manifest(query(&unikernel, query_manifest)?.devices()),
            Self::Print(text) => text,
        };
        write(STDIO.as_ref(), &text)
    }
}

/// Path that stands for the standard input or output.
const STDIO: &str = "-";

/// Reads a file, up to the maximum size of a unikernel.
fn read(path: &Path) -> Result<Vec<u8>, ElftoolError> {
    let mut contents = Vec::new();
    let read = if path == Path::new(STDIO) {
        io::stdin().take(MEM_MAX).read_to_end(&mut contents)
    } else {
        File::open(path).and_then(|file| file.take(MEM_MAX).read_to_end(&mut contents))
    };
    match read {
        Ok(_) => Ok(contents),
        Err(source) => Err(ElftoolError::Read { path: path.into(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), ElftoolError> {
    let written = if path == Path::new(STDIO) {
        let mut stdout = io::stdout();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    } else {
        File::create(path).and_then(|mut file| {
            let written = file.write_all(text.as_bytes());
            // A partial source must not be mistaken for a complete one. Only a regular file is
            // removed.
            if written.is_err() && file.metadata().is_ok_and(|found| found.is_file()) {
                let _ = fs::remove_file(path);
            }
            written
        })
    };
    written.map_err(|source| ElftoolError::Write { path: path.into(), source })
}

fn query<T>(path: &Path, ask: fn(&[u8]) -> Result<T, ImageError>) -> Result<T, ElftoolError> {
    ask(&read(path)?).map_err(|source| ElftoolError::Image { path: path.into(), source })
}

/// Error of the program. The message is one line.
#[derive(Debug, thiserror::Error)]
enum ElftoolError {
    #[error("{0}; see --help")]
    Usage(String),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// In the format of compiler errors, so that editors find the position.
    #[error("{}:{problem}", path.display())]
    Source { path: PathBuf, problem: SourceError },
    #[error("{}", path.display())]
    Image { path: PathBuf, source: ImageError },
}
