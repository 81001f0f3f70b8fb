/*
 * The manifest of a unikernel as an ELF note, for the C source that `hvt-elftool gen-manifest`
 * generates from a manifest in JSON. Layout and names are identical to Solo5's header mft_abi.h.
 * The crate hvt-abi documents them.
 *
 *     #define MFT_ENTRIES 2
 *     #include "mft_abi.h"
 *
 *     MFT1_NOTE_DECLARE_BEGIN
 *     {
 *         .version = MFT_VERSION,
 *         .entries = MFT_ENTRIES,
 *         .e = {
 *             [0] = { .name = "", .type = MFT_RESERVED_FIRST },
 *             [1] = { .name = "storage", .type = MFT_DEV_BLOCK_BASIC },
 *         },
 *     }
 *     MFT1_NOTE_DECLARE_END
 */
#ifndef MFT_ABI_H
#define MFT_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef MFT_ENTRIES
#error "define MFT_ENTRIES, the number of devices plus one, before this header"
#endif

#define MFT_VERSION     1
#define MFT_NAME_MAX    67 /* Maximum length of a name. */
#define MFT_NAME_SIZE   68 /* MFT_NAME_MAX plus the NUL. */
#define MFT_MAX_ENTRIES 64

typedef enum mft_type {
    MFT_DEV_BLOCK_BASIC = 1,
    MFT_DEV_NET_BASIC = 2,
    MFT_RESERVED_FIRST = 1 << 30 /* The first entry. It keeps handle 0 from naming a device. */
} mft_type_t;

/* Properties that the tender fills in, by device type. */

struct mft_block_basic {
    uint64_t capacity;
    uint16_t block_size;
};

struct mft_net_basic {
    uint8_t mac[6];
    uint16_t mtu;
};

/* A device. The source sets name and type; all other fields are zero. */
struct mft_entry {
    char name[MFT_NAME_SIZE];
    mft_type_t type;
    union {
        struct mft_block_basic block_basic;
        struct mft_net_basic net_basic;
    } u;
    union {
        int hostfd;
        void *data;
    } b; /* Private to Solo5's tender. */
    bool attached;
};

struct mft {
    uint32_t version;
    uint32_t entries;
    struct mft_entry e[MFT_ENTRIES];
};

#define MFT1_NOTE_NAME "Solo5"
#define MFT1_NOTE_TYPE 0x3154464d /* "MFT1" */

struct mft1_nhdr {
    uint32_t n_namesz;
    uint32_t n_descsz;
    uint32_t n_type;
    char n_name[8];
};

/* n_descsz includes the padding between the two members. */
struct mft1_note {
    struct mft1_nhdr h;
    struct mft m;
};

_Static_assert(MFT_ENTRIES >= 1 && MFT_ENTRIES <= MFT_MAX_ENTRIES, "a manifest has at most 63 devices");
_Static_assert(sizeof(struct mft_entry) == 104 && offsetof(struct mft_entry, u) == 72, "layout of a device");
_Static_assert(offsetof(struct mft1_note, m) == 24, "layout of the note");

/*
 * Without an explicit alignment, compilers may choose a larger alignment than readers of notes
 * expect.
 */
#define MFT1_NOTE_DECLARE_BEGIN                                                            \
    const struct mft1_note __solo5_mft1_note                                               \
        __attribute__((used, section(".note.solo5.manifest"), aligned(8))) = {             \
            .h = { .n_namesz = sizeof MFT1_NOTE_NAME,                                      \
                   .n_descsz = sizeof(struct mft1_note) - sizeof(struct mft1_nhdr),        \
                   .n_type = MFT1_NOTE_TYPE,                                               \
                   .n_name = MFT1_NOTE_NAME },                                             \
            .m =

#define MFT1_NOTE_DECLARE_END };

#endif
