# shellcheck shell=bash disable=SC2154 # variables of lib.sh
# Unikernels in C: builds the library, compiles and links. Sourced after lib.sh.

# Sets the paths of headers, library and linker script, relative to a prefix as in Solo5's
# toolchain.
c_places() {
    c_prefix=$(dirname "$guests")/guest-c
    c_include=$c_prefix/include/solo5
    c_library=$c_prefix/lib/$architecture-solo5-none-static
}

# Builds the library unless it is up to date. solo5_hvt.o exports only the functions of solo5.h.
# libsolo5_hvt.a adds the memory functions that compilers call, for applications that do not define
# them.
build_c_library() {
    need_rust
    need "${tools}objcopy" "binutils"
    c_places
    cargo_guests build --quiet --release --package guest-bindings-c
    # The lock is held until this script ends, because several instances may run concurrently.
    exec 9>"$c_prefix.lock"
    flock 9
    mkdir -p "$c_include" "$c_library"
    cp -u "$root"/guest-bindings/c/include/*.h "$c_include/"
    cp -u "$root/guest-bindings/build-support/hvt.lds" "$c_library/solo5_hvt.lds"
    local built=$guests/libsolo5_hvt.a ready=$c_library/libsolo5_hvt.a
    if [ "$ready" -nt "$built" ] && [ "$ready" -nt "$root/scripts/cc.sh" ]; then return; fi

    local work kept memory=(memcpy memmove memset memcmp bcmp strlen)
    work=$(mktemp -d "$c_prefix/build.XXXXXX")
    # Constructors of the compiler's library. A guest does not call them, and the linker would keep
    # them.
    "${tools}objcopy" --wildcard --remove-section='.init_array*' --remove-section='.rela.init_array*' "$built" \
        "$work/whole.a"
    mapfile -t kept < <("${tools}nm" -g --defined-only "$built" 2>/dev/null |
        sed -n 's/.* [A-Z] \(solo5_.*\|__stack_chk_.*\|_start\)$/\1/p')
    link_kept "$work/whole.a" "$work/solo5_hvt.o" "${kept[@]}"
    link_kept "$work/whole.a" "$work/memory.o" "${memory[@]}"
    # Removes the notes, which the linker always keeps. solo5_hvt.o already contains them.
    "${tools}objcopy" --wildcard --only-section='.text.*' --only-section=.note.GNU-stack --strip-unneeded "$work/memory.o"
    "${tools}ar" -crD "$work/libsolo5_hvt.a" "$work/solo5_hvt.o" "$work/memory.o"
    mv "$work/solo5_hvt.o" "$work/libsolo5_hvt.a" "$c_library/"
    rm -rf "$work"
}

# link_kept ARCHIVE OBJECT SYMBOL..: links the parts of ARCHIVE that the SYMBOLs need into OBJECT,
# which exports only these symbols.
link_kept() {
    local archive=$1 object=$2
    shift 2
    "${tools}ld" -r --gc-sections "${@/#/--undefined=}" "$archive" -o "$object"
    # Removes rustc's data for link-time optimization, which has been done and confuses other tools,
    # and the name of a C library function that the constructors call.
    "${tools}objcopy" --remove-section=.llvmbc --remove-section=.llvmcmd --strip-unneeded-symbol=getauxval \
        "${@/#/--keep-global-symbol=}" "$object"
}

# C compiler with options for unikernels: cc_guest compiles, link_guest also links.
cc_guest() {
    local compiler=${CC:-cc} options=(
        # Only headers of the compiler, none of the host.
        -nostdinc -isystem "$("${CC:-cc}" -print-file-name=include)" -isystem "$c_include" -ffreestanding
        -fno-pic -fno-pie -fstack-protector-strong -mstack-protector-guard=global -ffunction-sections -fdata-sections
    )
    "$compiler" "${options[@]}" "$@"
}

link_guest() {
    # The compiler's library is last. It implements arithmetic without a CPU instruction.
    cc_guest -nostdlib -static -no-pie -Wl,--build-id=none,--gc-sections,-z,max-page-size=4096,-z,norelro,-z,noexecstack \
        "$@" -T "$c_library/solo5_hvt.lds" "$c_library/libsolo5_hvt.a" "$("${CC:-cc}" -print-libgcc-file-name)"
}

# manifest_source JSON C: generates the C source of a manifest.
manifest_source() {
    [ -x "$elftool" ] || (for_this_machine && build_tender)
    "$elftool" gen-manifest "$1" "$2"
}
