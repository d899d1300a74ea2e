#ifndef PROVIDER_PROCESS_H
#define PROVIDER_PROCESS_H

/* One child of a local provider as the system sees it. Used by one thread, the one that starts it: the kernel
 * kills the child when that thread ends. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Runs "/bin/sh -c 'exec COMMAND'" in a process group of its own, its standard output into *out
 * (non-blocking, ours to close), every other descriptor closed. Returns the pid or -errno. */
pid_t process_start(const char *command, int *out);

void process_signal(pid_t pid, int signal); /* to the whole group */

/* True once it has ended, and is then reaped. how: "exit status 1", "signal 9". */
bool process_ended(pid_t pid, char *how, size_t how_size);

/* Finds "listening on http://..." at the start of a line and copies the address. False: it is not there. */
bool process_find_address(const char *text, size_t size, char *address, size_t address_size);

/* Asks address + "/health" and waits at most so long: true when the answer is 200. */
bool process_healthy(const char *address, int timeout_ms);

#endif
