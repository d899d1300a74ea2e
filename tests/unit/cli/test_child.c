#include "cli/child.h"
#include "cli/port_owner.h"
#include "sys/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static char shell[] = "/bin/sh", dash_c[] = "-c";

static struct child start(char *script) {
  struct child child = {.out = -1};
  char *argv[] = {shell, dash_c, script, NULL};
  assert_int_equal(child_start(&child, argv, 1), 0);
  return child;
}

static void first_line_comes_without_its_newline(void **state) {
  (void)state;
  char script[] = "echo first; echo second; sleep 30", line[32];
  struct child child = start(script);
  assert_int_equal(child_first_line(&child, line, sizeof line, 5000), 0);
  assert_string_equal(line, "first");
  child_stop(&child, 1000);
  assert_int_equal(child.pid, 0);
  assert_int_equal(child.out, -1);
}

static void a_silent_child_is_waited_for_no_longer_than_said(void **state) {
  (void)state;
  char script[] = "exec sleep 30", line[32];
  struct child child = start(script);
  int64_t began_ns = clock_now_ns();
  assert_int_equal(child_first_line(&child, line, sizeof line, 100), -ETIMEDOUT);
  assert_true(clock_now_ns() - began_ns < 2 * NS_PER_S);
  child_stop(&child, 1000);
}

static void a_child_that_ends_first_is_told(void **state) {
  (void)state;
  char script[] = "exit 3", line[32];
  struct child child = start(script);
  assert_int_equal(child_first_line(&child, line, sizeof line, 5000), -EPIPE);
  child_stop(&child, 1000);
}

static void a_child_that_ignores_sigterm_is_killed_after_the_grace(void **state) {
  (void)state;
  char script[] = "trap '' TERM; echo ready; while :; do sleep 0.1; done", line[32];
  struct child child = start(script);
  assert_int_equal(child_first_line(&child, line, sizeof line, 5000), 0);
  pid_t pid = child.pid;
  int64_t began_ns = clock_now_ns();
  child_stop(&child, 200);
  assert_true(clock_now_ns() - began_ns >= 200 * NS_PER_MS);
  assert_int_equal(kill(pid, 0), -1);
}

static void signals_blocked_here_are_not_blocked_in_the_child(void **state) {
  (void)state;
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  char script[] = "exec sleep 30";
  struct child child = start(script);
  sigprocmask(SIG_SETMASK, &before, NULL);
  int64_t began_ns = clock_now_ns();
  child_stop(&child, 5000);
  assert_true(clock_now_ns() - began_ns < 2 * NS_PER_S);
}

static void the_holder_of_a_port_is_named(void **state) {
  (void)state;
  char owner[128], own[32];
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
  assert_int_equal(listen(fd, 1), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
  port_owner(ntohs(address.sin_port), owner, sizeof owner);
  snprintf(own, sizeof own, "(process %d)", (int)getpid());
  assert_non_null(strstr(owner, own));
  close(fd);
  port_owner(ntohs(address.sin_port), owner, sizeof owner);
  assert_string_equal(owner, "another program");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_line_comes_without_its_newline),
      cmocka_unit_test(a_silent_child_is_waited_for_no_longer_than_said),
      cmocka_unit_test(a_child_that_ends_first_is_told),
      cmocka_unit_test(a_child_that_ignores_sigterm_is_killed_after_the_grace),
      cmocka_unit_test(signals_blocked_here_are_not_blocked_in_the_child),
      cmocka_unit_test(the_holder_of_a_port_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
