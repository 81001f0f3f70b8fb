//! `hvt-elftool`: makes manifests for builds in C, and says what a unikernel was built for.
//!
//! `source` reads a manifest's JSON, `show` writes what comes of it; both are pure. This module is the command line
//! around them, that of Solo5's `solo5-elftool`.

mod show;
mod source;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use hvt_abi::MEM_MAX;
use lexopt::{Arg, Parser};

use crate::image::{ImageError, query_abi, query_manifest};
use crate::message;

pub use show::{abi, c_source, manifest};
pub use source::{SourceError, devices};

const HELP: &str = include_str!("help.txt");

/// The program's name where it was not told.
const NAME: &str = "hvt-elftool";

/// Does what the command line says; returns the status to exit with: 0, or 1 when it could not be done.
///
/// The first of `args` is the name under which the program was started, and begins its messages.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut args = args.into_iter();
    let started_as = args.next().map(PathBuf::from);
    let name = started_as.as_deref().and_then(Path::file_name).unwrap_or(OsStr::new(NAME)).to_string_lossy();
    let done = Command::parse(args).and_then(Command::run);
    match done {
        Ok(()) => 0,
        Err(error) => {
            message::line(&mut message::Stderr, &name, &error);
            1
        }
    }
}

/// What a command line asks for.
enum Command {
    GenerateManifest { source: PathBuf, output: PathBuf },
    QueryAbi { unikernel: PathBuf },
    QueryManifest { unikernel: PathBuf },
    Help,
    Version,
}

impl Command {
    fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let mut parser = Parser::from_args(args.collect::<Vec<_>>());
        let mut words = Vec::new();
        while let Some(arg) = parser.next().map_err(usage)? {
            match arg {
                Arg::Short('h') | Arg::Long("help") => return Ok(Self::Help),
                Arg::Short('V') | Arg::Long("version") => return Ok(Self::Version),
                Arg::Value(word) => words.push(PathBuf::from(word)),
                other => return Err(usage(other.unexpected())),
            }
        }
        let mut words = words.into_iter();
        let Some(command) = words.next() else {
            return Err(usage("no command is named"));
        };
        let mut word =
            |what| words.next().ok_or_else(|| usage(format_args!("{}: no {what} is named", command.display())));
        let parsed = match command.to_str() {
            Some("gen-manifest") => Self::GenerateManifest { source: word("SOURCE")?, output: word("OUTPUT")? },
            Some("query-abi") => Self::QueryAbi { unikernel: word("UNIKERNEL")? },
            Some("query-manifest") => Self::QueryManifest { unikernel: word("UNIKERNEL")? },
            _ => return Err(usage(format_args!("there is no command '{}'", command.display()))),
        };
        match words.next() {
            Some(more) => Err(usage(format_args!("{}: unexpected '{}'", command.display(), more.display()))),
            None => Ok(parsed),
        }
    }

    fn run(self) -> Result<(), Error> {
        let text = match self {
            Self::GenerateManifest { source, output } => {
                let json = read(&source)?;
                let devices = devices(&json).map_err(|problem| Error::Source { path: source, problem })?;
                return write(&output, &c_source(&devices));
            }
            Self::QueryAbi { unikernel } => abi(query(&unikernel, query_abi)?),
            Self::QueryManifest { unikernel } => manifest(query(&unikernel, query_manifest)?.devices()),
            Self::Help => HELP.to_owned(),
            Self::Version => format!("{NAME} {}\n", env!("CARGO_PKG_VERSION")),
        };
        write(STDIO.as_ref(), &text)
    }
}

/// The standard input or output, in the place of a path.
const STDIO: &str = "-";

/// The whole of a file, and no more than could be a unikernel.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut contents = Vec::new();
    let read = if path == Path::new(STDIO) {
        io::stdin().take(MEM_MAX).read_to_end(&mut contents)
    } else {
        File::open(path).and_then(|file| file.take(MEM_MAX).read_to_end(&mut contents))
    };
    match read {
        Ok(_) => Ok(contents),
        Err(source) => Err(Error::Read { path: path.into(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let written = if path == Path::new(STDIO) {
        let mut stdout = io::stdout();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    } else {
        File::create(path).and_then(|mut file| {
            let written = file.write_all(text.as_bytes());
            // Half a source must not be taken for one that was made. What is no file stays.
            if written.is_err() && file.metadata().is_ok_and(|found| found.is_file()) {
                let _ = fs::remove_file(path);
            }
            written
        })
    };
    written.map_err(|source| Error::Write { path: path.into(), source })
}

fn query<T>(path: &Path, ask: fn(&[u8]) -> Result<T, ImageError>) -> Result<T, Error> {
    ask(&read(path)?).map_err(|problem| Error::Image { path: path.into(), problem })
}

fn usage(problem: impl ToString) -> Error {
    Error::Usage(problem.to_string())
}

/// Why it could not be done. The message is one line.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}; see --help")]
    Usage(String),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// As compilers write it, so that editors find the place.
    #[error("{}:{problem}", path.display())]
    Source { path: PathBuf, problem: SourceError },
    #[error("{}: {problem}", path.display())]
    Image { path: PathBuf, problem: ImageError },
}
