/* Clocks and sleep. */
#include "test.h"

#define SECOND UINT64_C(1000000000)
/* 2020, which is before this test existed, and 2200. */
#define PAST   (UINT64_C(1577836800) * SECOND)
#define FUTURE (UINT64_C(7258118400) * SECOND)

int solo5_app_main(const struct solo5_start_info *info)
{
    (void)info;
    solo5_time_t last = solo5_clock_monotonic();
    for (int i = 0; i < 1000; i++) {
        solo5_time_t now = solo5_clock_monotonic();
        CHECK(now >= last);
        last = now;
    }

    solo5_time_t wall = solo5_clock_wall();
    CHECK(wall > PAST && wall < FUTURE);

    /* There is no device that could end the sleep early. */
    solo5_handle_set_t ready = 1;
    for (solo5_time_t sleep = 0; sleep <= SECOND / 50; sleep += SECOND / 100) {
        solo5_time_t deadline = solo5_clock_monotonic() + sleep;
        solo5_yield(deadline, &ready);
        CHECK(solo5_clock_monotonic() >= deadline);
        CHECK(ready == 0);
    }
    solo5_yield(0, NULL);
    CHECK(solo5_clock_wall() >= wall + SECOND / 100);
    return success();
}
