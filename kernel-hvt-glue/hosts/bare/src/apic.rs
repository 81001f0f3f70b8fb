//! The local APIC: how a CPU interrupts another (SDM 10).

use core::sync::atomic::AtomicU8;

/// Where its registers are, on every PC (SDM 10.4.1).
pub(crate) const BASE: u32 = 0xfee0_0000;
/// End of interrupt.
pub(crate) const EOI: u32 = 0xb0;

/// Local APIC ID, in bits 24 to 31.
const ID: u32 = 0x20;
/// Spurious interrupt vector; bit 8 switches the APIC on.
const SVR: u32 = 0xf0;
/// Interrupt command, low half; bit 12 says that the last one is still on its way.
pub(crate) const ICR_LOW: u32 = 0x300;
/// Interrupt command, high half: the destination's ID in bits 24 to 31.
pub(crate) const ICR_HIGH: u32 = 0x310;
/// Local vector table, timer; bit 17 makes it periodic.
const LVT_TIMER: u32 = 0x320;
/// Timer: what it counts down from; writing it starts it.
const TIMER_INITIAL: u32 = 0x380;
/// Timer: where it is.
const TIMER_CURRENT: u32 = 0x390;
/// Timer: by what its clock is divided.
const TIMER_DIVIDE: u32 = 0x3e0;
/// Local vector table, pin 0: on the boot CPU, where the interrupt controllers of old are wired to.
const LVT_LINT0: u32 = 0x350;
/// Delivery mode of [`LVT_LINT0`]: the vector is the controllers'.
const EXT_INT: u32 = 0b111 << 8;

/// [`id`] of the boot CPU, where the second one sends its NMIs.
pub(crate) static BOOT_ID: AtomicU8 = AtomicU8::new(0);

/// Interrupts that a CPU can send (SDM 10.6.1, figure 10-12).
#[derive(Clone, Copy)]
pub(crate) enum Ipi {
    /// A non-maskable interrupt.
    Nmi,
    /// Resets the other CPU, and has it wait for [`Ipi::Startup`].
    Init,
    /// Lets the other CPU start in real mode, in this page of the first MiB.
    Startup(u8),
}

impl Ipi {
    /// Vector, delivery mode, and level "assert".
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

/// Switches the local APIC of the CPU this runs on on.
///
/// # Safety
/// At CPL 0; the page at [`BASE`] is mapped uncached.
pub(crate) unsafe fn enable(spurious_vector: u8, boot_cpu: bool) {
    const ON: u32 = 1 << 8;
    // SAFETY: the caller's promise.
    unsafe {
        write(SVR, ON | u32::from(spurious_vector));
        if boot_cpu {
            write(LVT_LINT0, EXT_INT);
        }
    }
}

/// Has the timer of the CPU this runs on interrupt it again and again, after as long as `pause` takes each time.
///
/// # Safety
/// The APIC is enabled, and `vector` is one whose handler acknowledges there.
pub(crate) unsafe fn start_timer(vector: u8, pause: impl FnOnce()) {
    const BY_ONE: u32 = 0b1011;
    const MASKED: u32 = 1 << 16;
    const PERIODIC: u32 = 1 << 17;
    // SAFETY: the caller's promise.
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

/// The ID of the CPU this runs on.
pub(crate) fn id() -> u8 {
    // SAFETY: reading it changes nothing.
    (unsafe { read(ID) } >> 24) as u8
}

/// Sends an interrupt to the CPU with this ID, or to all others.
///
/// # Safety
/// The destination knows what to do with it.
pub(crate) unsafe fn send(ipi: Ipi, destination: Option<u8>) {
    const PENDING: u32 = 1 << 12;
    const ALL_BUT_SELF: u32 = 0b11 << 18;
    // SAFETY: the caller's promise.
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
/// The page at [`BASE`] is mapped; reading `register` has no effect that matters.
unsafe fn read(register: u32) -> u32 {
    // SAFETY: the caller names a register; all of them can be read at their addresses.
    unsafe { core::ptr::with_exposed_provenance::<u32>((BASE + register) as usize).read_volatile() }
}

/// # Safety
/// The page at [`BASE`] is mapped; the effect of writing `register` is wanted.
unsafe fn write(register: u32, value: u32) {
    // SAFETY: the caller names a register and a value that it takes.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>((BASE + register) as usize).write_volatile(value) };
}
