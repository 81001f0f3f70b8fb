# shellcheck shell=bash disable=SC2034 # variables of scripts/nested
# The x86_64 machine of scripts/nested. Sourced by it.

debian=amd64
emulator_package=qemu-system-x86
# Workarounds for errors of QEMU 7.2. With a thread for each CPU, guests of KVM hang. A far return
# reads the stack with supervisor rights, which SMAP forbids; guests of the process backend make far
# returns.
emulator=(qemu-system-x86_64 -machine q35 -accel "tcg,thread=single" -cpu "EPYC,+svm,+npt,-xsavec,-smap")
console=ttyS0

# Modules that the kernel needs, in the order of their dependencies. A missing module is built in.
modules="irqbypass ccp kvm kvm-amd tun veth loop virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci
    virtio_console"
# Files that must be in the package.
needed="vmlinux kvm-amd.ko"

# uncompress_kernel BZIMAGE KERNEL: uncompresses the kernel on this machine, which saves several
# seconds in the emulator. Offsets: Linux, Documentation/x86/boot.rst, setup_sects, payload_offset,
# payload_length.
uncompress_kernel() {
    need xz xz-utils
    local sectors start length
    sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$1")
    start=$(((sectors + 1) * 512 + $(od -An -tu4 -j $((0x248)) -N4 "$1")))
    # The last four bytes of the payload are the uncompressed length.
    length=$(($(od -An -tu4 -j $((0x24c)) -N4 "$1") - 4))
    # With another compression, the kernel uncompresses itself in the emulator.
    head -c $((start + length)) "$1" | tail -c "$length" | xz -dc >"$2" 2>/dev/null || cp "$1" "$2"
}

# Programs are copied from this machine.
programs=
get_programs() { :; }

find_program() {
    local program
    program=$(command -v "$1") && [ -f "$program" ] && echo "$program"
}

# Prints the libraries that the programs named on standard input need. Some of the files are not
# programs.
find_libraries() {
    { xargs -0r ldd 2>/dev/null || true; } | sed -n 's,^\t\(.* => \)\?\(/[^ ]*\) (0x.*,\2,p' | sort -u
}

# Unit tests of the library, and tests of the command line, that run in the machine: debuggers,
# block devices, accounting and system call filters. The emulator ignores the debug registers while
# a guest runs, and SVM loses a guest's registers at a triple fault.
library_tests="backend::kvm"
cli_tests="core_dump:: debugger:: packets:: block:: accounting:: runtime:: --skip by_hardware --skip watches_memory --skip without_a_handler"
# Tests that need another root directory than the initial one.
rooted_tests="jail::"

# Copies the further requirements of these tests: gdb, the Python that it is linked with, the source
# that it displays, and ldd, which lists the libraries of the tender.
take_for_cli_tests() {
    local python
    take "$(command -v ldd)"
    need gdb gdb
    take "$(command -v gdb)"
    take /usr/share/gdb
    python=$(ldd "$(command -v gdb)" | sed -n 's,^\tlibpython\([0-9.]*[0-9]\)\.so.*,/usr/lib/python\1,p')
    [ -z "$python" ] || take "$python"
    take "$root/test-unikernels/debuggee/src"
}

# Builds the tender's tests. Cargo's messages contain their paths.
build_tests() {
    (cd "$root" && cargo test -q -p hvt-tender --no-run --message-format=json)
}
