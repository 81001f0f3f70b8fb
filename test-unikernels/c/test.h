/* Code shared by the test unikernels in C: reports of success and failure. */
#ifndef TEST_H
#define TEST_H

#include <solo5.h>

static inline size_t length(const char *text)
{
    size_t count = 0;
    while (text[count] != '\0')
        count++;
    return count;
}

static inline void say(const char *text)
{
    solo5_console_write(text, length(text));
}

static inline int success(void)
{
    say("SUCCESS\n");
    return SOLO5_EXIT_SUCCESS;
}

#define TEXT(x) #x
#define LINE(x) TEXT(x)

/* Ends the unikernel with the source location unless the condition holds. */
#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            say("FAILURE: " __FILE__ ":" LINE(__LINE__) ": " #condition "\n"); \
            solo5_exit(SOLO5_EXIT_FAILURE);                                           \
        }                                                                             \
    } while (0)

/* Parses a number at the start of a text and advances the text past it. */
static inline uint64_t number(const char **text)
{
    uint64_t value = 0;
    while (**text == ' ')
        ++*text;
    while (**text >= '0' && **text <= '9')
        value = value * 10 + (uint64_t)(*(*text)++ - '0');
    return value;
}

#endif
