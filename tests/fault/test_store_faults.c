/* The store when the world does not cooperate: a lock held by somebody else, a full disk, I/O errors at the
 * n-th call, SQL statements that fail, a process that dies. What commit() acknowledged must be there; what
 * was put and not refused must come through once the world is well again. */

#include "../unit/store/fixture.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

/* ---- reaching into the writer's connection ---- */

/* SQLite calls this for every connection it opens; the first one after store_open began is the writer's. */
static _Atomic(sqlite3 *) newest;

static int remember(sqlite3 *db, char **error, const struct sqlite3_api_routines *api) {
  (void)error, (void)api;
  atomic_store(&newest, db);
  return SQLITE_OK;
}

static sqlite3 *writers_connection(struct fixture *f) {
  fixture_close(f);
  fixture_open(f);
  return atomic_load(&newest);
}

static void put_rows(struct fixture *f, int64_t first, int64_t count) {
  for (int64_t i = first; i < first + count; i++) {
    struct ledger_row row = fixture_change(i, "retry_attempts", 3, 4);
    assert_int_equal(f->sink.ledger(f->sink.ctx, &row), 0);
    struct outcome o = fixture_outcome((uint64_t)i);
    f->sink.outcomes(f->sink.ctx, &o, 1, 5 * NS_PER_S, clock_wall_ms());
  }
}

static double rows_in(struct fixture *f, const char *table) {
  char sql[64];
  snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", table);
  return fixture_number(f->path, sql);
}

/* ---- locks ---- */

/* SQLite must not be carried across a fork, so the store is closed meanwhile. */
static pid_t hold_the_lock(struct fixture *f, int64_t ms) {
  int ready[2];
  char byte = 0;
  fixture_close(f);
  assert_int_equal(pipe(ready), 0);
  pid_t child = fork();
  if (child == 0) {
    sqlite3 *db;
    usleep(300000); /* the store opens again */
    if (sqlite3_open(f->path, &db) != SQLITE_OK) _exit(1);
    sqlite3_busy_timeout(db, 2000);
    if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK) _exit(1);
    ssize_t n = write(ready[1], "x", 1);
    (void)n;
    usleep((useconds_t)ms * 1000);
    _exit(0); /* the lock goes with the process */
  }
  close(ready[1]);
  fixture_open(f);
  assert_int_equal(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  return child;
}

static void a_lock_of_three_seconds_loses_nothing_and_stops_nobody(void **state) {
  struct fixture *f = *state;
  pid_t child = hold_the_lock(f, 3000);
  int64_t start_ns = clock_now_ns();
  put_rows(f, 1, 500);
  assert_true(clock_now_ns() - start_ns < NS_PER_S); /* posters do not wait */
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(clock_now_ns() - start_ns > 2 * NS_PER_S);
  waitpid(child, NULL, 0);
  assert_true(rows_in(f, "ledger") == 500);
  assert_true(rows_in(f, "requests") == 500);
  assert_true(store_health(f->store, NULL));
}

static void a_lock_that_stays_fails_the_commit_in_time_and_is_named(void **state) {
  struct fixture *f = *state;
  sqlite3 *db = fixture_lock(f->path);
  const char *why = NULL;
  put_rows(f, 1, 10);
  int64_t start_ns = clock_now_ns();
  assert_int_equal(f->sink.commit(f->sink.ctx), -EBUSY);
  assert_true(clock_now_ns() - start_ns < 11 * NS_PER_S);
  assert_false(store_health(f->store, &why));
  assert_string_equal(why, "database is locked");
  fixture_unlock(db);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(store_health(f->store, &why));
  assert_true(rows_in(f, "ledger") == 10);
}

/* ---- statements that fail ---- */

static _Atomic int64_t steps_left;

static int interrupt_at(void *unused) {
  (void)unused;
  return atomic_fetch_sub(&steps_left, 1) == 1;
}

static void an_interrupt_at_any_point_of_a_transaction_loses_nothing(void **state) {
  struct fixture *f = *state;
  sqlite3 *db = writers_connection(f);
  int64_t id = 1;
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  usleep(300000); /* the first pruning is over */
  sqlite3_progress_handler(db, 1, interrupt_at, NULL);
  for (int64_t step = 1; step < 4000; step = step * 4 / 3 + 1, id += 20) {
    atomic_store(&steps_left, step);
    put_rows(f, id, 20);
    int status = f->sink.commit(f->sink.ctx);
    if (status != 0) assert_int_equal(f->sink.commit(f->sink.ctx), 0);
    assert_true(rows_in(f, "ledger") == (double)(id + 19));
    assert_true(rows_in(f, "requests") == (double)(id + 19));
  }
  assert_true(store_health(f->store, NULL));
}

static void a_row_that_sqlite_refuses_does_not_block_the_others(void **state) {
  struct fixture *f = *state;
  fixture_number(f->path, "CREATE TRIGGER no BEFORE INSERT ON ledger WHEN new.id = 2 BEGIN "
                          "SELECT RAISE(ABORT, 'no'); END");
  log_setup(LOG_ERROR, true);
  put_rows(f, 1, 3);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path, "SELECT group_concat(id) = '1,3' FROM ledger") == 1);
}

/* ---- I/O errors ---- */

/* A VFS in front of the real one that fails the n-th write or sync from now on, once or for ever. */
static sqlite3_vfs *real;
static _Atomic int64_t calls_left; /* 0: never */
static _Atomic bool for_ever;
static _Atomic int write_error = SQLITE_IOERR_WRITE;

struct shim_file {
  sqlite3_file base;
  int64_t align;
};

/* The real file follows ours in memory. */
static sqlite3_file *behind(sqlite3_file *file) {
  return (sqlite3_file *)((struct shim_file *)file + 1);
}

static bool fails(void) {
  int64_t left = atomic_load(&calls_left);
  if (left == 0) return false;
  if (left == 1) return atomic_load(&for_ever) || atomic_exchange(&calls_left, 0) == 1;
  atomic_fetch_sub(&calls_left, 1);
  return false;
}

#define FORWARD(file, method, ...) behind(file)->pMethods->method(behind(file), ##__VA_ARGS__)

static int shim_write(sqlite3_file *f, const void *bytes, int n, sqlite3_int64 at) {
  return fails() ? atomic_load(&write_error) : FORWARD(f, xWrite, bytes, n, at);
}

static int shim_sync(sqlite3_file *f, int flags) {
  return fails() ? SQLITE_IOERR_FSYNC : FORWARD(f, xSync, flags);
}

static int shim_close(sqlite3_file *f) {
  return FORWARD(f, xClose);
}

static int shim_read(sqlite3_file *f, void *bytes, int n, sqlite3_int64 at) {
  return FORWARD(f, xRead, bytes, n, at);
}

static int shim_truncate(sqlite3_file *f, sqlite3_int64 size) {
  return FORWARD(f, xTruncate, size);
}

static int shim_size(sqlite3_file *f, sqlite3_int64 *size) {
  return FORWARD(f, xFileSize, size);
}

static int shim_lock(sqlite3_file *f, int level) {
  return FORWARD(f, xLock, level);
}

static int shim_unlock(sqlite3_file *f, int level) {
  return FORWARD(f, xUnlock, level);
}

static int shim_reserved(sqlite3_file *f, int *held) {
  return FORWARD(f, xCheckReservedLock, held);
}

static int shim_control(sqlite3_file *f, int op, void *arg) {
  return FORWARD(f, xFileControl, op, arg);
}

static int shim_sector(sqlite3_file *f) {
  return FORWARD(f, xSectorSize);
}

static int shim_features(sqlite3_file *f) {
  return FORWARD(f, xDeviceCharacteristics);
}

static int shim_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **at) {
  return FORWARD(f, xShmMap, page, size, extend, at);
}

static int shim_shm_lock(sqlite3_file *f, int offset, int n, int flags) {
  return FORWARD(f, xShmLock, offset, n, flags);
}

static void shim_barrier(sqlite3_file *f) {
  FORWARD(f, xShmBarrier);
}

static int shim_unmap(sqlite3_file *f, int remove_it) {
  return FORWARD(f, xShmUnmap, remove_it);
}

static const sqlite3_io_methods shim_methods = {
    .iVersion = 2,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_reserved,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector,
    .xDeviceCharacteristics = shim_features,
    .xShmMap = shim_shm_map,
    .xShmLock = shim_shm_lock,
    .xShmBarrier = shim_barrier,
    .xShmUnmap = shim_unmap,
};

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out) {
  (void)vfs;
  file->pMethods = NULL;
  int rc = real->xOpen(real, name, behind(file), flags, out);
  if (behind(file)->pMethods) file->pMethods = &shim_methods;
  return rc;
}

static sqlite3_vfs shim;

static void install_shim(void) {
  real = sqlite3_vfs_find(NULL);
  shim = *real;
  shim.zName = "shim";
  shim.szOsFile = (int)sizeof(struct shim_file) + real->szOsFile;
  shim.xOpen = shim_open;
  shim.pNext = NULL;
  sqlite3_vfs_register(&shim, 1);
}

static void a_single_io_error_at_the_nth_call_loses_nothing(void **state) {
  struct fixture *f = *state;
  int64_t id = 1;
  for (int64_t n = 1; n <= 40; n++, id += 20) {
    atomic_store(&calls_left, n);
    put_rows(f, id, 20);
    int status = f->sink.commit(f->sink.ctx);
    atomic_store(&calls_left, 0);
    if (status != 0) assert_int_equal(f->sink.commit(f->sink.ctx), 0);
    assert_true(rows_in(f, "ledger") == (double)(id + 19));
    assert_true(rows_in(f, "requests") == (double)(id + 19));
  }
  assert_true(fixture_number(
                  f->path, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'") == 1);
}

static void io_errors_that_stay_fail_the_commit_at_once_and_are_named(void **state) {
  struct fixture *f = *state;
  const char *why = NULL;
  put_rows(f, 1, 10);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  atomic_store(&for_ever, true);
  atomic_store(&calls_left, 1);
  put_rows(f, 11, 10);
  int64_t start_ns = clock_now_ns();
  assert_int_equal(f->sink.commit(f->sink.ctx), -EIO);
  assert_true(clock_now_ns() - start_ns < 2 * NS_PER_S);
  assert_false(store_health(f->store, &why));
  assert_string_equal(why, "database I/O error");
  atomic_store(&calls_left, 0);
  atomic_store(&for_ever, false);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(rows_in(f, "ledger") == 20);
}

static void a_full_disk_keeps_rows_until_there_is_room(void **state) {
  struct fixture *f = *state;
  const char *why = NULL;
  atomic_store(&write_error, SQLITE_FULL);
  atomic_store(&for_ever, true);
  atomic_store(&calls_left, 20);
  put_rows(f, 1, 3000);
  int64_t start_ns = clock_now_ns();
  assert_int_equal(f->sink.commit(f->sink.ctx), -ENOSPC);
  assert_true(clock_now_ns() - start_ns < 5 * NS_PER_S);
  assert_false(store_health(f->store, &why));
  assert_string_equal(why, "disk full");
  put_rows(f, 3001, 10); /* still taken */
  atomic_store(&calls_left, 0);
  atomic_store(&for_ever, false);
  atomic_store(&write_error, SQLITE_IOERR_WRITE);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(store_health(f->store, NULL));
  assert_true(rows_in(f, "ledger") == 3010);
  assert_true(rows_in(f, "requests") == 3010);
}

static void a_file_that_may_not_grow_keeps_rows_too(void **state) {
  struct fixture *f = *state;
  sqlite3 *db = writers_connection(f);
  put_rows(f, 1, 10);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  usleep(300000);                                                /* the writer is idle now */
  sqlite3_exec(db, "PRAGMA max_page_count=1", NULL, NULL, NULL); /* SQLite takes the size as it is */
  put_rows(f, 11, 3000);
  assert_int_equal(f->sink.commit(f->sink.ctx), -ENOSPC);
  fixture_close(f); /* gives up in time, and says so */
  assert_true(fixture_number(f->path, "SELECT max(id) FROM ledger") >= 10);
  fixture_open(f);
  put_rows(f, 5000, 10); /* the limit went with its connection */
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM ledger WHERE id >= 5000") == 10);
}

static void a_file_that_is_gone_is_no_place_to_commit_to(void **state) {
  struct fixture *f = *state;
  const char *why = NULL;
  char aside[128];
  snprintf(aside, sizeof aside, "%s.aside", f->path);
  put_rows(f, 1, 10);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_int_equal(rename(f->path, aside), 0);
  put_rows(f, 11, 10);
  assert_int_equal(f->sink.commit(f->sink.ctx), -EIO);
  assert_false(store_health(f->store, &why));
  assert_non_null(strstr(why, "moved, deleted or replaced"));
  assert_int_equal(rename(aside, f->path), 0);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(store_health(f->store, &why));
  assert_true(rows_in(f, "ledger") == 20);
  assert_true(rows_in(f, "requests") == 20);
}

static void closing_ends_in_time_while_nothing_can_be_written(void **state) {
  struct fixture *f = *state;
  atomic_store(&for_ever, true);
  atomic_store(&calls_left, 1);
  put_rows(f, 1, 10);
  int64_t start_ns = clock_now_ns();
  fixture_close(f);
  assert_true(clock_now_ns() - start_ns < 15 * NS_PER_S);
  atomic_store(&calls_left, 0);
  atomic_store(&for_ever, false);
  fixture_open(f);
}

/* ---- a process that dies ---- */

/* Puts and commits without end, telling what was acknowledged. */
static void write_for_ever(struct fixture *f, int out) {
  char error[256];
  f->store = store_open(&f->options, error, sizeof error);
  if (!f->store) _exit(1);
  f->sink = store_sink(f->store);
  struct store_state s;
  if (store_load(f->store, &s) != 0) _exit(1);
  for (int64_t id = s.last_ledger_id + 1;; id++) {
    struct ledger_row row = fixture_change(id, "retry_attempts", (double)id, (double)id + 1);
    struct value_row value = {.name = "retry_attempts", .value = (double)id + 1, .author = "http"};
    struct outcome o = fixture_outcome((uint64_t)id);
    f->sink.ledger(f->sink.ctx, &row);
    f->sink.value(f->sink.ctx, &value);
    f->sink.outcomes(f->sink.ctx, &o, 1, 5 * NS_PER_S, clock_wall_ms());
    if (id % 3 == 0 && f->sink.commit(f->sink.ctx) == 0 && write(out, &id, sizeof id) != sizeof id) _exit(1);
  }
}

static void what_commit_acknowledged_survives_kill_9(void **state) {
  struct fixture *f = *state;
  fixture_close(f);
  int64_t acknowledged = 0;
  for (int round = 0; round < 20; round++) {
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
      close(fds[0]);
      write_for_ever(f, fds[1]);
    }
    close(fds[1]);
    usleep((useconds_t)(30000 + round * 7919 % 100000));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    for (int64_t id; read(fds[0], &id, sizeof id) == sizeof id;)
      acknowledged = id;
    close(fds[0]);
    fixture_open(f);
    struct store_state s;
    assert_int_equal(store_load(f->store, &s), 0);
    assert_true(s.last_ledger_id >= acknowledged);
    assert_true(s.value_count == 0 || s.values[0].value >= (double)acknowledged + 1);
    assert_true(rows_in(f, "ledger") == (double)s.last_ledger_id); /* no holes */
    store_state_free(&s);
    fixture_close(f);
  }
  assert_true(acknowledged > 0);
  print_message("%lld rows acknowledged over 20 deaths\n", (long long)acknowledged);
}

int main(void) {
  install_shim();
  sqlite3_auto_extension((void (*)(void))remember);
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
  const struct CMUnitTest tests[] = {
      T(a_lock_of_three_seconds_loses_nothing_and_stops_nobody),
      T(a_lock_that_stays_fails_the_commit_in_time_and_is_named),
      T(an_interrupt_at_any_point_of_a_transaction_loses_nothing),
      T(a_row_that_sqlite_refuses_does_not_block_the_others),
      T(a_single_io_error_at_the_nth_call_loses_nothing),
      T(a_full_disk_keeps_rows_until_there_is_room),
      T(a_file_that_may_not_grow_keeps_rows_too),
      T(io_errors_that_stay_fail_the_commit_at_once_and_are_named),
      T(a_file_that_is_gone_is_no_place_to_commit_to),
      T(closing_ends_in_time_while_nothing_can_be_written),
      T(what_commit_acknowledged_survives_kill_9),
  };
  return cmocka_run_group_tests_name("store faults", tests, NULL, NULL);
}
