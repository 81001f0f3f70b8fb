# shellcheck shell=bash disable=SC2154,SC2164 # variables of scripts/nested, which ends where a command fails
# The tender's tests in the machine of scripts/nested. Sourced by it.

# Builds the tests, the tender and the guests here, and takes them along under their own paths: cargo wrote those into
# the tests. The library's unit tests of backend kvm come first, then those of what guests link, where they are for another
# CPU than this machine's, then guests as fixtures, then some of the command line's and those of the sandbox, then the
# conformance table; arguments go to the latter. Where nothing interrupts a guest, `uninterrupted` is set: to what the
# first are told to leave out.
take_tests() {
    local built program
    for_architecture "$arch"
    built=$(build_tests) || die "the tests do not build"
    build_tender
    HVT_TENDER=$(realpath "$tender")
    if [ -z "${HVT_GUESTS:-}" ]; then
        build_guests
        HVT_GUESTS=$guests
    fi
    HVT_GUESTS=$(realpath "$HVT_GUESTS")
    export HVT_TENDER HVT_GUESTS HVT_BACKENDS=${HVT_BACKENDS:-kvm}
    # What a test there needs is there.
    variables+=(CI=true)
    # Most of the time goes into waiting for the kernel to take virtual machines apart.
    [ $# -gt 0 ] || set -- --test-threads=4

    take "$HVT_TENDER"
    while read -r program; do take "$program"; done < <(find "$HVT_GUESTS" -maxdepth 1 -type f -perm /111)
    while read -r program; do take "$program"; done < <(executables '"test":true' <<<"$built")
    # The files of the machine lie in its memory, of which they get a half.
    find "$image" -path '*/deps/*' -type f -exec "${tools}strip" --strip-debug {} +
    [ -n "${uninterrupted+set}" ] || take_for_cli_tests
    cd "$root/hvt-tender"
    {
        begin_script
        echo 'failed=0'
        test_line lib hvt_tender "$library_tests ${uninterrupted[*]-}"
        test_line lib guest_bindings
        # In those, guests compute until something interrupts them.
        if [ -z "${uninterrupted+set}" ]; then
            # Not those that compare times, which an emulated machine makes too long.
            test_line test fixtures "states:: a_guest_that_hangs a_torn_write guests_on_a_switch"
            test_line test cli "$cli_tests"
            # Those that change their root cannot where it is the one that the kernel has unpacked (pivot_root(2)).
            if [ -n "${rooted_tests-}" ]; then
                echo 'mkdir /rooted && mount -o rbind / /rooted || failed=1'
                test_line test cli "$rooted_tests" 'chroot /rooted'
            fi
            test_line test sandbox
        fi
        test_line test conformance "$(for word; do quote "$word"; done)"
        # shellcheck disable=SC2016 # for the machine's shell
        echo 'exit $failed'
    } >"$image/nested/run"
}

# test_line KIND NAME [WORDS [RUNNER]]: the line that runs the tests of the library (lib) or the test program (test) of this
# name with WORDS, which are quoted, by RUNNER; none where $built has no such tests.
test_line() {
    local program
    while read -r program; do
        echo "${4-} $(quote "$program") ${3-} || failed=1"
    done < <(executables '"kind":\["'"$1"'"\].*"name":"'"$2"'".*"test":true' <<<"$built")
}

# The programs that cargo's messages on standard input speak of, those that match $1.
executables() {
    grep '"reason":"compiler-artifact"' | grep -e "$1" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}
