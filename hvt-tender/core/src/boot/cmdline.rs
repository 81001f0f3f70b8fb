//! The guest's command line.

use alloc::vec::Vec;

use hvt_abi::boot_info::CMDLINE_SIZE;

/// The guest's command line: its arguments, joined with single spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    bytes: Vec<u8>,
}

impl CommandLine {
    /// Joins `args`.
    ///
    /// # Errors
    /// Returns [`CommandLineError`] if the arguments are too long or one contains a NUL.
    pub fn from_args<A: AsRef<[u8]>>(args: impl IntoIterator<Item = A>) -> Result<Self, CommandLineError> {
        let mut bytes = Vec::new();
        for (index, arg) in args.into_iter().enumerate() {
            if index > 0 {
                bytes.push(b' ');
            }
            bytes.extend_from_slice(arg.as_ref());
        }
        if bytes.contains(&0) {
            return Err(CommandLineError::Nul);
        }
        if bytes.len() >= CMDLINE_SIZE {
            return Err(CommandLineError::TooLong { len: bytes.len() });
        }
        Ok(Self { bytes })
    }

    /// Returns the bytes, without the NUL that follows them in guest memory.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Invalid arguments of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandLineError {
    /// The arguments are too long.
    #[error("the guest's arguments take {len} bytes: at most {max} fit", max = CMDLINE_SIZE - 1)]
    TooLong {
        /// Length of the arguments in bytes, including the spaces between them.
        len: usize,
    },
    /// An argument contains a NUL.
    #[error("the guest's arguments contain a NUL: remove it")]
    Nul,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_with_single_spaces() {
        let line = |args: &[&str]| CommandLine::from_args(args.iter()).map(|line| line.bytes);
        assert_eq!(line(&[]).unwrap(), b"");
        assert_eq!(line(&["one"]).unwrap(), b"one");
        assert_eq!(line(&["a", "", "b c"]).unwrap(), b"a  b c");
        assert_eq!(line(&["a\0b"]), Err(CommandLineError::Nul));
    }

    #[test]
    fn longest() {
        assert!(CommandLine::from_args([[b'x'; 8191]]).is_ok());
        assert_eq!(CommandLine::from_args([[b'x'; 8192]]), Err(CommandLineError::TooLong { len: 8192 }));
    }
}
