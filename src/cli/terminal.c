/* Ctrl-Z is off meanwhile: it would stop the daemon while make goes on waiting for it, with nobody left to
 * wake it up. */

#include "cli/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Whoever signals make's whole group means the daemon too. */
static void stand_sentinel(pid_t daemon) {
  sigset_t ends;
  int number;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGHUP);
  while (getppid() == daemon && sigwait(&ends, &number) == 0)
    kill(daemon, number);
  _exit(0);
}

void terminal_take(struct terminal *t) {
  *t = (struct terminal){0};
  pid_t daemon = getpid(), group = getpgrp();
  if (!getenv("MAKELEVEL") || !isatty(STDIN_FILENO) || group == daemon) return;
  if (tcgetpgrp(STDIN_FILENO) != group) return;
  t->sentinel = fork();
  if (t->sentinel == 0) stand_sentinel(daemon);
  if (t->sentinel < 0) return;
  signal(SIGTTOU, SIG_IGN);
  signal(SIGTSTP, SIG_IGN);
  t->previous = group;
  if (setpgid(0, 0) != 0 || tcsetpgrp(STDIN_FILENO, daemon) != 0) terminal_return(t);
}

void terminal_return(struct terminal *t) {
  if (t->sentinel > 0) {
    kill(t->sentinel, SIGKILL);
    waitpid(t->sentinel, NULL, 0);
  }
  if (t->previous) {
    tcsetpgrp(STDIN_FILENO, t->previous);
    setpgid(0, t->previous);
  }
  *t = (struct terminal){0};
}
