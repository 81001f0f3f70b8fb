//! Output of the kernel and its guests: the emulator's debug port, or the first serial port.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::fmt;

use spin::Mutex;
use uart_16550::{Config, Uart16550, backend::PioBackend};
use x86_64::instructions::port::{Port, PortWriteOnly};

/// Debug port of Bochs. If the port exists, it reads as its own number.
const DEBUG_PORT: u16 = 0xe9;
/// First serial port of a PC.
const COM1: u16 = 0x3f8;

/// The machine's only output.
pub(crate) static CONSOLE: Mutex<Console> = Mutex::new(Console::Absent);

/// Output device of the machine.
pub(crate) enum Console {
    /// No device: output is discarded.
    Absent,
    /// Bytes written to this port appear in the emulator's terminal.
    DebugPort(PortWriteOnly<u8>),
    /// A 16550.
    Serial(Uart16550<PioBackend>),
}

impl Console {
    /// Detects the output device. The debug port is preferred because it needs no waiting.
    pub(crate) fn find() -> Self {
        // SAFETY: this port only accepts bytes and reads as a constant; if it is absent, it reads
        // as 0xff.
        if unsafe { Port::<u8>::new(DEBUG_PORT).read() } == DEBUG_PORT as u8 {
            return Self::DebugPort(PortWriteOnly::new(DEBUG_PORT));
        }
        // SAFETY: the port belongs to the first serial line on every PC, and only this type uses it.
        let Ok(mut uart) = (unsafe { Uart16550::new_port(COM1) }) else { return Self::Absent };
        if uart.init(Config::default()).is_ok() { Self::Serial(uart) } else { Self::Absent }
    }

    /// Writes bytes unchanged.
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) {
        match self {
            Self::Absent => {}
            Self::DebugPort(port) => {
                for &byte in bytes {
                    // SAFETY: see `find`.
                    unsafe { port.write(byte) };
                }
            }
            Self::Serial(uart) => uart.send_bytes_exact(bytes),
        }
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_bytes(text.as_bytes());
        Ok(())
    }
}

/// Prints a line on the [`CONSOLE`].
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // Writing to the console cannot fail.
        let _ = writeln!($crate::console::CONSOLE.lock(), $($argument)*);
    }};
}
pub(crate) use println;
