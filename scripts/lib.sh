# Functions shared by the scripts. Sourced after $root is set.

script=scripts/$(basename "$0")
target=${CARGO_TARGET_DIR:-$root/target}
# Paths and options of builds for this machine. for_architecture in cross.sh selects other
# architectures.
for_this_machine() {
    architecture=$(uname -m)
    triple=$architecture-unknown-linux-gnu
    tender=$target/$triple/release/hvt-tender
    guests=$target/release
    # Environment, options of cargo and rustc, and the prefix of the binutils commands.
    toolchain=() cargo_options=() rust_flags=() tools=
}
for_this_machine
elftool=${HVT_ELFTOOL:-$target/$triple/release/hvt-elftool}

# The packages that are published, each after its dependencies.
published=(hvt-abi guest-bindings-build guest-bindings hvt-core hvt-tender kernel-hvt-glue)

die() { echo "$script: $*" >&2; exit 1; }

# need COMMAND PACKAGE: requires COMMAND. If it is missing, installs the Debian package when run as
# root.
need() {
    ! command -v "$1" >/dev/null || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "$script: installing $2" >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2"; } \
            >/dev/null || die "cannot install $2"
        ! command -v "$1" >/dev/null || return 0
    fi
    die "$1 is missing: install the package $2"
}

# need_file FILE PACKAGE: like need, for a file that is not a command.
need_file() {
    [ ! -e "$1" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "$script: installing $2" >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2"; } \
            >/dev/null || die "cannot install $2"
    fi
    [ -e "$1" ] || die "$1 is missing: install the package $2"
}

need_rust() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust (stable) from https://rustup.rs"
    need cc gcc
}

# cargo_linux COMMAND..: runs cargo for programs that run on Linux. They are linked statically, so
# they start faster and need no libraries.
cargo_linux() {
    need_rust
    local command=$1 flags
    shift
    flags=$(printf "'%s'," -Ctarget-feature=+crt-static "${rust_flags[@]}")
    (cd "$root" && env "${toolchain[@]}" cargo "$command" --target "$triple" "${cargo_options[@]}" \
        --config "target.$triple.rustflags=[$flags]" "$@")
}

# cargo_guests COMMAND..: runs cargo for unikernels.
cargo_guests() {
    if [ "$architecture" = "$(uname -m)" ]; then (cd "$root" && cargo "$@"); else cargo_linux "$@"; fi
}

# Builds the tender in release mode.
build_tender() {
    [ -e "$tender" ] || echo "$script: building the tender (takes some minutes the first time)" >&2
    local link
    mapfile -t link < <(packed_relocations)
    cargo_linux rustc --quiet --release --package hvt-tender --bin hvt-tender -- "${link[@]}"
    cargo_linux build --quiet --release --package hvt-tender --bin hvt-elftool
}

# Prints the rustc option that packs the tender's relocations (DT_RELR), which saves 20,000
# instructions and five page faults per start. A static program applies its relocations in the start
# code of glibc, which supports packed relocations since version 2.36. Linkers for other
# architectures do not support them.
packed_relocations() {
    local glibc
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) && glibc=${glibc#glibc } || return 0
    [ "$architecture" = x86_64 ] && [ "$(printf '%s\n' 2.36 "$glibc" | sort -V | head -n 1)" = 2.36 ] || return 0
    echo -Clink-arg=-Wl,-z,pack-relative-relocs
}

# Builds the test unikernels.
build_guests() {
    "$root/scripts/guests" --arch "$architecture" >/dev/null
}

# Prints the names of the test unikernels.
guest_names() {
    local source
    for source in "$root"/test-unikernels/src/bin/*; do basename "$source" .rs; done
    for source in "$root"/test-unikernels/c/*.c; do echo "c-$(basename "$source" .c)"; done
}

# Requires the programs that the functions below use.
need_bochs() {
    need bochs bochs
    need_file /usr/share/bochs/BIOS-bochs-latest bochsbios
    need_file /usr/share/bochs/VGABIOS-lgpl-latest vgabios
    need_file /usr/lib/grub/i386-pc/multiboot2.mod grub-pc-bin
    need grub-mkrescue grub-common
    need xorriso xorriso
    need mformat mtools
}

# grub_image ISO KERNEL MODULE WORDS: creates a CD image that boots KERNEL by Multiboot2 with MODULE
# and the command line WORDS.
grub_image() {
    mkdir -p "$work/iso/boot/grub"
    cp "$2" "$work/iso/boot/kernel"
    cp "$3" "$work/iso/boot/module"
    cat >"$work/iso/boot/grub/grub.cfg" <<EOF
multiboot2 /boot/kernel $4
module2 /boot/module
boot
EOF
    grub_iso "$1" multiboot2
}

# grub_iso ISO COMMAND: creates a CD image from $work/iso, whose boot/grub/grub.cfg uses GRUB's
# COMMAND.
grub_iso() {
    grub-mkrescue -d /usr/lib/grub/i386-pc --install-modules="normal iso9660 biosdisk $2" --fonts= --locales= \
        --themes= -o "$1" "$work/iso" >"$work/log" 2>&1
}

# bochs_machine ISO LINE: boots ISO in Bochs with $cpus CPUs and $memory MiB. LINE is added to the
# configuration.
bochs_machine() {
    # The CPU model has every VMX feature that is used here. One second of guest time is 100 million
    # instructions, so guest time does not depend on the speed of this machine.
    cat >"$work/bochsrc" <<EOF
megs: $memory
cpu: model=corei7_skylake_x, count=$cpus, ips=100000000, reset_on_triple_fault=0
clock: sync=none
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
display_library: rfb, options="timeout=0"
sound: waveoutdrv=dummy
$2
ata0-master: type=cdrom, path=$1, status=inserted
boot: cdrom
log: $work/log
EOF
    # Debian's Bochs is built with its debugger. The commands continue, and quit at the end.
    printf 'c\nq\n' >"$work/debugger"
    # Without a screen, the only display is a VNC server. It runs in an empty network namespace.
    local private=(unshare --net)
    [ "$(id -u)" = 0 ] || private=(unshare --user --map-root-user --net)
    timeout --foreground "$limit" "${private[@]}" bochs -q -f "$work/bochsrc" -rc "$work/debugger" </dev/null \
        2>"$work/stderr"
}
