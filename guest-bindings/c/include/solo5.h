/*
 * C interface of a Solo5 unikernel: the complete interface of Solo5 v0.12. This is an independent
 * implementation with compatible declarations: source code for Solo5's header compiles with this
 * header and vice versa, and objects compiled with either header link with either library.
 *
 * A function that fails returns an error. A function without a result terminates the unikernel
 * instead. Pointers refer to memory of the unikernel. The acquire function of a device returns its
 * handle.
 */
#ifndef SOLO5_H_INCLUDED
#define SOLO5_H_INCLUDED

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Start and termination. */

struct solo5_start_info {
    const char *cmdline;  /* Command line without the library's options (--solo5:quiet). */
    uintptr_t heap_start; /* Address of the first free byte. */
    size_t heap_size;     /* Free bytes up to the end of memory. The stack grows down from there. */
};

/* Defined by the application. The return value is the exit status. */
int solo5_app_main(const struct solo5_start_info *info);

#define SOLO5_EXIT_SUCCESS 0
#define SOLO5_EXIT_FAILURE 1
#define SOLO5_EXIT_ABORT   255 /* Reserved, as are all higher values. */

/* Terminates the unikernel with the given exit status. */
void solo5_exit(int status) __attribute__((noreturn));

/*
 * Terminates the unikernel abnormally: exit status 255, and a core dump if the tender writes core
 * dumps.
 */
void solo5_abort(void) __attribute__((noreturn));

/* Results. */

typedef enum {
    SOLO5_R_OK = 0,
    SOLO5_R_AGAIN,  /* Not possible now; try again later. */
    SOLO5_R_EINVAL, /* Invalid argument. */
    SOLO5_R_EUNSPEC /* Unspecified error. */
} solo5_result_t;

/* The console. */

/* Writes bytes to the console unchanged. */
void solo5_console_write(const char *buf, size_t size);

/* Time, in nanoseconds. */

typedef uint64_t solo5_time_t;

/* Monotonic clock, read without a hypercall. Its starting point is unspecified. */
solo5_time_t solo5_clock_monotonic(void);

/* Wall clock of the tender's host: time since 1970-01-01, UTC. */
solo5_time_t solo5_clock_wall(void);

/* Device handles, and sets of handles as bit masks: bit N represents handle N. */

typedef uint64_t solo5_handle_t;
typedef uint64_t solo5_handle_set_t;

/*
 * Sleeps until the monotonic clock reaches the deadline or a network device has a frame waiting.
 * Stores the set of devices with waiting frames in *ready_set, which may be NULL. With a deadline
 * in the past, the function polls the devices without sleeping.
 */
void solo5_yield(solo5_time_t deadline, solo5_handle_set_t *ready_set);

/* Network devices: one Ethernet frame per call, including the header. */

#define SOLO5_NET_ALEN 6  /* Length of a MAC address in bytes. */
#define SOLO5_NET_HLEN 14 /* Length of an Ethernet header in bytes. */

struct solo5_net_info {
    uint8_t mac_address[SOLO5_NET_ALEN];
    size_t mtu; /* Largest payload of a frame in bytes, excluding the header. */
};

/*
 * Opens the network device with the given name in the manifest. Returns EINVAL if the manifest
 * contains no such device or the device is already open.
 */
solo5_result_t solo5_net_acquire(const char *name, solo5_handle_t *handle, struct solo5_net_info *info);

/* Sends a frame. The frame is dropped if there is no room for it. */
solo5_result_t solo5_net_write(solo5_handle_t handle, const uint8_t *buf, size_t size);

/*
 * Receives a frame. Returns AGAIN if no frame is waiting. The buffer must have room for the largest
 * frame.
 */
solo5_result_t solo5_net_read(solo5_handle_t handle, uint8_t *buf, size_t size, size_t *read_size);

/*
 * Block devices. Offset and size must be multiples of the block size, the size must not be zero,
 * and the range must not exceed the device; otherwise the functions return EINVAL. Either all bytes
 * are transferred or none.
 *
 * With this library, a call transfers any number of blocks. With the library of Solo5 v0.12, a call
 * transfers exactly one block.
 */

typedef uint64_t solo5_off_t;

struct solo5_block_info {
    solo5_off_t capacity;   /* Capacity of the device in bytes. */
    solo5_off_t block_size; /* Block size in bytes. */
};

/*
 * Opens the block device with the given name in the manifest. Returns EINVAL if the manifest
 * contains no such device or the device is already open.
 */
solo5_result_t solo5_block_acquire(const char *name, solo5_handle_t *handle, struct solo5_block_info *info);

solo5_result_t solo5_block_write(solo5_handle_t handle, solo5_off_t offset, const uint8_t *buf, size_t size);

solo5_result_t solo5_block_read(solo5_handle_t handle, solo5_off_t offset, uint8_t *buf, size_t size);

/*
 * Thread-local variables with the local-exec model. For each thread, the application allocates a
 * block of solo5_tls_size() bytes, initializes its variables with solo5_tls_init(), and passes the
 * address that solo5_tls_tp_offset() computes from the block's address to solo5_set_tls_base().
 * Before that, an access to a thread-local variable is a page fault.
 */

size_t solo5_tls_size(void);

uintptr_t solo5_tls_tp_offset(uintptr_t tls);

/* Returns EINVAL for NULL. */
solo5_result_t solo5_tls_init(uintptr_t tls);

/* Returns EINVAL for an address that the CPU does not accept. */
solo5_result_t solo5_set_tls_base(uintptr_t base);

#ifdef __cplusplus
}
#endif

#endif
