#include "provider/process.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Between fork and exec: only calls that are safe in a signal handler. */
static void become(const char *line, pid_t parent, int out) {
  sigset_t none;
  sigemptyset(&none);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing >= 0) dup2(nothing, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, NULL);
  execl("/bin/sh", "sh", "-c", line, (char *)NULL);
  _exit(127);
}

pid_t process_start(const char *command, int *out) {
  char line[2048];
  int ends[2];
  if (snprintf(line, sizeof line, "exec %s", command) >= (int)sizeof line) return -E2BIG;
  if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) become(line, parent, ends[1]);
  int error = errno;
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return -error;
  }
  setpgid(pid, pid); /* whichever of us comes first */
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  *out = ends[0];
  return pid;
}

void process_signal(pid_t pid, int signal) {
  kill(-pid, signal);
}

bool process_ended(pid_t pid, char *how, size_t how_size) {
  int status;
  pid_t ended = waitpid(pid, &status, WNOHANG);
  if (ended == 0 || (ended < 0 && errno == EINTR)) return false;
  if (ended == pid && WIFSIGNALED(status))
    snprintf(how, how_size, "signal %d", WTERMSIG(status));
  else
    snprintf(how, how_size, "exit status %d", ended == pid ? WEXITSTATUS(status) : -1);
  return true;
}

bool process_find_address(const char *text, size_t size, char *address, size_t address_size) {
  static const char words[] = "listening on ";
  const char *end = text + size;
  for (const char *line = text; line < end;) {
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    if (!stop) return false;
    size_t length = (size_t)(stop - line), skip = sizeof words - 1;
    if (length > skip + 7 && memcmp(line, words, skip) == 0 && memcmp(line + skip, "http://", 7) == 0) {
      size_t n = length - skip;
      while (n > 0 && (line[skip + n - 1] == '\r' || line[skip + n - 1] == ' ' || line[skip + n - 1] == '/'))
        n--;
      if (n >= address_size) return false;
      memcpy(address, line + skip, n);
      address[n] = '\0';
      return true;
    }
    line = stop + 1;
  }
  return false;
}

static size_t ignore(char *bytes, size_t one, size_t size, void *ctx) {
  (void)bytes;
  (void)one;
  (void)ctx;
  return size;
}

bool process_healthy(const char *address, int timeout_ms) {
  char url[256];
  long status = 0;
  CURL *easy = curl_easy_init();
  if (!easy || snprintf(url, sizeof url, "%s/health", address) >= (int)sizeof url) {
    curl_easy_cleanup(easy);
    return false;
  }
  curl_easy_setopt(easy, CURLOPT_URL, url);
  curl_easy_setopt(easy, CURLOPT_PROXY, "");
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore);
  if (curl_easy_perform(easy) == CURLE_OK) curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_cleanup(easy);
  return status == 200;
}
