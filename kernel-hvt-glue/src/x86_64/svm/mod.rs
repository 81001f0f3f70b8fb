//! AMD Secure Virtual Machine with nested paging (APM volume 2, chapter 15).

pub(crate) mod capabilities;
mod check;
pub(crate) mod cpu;
mod entry;
mod exit;
pub(crate) mod maps;
#[cfg(test)]
mod tests;
pub(crate) mod vcpu;
mod vmcb;
