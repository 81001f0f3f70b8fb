//! Exits of an in-kernel hypervisor, converted to [`Exit`].

use alloc::boxed::Box;
use alloc::string::ToString;

use hvt_abi::kernel::{self, Direction};
use hvt_abi::native::Registers;

use super::{Cause, Exit, Fault};

/// Converts the exit of a virtual CPU. `registers` is called only for an exit that ends the guest.
#[inline]
pub fn from_kernel(exit: kernel::Exit, registers: impl FnOnce() -> Registers) -> Exit {
    match exit {
        kernel::Exit::Io(io) if io.direction == Direction::Out && !io.string => {
            Exit::from_port_write(io.port, io.size, io.value).unwrap_or_else(|| fault(exit, registers()))
        }
        kernel::Exit::Halt => Exit::Halted,
        kernel::Exit::Interrupted => Exit::Interrupted,
        _ => fault(exit, registers()),
    }
}

/// Converts an exit that ends the guest.
#[cold]
fn fault(exit: kernel::Exit, registers: Registers) -> Exit {
    let cause = match exit {
        kernel::Exit::Io(io) => Cause::Port { port: io.port, size: io.size, write: io.direction == Direction::Out },
        kernel::Exit::MemoryViolation(violation) => {
            Cause::Memory { address: Some(violation.gpa), access: violation.access }
        }
        kernel::Exit::TripleFault => Cause::TripleFault,
        exit => Cause::Unknown { what: exit.to_string() },
    };
    Exit::Fault(Fault { cause, registers: Some(Box::new(registers)) })
}

#[cfg(test)]
mod tests {
    use hvt_abi::{Gpa, kernel::Io};

    use super::*;

    fn io(port: u16, size: u8, direction: Direction, string: bool) -> Exit {
        from_kernel(kernel::Exit::Io(Io { port, size, direction, string, value: 0x1000 }), Registers::default)
    }

    #[test]
    fn only_a_plain_32_bit_out_is_a_hypercall() {
        assert_eq!(io(0x502, 4, Direction::Out, false), Exit::Hypercall { number: 2, argument: Gpa(0x1000) });
        assert_eq!(io(0x600, 4, Direction::Out, false), Exit::RingKick { ring: 0x1000 });
        for (size, direction, string) in
            [(4, Direction::In, false), (4, Direction::Out, true), (2, Direction::Out, false)]
        {
            let write = direction == Direction::Out;
            let fault = Fault { cause: Cause::Port { port: 0x502, size, write }, registers: Some(Box::default()) };
            assert_eq!(io(0x502, size, direction, string), Exit::Fault(fault));
        }
    }
}
