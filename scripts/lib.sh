# What the scripts share. Sourced by them; they have set $root.

script=scripts/$(basename "$0")
target=${CARGO_TARGET_DIR:-$root/target}
# Names and options for what is built here and runs here. for_architecture in cross.sh sets others.
for_this_machine() {
    architecture=$(uname -m)
    triple=$architecture-unknown-linux-gnu
    tender=$target/$triple/release/hvt-tender
    guests=$target/release
    # Environment, options of cargo and of rustc, and what the names of binutils begin with.
    toolchain=() cargo_options=() rust_flags=() tools=
}
for_this_machine
elftool=${HVT_ELFTOOL:-$target/$triple/release/hvt-elftool}

die() { echo "$script: $*" >&2; exit 1; }

# need COMMAND PACKAGE: makes sure that COMMAND is there; installs the Debian package where that is allowed.
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

# need_file FILE PACKAGE: like need, for a file that is no command.
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

# cargo_linux COMMAND..: cargo, for programs that run on Linux. They are linked statically: so they start faster, and run
# where no libraries are.
cargo_linux() {
    need_rust
    local command=$1 flags
    shift
    flags=$(printf "'%s'," -Ctarget-feature=+crt-static "${rust_flags[@]}")
    (cd "$root" && env "${toolchain[@]}" cargo "$command" --target "$triple" "${cargo_options[@]}" \
        --config "target.$triple.rustflags=[$flags]" "$@")
}

# cargo_guests COMMAND..: cargo, for unikernels.
cargo_guests() {
    if [ "$architecture" = "$(uname -m)" ]; then (cd "$root" && cargo "$@"); else cargo_linux "$@"; fi
}

# The release build of the tender.
build_tender() {
    [ -e "$tender" ] || echo "$script: building the tender, which takes some minutes the first time" >&2
    local link
    mapfile -t link < <(packed_relocations)
    cargo_linux rustc --quiet --release --package hvt-tender --bin hvt-tender -- "${link[@]}"
    cargo_linux build --quiet --release --package hvt-tender --bin hvt-elftool
}

# An option of rustc that packs the tender's relocations (DT_RELR): a start then takes 20,000 instructions and five page faults
# less. A static program applies its relocations itself, by the start code of glibc, which knows packed ones since 2.36; linkers
# for other architectures do not.
packed_relocations() {
    local glibc
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) && glibc=${glibc#glibc } || return 0
    [ "$architecture" = x86_64 ] && [ "$(printf '%s\n' 2.36 "$glibc" | sort -V | head -n 1)" = 2.36 ] || return 0
    echo -Clink-arg=-Wl,-z,pack-relative-relocs
}

# The test unikernels.
build_guests() {
    "$root/scripts/guests" --arch "$architecture" >/dev/null
}

# Their names.
guest_names() {
    local source
    for source in "$root"/test-unikernels/src/bin/*; do basename "$source" .rs; done
    for source in "$root"/test-unikernels/c/*.c; do echo "c-$(basename "$source" .c)"; done
}

# What the functions below need.
need_bochs() {
    need bochs bochs
    need_file /usr/share/bochs/BIOS-bochs-latest bochsbios
    need_file /usr/share/bochs/VGABIOS-lgpl-latest vgabios
    need_file /usr/lib/grub/i386-pc/multiboot2.mod grub-pc-bin
    need grub-mkrescue grub-common
    need xorriso xorriso
    need mformat mtools
}

# grub_image ISO KERNEL MODULE WORDS: a CD that boots KERNEL by Multiboot2, with MODULE and the command line WORDS.
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

# grub_iso ISO COMMAND: a CD with what is in $work/iso, where boot/grub/grub.cfg is, for GRUB's command COMMAND.
grub_iso() {
    grub-mkrescue -d /usr/lib/grub/i386-pc --install-modules="normal iso9660 biosdisk $2" --fonts= --locales= \
        --themes= -o "$1" "$work/iso" >"$work/log" 2>&1
}

# bochs_machine ISO LINE: boots ISO in Bochs with $cpus CPUs and $memory MiB, and LINE in its configuration.
bochs_machine() {
    # The CPU model has every feature of VMX that matters here. A second of its time is 100 million instructions, so
    # that time inside does not depend on this machine.
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
    # Debian's Bochs has its debugger in: continue, and quit at the end.
    printf 'c\nq\n' >"$work/debugger"
    # Its only display without a screen is a VNC server: it gets a network of its own, where nobody is.
    local private=(unshare --net)
    [ "$(id -u)" = 0 ] || private=(unshare --user --map-root-user --net)
    timeout --foreground "$limit" "${private[@]}" bochs -q -f "$work/bochsrc" -rc "$work/debugger" </dev/null \
        2>"$work/stderr"
}
