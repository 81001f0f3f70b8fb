//! Intel Virtual-Machine Extensions with extended page tables (SDM volume 3, chapters 24 to 31).

pub(crate) mod capabilities;
mod check;
mod controls;
mod entry;
mod exit;
mod fields;
mod host_state;
mod instructions;
mod msr_bitmap;
mod reason;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod vcpu;
pub(crate) mod vendor;
mod vmcs;
