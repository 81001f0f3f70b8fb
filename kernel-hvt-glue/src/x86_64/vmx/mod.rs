//! Intel Virtual-Machine Extensions with extended page tables (SDM volume 3, chapters 24 to 31).

pub(crate) mod capabilities;
mod check;
mod controls;
pub(crate) mod cpu;
mod entry;
mod exit;
mod fields;
mod host_state;
mod instructions;
pub(crate) mod msr_bitmap;
mod state;
#[cfg(test)]
mod tests;
pub(crate) mod vcpu;
mod vmcs;
