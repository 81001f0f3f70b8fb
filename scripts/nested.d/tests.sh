# The tender's tests in the machine of scripts/nested. Sourced by it.

# Builds them here, and takes along all programs they are made of, under their own paths: cargo wrote those into them.
# Arguments go to the test programs.
take_tests() {
    :
}
