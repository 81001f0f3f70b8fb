# shellcheck shell=bash disable=SC2034,SC2154 # variables of scripts/nested
# The aarch64 machine of scripts/nested. Sourced by it.

debian=arm64
emulator_package=qemu-system-arm
# Pointer authentication by QEMU's own algorithm: the architecture's takes a third of the time.
emulator=(qemu-system-aarch64 -machine "virt,virtualization=on,gic-version=3" -accel tcg -cpu "max,pauth-impdef=on")
console=ttyAMA0

# As for x86_64; KVM is built in.
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
        # An absolute link would lead to this machine's own.
        case $(readlink "$programs$directory/$1") in /*) continue ;; esac
        [ ! -f "$programs$directory/$1" ] || { echo "$directory/$1"; return; }
    done
    return 1
}

# The libraries that the programs named on standard input need, and those that these need, as far as Debian's programs
# have them. Not all of those files are programs.
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

# As for x86_64; and what there every machine runs, here alone.
library_tests="backend::debug backend::kvm backend::frequency core_dump gdb:: guest:: sandbox:: script:: unikernel::"
cli_tests="core_dump:: debugger:: packets:: block:: accounting::"

# The debugger that these need, and the source that it shows.
take_for_cli_tests() {
    local program
    program=$(find_program gdb) || die "Debian's programs have no gdb"
    take "$programs$program" "$program"
    take "$root/test-unikernels/debuggee/src"
}

# The tender's tests, and those of what guests link, which this machine cannot run; cargo's messages say where they are.
# Without debug information they are built sooner, and, linked statically, fit into the machine's memory.
build_tests() {
    cargo_linux test -q -p hvt-tender -p guest-bindings --no-run --message-format=json --config profile.dev.debug=false
}
