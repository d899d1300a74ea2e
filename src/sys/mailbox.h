#ifndef SYS_MAILBOX_H
#define SYS_MAILBOX_H

/* A bounded queue of pointers between threads: one mutex, one eventfd. Many may post, one thread takes.
 * Posting hands the item over only when it returns 0. */

#include <stddef.h>

struct mailbox;

struct mailbox *mailbox_create(size_t capacity); /* NULL: no memory or no descriptor */
void mailbox_destroy(struct mailbox *box); /* items left inside are the caller's loss: take them first */

int mailbox_post(struct mailbox *box, void *item);                /* 0, or -ENOSPC when full */
size_t mailbox_take(struct mailbox *box, void **items, size_t n); /* up to n, oldest first; never waits */
int mailbox_fd(const struct mailbox *box);                        /* readable while items may be there */

#endif
