# shellcheck shell=bash disable=SC2034,SC2154 # variables of scripts/nested
# The aarch64 machine of scripts/nested. Sourced by it.

debian=arm64
emulator_package=qemu-system-arm
# QEMU's own algorithm for pointer authentication. The architected algorithm would take a third of
# the time.
emulator=(qemu-system-aarch64 -machine "virt,virtualization=on,gic-version=3" -accel tcg -cpu "max,pauth-impdef=on")
console=ttyAMA0

# As for x86_64. KVM is built into the kernel.
modules="tun veth loop virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_console"
needed="vmlinux tun.ko"

# The kernel is not compressed.
uncompress_kernel() { cp "$1" "$2"; }

# Sets `programs` to a directory with Debian's programs and libraries for this architecture.
get_programs() {
    local packages=(busybox-static bash-static gdb-minimal iproute2 iputils-ping mount)
    programs=$cache/programs-$debian.$(cksum <<<"${packages[*]}" | cut -d' ' -f1)
    [ ! -d "$programs" ] || return 0
    need readelf binutils
    debian "$debian"
    local fresh
    fresh=$(mktemp -d "$cache/fetch.XXXXXX")
    debian_download_all "$fresh" "${packages[@]}"
    debian_unpack "$fresh"
    ln -s bash-static "$fresh/bin/bash"
    ln -s bash-static "$fresh/bin/sh"
    keep_fetched "$fresh" "$programs"
}

find_program() {
    local directory
    for directory in /usr/sbin /usr/bin /sbin /bin; do
        # An absolute link would lead to a program of this machine.
        case $(readlink "$programs$directory/$1") in /*) continue ;; esac
        [ ! -f "$programs$directory/$1" ] || { echo "$directory/$1"; return; }
    done
    return 1
}

# Prints the libraries that the programs named on standard input need, recursively, if the Debian
# packages contain them. Some of the named files are not programs.
find_libraries() {
    local names name directory found=()
    names=$({ xargs -0r readelf -dl 2>/dev/null || true; } |
        sed -n 's,.*(NEEDED).*\[\(.*\)\],\1,p; s,.*program interpreter: .*/\(.*\)\],\1,p' | sort -u)
    for name in $names; do
        for directory in /lib /lib/aarch64-linux-gnu /usr/lib/aarch64-linux-gnu; do
            [ -f "$programs$directory/$name" ] || continue
            found+=("$programs$directory/$name")
            echo "$directory/$name"
            break
        done
    done
    [ ${#found[@]} = 0 ] || printf '%s\0' "${found[@]}" | find_libraries
}

# As for x86_64, plus the tests that x86_64 machines run without an emulator.
library_tests="backend::aarch64 backend::debug backend::kvm core_dump gdb:: guest:: sandbox:: script:: unikernel::"
cli_tests="core_dump:: debugger:: packets:: block:: accounting::"

# Copies the debugger that these tests need, and the source that it displays.
take_for_cli_tests() {
    local program
    program=$(find_program gdb) || die "Debian's programs have no gdb"
    take "$programs$program" "$program"
    take "$root/test-unikernels/debuggee/src"
}

# Builds the tests of the tender and of guest-bindings, which this machine cannot run. Cargo's
# messages contain their paths. Without debug information they build faster, and the static programs
# fit into the machine's memory.
build_tests() {
    cargo_linux test -q -p hvt-tender -p guest-bindings --no-run --message-format=json --config profile.dev.debug=false
}
