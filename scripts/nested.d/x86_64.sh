# shellcheck shell=bash disable=SC2034 # variables of scripts/nested
# The x86_64 machine of scripts/nested. Sourced by it.

debian=amd64
emulator_package=qemu-system-x86
# What goes around errors of QEMU 7.2: with a thread for each CPU, guests of KVM hang; a far return reads the stack with
# the kernel's rights, which SMAP does not allow, and the process backend's guests make far returns.
emulator=(qemu-system-x86_64 -machine q35 -accel "tcg,thread=single" -cpu "EPYC,+svm,+npt,-xsavec,-smap")
console=ttyS0

# Modules that the kernel needs, in the order of their dependencies. One that a kernel does not have is built in.
modules="irqbypass ccp kvm kvm-amd tun veth loop virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci
    virtio_console"
# Without these the package is not what it was.
needed="vmlinux kvm-amd.ko"

# The kernel inside the bzImage $1, into $2. The emulator needs several seconds to uncompress it, this machine none.
# Offsets: Linux, Documentation/x86/boot.rst, setup_sects, payload_offset and payload_length.
uncompress_kernel() {
    need xz xz-utils
    local sectors start length
    sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$1")
    start=$(((sectors + 1) * 512 + $(od -An -tu4 -j $((0x248)) -N4 "$1")))
    # The last four bytes are the uncompressed length.
    length=$(($(od -An -tu4 -j $((0x24c)) -N4 "$1") - 4))
    # Where it is not compressed in this way, the emulator has to do it.
    head -c $((start + length)) "$1" | tail -c "$length" | xz -dc >"$2" 2>/dev/null || cp "$1" "$2"
}

# Programs are this machine's own.
programs=
get_programs() { :; }

find_program() {
    local program
    program=$(command -v "$1") && [ -f "$program" ] && echo "$program"
}

# The libraries that the programs named on standard input need. Not all of those files are programs.
find_libraries() {
    { xargs -0r ldd 2>/dev/null || true; } | sed -n 's,^\t\(.* => \)\?\(/[^ ]*\) (0x.*,\2,p' | sort -u
}

# Which of the library's unit tests run here, and which of the command line's: those of debuggers, of block devices, and of
# what others see and filter. The emulator does not look at the debug registers while a guest runs, and SVM loses a guest's
# registers at a triple fault.
library_tests="backend::kvm"
cli_tests="core_dump:: debugger:: packets:: block:: accounting:: runtime:: --skip by_hardware --skip watches_memory --skip without_a_handler"
# Those that need a root directory that can be another one.
rooted_tests="jail::"

# What these need besides: gdb, with the Python that it is linked with, and the source that it shows; and what tells whether
# the tender has libraries.
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

# The tender's tests; cargo's messages say where they are.
build_tests() {
    (cd "$root" && cargo test -q -p hvt-tender --no-run --message-format=json)
}
