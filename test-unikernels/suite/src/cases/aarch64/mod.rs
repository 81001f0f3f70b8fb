//! Cases about CPUs of aarch64. Sections are those of the Arm ARM (DDI 0487J.a).
//!
//! A report says what ESR_EL1 holds (D17.2.37): from bit 26 on EC, the class of the exception, bit 25 for an instruction
//! of 32 bits, and below what EC says. Of an abort that is from bit 0 on the kind of fault, with the level of the
//! translation table at which it was found, and bit 6 for a write.

pub mod cpu;
pub mod device;
pub mod exception;
pub mod memory;
