#include "sys/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mailbox {
  pthread_mutex_t lock;
  int fd;
  size_t capacity, head, count;
  void *items[];
};

struct mailbox *mailbox_create(size_t capacity) {
  struct mailbox *box = calloc(1, sizeof *box + capacity * sizeof(void *));
  if (!box) return NULL;
  box->capacity = capacity;
  box->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (box->fd < 0) {
    free(box);
    return NULL;
  }
  pthread_mutex_init(&box->lock, NULL);
  return box;
}

void mailbox_destroy(struct mailbox *box) {
  if (!box) return;
  close(box->fd);
  pthread_mutex_destroy(&box->lock);
  free(box);
}

int mailbox_post(struct mailbox *box, void *item) {
  pthread_mutex_lock(&box->lock);
  size_t before = box->count;
  bool full = before == box->capacity;
  if (!full) box->items[(box->head + box->count++) % box->capacity] = item;
  if (!full && before == 0) {
    /* Nothing of the box is touched after the lock: whoever takes the item may destroy the box next. */
    uint64_t one = 1;
    ssize_t ignored = write(box->fd, &one, sizeof one);
    (void)ignored;
  }
  pthread_mutex_unlock(&box->lock);
  return full ? -ENOSPC : 0;
}

size_t mailbox_take(struct mailbox *box, void **items, size_t n) {
  pthread_mutex_lock(&box->lock);
  size_t taken = 0;
  while (taken < n && box->count > 0) {
    items[taken++] = box->items[box->head];
    box->head = (box->head + 1) % box->capacity;
    box->count--;
  }
  if (box->count == 0) {
    uint64_t count;
    ssize_t ignored = read(box->fd, &count, sizeof count);
    (void)ignored;
  }
  pthread_mutex_unlock(&box->lock);
  return taken;
}

int mailbox_fd(const struct mailbox *box) {
  return box->fd;
}
