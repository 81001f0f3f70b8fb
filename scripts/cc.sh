# shellcheck shell=bash disable=SC2154 # variables of lib.sh
# Unikernels in C: the library they link, and how they are compiled. Sourced, after lib.sh.

# Says where headers, library and linker script are: in the places that Solo5's toolchain has them.
c_places() {
    c_prefix=$(dirname "$guests")/guest-c
    c_include=$c_prefix/include/solo5
    c_library=$c_prefix/lib/$architecture-solo5-none-static
}

# Builds the library, unless it is there: solo5_hvt.o has the functions of solo5.h and shows nothing else of itself;
# libsolo5_hvt.a adds the functions on memory that compilers call, for applications that have none of their own.
build_c_library() {
    need_rust
    need "${tools}objcopy" "binutils"
    c_places
    cargo_guests build --quiet --release --package guest-bindings-c
    # Until this script ends: two may run at once.
    exec 9>"$c_prefix.lock"
    flock 9
    mkdir -p "$c_include" "$c_library"
    cp -u "$root"/guest-bindings/c/include/*.h "$c_include/"
    cp -u "$root/guest-bindings/build-support/hvt.lds" "$c_library/solo5_hvt.lds"
    local built=$guests/libsolo5_hvt.a ready=$c_library/libsolo5_hvt.a
    if [ "$ready" -nt "$built" ] && [ "$ready" -nt "$root/scripts/cc.sh" ]; then return; fi

    local work kept memory=(memcpy memmove memset memcmp bcmp strlen)
    work=$(mktemp -d "$c_prefix/build.XXXXXX")
    # What the compiler's own library would have start files call: nobody does here, and the linker would keep it.
    "${tools}objcopy" --wildcard --remove-section='.init_array*' --remove-section='.rela.init_array*' "$built" \
        "$work/whole.a"
    mapfile -t kept < <("${tools}nm" -g --defined-only "$built" 2>/dev/null |
        sed -n 's/.* [A-Z] \(solo5_.*\|__stack_chk_.*\|_start\)$/\1/p')
    link_kept "$work/whole.a" "$work/solo5_hvt.o" "${kept[@]}"
    link_kept "$work/whole.a" "$work/memory.o" "${memory[@]}"
    # Of the rest, what the linker keeps in any case are the notes of a unikernel, which has them already.
    "${tools}objcopy" --wildcard --only-section='.text.*' --only-section=.note.GNU-stack --strip-unneeded "$work/memory.o"
    "${tools}ar" -crD "$work/libsolo5_hvt.a" "$work/solo5_hvt.o" "$work/memory.o"
    mv "$work/solo5_hvt.o" "$work/libsolo5_hvt.a" "$c_library/"
    rm -rf "$work"
}

# link_kept ARCHIVE OBJECT SYMBOL..: makes one object of what of the archive the symbols need, and shows these alone.
link_kept() {
    local archive=$1 object=$2
    shift 2
    "${tools}ld" -r --gc-sections "${@/#/--undefined=}" "$archive" -o "$object"
    # What rustc left for a link-time optimization that has been done would only confuse other tools, and so would the
    # name of a function of the C library that those start files' functions call.
    "${tools}objcopy" --remove-section=.llvmbc --remove-section=.llvmcmd --strip-unneeded-symbol=getauxval \
        "${@/#/--keep-global-symbol=}" "$object"
}

# The C compiler, set up for unikernels: cc_guest compiles, link_guest links as well.
cc_guest() {
    local compiler=${CC:-cc} options=(
        # No header of the host's, only those of the compiler itself.
        -nostdinc -isystem "$("${CC:-cc}" -print-file-name=include)" -isystem "$c_include" -ffreestanding
        -fno-pic -fno-pie -fstack-protector-strong -mstack-protector-guard=global -ffunction-sections -fdata-sections
    )
    "$compiler" "${options[@]}" "$@"
}

link_guest() {
    # The compiler's own library comes last, for arithmetic that the CPU has no instruction for.
    cc_guest -nostdlib -static -no-pie -Wl,--build-id=none,--gc-sections,-z,max-page-size=4096,-z,norelro,-z,noexecstack \
        "$@" -T "$c_library/solo5_hvt.lds" "$c_library/libsolo5_hvt.a" "$("${CC:-cc}" -print-libgcc-file-name)"
}

# The C source of the manifest in JSON $1, into $2.
manifest_source() {
    [ -x "$elftool" ] || (for_this_machine && build_tender)
    "$elftool" gen-manifest "$1" "$2"
}
