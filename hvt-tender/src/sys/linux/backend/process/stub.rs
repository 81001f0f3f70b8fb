//! Only code of the tender in a child: runs the set-up script, and hands over to the tender at
//! every signal.
//!
//! The stub is an ELF executable of one page, built here and never stored in a file system. A child
//! starts by executing it, which removes everything inherited from the tender.
//!
//! [Trampolines](super::direct) enter the stub for hypercalls without a signal. These use no stack.
//!
//! The code is position-independent, accesses no memory except the exchange pages, and uses no
//! thread-local storage, because FS and GS belong to the guest. A guest that jumps into the stub
//! gains nothing: every system call in the stub is subject to the [filter](super::sandbox), and the
//! guest could make the same memory accesses itself.

#![expect(unsafe_code, reason = "system calls, and memory that the process of the guest writes")]

use std::arch::global_asm;
use std::mem::offset_of;
use std::os::fd::RawFd;

use hvt_abi::PAGE_SIZE;
use zerocopy::{Immutable, IntoBytes};

use super::protocol::turn::{ASLEEP, TENDERS_TURN};
use super::protocol::{EXCHANGE_ADDRESS, Header, SCRIPT_OFFSET, STUB_ADDRESS, SetupStep, command};
use crate::image::write::{FileHeader, ProgramHeader};
use crate::memory::{GuestMemory, MappedMemory, OutOfMemory};

global_asm!(
    ".pushsection .text.hvt_process_stub, \"ax\", @progbits",
    ".balign 64",
    "hvt_process_stub:",
    // The entry point: maps the exchange pages ...
    "movabs rbx, {exchange}",
    "movabs r12, {parameters}",
    "mov rdi, rbx",
    "mov rsi, [r12 + {parameter_size}]",
    "mov edx, {read_write}",
    "mov r10d, {map_flags}",
    "mov r8, [r12 + {parameter_file}]",
    "mov r9d, {page}",
    "mov eax, {sys_mmap}",
    "syscall",
    "cmp rax, rbx",
    "jne 28f",
    // ... and runs the script there: rbx = exchange pages, r12 = step.
    "lea r12, [rbx + {setup}]",
    "20:",
    "mov rax, [r12]",
    "cmp rax, {end}",
    "je 29f",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "mov rcx, [r12 + 56]",
    "test rcx, rcx",
    "jz 21f",
    "cmp rax, rcx",
    "jne 22f",
    "jmp 23f",
    "21:",
    "cmp rax, -4095",
    "jae 22f",
    "23:",
    "add r12, {step}",
    "jmp 20b",
    // A step failed: report the step, hand over for good, exit.
    "22:",
    "mov [rbx + {failed_result}], rax",
    "mov [rbx + {failed_step}], r12",
    "mov dword ptr [rbx + {turn}], {tenders_turn}",
    "lea rdi, [rbx + {turn}]",
    "mov esi, {futex_wake}",
    "mov edx, 1",
    "mov eax, {sys_futex}",
    "syscall",
    "28:",
    "mov edi, 1",
    "mov eax, {sys_exit_group}",
    "syscall",
    // The script is finished. If a command requested it, continue with the other commands; ...
    "29:",
    "mov r12d, [rbx + {command}]",
    "test r12d, r12d",
    "jnz 40f",
    // ... otherwise cause the first hand-over with a trap. The tender puts the guest's entry state
    // in its frame.
    "hlt",
    "jmp 29b",
    // Handler of every signal that a guest can cause: edi = signal, rsi = siginfo_t, rdx =
    // ucontext_t.
    "hvt_process_stub_handler:",
    "movabs rbx, {exchange}",
    // A signal of another process during a direct hypercall must not change the hand-over that the
    // tender may be reading. It has no meaning for the guest.
    "cmp dword ptr [rsi + {si_code}], 0",
    "jg 23f",
    "movabs rax, {handler_limit}",
    "sub rax, [rdx + {rip}]",
    "lea rcx, [rip + hvt_process_stub_handler]",
    "movabs r12, {handler_limit}",
    "sub r12, rcx",
    "cmp rax, r12",
    "jbe 50f",
    "23:",
    "mov [rbx + {signal}], edi",
    "mov [rbx + {siginfo}], rsi",
    "mov [rbx + {ucontext}], rdx",
    "cmp dword ptr [rbx + {reads_bases}], 0",
    "je 24f",
    "rdfsbase rax",
    "mov [rbx + {fs_base}], rax",
    "rdgsbase rax",
    "mov [rbx + {gs_base}], rax",
    "24:",
    "xor r12d, r12d",
    "mov [rbx + {is_direct}], r12d",
    // r12d = 1 for a direct hypercall
    "25:",
    "mov eax, {tenders_turn}",
    "xchg [rbx + {turn}], eax",
    "test eax, eax", // FUTEX_WAITERS is the sign bit: the tender sleeps
    "jns 30f",
    "lea rdi, [rbx + {turn}]",
    "mov esi, {futex_wake}",
    "mov edx, 1",
    "mov eax, {sys_futex}",
    "syscall",
    "30:",
    "mov ecx, [rbx + {spin}]",
    "31:",
    "cmp dword ptr [rbx + {turn}], {asleep}",
    "ja 39f",
    "sub ecx, 1",
    "jb 32f",
    "pause",
    "jmp 31b",
    // Announces the sleep, then sleeps.
    "32:",
    "mov eax, {tenders_turn}",
    "mov ecx, {asleep}",
    "lock cmpxchg [rbx + {turn}], ecx",
    "cmp dword ptr [rbx + {turn}], {asleep}",
    "ja 39f",
    "lea rdi, [rbx + {turn}]",
    "mov esi, {futex_wait}",
    "mov edx, {asleep}",
    "xor r10d, r10d",
    "mov eax, {sys_futex}",
    "syscall",
    "jmp 32b",
    // The child's turn again.
    "39:",
    "test r12d, r12d",
    "jnz 51f",
    "mov r12d, [rbx + {command}]",
    "test r12d, r12d",
    "jz 49f",
    "test r12d, {run_script}",
    "jz 40f",
    "lea r12, [rbx + {setup}]",
    "jmp 20b",
    "40:",
    "test r12d, {by_system_call}",
    "jnz 45f",
    "test r12d, {set_fs}",
    "jz 41f",
    "mov rax, [rbx + {fs_base}]",
    "wrfsbase rax",
    "41:",
    "test r12d, {set_gs}",
    "jz 49f",
    "mov rax, [rbx + {gs_base}]",
    "wrgsbase rax",
    "jmp 49f",
    "45:",
    "test r12d, {set_fs}",
    "jz 46f",
    "mov edi, {arch_set_fs}",
    "mov rsi, [rbx + {fs_base}]",
    "mov eax, {sys_arch_prctl}",
    "syscall",
    "46:",
    "test r12d, {set_gs}",
    "jz 49f",
    "mov edi, {arch_set_gs}",
    "mov rsi, [rbx + {gs_base}]",
    "mov eax, {sys_arch_prctl}",
    "syscall",
    "49:",
    "50:",
    "add rsp, 8",
    "hvt_process_stub_restorer:",
    "mov eax, {sys_rt_sigreturn}",
    "syscall",
    // A direct hypercall. The trampoline has stored rax and rip.
    "hvt_process_stub_direct:",
    "movabs rax, {exchange}",
    "mov [rax + {direct_rbx}], rbx",
    "mov rbx, rax",
    "mov [rbx + {direct_rcx}], rcx",
    "mov [rbx + {direct_rdx}], rdx",
    "mov [rbx + {direct_rsi}], rsi",
    "mov [rbx + {direct_rdi}], rdi",
    "mov [rbx + {direct_rbp}], rbp",
    "mov [rbx + {direct_rsp}], rsp",
    "mov [rbx + {direct_r8}], r8",
    "mov [rbx + {direct_r9}], r9",
    "mov [rbx + {direct_r10}], r10",
    "mov [rbx + {direct_r11}], r11",
    "mov [rbx + {direct_r12}], r12",
    "mov [rbx + {direct_r13}], r13",
    "mov [rbx + {direct_r14}], r14",
    "mov [rbx + {direct_r15}], r15",
    // Pushes the flags to their place in the header.
    "mov rcx, rsp",
    "lea rsp, [rbx + {direct_rflags} + 8]",
    "pushfq",
    "mov rsp, rcx",
    "mov r12d, 1",
    "mov [rbx + {is_direct}], r12d",
    "jmp 25b",
    // The child's turn again: restores the arithmetic flags, as no instruction above changes other
    // flags, and the registers that the code above and the kernel use.
    "51:",
    "mov eax, [rbx + {direct_rflags}]",
    "mov ecx, eax",
    "shr ecx, 11",
    "and ecx, 1",
    "mov ah, al",
    "add cl, 127", // sets OF if it was set
    "sahf",
    "mov rcx, [rbx + {direct_rcx}]",
    "mov rdx, [rbx + {direct_rdx}]",
    "mov rsi, [rbx + {direct_rsi}]",
    "mov rdi, [rbx + {direct_rdi}]",
    "mov r10, [rbx + {direct_r10}]",
    "mov r11, [rbx + {direct_r11}]",
    "mov r12, [rbx + {direct_r12}]",
    "mov rax, [rbx + {direct_rax}]",
    "mov rbx, [rbx + {direct_rbx}]",
    // jmp [rip + distance to the rip of the call]
    ".byte 0xff, 0x25",
    ".long {code_to_rip} - (52f - hvt_process_stub)",
    "52:",
    "hvt_process_stub_end:",
    ".popsection",
    exchange = const EXCHANGE_ADDRESS,
    parameters = const STUB_ADDRESS + PARAMETERS as u64,
    parameter_file = const offset_of!(Parameters, file),
    parameter_size = const offset_of!(Parameters, size),
    read_write = const libc::PROT_READ | libc::PROT_WRITE,
    map_flags = const libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
    page = const PAGE_SIZE,
    sys_mmap = const libc::SYS_mmap,
    setup = const SCRIPT_OFFSET,
    end = const SetupStep::END as i64,
    step = const size_of::<SetupStep>(),
    failed_result = const offset_of!(Header, failed_result),
    failed_step = const offset_of!(Header, failed_step),
    turn = const offset_of!(Header, turn),
    spin = const offset_of!(Header, spin),
    signal = const offset_of!(Header, signal),
    siginfo = const offset_of!(Header, siginfo),
    ucontext = const offset_of!(Header, ucontext),
    command = const offset_of!(Header, command),
    reads_bases = const offset_of!(Header, reads_bases),
    fs_base = const offset_of!(Header, fs_base),
    gs_base = const offset_of!(Header, gs_base),
    is_direct = const offset_of!(Header, is_direct),
    direct_rax = const offset_of!(Header, direct.rax),
    direct_rbx = const offset_of!(Header, direct.rbx),
    direct_rcx = const offset_of!(Header, direct.rcx),
    direct_rdx = const offset_of!(Header, direct.rdx),
    direct_rsi = const offset_of!(Header, direct.rsi),
    direct_rdi = const offset_of!(Header, direct.rdi),
    direct_rbp = const offset_of!(Header, direct.rbp),
    direct_rsp = const offset_of!(Header, direct.rsp),
    direct_r8 = const offset_of!(Header, direct.r8),
    direct_r9 = const offset_of!(Header, direct.r9),
    direct_r10 = const offset_of!(Header, direct.r10),
    direct_r11 = const offset_of!(Header, direct.r11),
    direct_r12 = const offset_of!(Header, direct.r12),
    direct_r13 = const offset_of!(Header, direct.r13),
    direct_r14 = const offset_of!(Header, direct.r14),
    direct_r15 = const offset_of!(Header, direct.r15),
    direct_rflags = const offset_of!(Header, direct.rflags),
    code_to_rip = const EXCHANGE_ADDRESS as i64 + offset_of!(Header, direct.rip) as i64 - (STUB_ADDRESS as i64 + CODE as i64),
    si_code = const offset_of!(libc::siginfo_t, si_code),
    rip = const RIP,
    handler_limit = const EXCHANGE_ADDRESS - 1,
    tenders_turn = const TENDERS_TURN,
    asleep = const ASLEEP,
    set_fs = const command::SET_FS_BASE,
    set_gs = const command::SET_GS_BASE,
    by_system_call = const command::BY_SYSTEM_CALL,
    run_script = const command::RUN_SCRIPT,
    futex_wait = const libc::FUTEX_WAIT,
    futex_wake = const libc::FUTEX_WAKE,
    sys_futex = const libc::SYS_futex,
    sys_exit_group = const libc::SYS_exit_group,
    sys_arch_prctl = const libc::SYS_arch_prctl,
    sys_rt_sigreturn = const libc::SYS_rt_sigreturn,
    arch_set_fs = const ARCH_SET_FS,
    arch_set_gs = const ARCH_SET_GS,
);

/// `ARCH_SET_GS` of `arch_prctl` (`arch/x86/include/uapi/asm/prctl.h`).
pub(super) const ARCH_SET_GS: u64 = 0x1001;
/// `ARCH_SET_FS` of `arch_prctl`.
pub(super) const ARCH_SET_FS: u64 = 0x1002;

/// Offset of the interrupted RIP in a `ucontext_t`.
const RIP: usize = offset_of!(libc::ucontext_t, uc_mcontext)
    + offset_of!(libc::mcontext_t, gregs)
    + libc::REG_RIP as usize * size_of::<libc::greg_t>();

unsafe extern "C" {
    static hvt_process_stub: u8;
    static hvt_process_stub_handler: u8;
    static hvt_process_stub_restorer: u8;
    static hvt_process_stub_direct: u8;
    static hvt_process_stub_end: u8;
}

/// Parameters of the entry point, used before the exchange pages are mapped.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Parameters {
    /// Descriptor of the file that holds the exchange pages.
    file: u64,
    /// Size of the exchange pages in bytes.
    size: u64,
}

/// Offset of [`Parameters`] in the stub page.
const PARAMETERS: usize = PAGE_SIZE as usize - size_of::<Parameters>();

/// Headers of the executable: the code, and a stack that is neither used nor executable.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Headers {
    file: FileHeader,
    code: ProgramHeader,
    stack: ProgramHeader,
}

/// Offset of the code in the stub page.
const CODE: usize = 192;
const _: () = assert!(size_of::<Headers>() <= CODE);

/// Returns the stub page: an executable that maps itself at [`STUB_ADDRESS`], with an unused and
/// non-executable stack. `file` is the descriptor, in the child, of a file with `size` bytes of
/// exchange pages behind the stub page.
pub(super) fn page(file: RawFd, size: u64) -> [u8; PAGE_SIZE as usize] {
    let headers = Headers {
        file: FileHeader::new(libc::ET_EXEC, libc::EM_X86_64, STUB_ADDRESS + CODE as u64, 2),
        code: ProgramHeader {
            p_type: libc::PT_LOAD,
            p_flags: libc::PF_R | libc::PF_X,
            p_vaddr: STUB_ADDRESS,
            p_filesz: PAGE_SIZE,
            p_memsz: PAGE_SIZE,
            p_align: PAGE_SIZE,
            ..ProgramHeader::default()
        },
        stack: ProgramHeader {
            p_type: libc::PT_GNU_STACK,
            p_flags: libc::PF_R | libc::PF_W,
            p_align: PAGE_SIZE,
            ..ProgramHeader::default()
        },
    };
    let parameters = Parameters { file: file as u64, size };
    let mut page = [0; PAGE_SIZE as usize];
    for (offset, bytes) in [(0, headers.as_bytes()), (CODE, code()), (PARAMETERS, parameters.as_bytes())] {
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    page
}

/// Overwrites the parameters in the stub page at the start of `memory`, which is mapped in the
/// child.
pub(super) fn forget_parameters(memory: &MappedMemory) -> Result<(), OutOfMemory> {
    memory.write(hvt_abi::Gpa(PARAMETERS as u64), &[0; size_of::<Parameters>()])
}

fn code() -> &'static [u8] {
    let start = &raw const hvt_process_stub;
    let len = (&raw const hvt_process_stub_end).addr() - start.addr();
    // SAFETY: the assembly above places the two symbols around initialized, constant bytes.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Address in the child of the signal handler.
pub(super) fn handler() -> u64 {
    in_child(&raw const hvt_process_stub_handler)
}

/// Address in the child of the code that a signal handler returns to.
pub(super) fn restorer() -> u64 {
    in_child(&raw const hvt_process_stub_restorer)
}

/// Address in the child of the code that [trampolines](super::direct) enter.
pub(super) fn direct() -> u64 {
    in_child(&raw const hvt_process_stub_direct)
}

fn in_child(label: *const u8) -> u64 {
    STUB_ADDRESS + (CODE + label.addr() - (&raw const hvt_process_stub).addr()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_its_page() {
        assert!(!code().is_empty() && CODE + code().len() <= PARAMETERS);
        assert!(handler() < restorer() && restorer() < STUB_ADDRESS + PARAMETERS as u64);
    }
}
