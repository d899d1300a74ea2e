#include "cli/child.h"

#include "sys/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* After fork: only calls that are safe in a signal handler. */
static void become(char *const argv[], pid_t parent, int out) {
  sigset_t none;
  sigemptyset(&none);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
  if (out >= 0) dup2(out, STDOUT_FILENO);
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, NULL);
  execv(argv[0], argv);
  _exit(127);
}

int child_start(struct child *child, char *const argv[], int capture) {
  int ends[2] = {-1, -1};
  if (capture && pipe2(ends, O_CLOEXEC) != 0) return -errno;
  pid_t parent = getpid(), pid = fork();
  if (pid < 0) {
    int error = errno;
    if (capture) {
      close(ends[0]);
      close(ends[1]);
    }
    return -error;
  }
  if (pid == 0) become(argv, parent, ends[1]);
  setpgid(pid, pid); /* here as well: whoever comes first */
  if (capture) close(ends[1]);
  *child = (struct child){pid, ends[0]};
  return 0;
}

int child_first_line(struct child *child, char *line, size_t size, int timeout_ms) {
  int64_t until_ns = clock_now_ns() + timeout_ms * NS_PER_MS;
  size_t n = 0;
  while (n + 1 < size) {
    int64_t left_ns = until_ns - clock_now_ns();
    struct pollfd p = {.fd = child->out, .events = POLLIN};
    if (left_ns <= 0 || poll(&p, 1, (int)(left_ns / NS_PER_MS) + 1) == 0) return -ETIMEDOUT;
    ssize_t got = read(child->out, line + n, 1);
    if (got == 0) return -EPIPE;
    if (got < 0) continue;
    if (line[n] == '\n') break;
    n++;
  }
  line[n] = '\0';
  return 0;
}

int child_ended(struct child *child) {
  int status;
  if (child->pid == 0 || waitpid(child->pid, &status, WNOHANG) != child->pid) return 0;
  child->pid = 0;
  return 1;
}

void child_stop(struct child *child, int grace_ms) {
  if (child->pid == 0) return;
  pid_t group = child->pid; /* with whatever it started itself */
  kill(-group, SIGTERM);
  int64_t until_ns = clock_now_ns() + grace_ms * NS_PER_MS;
  while (!child_ended(child)) {
    if (clock_now_ns() >= until_ns) {
      kill(-group, SIGKILL);
      waitpid(child->pid, NULL, 0);
      child->pid = 0;
      break;
    }
    poll(NULL, 0, 10);
  }
  if (child->out >= 0) close(child->out);
  child->out = -1;
}
