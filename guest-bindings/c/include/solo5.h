/*
 * What a Solo5 unikernel in C calls: the interface of Solo5 v0.12, as far as this library defines it, which is all of
 * it. Written anew, and compatible by declaration: code that was written for Solo5's own header compiles with this one
 * and the other way round, and what was compiled with either links with either library.
 *
 * A function that cannot do what it is asked for returns a result that says so, or ends the unikernel where it has no
 * result. Pointers are to memory of the unikernel; a device's handle comes from its acquire function.
 */
#ifndef SOLO5_H_INCLUDED
#define SOLO5_H_INCLUDED

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Start and end. */

struct solo5_start_info {
    const char *cmdline;  /* The command line without the options at its start that are the library's (--solo5:quiet). */
    uintptr_t heap_start; /* First free byte. */
    size_t heap_size;     /* Free bytes, up to the end of memory. The stack grows down from there: leave it room. */
};

/* Defined by the application. What it returns is its exit status. */
int solo5_app_main(const struct solo5_start_info *info);

#define SOLO5_EXIT_SUCCESS 0
#define SOLO5_EXIT_FAILURE 1
#define SOLO5_EXIT_ABORT   255 /* Not for the application's own use, nor is anything above. */

/* Ends the unikernel with this exit status. */
void solo5_exit(int status) __attribute__((noreturn));

/* Ends the unikernel because something went wrong: exit status 255, and a core dump where the tender makes them. */
void solo5_abort(void) __attribute__((noreturn));

/* Results. */

typedef enum {
    SOLO5_R_OK = 0,
    SOLO5_R_AGAIN,  /* Not now; later perhaps. */
    SOLO5_R_EINVAL, /* An argument is not as it must be. */
    SOLO5_R_EUNSPEC /* It failed, for whatever reason. */
} solo5_result_t;

/* The console. */

/* Writes these bytes as they are. */
void solo5_console_write(const char *buf, size_t size);

/* Time, in nanoseconds. */

typedef uint64_t solo5_time_t;

/* The clock that never goes back, read without leaving the unikernel. Where it began is not said. */
solo5_time_t solo5_clock_monotonic(void);

/* Time since the start of 1970, UTC, as the tender's host has it. */
solo5_time_t solo5_clock_wall(void);

/* Devices by handle; sets of them with one bit each, bit N for handle N. */

typedef uint64_t solo5_handle_t;
typedef uint64_t solo5_handle_set_t;

/*
 * Sleeps until the monotonic clock shows the deadline, or a network device has a frame waiting, and says which devices
 * have. A deadline in the past only asks. The place for the answer may be NULL.
 */
void solo5_yield(solo5_time_t deadline, solo5_handle_set_t *ready_set);

/* Network devices: one Ethernet frame a call, header included. */

#define SOLO5_NET_ALEN 6  /* Bytes of an address. */
#define SOLO5_NET_HLEN 14 /* Bytes of a header. */

struct solo5_net_info {
    uint8_t mac_address[SOLO5_NET_ALEN];
    size_t mtu; /* Bytes of the largest frame, its header not counted. */
};

/* The network device that the manifest calls by this name. EINVAL where there is none, and for the second time. */
solo5_result_t solo5_net_acquire(const char *name, solo5_handle_t *handle, struct solo5_net_info *info);

/* Sends a frame, or drops it where there is no room for it. */
solo5_result_t solo5_net_write(solo5_handle_t handle, const uint8_t *buf, size_t size);

/* Takes a frame; AGAIN where none is waiting. The buffer has room for the largest one. */
solo5_result_t solo5_net_read(solo5_handle_t handle, uint8_t *buf, size_t size, size_t *read_size);

/*
 * Block devices. Offset and size are multiples of the block size, and the size is not zero: else EINVAL, as beyond the
 * end. All bytes are transferred or none.
 *
 * With this library a call transfers any number of blocks. With Solo5's of v0.12 it is one block, no more.
 */

typedef uint64_t solo5_off_t;

struct solo5_block_info {
    solo5_off_t capacity;   /* Bytes of the device. */
    solo5_off_t block_size; /* Bytes of a block. */
};

/* The block device that the manifest calls by this name. EINVAL where there is none, and for the second time. */
solo5_result_t solo5_block_acquire(const char *name, solo5_handle_t *handle, struct solo5_block_info *info);

solo5_result_t solo5_block_write(solo5_handle_t handle, solo5_off_t offset, const uint8_t *buf, size_t size);

solo5_result_t solo5_block_read(solo5_handle_t handle, solo5_off_t offset, uint8_t *buf, size_t size);

/*
 * Thread-local variables, of the local-exec model. For each thread the application allocates solo5_tls_size() bytes,
 * has solo5_tls_init() give the variables in them their values, and switches to them with solo5_set_tls_base(), which
 * takes the address that solo5_tls_tp_offset() makes of theirs. Before that a use of one is a page fault.
 */

size_t solo5_tls_size(void);

uintptr_t solo5_tls_tp_offset(uintptr_t tls);

/* EINVAL for NULL. */
solo5_result_t solo5_tls_init(uintptr_t tls);

/* EINVAL for an address that the CPU does not take. */
solo5_result_t solo5_set_tls_base(uintptr_t base);

#ifdef __cplusplus
}
#endif

#endif
