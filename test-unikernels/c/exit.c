/* Exits with the status in its argument. */
#include "test.h"

int solo5_app_main(const struct solo5_start_info *info)
{
    const char *text = info->cmdline;
    solo5_exit((int)number(&text));
}
