#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

/* Under make, Ctrl-C reaches make as well, which then ends with an error although the daemon drains and ends
 * well. So the daemon takes the terminal for itself while it runs, as a shell does for its jobs. */

#include <stdbool.h>
#include <sys/types.h>

struct terminal {
  pid_t previous; /* process group that had the terminal; 0: it was not taken */
  pid_t sentinel; /* stays in that group and hands its signals on */
};

/* Only under make, and only when standard input is a terminal that is ours to use. Call before any thread is
 * started, with the signals blocked that end the daemon. */
void terminal_take(struct terminal *terminal);
void terminal_return(struct terminal *terminal);

#endif
