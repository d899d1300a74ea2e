/* The lock is flock(2) on a file beside the database: the kernel drops it with the process, however that
 * dies. The check at start is SQLite's quick_check, given CHECK_NS: a file too large to be read in that time
 * counts as sound unless damage was found so far. Only what SQLite itself calls damage (SQLITE_CORRUPT,
 * SQLITE_NOTADB, a line of quick_check) sets a file aside; a locked, unreadable or foreign one is an error
 * for a person. */

#include "store/file.h"

#include "store/schema.h"
#include "sys/clock.h"
#include "sys/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHECK_NS (5 * NS_PER_S)

enum { CHECK_STEPS = 100000, OPEN_BUSY_MS = 5000 };

static const char lock_name[] = "self-improve.lock";

/* The directory part of path, "." where it has none. 0 or -ENAMETOOLONG. */
static int directory_of(const char *path, char *out, size_t size) {
  const char *slash = strrchr(path, '/');
  int n = !slash          ? snprintf(out, size, ".")
          : slash == path ? snprintf(out, size, "/")
                          : snprintf(out, size, "%.*s", (int)(slash - path), path);
  return n < (int)size ? 0 : -ENAMETOOLONG;
}

/* Only their owner may enter new directories: dead letters hold prompts. */
static int make_directories(char *directory) {
  for (char *p = directory + 1; *p; p++) {
    if (*p != '/') continue;
    *p = '\0';
    int status = mkdir(directory, 0755);
    int made = status == 0 || errno == EEXIST || errno == EROFS || errno == EACCES;
    *p = '/';
    if (!made) return -errno;
  }
  struct stat info;
  if (mkdir(directory, 0700) == 0) return 0;
  int status = errno;
  if (stat(directory, &info) == 0) return S_ISDIR(info.st_mode) ? 0 : -ENOTDIR;
  return -status;
}

static void say_holder(int fd, const char *directory, char *error, size_t error_size) {
  char pid[24] = {0};
  ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
  if (n > 0) pid[strcspn(pid, "\n")] = '\0';
  snprintf(error, error_size,
           "another self-improve%s%s%s already uses %s: stop it, or choose another directory with --data-dir "
           "or path in "
           "[store]",
           pid[0] ? " (process " : "", pid, pid[0] ? ")" : "", directory);
}

static int take_lock(const char *directory, char *error, size_t error_size) {
  char name[PATH_MAX + sizeof lock_name + 1];
  snprintf(name, sizeof name, "%s/%s", directory, lock_name);
  int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    int status = -errno;
    snprintf(
        error, error_size,
        "cannot write in %s (%s): give this user write permission there, or choose another directory with "
        "--data-dir or path in [store]",
        directory, strerror(-status));
    return status;
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    int status = -errno;
    say_holder(fd, directory, error, error_size);
    close(fd);
    return status;
  }
  int ignored = ftruncate(fd, 0);
  ignored |= dprintf(fd, "%ld\n", (long)getpid());
  (void)ignored;
  return fd;
}

int file_lock(const char *path, char *error, size_t error_size) {
  char directory[PATH_MAX];
  int status = directory_of(path, directory, sizeof directory);
  if (status == 0) status = make_directories(directory);
  if (status == 0) return take_lock(directory, error, error_size);
  snprintf(error, error_size,
           "cannot make the directory of %s (%s): make it, or choose another path in [store]", path,
           strerror(-status));
  return status;
}

static int is_damage(int rc) {
  return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB;
}

static int past_deadline(void *deadline_ns) {
  return clock_now_ns() > *(int64_t *)deadline_ns;
}

/* The verdict may begin with a line that only names the database. */
static void say_first_finding(const char *verdict, char *error, size_t error_size) {
  const char *line = verdict ? verdict : "quick_check failed", *next = strchr(line, '\n');
  if (strncmp(line, "***", 3) == 0 && next) line = next + 1;
  snprintf(error, error_size, "%.*s", (int)strcspn(line, "\n"), line);
}

/* SQLITE_OK; SQLITE_CORRUPT with what is wrong; or another code. */
static int check(sqlite3 *db, char *error, size_t error_size) {
  int64_t deadline_ns = clock_now_ns() + CHECK_NS;
  sqlite3_stmt *s = NULL;
  sqlite3_progress_handler(db, CHECK_STEPS, past_deadline, &deadline_ns);
  int rc = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &s, NULL);
  if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
    const char *verdict = (const char *)sqlite3_column_text(s, 0);
    rc = verdict && strcmp(verdict, "ok") == 0 ? SQLITE_OK : SQLITE_CORRUPT;
    if (rc != SQLITE_OK) say_first_finding(verdict, error, error_size);
  } else {
    snprintf(error, error_size, "%s", sqlite3_errmsg(db));
  }
  sqlite3_finalize(s);
  sqlite3_progress_handler(db, 0, NULL, NULL);
  return rc == SQLITE_INTERRUPT ? SQLITE_OK : rc;
}

/* New files are for their owner only; SQLite gives -wal and -shm the same mode. */
static void make_private(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0) close(fd);
}

/* SQLITE_OK with *db, or a code with error and *db NULL. */
static int open_and_check(const char *path, sqlite3 **db, char *error, size_t error_size) {
  make_private(path);
  int rc = sqlite3_open_v2(path, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
  if (rc == SQLITE_OK) {
    sqlite3_busy_timeout(*db, OPEN_BUSY_MS);
    rc = check(*db, error, error_size);
  } else {
    snprintf(error, error_size, "%s", *db ? sqlite3_errmsg(*db) : sqlite3_errstr(rc));
  }
  if (rc == SQLITE_OK) return rc;
  sqlite3_close(*db);
  *db = NULL;
  return rc;
}

const char *file_advice(int rc) {
  switch (rc & 0xff) {
  case SQLITE_BUSY:
  case SQLITE_LOCKED:
    return "; another program holds it: close that one";
  case SQLITE_FULL:
  case SQLITE_IOERR:
    return "; make room on its disk, or choose another place with --data-dir or path in [store]";
  case SQLITE_CANTOPEN:
  case SQLITE_PERM:
  case SQLITE_READONLY:
    return "; it must be a file that this user may read and write, or choose another with path in [store]";
  default:
    return "";
  }
}

static int set_aside(const char *path, const char *why, char *error, size_t error_size) {
  static const char *const parts[] = {"", "-wal", "-shm"};
  char from[PATH_MAX], to[PATH_MAX + 64], stamp[32], aside[PATH_MAX + 40];
  time_t now = (time_t)(clock_wall_ms() / 1000);
  struct tm t;
  gmtime_r(&now, &t);
  strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &t);
  snprintf(aside, sizeof aside, "%s.corrupt-%s", path, stamp);
  for (int i = 1; access(aside, F_OK) == 0 && i < 1000; i++)
    snprintf(aside, sizeof aside, "%s.corrupt-%s-%d", path, stamp, i);
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    snprintf(from, sizeof from, "%s%s", path, parts[i]);
    snprintf(to, sizeof to, "%s%s", aside, parts[i]);
    if (rename(from, to) == 0 || (i > 0 && errno == ENOENT)) continue;
    snprintf(error, error_size, "%s is damaged (%s) and cannot be renamed (%s): move it away", from, why,
             strerror(errno));
    return -1;
  }
  log_error("store", "%s is damaged (%s): it was kept as %s, and a new one begun", path, why, aside);
  return 0;
}

static int prepare(sqlite3 *db, const char *path, char *error, size_t error_size) {
  if (sqlite3_db_readonly(db, "main") == 1) {
    snprintf(error, error_size,
             "%s cannot be written: give this user write permission, or choose another path in [store]",
             path);
    return -1;
  }
  if (schema_migrate(db, path, error, error_size) != 0) return -1;
  if (sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA journal_size_limit=67108864", NULL, NULL, NULL) !=
      SQLITE_OK) {
    snprintf(error, error_size, "%s: no write-ahead log: %s%s", path, sqlite3_errmsg(db),
             file_advice(sqlite3_errcode(db)));
    return -1;
  }
  return 0;
}

sqlite3 *file_open(const char *path, char *error, size_t error_size) {
  char why[256];
  sqlite3 *db = NULL;
  int rc = open_and_check(path, &db, why, sizeof why);
  if (is_damage(rc)) {
    if (set_aside(path, why, error, error_size) != 0) return NULL;
    rc = open_and_check(path, &db, why, sizeof why);
  }
  if (rc != SQLITE_OK) {
    snprintf(error, error_size, "cannot open %s: %s%s", path, why, file_advice(rc));
    return NULL;
  }
  if (prepare(db, path, error, error_size) == 0) return db;
  sqlite3_close(db);
  return NULL;
}
