#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct store *try_open(struct fixture *f, char *error, size_t size) {
  error[0] = '\0';
  return store_open(&f->options, error, size);
}

static void write_file(const char *path, const char *bytes, size_t size) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  assert_true(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
  close(fd);
}

/* The name of the first file in the directory that has this in its name; false when there is none. */
static bool find(const char *directory, const char *part, char *name, size_t size) {
  bool found = false;
  DIR *dir = opendir(directory);
  for (struct dirent *e; !found && (e = readdir(dir));)
    if (strstr(e->d_name, part)) {
      snprintf(name, size, "%s/%s", directory, e->d_name);
      found = true;
    }
  closedir(dir);
  return found;
}

static void directories_are_made_and_private(void **state) {
  struct fixture *f = *state;
  char directory[128], path[160], error[512];
  struct stat info;
  fixture_close(f);
  snprintf(directory, sizeof directory, "%s/a/b", f->directory);
  snprintf(path, sizeof path, "%s/history.db", directory);
  f->options.path = path;
  struct store *store = try_open(f, error, sizeof error);
  assert_string_equal(error, "");
  assert_int_equal(stat(directory, &info), 0);
  assert_int_equal(info.st_mode & 0777, 0700);
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(info.st_mode & 0777, 0600);
  store_close(store);
}

static void a_second_daemon_is_told_who_holds_the_directory(void **state) {
  struct fixture *f = *state;
  char error[512], pid[32];
  assert_null(try_open(f, error, sizeof error));
  snprintf(pid, sizeof pid, "process %ld", (long)getpid());
  assert_non_null(strstr(error, "another self-improve"));
  assert_non_null(strstr(error, pid));
  assert_non_null(strstr(error, f->directory));
  fixture_close(f);
  fixture_open(f); /* free again */
}

static void the_lock_does_not_pass_to_programs_that_are_started(void **state) {
  struct fixture *f = *state;
  int pipe_fds[2];
  assert_int_equal(pipe(pipe_fds), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(pipe_fds[0], 0);
    close(pipe_fds[1]);
    execlp("cat", "cat", (char *)NULL);
    _exit(127);
  }
  close(pipe_fds[0]);
  usleep(200000);
  fixture_close(f);
  fixture_open(f);
  close(pipe_fds[1]);
  int status = 0;
  waitpid(child, &status, 0);
  assert_int_equal(status, 0);
}

static void a_file_that_is_no_database_is_set_aside_whole(void **state) {
  struct fixture *f = *state;
  char error[512], aside[512], bytes[16] = "";
  static const char noise[] = "this is certainly not a database, not even a small one; nothing to see";
  fixture_close(f);
  write_file(f->path, noise, sizeof noise);
  struct store *store = try_open(f, error, sizeof error);
  assert_string_equal(error, "");
  assert_true(find(f->directory, "history.db.corrupt-", aside, sizeof aside));
  int fd = open(aside, O_RDONLY);
  assert_int_equal(read(fd, bytes, 15), 15);
  close(fd);
  assert_memory_equal(bytes, noise, 15);
  struct store_state s;
  assert_int_equal(store_load(store, &s), 0);
  assert_int_equal(s.last_ledger_id, 0);
  store_state_free(&s);
  store_close(store);
}

static void damaged_pages_are_noticed_at_start(void **state) {
  struct fixture *f = *state;
  char error[512], aside[512], noise[4096];
  fixture_fill(f);
  fixture_close(f);
  memset(noise, 0x5a, sizeof noise);
  int fd = open(f->path, O_WRONLY);
  for (int page = 1; page < 6; page++)
    assert_int_equal(pwrite(fd, noise, sizeof noise, page * 4096), sizeof noise);
  close(fd);
  struct store *store = try_open(f, error, sizeof error);
  assert_string_equal(error, "");
  assert_true(find(f->directory, "corrupt-", aside, sizeof aside));
  store_close(store);
}

static void a_foreign_or_newer_database_is_refused_and_kept(void **state) {
  struct fixture *f = *state;
  char error[512], aside[512];
  fixture_close(f);
  fixture_number(f->path, "PRAGMA user_version=99");
  assert_null(try_open(f, error, sizeof error));
  assert_non_null(strstr(error, "newer self-improve"));
  unlink(f->path);
  fixture_number(f->path, "CREATE TABLE songs(title)");
  assert_null(try_open(f, error, sizeof error));
  assert_non_null(strstr(error, "another program"));
  assert_false(find(f->directory, "corrupt-", aside, sizeof aside));
}

static void a_path_through_a_file_says_so(void **state) {
  struct fixture *f = *state;
  char error[512], path[160];
  snprintf(path, sizeof path, "%s/history.db/x.db", f->directory);
  f->options.path = path;
  assert_null(try_open(f, error, sizeof error));
  assert_non_null(strstr(error, path));
  assert_non_null(strstr(error, "Not a directory"));
}

/* In a child, as a user without rights when we are root. Returns the error's text. */
static void open_unprivileged(struct fixture *f, char *error, size_t size) {
  int fds[2], status = 0;
  assert_int_equal(pipe(fds), 0);
  pid_t child = fork();
  if (child == 0) {
    char said[512] = "";
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(2);
    struct store *store = try_open(f, said, sizeof said);
    ssize_t n = write(fds[1], said, strlen(said));
    (void)n;
    _exit(store ? 1 : 0);
  }
  close(fds[1]);
  ssize_t n = read(fds[0], error, size - 1);
  error[n > 0 ? n : 0] = '\0';
  close(fds[0]);
  waitpid(child, &status, 0);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_directory_that_cannot_be_written_says_what_to_do(void **state) {
  struct fixture *f = *state;
  char error[512];
  fixture_close(f);
  unlink(f->path);
  assert_int_equal(chmod(f->directory, 0555), 0);
  open_unprivileged(f, error, sizeof error);
  assert_non_null(strstr(error, f->directory));
  assert_non_null(strstr(error, "--data-dir"));
  chmod(f->directory, 0700);
}

static void a_file_that_cannot_be_written_says_what_to_do(void **state) {
  struct fixture *f = *state;
  char error[512], lock[128];
  fixture_close(f);
  snprintf(lock, sizeof lock, "%s/self-improve.lock", f->directory);
  chmod(f->directory, 0777);
  chmod(lock, 0666);
  chmod(f->path, 0444);
  open_unprivileged(f, error, sizeof error);
  assert_non_null(strstr(error, f->path));
  assert_non_null(strstr(error, "cannot be written"));
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
  const struct CMUnitTest tests[] = {
      T(directories_are_made_and_private),
      T(a_second_daemon_is_told_who_holds_the_directory),
      T(the_lock_does_not_pass_to_programs_that_are_started),
      T(a_file_that_is_no_database_is_set_aside_whole),
      T(damaged_pages_are_noticed_at_start),
      T(a_foreign_or_newer_database_is_refused_and_kept),
      T(a_path_through_a_file_says_so),
      T(a_directory_that_cannot_be_written_says_what_to_do),
      T(a_file_that_cannot_be_written_says_what_to_do),
  };
  return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
