#include "sys/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINES = 1000, ROOM = 1 << 20 };

static int reader = -1, standard_error = -1;

/* Standard error becomes a pipe. */
static int divert(void **state) {
  int ends[2];
  (void)state;
  standard_error = dup(STDERR_FILENO);
  if (pipe(ends) < 0 || dup2(ends[1], STDERR_FILENO) < 0) return -1;
  close(ends[1]);
  reader = ends[0];
  fcntl(reader, F_SETFL, O_NONBLOCK);
  alarm(20); /* a line that waits for its reader waits for ever */
  return 0;
}

static int restore(void **state) {
  (void)state;
  alarm(0);
  dup2(standard_error, STDERR_FILENO);
  close(standard_error);
  close(reader);
  return 0;
}

static unsigned read_lines(char *out) {
  size_t n = 0;
  unsigned lines = 0;
  for (ssize_t got; (got = read(reader, out + n, ROOM - 1 - n)) > 0;)
    n += (size_t)got;
  out[n] = '\0';
  for (const char *at = out; (at = strchr(at, '\n')); at++)
    lines++;
  return lines;
}

static void a_line_waits_for_no_reader_and_the_next_says_how_many_were_lost(void **state) {
  static char out[ROOM];
  unsigned before, told = 0;
  (void)state;
  for (int i = 0; i < LINES; i++)
    log_warn("test", "line %d %500s", i, "");
  before = read_lines(out);
  assert_in_range(before, 16, LINES - 1);
  log_warn("test", "again");
  assert_int_equal(read_lines(out), 2);
  const char *words = strstr(out, "log       ");
  assert_non_null(words);
  assert_int_equal(sscanf(words, "log %u lines before this one were lost", &told), 1);
  assert_int_equal(told, LINES - before);
  assert_non_null(strstr(out, "test      again\n"));
  log_warn("test", "and on");
  assert_int_equal(read_lines(out), 1);
}

static void lines_that_nobody_can_read_any_more_cost_nothing(void **state) {
  (void)state;
  close(STDERR_FILENO);
  log_warn("test", "gone");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(a_line_waits_for_no_reader_and_the_next_says_how_many_were_lost, divert,
                                      restore),
      cmocka_unit_test_setup_teardown(lines_that_nobody_can_read_any_more_cost_nothing, divert, restore),
  };
  return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
