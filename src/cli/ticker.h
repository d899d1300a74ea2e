#ifndef CLI_TICKER_H
#define CLI_TICKER_H

/* The thread that runs the control loop: a tick every second, and what people ask for in between. */

struct loop;
struct mailbox;
struct ticker;

enum { TICKER_COMMANDS = 1024 }; /* waiting at once */

/* The box comes first, since the shards need it before there is a loop. */
struct ticker *ticker_create(void); /* NULL: no memory or no descriptor */
struct mailbox *ticker_commands(struct ticker *ticker);

int ticker_start(struct ticker *ticker,
                 struct loop *loop); /* 0 or -errno; the loop is the thread's from now on */

/* Runs what is still in the box, flushes the loop and ends the thread. Nobody may post any more. */
void ticker_stop(struct ticker *ticker);
void ticker_destroy(struct ticker *ticker); /* after ticker_stop, or when never started; NULL is fine */

#endif
