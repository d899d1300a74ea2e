#ifndef CLI_CHILD_H
#define CLI_CHILD_H

/* A child process of the demo: in a process group of its own, so that the terminal's Ctrl-C reaches only the
 * daemon, and ended by the kernel when the daemon ends. Main thread only. */

#include <stddef.h>
#include <sys/types.h>

struct child {
  pid_t pid; /* 0: not running */
  int out;   /* read end of its standard output; -1: it has the daemon's own */
};

/* argv ends with NULL. capture: read its standard output through child->out. 0 or -errno. */
int child_start(struct child *child, char *const argv[], int capture);

/* Its first line of output, without the newline; 0, or -ETIMEDOUT, -EPIPE (it ended). */
int child_first_line(struct child *child, char *line, size_t size, int timeout_ms);

/* SIGTERM, and SIGKILL when it is still there after the grace. Does nothing when it does not run. */
void child_stop(struct child *child, int grace_ms);

/* Has it ended by itself? Then it is reaped. */
int child_ended(struct child *child);

#endif
