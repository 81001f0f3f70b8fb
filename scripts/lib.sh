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
    local flags
    flags=$(printf "'%s'," -Ctarget-feature=+crt-static "${rust_flags[@]}")
    (cd "$root" && env "${toolchain[@]}" cargo "$@" --target "$triple" "${cargo_options[@]}" \
        --config "target.$triple.rustflags=[$flags]")
}

# cargo_guests COMMAND..: cargo, for unikernels.
cargo_guests() {
    if [ "$architecture" = "$(uname -m)" ]; then (cd "$root" && cargo "$@"); else cargo_linux "$@"; fi
}

# The release build of the tender.
build_tender() {
    cargo_linux build --quiet --release --package hvt-tender
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
