/*
 * Network device: returns frames of a type for experiments to their sender. The arguments are the
 * number of frames and the MTU. A frame with the length of the previous frame is a repetition, sent
 * before the guest was ready: it is returned and not counted.
 */
#include "test.h"

/* Type for experiments in a local network (IEEE Std 802, 9.2.3). */
#define TYPE_HIGH 0x88
#define TYPE_LOW  0xb5

static uint8_t frame[9001 + SOLO5_NET_HLEN];

static bool is_ours(size_t size)
{
    return size >= SOLO5_NET_HLEN && frame[12] == TYPE_HIGH && frame[13] == TYPE_LOW;
}

int solo5_app_main(const struct solo5_start_info *info)
{
    const char *text = info->cmdline;
    uint64_t left = number(&text), mtu = number(&text);
    solo5_handle_t net = 0, other = 0;
    solo5_handle_set_t ready;
    struct solo5_net_info about;
    size_t size = 7, last = 0;

    CHECK(solo5_net_acquire("nothing", &net, &about) == SOLO5_R_EINVAL);
    CHECK(solo5_net_acquire("service", &net, NULL) == SOLO5_R_EINVAL);
    CHECK(solo5_net_read(1, frame, sizeof frame, &size) == SOLO5_R_EINVAL);
    CHECK(solo5_net_acquire("service", &net, &about) == SOLO5_R_OK);
    CHECK(solo5_net_acquire("service", &other, &about) == SOLO5_R_EINVAL);
    CHECK(net == 1 && about.mtu == mtu && (about.mac_address[0] & 3) == 2);

    size_t largest = about.mtu + SOLO5_NET_HLEN;
    CHECK(solo5_net_write(net, NULL, 60) == SOLO5_R_EINVAL);
    CHECK(solo5_net_read(net, frame, largest, NULL) == SOLO5_R_EINVAL);
    for (uint64_t handle = 0; handle < 70; handle++)
        if (handle != net) {
            CHECK(solo5_net_write(handle, frame, 60) == SOLO5_R_EINVAL);
            CHECK(solo5_net_read(handle, frame, largest, &size) == SOLO5_R_EINVAL);
        }
    CHECK(size == 7);

    while (left > 0) {
        solo5_yield(solo5_clock_monotonic() + UINT64_C(60000000000), &ready);
        CHECK(ready == UINT64_C(1) << net);
        solo5_result_t result;
        while ((result = solo5_net_read(net, frame, largest, &size)) == SOLO5_R_OK) {
            if (!is_ours(size) || left == 0)
                continue;
            for (int i = 0; i < SOLO5_NET_ALEN; i++) {
                frame[i] = frame[SOLO5_NET_ALEN + i];
                frame[SOLO5_NET_ALEN + i] = about.mac_address[i];
            }
            CHECK(solo5_net_write(net, frame, size) == SOLO5_R_OK);
            left -= size != last;
            last = size;
        }
        CHECK(result == SOLO5_R_AGAIN);
    }
    return success();
}
