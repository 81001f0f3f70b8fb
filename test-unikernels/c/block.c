/*
 * Block device: reads the initial contents (seed 1) and writes new contents (seed 2), with one and
 * with several blocks per call. The arguments are the capacity, the block size, and the number of
 * bytes per call.
 */
#include "test.h"

/* Same contents as Contents::Pattern of the conformance table. */
static uint64_t word(uint64_t seed, uint64_t index)
{
    return (index + (seed << 48)) * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
}

static uint64_t buffer[64 << 10 >> 3];

static void fill(uint64_t seed, uint64_t offset, size_t size)
{
    for (size_t i = 0; i < size / 8; i++)
        buffer[i] = word(seed, offset / 8 + i);
}

static bool holds(uint64_t seed, uint64_t offset, size_t size)
{
    for (size_t i = 0; i < size / 8; i++)
        if (buffer[i] != word(seed, offset / 8 + i))
            return false;
    return true;
}

int solo5_app_main(const struct solo5_start_info *info)
{
    const char *text = info->cmdline;
    uint64_t capacity = number(&text), block_size = number(&text), at_once = number(&text);
    uint8_t *bytes = (uint8_t *)buffer;
    solo5_handle_t disk = 0, other = 0;
    struct solo5_block_info about;

    CHECK(solo5_block_acquire("nothing", &disk, &about) == SOLO5_R_EINVAL);
    CHECK(solo5_block_acquire("\xff", &disk, &about) == SOLO5_R_EINVAL);
    CHECK(solo5_block_acquire("storage", NULL, &about) == SOLO5_R_EINVAL);
    CHECK(solo5_block_read(1, 0, bytes, block_size) == SOLO5_R_EINVAL);
    CHECK(solo5_block_acquire("storage", &disk, &about) == SOLO5_R_OK);
    CHECK(disk == 1 && about.capacity == capacity && about.block_size == block_size);
    CHECK(solo5_block_acquire("storage", &other, &about) == SOLO5_R_EINVAL);
    CHECK(at_once <= sizeof buffer && capacity % at_once == 0);

    for (uint64_t offset = 0; offset < capacity; offset += at_once) {
        CHECK(solo5_block_read(disk, offset, bytes, at_once) == SOLO5_R_OK);
        CHECK(holds(1, offset, at_once));
        fill(2, offset, at_once);
        CHECK(solo5_block_write(disk, offset, bytes, at_once) == SOLO5_R_OK);
    }
    for (uint64_t offset = 0; offset < capacity; offset += block_size) {
        CHECK(solo5_block_read(disk, offset, bytes, block_size) == SOLO5_R_OK);
        CHECK(holds(2, offset, block_size));
    }

    /* These calls change neither the device nor the buffer. */
    fill(3, 0, sizeof buffer);
    static const struct {
        bool past_end;
        int64_t offset, size;
    } wrong[] = {
        { false, 0, 0 },  { false, 1, 0 },  { false, 0, 1 },    { false, 0, 511 },        { false, 256, 512 },
        { true, 0, 512 }, { true, 512, 0 }, { true, -511, 512 }, { true, -512, 64 << 10 },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        uint64_t offset = (wrong[i].past_end ? capacity : 0) + (uint64_t)wrong[i].offset;
        size_t size = (size_t)wrong[i].size;
        CHECK(solo5_block_read(disk, offset, bytes, size) == SOLO5_R_EINVAL);
        CHECK(solo5_block_write(disk, offset, bytes, size) == SOLO5_R_EINVAL);
    }
    CHECK(solo5_block_read(disk, UINT64_MAX - 511, bytes, 512) == SOLO5_R_EINVAL);
    CHECK(solo5_block_read(disk, 0, NULL, 512) == SOLO5_R_EINVAL);
    for (uint64_t handle = 0; handle < 70; handle++)
        if (handle != disk) {
            CHECK(solo5_block_read(handle, 0, bytes, block_size) == SOLO5_R_EINVAL);
            CHECK(solo5_block_write(handle, 0, bytes, block_size) == SOLO5_R_EINVAL);
        }
    CHECK(holds(3, 0, sizeof buffer));
    return success();
}
