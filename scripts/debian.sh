# shellcheck shell=bash disable=SC2154 # variables of lib.sh
# Packages of Debian for any architecture, to be unpacked and not installed: an emulated machine's kernel and programs,
# libraries for programs of another architecture. Neither root nor `dpkg --add-architecture` is needed, for lists and
# archives are kept in the target directory. Sourced, after lib.sh.

# debian ARCHITECTURE: says which architecture, by Debian's name for it, and gets the lists of its packages.
debian() {
    command -v apt-get >/dev/null || die "packages of Debian are needed, and apt-get to fetch them"
    local home
    home=$(realpath -m "$target")/debian/$1
    mkdir -p "$home"/{lists,archives}/partial
    # No descriptions, no data for software centres.
    apt_options=(
        -o "APT::Architecture=$1" -o "APT::Architectures::=$1" -o "APT::Sandbox::User=root"
        -o "Acquire::Languages=none" -o "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"
        -o "Dir::State=$home" -o "Dir::State::status=/dev/null" -o "Dir::Cache=$home"
    )
    # A source of this machine's that has nothing for the architecture is no reason to end.
    apt_get update 2>/dev/null || true
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq "${apt_options[@]}" "$@" >&2; }

apt_cache() { apt-cache "${apt_options[@]}" "$@"; }

# debian_download DIRECTORY PACKAGE..: these packages' archives, into DIRECTORY.
debian_download() {
    local directory=$1
    shift
    echo "$script: fetching $*" >&2
    (cd "$directory" && apt_get download "$@") || { rm -rf "$directory"; die "cannot download $*"; }
}

# debian_download_all DIRECTORY PACKAGE..: likewise, with all that they depend on.
debian_download_all() {
    local directory=$1
    shift
    echo "$script: fetching $*" >&2
    mkdir -p "$directory/partial"
    apt_get install --download-only -y --no-install-recommends -o "Dir::Cache::archives=$directory" "$@" ||
        { rm -rf "$directory"; die "cannot download $*"; }
}

# debian_unpack DIRECTORY: takes the archives in DIRECTORY apart, in place.
debian_unpack() {
    local archive
    for archive in "$1"/*.deb; do dpkg-deb -x "$archive" "$1"; done
    rm -rf "$1"/*.deb "$1/partial" "$1/lock"
}

# keep_fetched FRESH KEPT: makes KEPT of what is complete in FRESH. Another run may have been quicker.
keep_fetched() { mv -T "$1" "$2" 2>/dev/null || rm -rf "$1"; }
