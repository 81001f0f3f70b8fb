# What the scripts share. Sourced by them; they have set $root.

script=scripts/$(basename "$0")
target=${CARGO_TARGET_DIR:-$root/target}
# The tender is linked statically: it starts faster, and runs where no libraries are.
triple=$(uname -m)-unknown-linux-gnu
tender=$target/$triple/release/hvt-tender
elftool=${HVT_ELFTOOL:-$target/$triple/release/hvt-elftool}
guests=$target/release

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

# The release build of the tender.
build_tender() {
    need_rust
    (cd "$root" && cargo build --quiet --release --package hvt-tender --target "$triple" \
        --config "target.$triple.rustflags=['-Ctarget-feature=+crt-static']")
}

# The test unikernels.
build_guests() {
    "$root/scripts/guests" >/dev/null
}

# Their names.
guest_names() {
    local source
    for source in "$root"/test-unikernels/src/bin/*.rs; do basename "$source" .rs; done
    for source in "$root"/test-unikernels/c/*.c; do echo "c-$(basename "$source" .c)"; done
}
