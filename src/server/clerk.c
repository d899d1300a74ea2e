/* A thread that waits on its mailbox with poll. The wake-up costs microseconds, a query milliseconds. */

#include "server/clerk.h"

#include "store/store.h"
#include "sys/log.h"
#include "sys/mailbox.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { WAITING = 1024, BATCH = 16 };

struct clerk {
  struct mailbox *box;
  struct store_reader *reader;
  pthread_t thread;
  struct clerk_job stop; /* posted last; its inbox is NULL */
};

static void run(struct clerk *clerk, struct clerk_job *job) {
  job->work(job, clerk->reader);
  /* The shard bounds its jobs by the room in its inbox, so this finds room; were it full, the job would be
   * lost. */
  if (mailbox_post(job->inbox, &job->home) < 0)
    log_error("clerk", "a shard's inbox is full: an answer is lost");
}

static void *work(void *arg) {
  struct clerk *clerk = arg;
  for (;;) {
    void *items[BATCH];
    size_t n = mailbox_take(clerk->box, items, BATCH);
    for (size_t i = 0; i < n; i++) {
      if (items[i] == &clerk->stop) return NULL;
      run(clerk, items[i]);
    }
    struct pollfd poll_fd = {.fd = mailbox_fd(clerk->box), .events = POLLIN};
    if (n == 0) poll(&poll_fd, 1, -1);
  }
}

struct clerk *clerk_create(const char *path, char *error, size_t error_size) {
  struct clerk *clerk = calloc(1, sizeof *clerk);
  if (!clerk) {
    snprintf(error, error_size, "out of memory");
    return NULL;
  }
  clerk->reader = store_reader_open(path, error, error_size);
  clerk->box = clerk->reader ? mailbox_create(WAITING + 1) : NULL; /* one place is for the stop */
  if (clerk->box && pthread_create(&clerk->thread, NULL, work, clerk) == 0) return clerk;
  if (clerk->reader) snprintf(error, error_size, "cannot start the database reader's thread");
  mailbox_destroy(clerk->box);
  store_reader_close(clerk->reader);
  free(clerk);
  return NULL;
}

void clerk_destroy(struct clerk *clerk) {
  if (!clerk) return;
  while (mailbox_post(clerk->box, &clerk->stop) < 0) {
    struct pollfd none = {.fd = -1};
    poll(&none, 1, 1);
  }
  pthread_join(clerk->thread, NULL);
  mailbox_destroy(clerk->box);
  store_reader_close(clerk->reader);
  free(clerk);
}

int clerk_post(struct clerk *clerk, struct clerk_job *job) {
  return mailbox_post(clerk->box, job);
}
