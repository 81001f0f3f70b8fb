/*
 * Memory functions that compilers call, which the library provides for applications without a C
 * library; and __int128.
 */
#include "test.h"

void *memcpy(void *restrict, const void *restrict, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
int memcmp(const void *, const void *, size_t);
size_t strlen(const char *);

#define SIZE 3000

static unsigned char a[SIZE], b[SIZE];

int solo5_app_main(const struct solo5_start_info *info)
{
    for (size_t size = 0; size < SIZE; size += 1 + size / 8) {
        CHECK(memset(a, 0xa5, SIZE) == a);
        for (size_t i = 0; i < SIZE; i++)
            b[i] = (unsigned char)(i * 7);
        CHECK(memcpy(a, b, size) == a);
        CHECK(memcmp(a, b, size) == 0);
        for (size_t i = size; i < SIZE; i++)
            CHECK(a[i] == 0xa5);
        if (size > 0) {
            a[size - 1]++;
            CHECK(memcmp(a, b, size) != 0 && (memcmp(a, b, size) < 0) == (memcmp(b, a, size) > 0));
            CHECK(memmove(b + 1, b, size - 1) == b + 1);
            for (size_t i = 1; i < size; i++)
                CHECK(b[i] == (unsigned char)((i - 1) * 7));
        }
    }
    CHECK(strlen(info->cmdline) == 11);

    /* There is no instruction for it, so the compiler calls a function of its runtime library. */
    volatile unsigned __int128 large = (unsigned __int128)1 << 100;
    CHECK((uint64_t)(large / ((UINT64_C(1) << 40) + 1)) == UINT64_C(1152921504605798400));
    return success();
}
