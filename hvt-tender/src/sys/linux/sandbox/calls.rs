//! List of the system calls that a thread may make, compiled to a seccomp filter.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP};
use seccompiler::{BackendError, BpfProgram};

use super::condition::{Condition, Operation};
use super::program::{self, Refusal, Verdicts};
use crate::descriptor::{Descriptor, Uses};

/// System calls that a thread may make. Every other call ends the process.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// Calls allowed with any arguments.
    always: BTreeSet<i64>,
    /// Calls allowed on these descriptors, the call's first argument.
    on: BTreeMap<i64, BTreeSet<u32>>,
    /// Calls allowed with arguments that satisfy all conditions of one of these lists.
    conditional: BTreeMap<i64, Vec<Vec<Condition>>>,
    /// Alternatives of `conditional` that are checked before all other rules, at most one per call.
    often: BTreeMap<i64, Vec<Condition>>,
    /// Calls that return an error and do not end the process, unless they are allowed.
    refused: BTreeMap<i64, Refusal>,
}

impl Calls {
    /// Creates an empty list.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Allows a call with any arguments.
    pub fn allow(&mut self, number: libc::c_long) {
        self.always.insert(number);
    }

    /// Allows a call on this descriptor, the call's first argument.
    pub fn allow_on(&mut self, number: libc::c_long, descriptor: RawFd) {
        self.on.entry(number).or_default().insert(descriptor.cast_unsigned());
    }

    /// Allows a call with arguments that satisfy all of `conditions`.
    pub fn allow_if(&mut self, number: libc::c_long, conditions: &[Condition]) {
        self.conditional.entry(number).or_default().push(conditions.to_vec());
    }

    /// Makes a call with arguments that satisfy all of `conditions` return `errno`, unless it is
    /// allowed. A second list of conditions for the same call replaces the first.
    pub(super) fn refuse(&mut self, number: libc::c_long, conditions: &[Condition], errno: u16) {
        self.refused.insert(number, Refusal { conditions: conditions.to_vec(), errno });
    }

    /// Allows this `ioctl` request on this descriptor.
    pub fn allow_ioctl(&mut self, descriptor: BorrowedFd<'_>, request: libc::Ioctl) {
        let descriptor = descriptor.as_raw_fd().cast_unsigned();
        // The kernel uses only 32 bits of the request.
        self.allow_if(libc::SYS_ioctl, &[Condition::equal(0, descriptor), Condition::equal(1, request as u32)]);
    }

    /// Like [`allow_ioctl`](Self::allow_ioctl), for the request of every hypercall: it is checked
    /// first.
    pub(crate) fn allow_frequent_ioctl(&mut self, descriptor: BorrowedFd<'_>, request: libc::Ioctl) {
        self.allow_ioctl(descriptor, request);
        if let Some(conditions) = self.conditional.get(&libc::SYS_ioctl).and_then(|rules| rules.last()) {
            self.often.insert(libc::SYS_ioctl, conditions.clone());
        }
    }

    /// Allows the system calls for these uses of descriptors.
    pub fn allow_uses(&mut self, descriptors: impl IntoIterator<Item = Descriptor>) {
        const CALLS: [(Uses, &[libc::c_long]); 7] = [
            (Uses::READ, &[libc::SYS_read, libc::SYS_readv]),
            (Uses::WRITE, &[libc::SYS_write, libc::SYS_writev]),
            (Uses::READ_AT, &[libc::SYS_pread64, libc::SYS_preadv]),
            (Uses::WRITE_AT, &[libc::SYS_pwrite64, libc::SYS_pwritev]),
            (Uses::SYNC, &[libc::SYS_fdatasync]),
            (Uses::STAT, &[libc::SYS_fstat, libc::SYS_lseek]),
            (Uses::TIMER, &[libc::SYS_timerfd_settime]),
        ];
        for Descriptor { number, uses } in descriptors {
            for call in CALLS.iter().filter(|(use_, _)| uses.contains(*use_)).flat_map(|(_, calls)| *calls) {
                self.allow_on(*call, number);
            }
            if uses.contains(Uses::STAT) {
                // Call that C libraries use for fstat(3).
                let descriptor = Condition::equal(0, number.cast_unsigned());
                let itself = Condition::equal(3, libc::AT_EMPTY_PATH.cast_unsigned());
                self.allow_if(libc::SYS_newfstatat, &[descriptor, itself]);
            }
            if uses.contains(Uses::MEET) {
                self.allow_on(libc::SYS_flock, number);
                self.allow_meeting();
            }
        }
    }

    /// Allows what it takes to create a file in `directory` with these flags of open(2), and to write it. The name of the
    /// file cannot be looked at: without landlock, it can lie in any directory.
    pub(crate) fn allow_new_file(&mut self, directory: BorrowedFd<'_>, flags: libc::c_int) {
        let directory = directory.as_raw_fd().cast_unsigned();
        let flags = flags.cast_unsigned();
        self.allow_if(libc::SYS_openat, &[Condition::equal(0, directory), Condition::equal(2, flags)]);
        // Its number is not known before.
        let file = Condition::at_least(0, libc::STDERR_FILENO.cast_unsigned() + 1);
        self.allow_if(libc::SYS_ftruncate, &[file]);
        self.allow_if(libc::SYS_pwrite64, &[file]);
    }

    /// Allows what it takes to receive from one socket, to send to another, and to shut down a third.
    pub(crate) fn allow_connection(&mut self, input: RawFd, output: RawFd, shutdown: RawFd) {
        self.allow_on(libc::SYS_recvfrom, input);
        self.allow_on(libc::SYS_sendto, output);
        self.allow_on(libc::SYS_shutdown, shutdown);
    }

    /// Allows TCP connections and UDP datagrams, from and to any address, with the socket options
    /// that user-mode networking sets. Some other options need no privileges and reach deep into
    /// the kernel.
    pub(crate) fn allow_internet(&mut self) {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        for family in [libc::AF_INET, libc::AF_INET6] {
            // Protocols by the numbers in socket(2): no MPTCP, SCTP or ICMP.
            for (kind, protocol) in [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, 0)] {
                let family = Condition::equal(0, family.cast_unsigned());
                let kind = Condition::equal_but_for(1, kind.cast_unsigned(), flags.cast_unsigned());
                self.allow_if(libc::SYS_socket, &[family, kind, Condition::equal(2, protocol.cast_unsigned())]);
            }
        }
        const OPTIONS: [(libc::c_long, i32, i32); 3] = [
            (libc::SYS_setsockopt, libc::IPPROTO_TCP, libc::TCP_NODELAY),
            (libc::SYS_setsockopt, libc::SOL_SOCKET, libc::SO_LINGER),
            (libc::SYS_getsockopt, libc::SOL_SOCKET, libc::SO_ERROR),
        ];
        for (call, level, name) in OPTIONS {
            let (level, name) = (level.cast_unsigned(), name.cast_unsigned());
            self.allow_if(call, &[Condition::equal(1, level), Condition::equal(2, name)]);
        }
        // FIONBIO is the only request that the standard library makes.
        self.allow_if(libc::SYS_ioctl, &[Condition::equal(1, libc::FIONBIO as u32)]);
        const CALLS: [libc::c_long; 6] = [
            libc::SYS_accept4,
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_recvfrom,
            libc::SYS_sendto,
            libc::SYS_shutdown,
        ];
        CALLS.iter().for_each(|number| self.allow(*number));
    }

    /// Allows the calls to listen at a path, to connect to a listener there, and to communicate. A
    /// filter cannot check paths: Landlock restricts them to one directory.
    fn allow_meeting(&mut self) {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let unix = Condition::equal(0, libc::AF_UNIX.cast_unsigned());
        self.allow_if(libc::SYS_socket, &[unix, Condition::equal(1, kind.cast_unsigned())]);
        let level = Condition::equal(1, libc::SOL_SOCKET.cast_unsigned());
        self.allow_if(libc::SYS_setsockopt, &[level, Condition::equal(2, libc::SO_SNDBUF.cast_unsigned())]);
        const CALLS: &[libc::c_long] = &[
            libc::SYS_accept4,
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_epoll_ctl,
            libc::SYS_listen,
            libc::SYS_read,
            libc::SYS_readv,
            libc::SYS_sendmsg,
            libc::SYS_statx,
            // The call that this architecture has.
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink,
            libc::SYS_unlinkat,
        ];
        CALLS.iter().for_each(|number| self.allow(*number));
    }

    /// Compiles the filter. A call that is not allowed raises SIGSYS and is not executed.
    pub(super) fn compile(self) -> Result<BpfProgram, BackendError> {
        let Self { always, on, mut conditional, mut often, refused } = self;
        for (number, descriptors) in on {
            let rules = conditional.entry(number).or_default();
            let others = rules.len();
            rules.extend(ranges(&descriptors).into_iter().map(|(first, last)| {
                if first == last {
                    vec![Condition::equal(0, first)]
                } else {
                    vec![Condition::at_least(0, first), Condition::at_most(0, last)]
                }
            }));
            // Descriptors of block devices are usually consecutive, and a hypercall uses one of
            // them.
            if matches!(number, libc::SYS_pread64 | libc::SYS_pwrite64) {
                often.extend(rules.get(others).map(|conditions| (number, conditions.clone())));
            }
        }
        // No alternatives: any arguments are allowed.
        conditional.extend(always.into_iter().map(|number| (number, Vec::new())));
        // System call numbers of Linux are small.
        let small = |number: libc::c_long| u32::try_from(number).unwrap_or(u32::MAX);
        let rules = conditional.into_iter().map(|(number, alternatives)| (small(number), alternatives)).collect();
        let often = often.into_iter().map(|(number, conditions)| (small(number), conditions)).collect();
        let refusals = refused.into_iter().map(|(number, refusal)| (small(number), refusal)).collect();
        program::compile(&rules, &refusals, &often, Verdicts { hit: SECCOMP_RET_ALLOW, miss: SECCOMP_RET_TRAP })
    }
}

/// Condition for `openat` with the flags of a read-only open.
pub(super) const OPENS_TO_READ: Condition =
    Condition { argument: 2, operation: Operation::Equal, value: (libc::O_RDONLY | libc::O_CLOEXEC).cast_unsigned() };

/// Returns the first and last number of each run of consecutive numbers. A guest may have 63
/// devices, whose descriptors are usually consecutive.
fn ranges(numbers: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::{call, verdict};

    #[test]
    fn neighbours_are_one_range() {
        let of = |numbers: &[u32]| ranges(&numbers.iter().copied().collect());
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[2, 1, 9, 4, 5, 6]), [(1, 2), (4, 6), (9, 9)]);
    }

    #[test]
    fn a_network_sets_three_options_of_sockets_of_two_protocols() {
        let mut calls = Calls::none();
        calls.allow_internet();
        let program = calls.compile().unwrap();
        let allows = |number, args: [i32; 3]| {
            let [a, b, c] = args.map(|arg| u64::from(arg.cast_unsigned()));
            verdict(&program, &call(number, [a, b, c, 0, 0, 0])) == SECCOMP_RET_ALLOW
        };
        let levels = [libc::SOL_SOCKET, libc::IPPROTO_IP, libc::IPPROTO_IPV6, libc::IPPROTO_TCP, libc::SOL_NETLINK];
        let mut allowed = Vec::new();
        for call in [libc::SYS_setsockopt, libc::SYS_getsockopt] {
            for (level, name) in levels.into_iter().flat_map(|level| (0..200).map(move |name| (level, name))) {
                if allows(call, [7, level, name]) {
                    allowed.push((call, level, name));
                }
            }
        }
        let expected = [
            (libc::SYS_setsockopt, libc::SOL_SOCKET, libc::SO_LINGER),
            (libc::SYS_setsockopt, libc::IPPROTO_TCP, libc::TCP_NODELAY),
            (libc::SYS_getsockopt, libc::SOL_SOCKET, libc::SO_ERROR),
        ];
        assert_eq!(allowed, expected);
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let mut made = Vec::new();
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK]
        {
            for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
                let protocols = (0..300).filter(|protocol| allows(libc::SYS_socket, [family, kind | flags, *protocol]));
                made.extend(protocols.map(|protocol| (family, kind, protocol)));
            }
        }
        let both = |family| [(family, libc::SOCK_STREAM, libc::IPPROTO_TCP), (family, libc::SOCK_DGRAM, 0)];
        assert_eq!(made, [both(libc::AF_INET), both(libc::AF_INET6)].concat());
    }

    /// The kernel accepts at most 4096 instructions.
    #[test]
    fn a_filter_for_63_scattered_descriptors_fits() {
        let mut calls = Calls::none();
        let uses = Uses::READ_AT | Uses::WRITE_AT | Uses::SYNC;
        calls.allow_uses((0..63).map(|device| Descriptor { number: 3 + 2 * device, uses }));
        assert!(calls.compile().is_ok());
    }
}
