# Prints the phases between exec and the guest's first hypercall as rows of a table, from a trace of
# the tender's system calls (tracefs, raw_syscalls). Times are in microseconds of a thousand
# instructions. They include the tracer's overhead, half a microsecond per call. The first vCPU run
# ends with the first hypercall.

/sys_enter: NR/ { entering = 1 }
/sys_exit: NR/ { entering = 0 }
!/sys_(enter|exit): NR/ { next }
{
    match($0, /-[0-9]+ +\[/)
    task = substr($0, RSTART + 1) + 0
    match($0, /[0-9]+\.[0-9]+: sys_/)
    split(substr($0, RSTART, RLENGTH), clock, /[.:]/)
    now = clock[1] * 1000000 + clock[2]
    match($0, /NR -?[0-9]+/)
    number = substr($0, RSTART + 3, RLENGTH - 3)
    arguments = substr($0, RSTART + RLENGTH)
}

# execve
number == 59 && entering && !stage { tender = task; since = now; stage = 1; next }
task != tender { next }
stage == 1 && number == 59 { phase("exec"); next }
# statx of the unikernel's file
stage == 2 && number == 332 { phase("C library, command line, log, signals"); next }
# KVM_GET_API_VERSION
stage == 3 && arguments ~ /, ae00, / { phase("read and check the unikernel"); next }
# KVM_CREATE_VCPU
stage == 4 && arguments ~ /, ae41, / { request = 1 }
stage == 4 && request && !entering { phase("a virtual machine with a CPU"); next }
# mmap of 32 MiB
stage == 5 && number == 9 && entering && arguments ~ /\(0, 2000000, / { phase("give up rights"); next }
# KVM_SET_USER_MEMORY_REGION
stage == 6 && arguments ~ /, 4020ae46, / { memory = 1 }
stage == 6 && memory && !entering { phase("memory, and the unikernel in it"); next }
# prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ..)
stage == 7 && number == 157 && entering && arguments ~ /\(16, 2, / {
    phase("registers, and the list of system calls")
    next
}
stage == 8 && number == 157 { phase("filter system calls"); next }
# KVM_RUN
stage == 9 && arguments ~ /, ae80, / { running = 1 }
stage == 9 && running && !entering { phase("the guest, to its first hypercall") }

function phase(what) {
    printf "| %s | %d |\n", what, now - since
    since = now
    stage++
}

END { if (stage != 10) exit 1 }
