/* Writes beyond the end of a buffer on the stack, which the stack protector detects. */
#include "test.h"

extern uintptr_t __stack_chk_guard;

static __attribute__((noinline)) void fill(volatile char *buffer, size_t size)
{
    for (size_t i = 0; i < size; i++)
        buffer[i] = 'x';
}

static __attribute__((noinline)) char first_of(size_t size)
{
    char buffer[16];
    fill(buffer, size);
    return buffer[0];
}

int solo5_app_main(const struct solo5_start_info *info)
{
    const char *text = info->cmdline;
    /* The guard is initialized, and its first byte is zero, which no string contains. */
    CHECK(__stack_chk_guard > 0xff && __stack_chk_guard % 0x100 == 0);
    CHECK(first_of(16) == 'x');
    say("in bounds\n");
    /* The write reaches only the guard and the saved registers, so that no other error occurs first. */
    CHECK(first_of((size_t)number(&text)) == 'x');
    return success();
}
