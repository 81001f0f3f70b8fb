# shellcheck shell=bash disable=SC2154 # variables of scripts/nested
# Contents of the machine of scripts/nested: programs, a kernel, and an image of files. Sourced by
# it.

# Sets `kernel` to a directory with an uncompressed kernel and these modules. Downloads a kernel if
# there is none yet.
get_kernel() {
    local with
    with=$(cksum <<<"$modules" | cut -d' ' -f1)
    kernel=$(find "$cache" -maxdepth 1 -name "linux-image-*-$debian.$with" | sort -V | tail -n 1)
    [ -z "$kernel" ] || return 0
    debian "$debian"
    local package fresh
    package=$(apt_cache depends "linux-image-$debian" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || die "linux-image-$debian is missing in the package lists"
    fresh=$(mktemp -d "$cache/fetch.XXXXXX")
    debian_download "$fresh" "$package"
    unpack_kernel "$fresh" || die "$package: unexpected contents"
    kernel=$cache/$package.$with
    keep_fetched "$fresh" "$kernel"
}

# unpack_kernel DIRECTORY: replaces the package in DIRECTORY by vmlinux and the modules.
unpack_kernel() {
    local names=() name
    for name in $modules; do names+=("./lib/modules/*/$name.ko*"); done
    dpkg-deb --fsys-tarfile "$1"/*.deb | tar -x -C "$1" --wildcards './boot/vmlinuz-*' "${names[@]}" 2>/dev/null || true
    find "$1/lib" -name '*.ko*' -exec mv -t "$1" {} +
    find "$1" -name '*.ko.xz' -exec xz -d {} +
    uncompress_kernel "$1"/boot/vmlinuz-* "$1/vmlinux"
    rm -rf "${1:?}/boot" "${1:?}/lib" "$1"/*.deb
    for name in $needed; do [ -s "$1/$name" ] || return; done
}

begin_image() {
    mkdir -p "$image"/{usr/{bin,sbin,lib,lib64},dev,etc,nested/modules,proc,run,sys,tmp,var}
    local link
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$image/$link"; done
    ln -s ../run "$image/var/run"
    cp "$here/init" "$image/init"
    local module
    for module in $modules; do
        [ ! -f "$kernel/$module.ko" ] || cp "$kernel/$module.ko" "$image/nested/modules/"
        echo "$module"
    done >"$image/nested/modules/order"
    printf 'root:x:0:0:root:/:/bin/sh\n' >"$image/etc/passwd"
    printf 'root:x:0:\n' >"$image/etc/group"
    local program
    # bash instead of busybox's shell, which prefers its own programs to the copied ones.
    for program in busybox sh bash ip ping losetup; do
        ! program=$(find_program "$program") || take "$programs$program" "$program"
    done
}

# take SOURCE [DESTINATION]: copies a file or directory to the image, with the libraries that its
# programs need. The default destination is the same path.
take() {
    local source=$1 destination=${2:-}
    [ -e "$source" ] || die "'$source' does not exist"
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
    local library
    while read -r library; do
        mkdir -p "$(dirname "$image$library")"
        cp -nL "$programs$library" "$image$library"
    done < <(find -L "$source" -type f -perm /111 -print0 | find_libraries)
}

# quote WORD: prints WORD quoted for a shell.
quote() { printf "'%s' " "${1//\'/\'\\\'\'}"; }

# Prints the start of the script that the machine runs: environment and directory.
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

# Writes the command to the image, and copies the files named in it.
take_command() {
    local word program=$1
    for word; do
        [ ! -f "$word" ] || take "$word"
    done
    case $program in
        */*) [ -e "$program" ] || die "'$program' does not exist" ;;
        *) ! program=$(find_program "$program") || take "$programs$program" "$program" ;;
    esac
    {
        begin_script
        printf 'exec '
        for word; do quote "$word"; done
        echo
    } >"$image/nested/run"
}

# pack_image FILE: writes the image as an archive that the kernel unpacks.
pack_image() {
    (cd "$image" && find . | busybox cpio -o -H newc 2>/dev/null) >"$1"
}
