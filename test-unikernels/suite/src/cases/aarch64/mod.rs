//! Cases specific to aarch64. Section numbers refer to the Arm ARM (DDI 0487J.a).
//!
//! A report contains ESR_EL1 (D17.2.37): EC, the class of the exception, from bit 26; bit 25 for an
//! instruction of 32 bits; and below it the syndrome, which depends on EC. The syndrome of an abort
//! contains the fault status from bit 0, which includes the level of the translation table with the
//! fault, and bit 6 for a write.

pub mod cpu;
pub mod device;
pub mod exception;
pub mod memory;
