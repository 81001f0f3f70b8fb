# shellcheck shell=bash disable=SC2034,SC2154 # variables of lib.sh
# Programs and unikernels for an architecture other than this machine's. Sourced after lib.sh.

# shellcheck source=debian.sh
. "$root/scripts/debian.sh"

# for_architecture NAME: selects the architecture of subsequent builds, which use a separate
# directory.
for_architecture() {
    case $1 in
        x86_64 | aarch64) ;;
        *) die "unknown architecture '$1': expected x86_64 or aarch64" ;;
    esac
    [ "$1" != "$architecture" ] || return 0
    architecture=$1
    triple=$1-unknown-linux-gnu
    tender=$target/$1/$triple/release/hvt-tender
    guests=$target/$1/$triple/release
    local debian multiarch=$1-linux-gnu
    case $1 in
        x86_64) debian=amd64 ;;
        aarch64) debian=arm64 ;;
    esac
    need "$multiarch-gcc" "gcc-${multiarch//_/-}"
    need_file "/usr/$multiarch/lib/libc.a" "libc6-dev-$debian-cross"
    tools=$multiarch-
    CC=${CC:-$multiarch-gcc}
    cargo_options=(--target-dir "$target/$1" --config "target.$triple.linker='$multiarch-gcc'")
    [ -d "$(rustc --print sysroot)/lib/rustlib/$triple/lib" ] || use_debian_rust "$debian"
}

# use_debian_rust ARCHITECTURE: selects Debian's compiler and Debian's standard library for the
# target, for a target that is not installed (rustup target add).
use_debian_rust() {
    need_file /usr/bin/rustc rustc-web
    local package version kept fresh
    package=$(dpkg-query -S /usr/bin/rustc | cut -d: -f1)
    version=$(dpkg-query -W -f '${Version}' "$package")
    # The package rustc belongs to libstd-rust-dev, rustc-web to libstd-rust-web-dev.
    package=libstd-${package/rustc/rust}-dev
    kept=$(realpath -m "$target")/debian/${package}_${version}_$1
    if [ ! -d "$kept" ]; then
        debian "$1"
        fresh=$(mktemp -d "$(dirname "$kept")/fetch.XXXXXX")
        debian_download "$fresh" "$package=$version"
        debian_unpack "$fresh"
        keep_fetched "$fresh" "$kept"
    fi
    toolchain=(RUSTC=/usr/bin/rustc)
    rust_flags=("--sysroot=$kept/usr")
}

# clippy_linux OPTION..: runs clippy on programs and unikernels of the selected architecture.
# Warnings are errors.
clippy_linux() {
    if [ ${#toolchain[@]} = 0 ]; then
        cargo_linux clippy --quiet "$@" -- -D warnings
    else
        need_file /usr/bin/clippy-driver rust-web-clippy
        # Same steps as Debian's cargo-clippy, which requires Debian's cargo.
        local toolchain=("${toolchain[@]}" RUSTC_WORKSPACE_WRAPPER=/usr/bin/clippy-driver)
        CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__ cargo_linux check --quiet "$@"
    fi
}
