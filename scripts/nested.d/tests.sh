# shellcheck shell=bash disable=SC2154,SC2164 # variables of scripts/nested, which ends where a command fails
# The tender's tests in the machine of scripts/nested. Sourced by it.

# Builds the tests and the guests here, and takes them along under their own paths: cargo wrote those into the tests.
# The library's unit tests of backend kvm come first, then every integration test. Arguments go to the latter.
take_tests() {
    local built program
    built=$(cd "$root" && cargo test -q -p hvt-tender --no-run --message-format=json) || die "the tests do not build"
    if [ -z "${HVT_GUESTS:-}" ]; then
        (cd "$root" && cargo build -q --release -p test-unikernels) || die "the guests do not build"
        export HVT_GUESTS=${cache%/nested}/release
    fi
    HVT_GUESTS=$(realpath -s "$HVT_GUESTS")
    export HVT_BACKENDS=kvm
    while read -r program; do take "$program"; done < <(find "$HVT_GUESTS" -maxdepth 1 -type f -perm /111)
    while read -r program; do take "$program"; done < <(executables . <<<"$built")
    [ ! -d "$root/hvt-tender/tests" ] || take "$root/hvt-tender/tests"

    cd "$root/hvt-tender"
    {
        begin_script
        echo 'failed=0'
        while read -r program; do
            echo "$(quote "$program") backend::kvm || failed=1"
        done < <(executables '"kind":\["lib"\].*"test":true' <<<"$built")
        while read -r program; do
            echo "$(quote "$program") $(for word; do quote "$word"; done) || failed=1"
        done < <(executables '"kind":\["test"\].*"test":true' <<<"$built")
        # shellcheck disable=SC2016 # for the machine's shell
        echo 'exit $failed'
    } >"$image/nested/run"
}

# The programs that cargo's messages on standard input speak of, those that match $1.
executables() {
    grep '"reason":"compiler-artifact"' | grep -e "$1" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}
