/*
 * Thread-local variables of several threads, in blocks at any address. With an argument, the
 * variables are used before a base is set.
 */
#include "test.h"

static _Thread_local int counted = 40;
static _Thread_local char zeros[100];
static _Thread_local uint64_t apart __attribute__((aligned(64))) = 64;

static char memory[4][1024];

/*
 * Not inlined: a compiler may keep the address of one thread's variable, which is wrong after a
 * switch to another thread.
 */
static __attribute__((noinline)) int count(void)
{
    zeros[99]++;
    return ++counted;
}

static __attribute__((noinline)) void check_fresh(void)
{
    CHECK(counted == 40);
    for (int i = 0; i < 100; i++)
        CHECK(zeros[i] == 0);
    CHECK(apart == 64 && (uintptr_t)&apart % 64 == 0);
}

static void enter(uintptr_t tls)
{
    CHECK(solo5_set_tls_base(solo5_tls_tp_offset(tls)) == SOLO5_R_OK);
}

int solo5_app_main(const struct solo5_start_info *info)
{
    if (info->cmdline[0] != '\0')
        say(count() > 0 ? "FAILURE: there is a thread\n" : "");
    CHECK(solo5_tls_size() <= sizeof memory[0] - 64);
    uintptr_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        threads[i] = (uintptr_t)memory[i] + i * 9;
        for (size_t byte = 0; byte < sizeof memory[i]; byte++)
            memory[i][byte] = '#';
        CHECK(solo5_tls_init(threads[i]) == SOLO5_R_OK);
        /* Memory after the block is unchanged. */
        char *end = (char *)threads[i] + solo5_tls_size();
        for (; end < memory[i] + sizeof memory[i]; end++)
            CHECK(*end == '#');
    }
    for (int i = 0; i < 4; i++) {
        enter(threads[i]);
        check_fresh();
        CHECK(count() == 41);
    }
    for (int round = 0; round < 10; round++)
        for (int i = 0; i < 4; i++) {
            enter(threads[i]);
            CHECK(count() == 42 + round);
        }

    CHECK(solo5_tls_init(0) == SOLO5_R_EINVAL);
    CHECK(solo5_set_tls_base((uintptr_t)1 << 62) == SOLO5_R_EINVAL);
    CHECK(count() == 52);
    return success();
}
