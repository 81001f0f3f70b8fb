# shellcheck shell=bash disable=SC2154 # variables of lib.sh
# Downloads and unpacks Debian packages of any architecture without installing them: kernel and
# programs of an emulated machine, libraries for programs of another architecture. Package lists and
# archives are in the target directory, so neither root nor `dpkg --add-architecture` is required.
# Sourced after lib.sh.

# debian ARCHITECTURE: selects the architecture by its Debian name and downloads its package lists.
debian() {
    command -v apt-get >/dev/null || die "apt-get is missing: Debian packages are required"
    local home
    home=$(realpath -m "$target")/debian/$1
    mkdir -p "$home"/{lists,archives}/partial
    # Without descriptions and data for software centres.
    apt_options=(
        -o "APT::Architecture=$1" -o "APT::Architectures::=$1" -o "APT::Sandbox::User=root"
        -o "Acquire::Languages=none" -o "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"
        -o "Dir::State=$home" -o "Dir::State::status=/dev/null" -o "Dir::Cache=$home"
    )
    # A package source without packages for the architecture is not an error.
    apt_get update 2>/dev/null || true
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq "${apt_options[@]}" "$@" >&2; }

apt_cache() { apt-cache "${apt_options[@]}" "$@"; }

# debian_download DIRECTORY PACKAGE..: downloads the packages' archives to DIRECTORY.
debian_download() {
    local directory=$1
    shift
    echo "$script: fetching $*" >&2
    (cd "$directory" && apt_get download "$@") || { rm -rf "$directory"; die "cannot download $*"; }
}

# debian_download_all DIRECTORY PACKAGE..: downloads the packages and their dependencies to
# DIRECTORY.
debian_download_all() {
    local directory=$1
    shift
    echo "$script: fetching $*" >&2
    mkdir -p "$directory/partial"
    apt_get install --download-only -y --no-install-recommends -o "Dir::Cache::archives=$directory" "$@" ||
        { rm -rf "$directory"; die "cannot download $*"; }
}

# debian_unpack DIRECTORY: unpacks the archives in DIRECTORY in place.
debian_unpack() {
    local archive
    for archive in "$1"/*.deb; do dpkg-deb -x "$archive" "$1"; done
    rm -rf "$1"/*.deb "$1/partial" "$1/lock"
}

# keep_fetched FRESH KEPT: renames the complete directory FRESH to KEPT. A concurrent run may
# already have created KEPT.
keep_fetched() { mv -T "$1" "$2" 2>/dev/null || rm -rf "$1"; }
