//! AMD Secure Virtual Machine with nested paging (APM volume 2, chapter 15).

pub(crate) mod capabilities;
mod check;
mod entry;
mod exit;
mod maps;
mod run;
#[cfg(test)]
mod tests;
mod vcpu;
pub(crate) mod vendor;
mod vmcb;
