# shellcheck shell=bash disable=SC2154 # variables of scripts/nested
# What the machine of scripts/nested is made of: programs, a kernel, and an image of files. Sourced by it.

# Modules that the kernel needs, in the order of their dependencies. One that a kernel does not have is built in.
modules="irqbypass ccp kvm kvm-amd tun veth virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci
    virtio_console"

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o APT::Sandbox::User=root "$@" >&2
}

# Sets `kernel` to a directory with an uncompressed kernel and its modules; fetches one where there is none yet.
get_kernel() {
    mkdir -p "$cache"
    kernel=$(find "$cache" -maxdepth 1 -name 'linux-image-*-amd64' | sort -V | tail -n 1)
    [ -z "$kernel" ] || return 0
    command -v apt-get >/dev/null || die "a Debian kernel is needed, and apt-get to fetch it"
    need xz xz-utils
    # The lists of packages may be missing or old. Only root can renew them.
    [ "$(id -u)" != 0 ] || apt update || true
    local package
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || die "apt knows no linux-image-amd64; as root: apt-get update"
    echo "scripts/nested: fetching $package" >&2
    local fresh
    fresh=$(mktemp -d "$cache/fetch.XXXXXX")
    (cd "$fresh" && apt download "$package") || { rm -rf "$fresh"; die "cannot download $package"; }
    unpack_kernel "$fresh" || { rm -rf "$fresh"; die "$package is not as expected"; }
    kernel=$cache/$package
    # Another run may have been quicker.
    mv -T "$fresh" "$kernel" 2>/dev/null || rm -rf "$fresh"
}

# Takes the package in directory $1 apart: leaves vmlinux and the modules there.
unpack_kernel() {
    local names=() name
    for name in $modules; do names+=("./lib/modules/*/$name.ko*"); done
    dpkg-deb --fsys-tarfile "$1"/*.deb | tar -x -C "$1" --wildcards './boot/vmlinuz-*' "${names[@]}" 2>/dev/null || true
    find "$1/lib" -name '*.ko*' -exec mv -t "$1" {} +
    find "$1" -name '*.ko.xz' -exec xz -d {} +
    uncompress "$1"/boot/vmlinuz-* "$1/vmlinux"
    rm -rf "${1:?}/boot" "${1:?}/lib" "$1"/*.deb
    [ -s "$1/vmlinux" ] && [ -s "$1/kvm-amd.ko" ]
}

# The kernel inside the bzImage $1, into $2. The emulator needs several seconds to uncompress it, this machine none.
# Offsets: Linux, Documentation/x86/boot.rst, setup_sects, payload_offset and payload_length.
uncompress() {
    local sectors start length
    sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$1")
    start=$(((sectors + 1) * 512 + $(od -An -tu4 -j $((0x248)) -N4 "$1")))
    # The last four bytes are the uncompressed length.
    length=$(($(od -An -tu4 -j $((0x24c)) -N4 "$1") - 4))
    # Where it is not compressed in this way, the emulator has to do it.
    head -c $((start + length)) "$1" | tail -c "$length" | xz -dc >"$2" 2>/dev/null || cp "$1" "$2"
}

begin_image() {
    mkdir -p "$image"/{usr/{bin,sbin,lib,lib64},dev,etc,nested/modules,proc,run,sys,tmp,var}
    local link
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$image/$link"; done
    ln -s ../run "$image/var/run"
    take "$(command -v busybox)" /usr/bin/busybox
    cp "$here/init" "$image/init"
    local module
    for module in $modules; do
        [ ! -f "$kernel/$module.ko" ] || cp "$kernel/$module.ko" "$image/nested/modules/"
        echo "$module"
    done >"$image/nested/modules/order"
    printf 'root:x:0:0:root:/:/bin/sh\n' >"$image/etc/passwd"
    printf 'root:x:0:\n' >"$image/etc/group"
    local program
    # Not busybox's shell: that one prefers its own programs to those taken along.
    for program in sh bash ip ping; do
        ! program=$(command -v "$program") || take "$program"
    done
}

# Takes the file or directory $1 along, as $2 or under its own path, with the libraries that programs in it need.
take() {
    local source=$1 destination=${2:-}
    [ -e "$source" ] || die "there is no $source"
    [ -n "$destination" ] || destination=$(realpath -s "$source")
    [ "${destination#/}" != "$destination" ] || destination=$PWD/$destination
    [ ! -e "$image$destination" ] || [ -d "$source" ] || return 0
    mkdir -p "$(dirname "$image$destination")"
    if [ -d "$source" ]; then
        mkdir -p "$image$destination"
        cp -rL "$source/." "$image$destination"
    else
        cp -L "$source" "$image$destination"
    fi
    local libraries library
    libraries=$(find -L "$source" -type f -perm /111 -exec ldd {} + 2>/dev/null |
        sed -n 's,^\t\(.* => \)\?\(/[^ ]*\) (0x.*,\2,p' | sort -u) || true
    for library in $libraries; do
        mkdir -p "$(dirname "$image$library")"
        cp -nL "$library" "$image$library"
    done
}

# A word as a shell reads it back.
quote() { printf "'%s' " "${1//\'/\'\\\'\'}"; }

# Starts the script that the machine runs: environment and directory.
begin_script() {
    local name variable
    mkdir -p "$image$PWD"
    for name in $(compgen -e | grep -E '^(HVT|RUST)_' || true); do variables=("$name=${!name}" "${variables[@]}"); done
    for variable in "${variables[@]}"; do
        printf 'export '
        quote "$variable"
        echo
    done
    printf 'cd %s\n' "$(quote "$PWD")"
}

# The command to be run, and the files named in it.
take_command() {
    local word program=$1
    for word; do
        [ ! -f "$word" ] || take "$word"
    done
    case $program in
        */*) [ -e "$program" ] || die "there is no $program" ;;
        *) ! program=$(command -v "$program") || [ ! -f "$program" ] || take "$program" ;;
    esac
    {
        begin_script
        printf 'exec '
        for word; do quote "$word"; done
        echo
    } >"$image/nested/run"
}

# The image as an archive that the kernel unpacks, into $1.
pack_image() {
    (cd "$image" && find . | busybox cpio -o -H newc 2>/dev/null) >"$1"
}
