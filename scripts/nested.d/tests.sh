# shellcheck shell=bash disable=SC2154,SC2164 # variables of scripts/nested, which ends where a command fails
# Runs the tender's tests in the machine of scripts/nested. Sourced by it.

# Builds the tests, the tender and the guests on this machine, and copies them to the same paths,
# which cargo has compiled into the tests. The order of the tests: unit tests of the library for
# backend kvm; tests of guest-bindings, if they are for another CPU; guests as fixtures; some tests
# of the command line and all tests of the sandbox; the conformance table, which gets the arguments.
# If interrupts cannot stop a guest, `uninterrupted` is set to the options that skip the affected
# unit tests.
take_tests() {
    local built program
    for_architecture "$arch"
    built=$(build_tests) || die "the build of the tests failed"
    build_tender
    HVT_TENDER=$(realpath "$tender")
    if [ -z "${HVT_GUESTS:-}" ]; then
        build_guests
        HVT_GUESTS=$guests
    fi
    HVT_GUESTS=$(realpath "$HVT_GUESTS")
    export HVT_TENDER HVT_GUESTS HVT_BACKENDS=${HVT_BACKENDS:-kvm}
    # The machine has everything that its tests require, so no test may be skipped.
    variables+=(CI=true)
    # The tests spend most of their time waiting for the kernel to destroy VMs.
    [ $# -gt 0 ] || set -- --test-threads=4

    take "$HVT_TENDER"
    while read -r program; do take "$program"; done < <(find "$HVT_GUESTS" -maxdepth 1 -type f -perm /111)
    while read -r program; do take "$program"; done < <(executables '"test":true' <<<"$built")
    # The machine's files are in its memory and may use half of it.
    find "$image" -path '*/deps/*' -type f -exec "${tools}strip" --strip-debug {} +
    [ -n "${uninterrupted+set}" ] || take_for_cli_tests
    cd "$root/hvt-tender"
    {
        begin_script
        echo 'failed=0'
        test_line lib hvt_tender "$library_tests ${uninterrupted[*]-}"
        test_line lib guest_bindings
        # Guests in these tests compute until they are interrupted.
        if [ -z "${uninterrupted+set}" ]; then
            # Without the tests that compare times, which are too long on an emulated machine.
            test_line test fixtures "states:: a_guest_that_hangs a_torn_write guests_on_a_switch"
            test_line test cli "$cli_tests"
            # pivot_root(2) fails in the initial root file system, so these tests run in another
            # root.
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

# test_line KIND NAME [WORDS [RUNNER]]: prints the line that runs the tests of this library (KIND
# lib) or this test program (KIND test) with the quoted WORDS, by RUNNER. Prints nothing if $built
# has no such tests.
test_line() {
    local program
    while read -r program; do
        echo "${4-} $(quote "$program") ${3-} || failed=1"
    done < <(executables '"kind":\["'"$1"'"\].*"name":"'"$2"'".*"test":true' <<<"$built")
}

# executables PATTERN: prints the programs in cargo's messages on standard input that match PATTERN.
executables() {
    grep '"reason":"compiler-artifact"' | grep -e "$1" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}
