/* Putting a row links one record into a lane under the lock. The thread wakes for BATCH_ROWS rows, for a
 * commit, or BATCH_NS after the first row; it moves both lanes into its hand and writes that, durable rows
 * first, in transactions of about BATCH_ROWS. A transaction with decisions in it, or one that a commit waits
 * for, is synchronous=FULL: once it has returned, the write-ahead log is on disk, and with it every
 * transaction before. The others are NORMAL.
 *
 * A transaction that fails is rolled back and its records stay in the hand, in order, to be tried again: at
 * once when a commit asks, else after a pause that doubles up to a second. Only a row that SQLite refuses for
 * what it is (SQLITE_CONSTRAINT, _MISMATCH, _TOOBIG) is left out, with a line in the log, or it would block
 * all others for ever.
 *
 * One lock guards what posters and the thread share; nothing is written and no callback runs under it. A
 * commit is a pair of counts: how many records had been put in each lane when it was asked, against how many
 * are synced. */

#include "store/writer.h"

#include "store/insert.h"
#include "store/retention.h"
#include "sys/clock.h"
#include "sys/log.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { BATCH_ROWS = 200, TRANSACTION_ROWS = 1000, BUSY_MS = 5000, CHECKPOINT_MS = 500 };

#define BATCH_NS (200 * NS_PER_MS)
#define PAUSE_NS (100 * NS_PER_MS)
#define LONGEST_PAUSE_NS NS_PER_S
#define RETENTION_NS (60 * NS_PER_S)
#define CLOSING_NS (10 * NS_PER_S)

enum lane { DURABLE, TELEMETRY, LANES };

static const size_t lane_bytes[LANES] = {WRITER_DURABLE_BYTES, WRITER_TELEMETRY_BYTES};

struct writer {
  sqlite3 *db;
  struct inserts *inserts;
  struct retention *retention;
  pthread_t thread;

  pthread_mutex_t lock; /* guards the next block */
  pthread_cond_t wake, done;
  struct record_list queued[LANES];
  size_t bytes[LANES];                                               /* queued and in hand */
  uint64_t put[LANES], written[LANES], synced[LANES], wanted[LANES]; /* records, counted from the start */
  uint64_t queued_rows;
  int64_t oldest_ns;   /* when the first of the queued was put */
  uint64_t failures;   /* failed transactions, counted from the start */
  int error;           /* of the last one, -errno */
  bool hurry, closing; /* hurry: a commit was asked since the last try */

  /* The thread's own. */
  struct record_list hand[LANES];
  bool full; /* PRAGMA synchronous as it is set */
  bool failing;
  int64_t pause_ns, retry_ns, retention_ns, give_up_ns;
  int64_t busy_ns; /* since when another process has the lock */

  _Atomic(const char *) why; /* NULL: healthy */
  _Atomic uint64_t dropped, evicted;
};

/* What one transaction writes: the first records of each lane in hand. */
struct batch {
  uint64_t records[LANES];
  uint64_t rows;
  bool full;  /* synchronous */
  bool touch; /* nothing to write, but something to sync */
};

static void lock(struct writer *w) {
  pthread_mutex_lock(&w->lock);
}

static void unlock(struct writer *w) {
  pthread_mutex_unlock(&w->lock);
}

static struct timespec to_timespec(int64_t ns) {
  return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

/* Posters. */

int writer_put(struct writer *w, struct record *record) {
  enum lane lane = record_is_telemetry(record->kind) ? TELEMETRY : DURABLE;
  int64_t now_ns = clock_now_ns();
  uint32_t rows = record->rows;
  lock(w);
  int status = w->closing ? -ESHUTDOWN : w->bytes[lane] + record->bytes > lane_bytes[lane] ? -ENOSPC : 0;
  bool wake = false;
  if (status == 0) {
    if (w->queued_rows == 0) w->oldest_ns = now_ns;
    wake = w->queued_rows == 0 || (w->queued_rows < BATCH_ROWS && w->queued_rows + rows >= BATCH_ROWS);
    w->queued_rows += rows;
    w->bytes[lane] += record->bytes;
    w->put[lane]++;
    record_list_push(&w->queued[lane], record);
  }
  unlock(w);
  if (wake) pthread_cond_signal(&w->wake);
  if (status != 0) {
    if (lane == TELEMETRY) atomic_fetch_add_explicit(&w->dropped, rows, memory_order_relaxed);
    record_free(record);
  }
  return status;
}

static bool synced(const struct writer *w, const uint64_t target[LANES]) {
  return w->synced[DURABLE] >= target[DURABLE] && w->synced[TELEMETRY] >= target[TELEMETRY];
}

int writer_commit(struct writer *w) {
  struct timespec until = to_timespec(clock_now_ns() + WRITER_COMMIT_NS);
  lock(w);
  const uint64_t target[LANES] = {w->put[DURABLE], w->put[TELEMETRY]};
  for (int l = 0; l < LANES; l++)
    if (w->wanted[l] < target[l]) w->wanted[l] = target[l];
  uint64_t failures = w->failures;
  int status = 0;
  w->hurry = true;
  pthread_cond_signal(&w->wake);
  while (!synced(w, target) && status == 0) {
    int timed_out = pthread_cond_timedwait(&w->done, &w->lock, &until);
    if (synced(w, target)) break;
    bool failed = w->failures > failures;
    if (failed && w->error != -EBUSY)
      status = w->error; /* waiting will not help */
    else if (timed_out)
      status = failed ? w->error : -ETIMEDOUT;
  }
  unlock(w);
  return status;
}

bool writer_health(const struct writer *w, const char **why) {
  const char *reason = atomic_load(&((struct writer *)w)->why);
  if (why) *why = reason ? reason : "";
  return reason == NULL;
}

uint64_t writer_dropped(const struct writer *w) {
  return atomic_load(&((struct writer *)w)->dropped);
}

uint64_t writer_evicted(const struct writer *w) {
  return atomic_load(&((struct writer *)w)->evicted);
}

/* Failures. */

static const struct {
  int code, error;
  const char *why;
} reasons[] = {
    {SQLITE_BUSY, -EBUSY, "database is locked"},
    {SQLITE_LOCKED, -EBUSY, "database is locked"},
    {SQLITE_FULL, -ENOSPC, "disk full"},
    {SQLITE_READONLY, -EROFS, "database is read-only"},
    {SQLITE_IOERR, -EIO, "database I/O error"},
    {SQLITE_CORRUPT, -EIO, "database is corrupt"},
    {SQLITE_NOTADB, -EIO, "database is corrupt"},
    {SQLITE_NOMEM, -ENOMEM, "database is out of memory"},
    {SQLITE_CANTOPEN, -EIO, "database cannot be opened"},
    {SQLITE_READONLY_DBMOVED, -EIO,
     "database file was moved, deleted or replaced: put it back, or restart to go on with what is there"},
};

static void note_failure(struct writer *w, int rc) {
  int error = -EIO;
  const char *why = "database refuses to write";
  for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
    if (reasons[i].code == rc || reasons[i].code == (rc & 0xff)) {
      error = reasons[i].error;
      why = reasons[i].why;
    }
  if (atomic_exchange(&w->why, why) != why)
    log_warn("store", "%s (%s): rows wait in memory and are tried again", why, sqlite3_errstr(rc));
  w->pause_ns = w->failing ? 2 * w->pause_ns : PAUSE_NS;
  if (w->pause_ns > LONGEST_PAUSE_NS) w->pause_ns = LONGEST_PAUSE_NS;
  w->failing = true;
  w->retry_ns = clock_now_ns() + w->pause_ns;
  lock(w);
  w->failures++;
  w->error = error;
  unlock(w);
  pthread_cond_broadcast(&w->done);
}

static void note_success(struct writer *w) {
  w->failing = false;
  if (atomic_exchange(&w->why, NULL)) log_info("store", "the database can be written again");
}

/* Transactions. */

static int run(struct writer *w, const char *sql) {
  return sqlite3_exec(w->db, sql, NULL, NULL, NULL);
}

static void roll_back(struct writer *w) {
  if (!sqlite3_get_autocommit(w->db)) run(w, "ROLLBACK");
  inserts_rolled_back(w->inserts);
}

static int set_full(struct writer *w, bool full) {
  if (full == w->full) return SQLITE_OK;
  int rc = run(w, full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
  if (rc == SQLITE_OK) w->full = full;
  return rc;
}

/* A file that was deleted takes every write without an error, and nobody will ever read it. */
static int in_place(struct writer *w) {
  int moved = 0;
  sqlite3_file_control(w->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
  return moved ? SQLITE_READONLY_DBMOVED : SQLITE_OK;
}

static bool is_the_rows_fault(int rc) {
  int primary = rc & 0xff;
  return primary == SQLITE_CONSTRAINT || primary == SQLITE_MISMATCH || primary == SQLITE_TOOBIG;
}

static int write_records(struct writer *w, const struct batch *batch) {
  for (int l = 0; l < LANES; l++) {
    const struct record *r = w->hand[l].first;
    for (uint64_t n = 0; n < batch->records[l]; n++, r = r->next) {
      int rc = inserts_write(w->inserts, r);
      if (rc == SQLITE_OK) continue;
      if (!is_the_rows_fault(rc) || sqlite3_get_autocommit(w->db)) return rc;
      log_error("store", "a row of %s was refused and is left out: %s", record_name(r->kind),
                sqlite3_errstr(rc));
    }
  }
  return batch->touch ? inserts_touch(w->inserts) : SQLITE_OK;
}

static int write_batch(struct writer *w, const struct batch *batch) {
  int rc = in_place(w);
  if (rc == SQLITE_OK) rc = set_full(w, batch->full);
  if (rc == SQLITE_OK) rc = run(w, "BEGIN IMMEDIATE");
  if (rc == SQLITE_OK) rc = write_records(w, batch);
  if (rc == SQLITE_OK) rc = run(w, "COMMIT");
  if (rc != SQLITE_OK) {
    roll_back(w);
    return rc;
  }
  inserts_committed(w->inserts);
  atomic_store(&w->evicted, inserts_evicted(w->inserts));
  return SQLITE_OK;
}

/* Lets go of what a batch has written and tells those who wait. */
static void settle(struct writer *w, const struct batch *batch) {
  size_t bytes[LANES] = {0};
  for (int l = 0; l < LANES; l++)
    for (uint64_t n = 0; n < batch->records[l]; n++) {
      struct record *r = record_list_pop(&w->hand[l]);
      bytes[l] += r->bytes;
      record_free(r);
    }
  lock(w);
  for (int l = 0; l < LANES; l++) {
    w->bytes[l] -= bytes[l];
    w->written[l] += batch->records[l];
    if (batch->full) w->synced[l] = w->written[l];
  }
  unlock(w);
  if (batch->full) pthread_cond_broadcast(&w->done);
}

/* Fills in what the next transaction writes; returns whether the hand is empty after it. */
static bool fill_batch(const struct writer *w, struct batch *batch) {
  bool last = true;
  for (int l = 0; l < LANES; l++) {
    const struct record *r = w->hand[l].first;
    for (; r && batch->rows < TRANSACTION_ROWS; r = r->next) {
      batch->records[l]++;
      batch->rows += r->rows;
      if (record_is_decision(r->kind)) batch->full = true;
    }
    if (r) last = false;
  }
  return last;
}

/* False: nothing to do. Those who wait for a commit need one sync, with the last transaction of the hand. */
static bool gather(struct writer *w, struct batch *batch) {
  *batch = (struct batch){0};
  bool last = fill_batch(w, batch);
  lock(w);
  bool waited_for = !synced(w, w->wanted);
  bool all_written =
      w->written[DURABLE] >= w->wanted[DURABLE] && w->written[TELEMETRY] >= w->wanted[TELEMETRY];
  w->hurry = false;
  unlock(w);
  if (waited_for && last) batch->full = true;
  batch->touch = batch->rows == 0 && waited_for && all_written;
  return batch->rows > 0 || batch->touch;
}

static void write_hand(struct writer *w) {
  struct batch batch;
  while (gather(w, &batch)) {
    int rc = write_batch(w, &batch);
    if (rc != SQLITE_OK) {
      note_failure(w, rc);
      return;
    }
    note_success(w);
    settle(w, &batch);
  }
}

static void prune(struct writer *w) {
  int64_t now_ns = clock_now_ns();
  if (w->failing || now_ns < w->retention_ns) return;
  bool more = false;
  int letters = 0;
  int rc = set_full(w, false);
  if (rc == SQLITE_OK) rc = retention_step(w->retention, clock_wall_ms(), &more, &letters);
  if (rc == SQLITE_OK && letters > 0) rc = inserts_expired(w->inserts, letters);
  atomic_store(&w->evicted, inserts_evicted(w->inserts));
  if (rc != SQLITE_OK) log_warn("store", "old rows cannot be deleted now: %s", sqlite3_errstr(rc));
  w->retention_ns = now_ns + (more ? PAUSE_NS / 10 : RETENTION_NS);
}

/* The thread. */

/* When there will be something to do. Under the lock. */
static int64_t next_ns(const struct writer *w) {
  if (w->failing) return w->hurry ? 0 : w->retry_ns;
  if (w->closing || w->queued_rows >= BATCH_ROWS || !synced(w, w->wanted)) return 0;
  int64_t batch_ns = w->queued_rows > 0 ? w->oldest_ns + BATCH_NS : NS_NEVER;
  return batch_ns < w->retention_ns ? batch_ns : w->retention_ns;
}

/* Returns whether the writer is to end. */
static bool wait_for_work(struct writer *w) {
  lock(w);
  for (int64_t at; (at = next_ns(w)) > clock_now_ns();) {
    struct timespec until = to_timespec(at);
    pthread_cond_timedwait(&w->wake, &w->lock, &until);
  }
  for (int l = 0; l < LANES; l++)
    record_list_append(&w->hand[l], &w->queued[l]);
  w->queued_rows = 0;
  bool closing = w->closing;
  unlock(w);
  return closing;
}

static void *writer_main(void *arg) {
  struct writer *w = arg;
  for (bool closing = false; !closing || (w->failing && clock_now_ns() < w->give_up_ns);) {
    if (wait_for_work(w) && !closing) {
      closing = true;
      w->give_up_ns = clock_now_ns() + CLOSING_NS;
    }
    write_hand(w);
    if (!closing) prune(w);
  }
  return NULL;
}

static void init_conditions(struct writer *w) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&w->wake, &attributes);
  pthread_cond_init(&w->done, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&w->lock, NULL);
}

/* Signals are for the thread that asked for them. */
static int start_thread(struct writer *w) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int status = pthread_create(&w->thread, NULL, writer_main, w);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return -status;
}

static void free_all(struct writer *w) {
  sqlite3_busy_timeout(w->db, CHECKPOINT_MS); /* closing checkpoints, and the handler goes with w */
  inserts_destroy(w->inserts);
  retention_destroy(w->retention);
  pthread_cond_destroy(&w->wake);
  pthread_cond_destroy(&w->done);
  pthread_mutex_destroy(&w->lock);
  free(w);
}

/* Bounded by the clock: sqlite3_busy_timeout adds up the naps that it asked for, and on a machine that is
 * behind they are longer. */
static int wait_while_busy(void *writer, int naps) {
  struct writer *w = writer;
  int64_t now_ns = clock_now_ns();
  if (naps == 0) w->busy_ns = now_ns;
  if (now_ns - w->busy_ns >= BUSY_MS * NS_PER_MS) return 0;
  sqlite3_sleep(naps < 20 ? naps + 1 : 50);
  return 1;
}

struct writer *writer_create(sqlite3 *db, const struct store_options *options) {
  struct writer *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  init_conditions(w);
  w->db = db;
  sqlite3_busy_handler(db, wait_while_busy, w);
  run(w, "PRAGMA synchronous=NORMAL");
  w->inserts = inserts_create(db, options);
  w->retention = retention_create(db, options->frame_days, options->request_days);
  if (w->inserts && w->retention && start_thread(w) == 0) return w;
  free_all(w);
  return NULL;
}

void writer_destroy(struct writer *w) {
  if (!w) return;
  lock(w);
  w->closing = true;
  unlock(w);
  pthread_cond_signal(&w->wake);
  pthread_join(w->thread, NULL);
  uint64_t lost = 0;
  for (int l = 0; l < LANES; l++)
    for (struct record *r; (r = record_list_pop(&w->hand[l]));) {
      lost += r->rows;
      record_free(r);
    }
  const char *why = NULL;
  if (lost > 0 && !writer_health(w, &why))
    log_error("store", "%llu rows could not be written: %s", (unsigned long long)lost, why);
  sqlite3 *db = w->db;
  free_all(w);
  sqlite3_close(db);
}
