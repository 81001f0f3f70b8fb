/* Start: the start information, and the memory that it describes. */
#include "test.h"

/* Size of the part of the heap that is checked at each end. The stack is at the upper end. */
#define SAMPLE 0x4000

static int zeros[1000];
static int seven = 7;
static const char *const words[] = { "constant", "data" };

int solo5_app_main(const struct solo5_start_info *info)
{
    say("Command line is: '");
    say(info->cmdline);
    say("'\n");

    for (int i = 0; i < 1000; i++)
        CHECK(zeros[i] == 0);
    zeros[999] = seven++;
    CHECK(zeros[999] == 7 && seven == 8);
    CHECK(words[1][0] == 'd');

    uintptr_t here = (uintptr_t)__builtin_frame_address(0), end = info->heap_start + info->heap_size;
    CHECK(info->heap_start % 4096 == 0 && end % 0x200000 == 0);
    CHECK(here > info->heap_start && here < end && end - here < SAMPLE);
    volatile char *heap = (volatile char *)info->heap_start;
    size_t last = info->heap_size - 2 * SAMPLE;
    for (size_t i = 0; i < SAMPLE; i++) {
        heap[i] = (char)i;
        heap[last + i] = (char)~i;
    }
    for (size_t i = 0; i < SAMPLE; i++)
        CHECK(heap[i] == (char)i && heap[last + i] == (char)~i);

    solo5_console_write(NULL, 0);
    solo5_console_write("not this", 0);
    return success();
}
