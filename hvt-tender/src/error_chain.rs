//! Text of an error together with its causes.

use std::error::Error;
use std::{fmt, io};

use crate::sys::host_limit::Advice;

/// Shows an error and its causes ([`Error::source`]), separated by `": "`: the text of an error of
/// this crate describes one layer. An error of the host that a resource limit may have caused is
/// followed by the limit, and the way to raise the limit.
///
/// ```
/// use hvt_tender::{ErrorChain, Unikernel};
///
/// let error = Unikernel::load("/nonexistent").unwrap_err();
/// assert_eq!(error.to_string(), "cannot read /nonexistent");
/// assert_eq!(
///     ErrorChain::of(&error).to_string(),
///     "cannot read /nonexistent: No such file or directory (os error 2)"
/// );
/// ```
pub struct ErrorChain<'e>(&'e (dyn Error + 'static));

impl<'e> ErrorChain<'e> {
    /// Creates the text of `error`.
    #[must_use]
    pub fn of(error: &'e (dyn Error + 'static)) -> Self {
        Self(error)
    }
}

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut next = Some(self.0);
        while let Some(error) = next {
            write!(f, "{separator}{error}")?;
            if let Some(host) = error.downcast_ref::<io::Error>() {
                Advice::on(host).fmt(f)?;
            }
            separator = ": ";
            next = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendError;
    use crate::unikernel::UnikernelError;

    #[test]
    fn each_layer_appears_once() {
        let source = io::Error::from_raw_os_error(libc::EBADF);
        let error = UnikernelError::from(BackendError { what: "creating a vCPU", source });
        assert_eq!(error.to_string(), "creating a vCPU");
        assert_eq!(ErrorChain::of(&error).to_string(), "creating a vCPU: Bad file descriptor (os error 9)");
        let host = io::Error::from_raw_os_error(libc::ENOMEM);
        let text = ErrorChain::of(&host).to_string();
        assert_eq!(text, format!("{host}{}", Advice::on(&host)));
    }
}
