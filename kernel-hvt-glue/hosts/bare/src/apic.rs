//! Local APIC: sends interrupts to other CPUs (SDM 10).

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::sync::atomic::AtomicU8;

/// Physical address of the registers on every PC (SDM 10.4.1).
pub(crate) const BASE: u32 = 0xfee0_0000;
/// End of interrupt.
pub(crate) const EOI: u32 = 0xb0;

/// Local APIC ID, in bits 24 to 31.
const ID: u32 = 0x20;
/// Spurious interrupt vector; bit 8 enables the APIC.
const SVR: u32 = 0xf0;
/// Interrupt command, low half; bit 12 is set while the previous interrupt is still pending.
pub(crate) const ICR_LOW: u32 = 0x300;
/// Interrupt command, high half: ID of the destination in bits 24 to 31.
pub(crate) const ICR_HIGH: u32 = 0x310;
/// Local vector table, timer; bit 17 selects periodic mode.
const LVT_TIMER: u32 = 0x320;
/// Initial count of the timer; writing the register starts the timer.
const TIMER_INITIAL: u32 = 0x380;
/// Current count of the timer.
const TIMER_CURRENT: u32 = 0x390;
/// Divider of the timer's clock.
const TIMER_DIVIDE: u32 = 0x3e0;
/// Local vector table, pin 0: on the boot CPU, the legacy interrupt controllers (8259) are wired to
/// this pin.
const LVT_LINT0: u32 = 0x350;
/// Delivery mode of [`LVT_LINT0`]: the interrupt controller supplies the vector.
const EXT_INT: u32 = 0b111 << 8;

/// [`id`] of the boot CPU, the destination of the second CPU's NMIs.
pub(crate) static BOOT_ID: AtomicU8 = AtomicU8::new(0);

/// Interrupts that a CPU can send to another CPU (SDM 10.6.1, figure 10-12).
#[derive(Clone, Copy)]
pub(crate) enum Ipi {
    /// A non-maskable interrupt.
    Nmi,
    /// Resets the other CPU, which then waits for [`Ipi::Startup`].
    Init,
    /// Starts the other CPU in real mode, in this page of the first MiB.
    Startup(u8),
}

impl Ipi {
    /// Returns vector, delivery mode, and level "assert".
    pub(crate) const fn bits(self) -> u32 {
        const ASSERT: u32 = 1 << 14;
        ASSERT
            | match self {
                Self::Nmi => 0b100 << 8,
                Self::Init => 0b101 << 8,
                Self::Startup(page) => 0b110 << 8 | page as u32,
            }
    }
}

/// Enables the local APIC of the current CPU.
///
/// # Safety
/// Must run at CPL 0, with the page at [`BASE`] mapped uncached.
pub(crate) unsafe fn enable(spurious_vector: u8, boot_cpu: bool) {
    const ON: u32 = 1 << 8;
    // SAFETY: guaranteed by the caller.
    unsafe {
        write(SVR, ON | u32::from(spurious_vector));
        if boot_cpu {
            write(LVT_LINT0, EXT_INT);
        }
    }
}

/// Starts the periodic timer of the current CPU. The period is the duration of `pause`.
///
/// # Safety
/// The APIC must be enabled, and the handler of `vector` must acknowledge the interrupt there.
pub(crate) unsafe fn start_timer(vector: u8, pause: impl FnOnce()) {
    const BY_ONE: u32 = 0b1011;
    const MASKED: u32 = 1 << 16;
    const PERIODIC: u32 = 1 << 17;
    // SAFETY: guaranteed by the caller.
    unsafe {
        write(TIMER_DIVIDE, BY_ONE);
        write(LVT_TIMER, MASKED);
        write(TIMER_INITIAL, u32::MAX);
        pause();
        let period = u32::MAX - read(TIMER_CURRENT);
        write(LVT_TIMER, PERIODIC | u32::from(vector));
        write(TIMER_INITIAL, period);
    }
}

/// Returns the APIC ID of the current CPU.
pub(crate) fn id() -> u8 {
    // SAFETY: reading the register has no side effect.
    (unsafe { read(ID) } >> 24) as u8
}

/// Sends an interrupt to the CPU with this ID, or to all others if `destination` is `None`.
///
/// # Safety
/// The destination must be ready to handle the interrupt.
pub(crate) unsafe fn send(ipi: Ipi, destination: Option<u8>) {
    const PENDING: u32 = 1 << 12;
    const ALL_BUT_SELF: u32 = 0b11 << 18;
    // SAFETY: guaranteed by the caller.
    unsafe {
        match destination {
            Some(id) => {
                write(ICR_HIGH, u32::from(id) << 24);
                write(ICR_LOW, ipi.bits());
            }
            None => write(ICR_LOW, ipi.bits() | ALL_BUT_SELF),
        }
        while read(ICR_LOW) & PENDING != 0 {
            core::hint::spin_loop();
        }
    }
}

/// # Safety
/// The page at [`BASE`] must be mapped, and reading `register` must have no relevant side effect.
unsafe fn read(register: u32) -> u32 {
    // SAFETY: the caller passes a register, and every register can be read at its address.
    unsafe { core::ptr::with_exposed_provenance::<u32>((BASE + register) as usize).read_volatile() }
}

/// # Safety
/// The page at [`BASE`] must be mapped, and the caller must intend the effect of writing
/// `register`.
unsafe fn write(register: u32, value: u32) {
    // SAFETY: the caller passes a register and a value that is valid for it.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>((BASE + register) as usize).write_volatile(value) };
}
