/* /proc/net/tcp names the listening socket's inode; one of some process's descriptors is a link to it. */

#include "cli/port_owner.h"

#include <ctype.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LISTENING = 0x0a };

static unsigned long listening_inode(const char *table, uint16_t port) {
  FILE *file = fopen(table, "re");
  char line[512];
  unsigned long inode = 0, found = 0;
  while (file && !found && fgets(line, sizeof line, file)) {
    unsigned at, state;
    if (sscanf(line, "%*d: %*[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*u %*u %lu", &at, &state, &inode) == 3 &&
        at == port && state == LISTENING)
      found = inode;
  }
  if (file) fclose(file);
  return found;
}

static bool holds(const char *pid, const char *wanted) {
  char path[512], link[64];
  snprintf(path, sizeof path, "/proc/%s/fd", pid);
  DIR *directory = opendir(path);
  bool found = false;
  for (struct dirent *e; directory && !found && (e = readdir(directory));) {
    snprintf(path, sizeof path, "/proc/%s/fd/%.20s", pid, e->d_name);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n <= 0) continue;
    link[n] = '\0';
    found = strcmp(link, wanted) == 0;
  }
  if (directory) closedir(directory);
  return found;
}

static void describe(const char *pid, char *out, size_t size) {
  char path[64], name[32] = "a program";
  snprintf(path, sizeof path, "/proc/%.20s/comm", pid);
  FILE *file = fopen(path, "re");
  if (file && fgets(name, sizeof name, file)) name[strcspn(name, "\n")] = '\0';
  if (file) fclose(file);
  snprintf(out, size, "%s (process %s)", name, pid);
}

void port_owner(uint16_t port, char *out, size_t size) {
  char wanted[64];
  unsigned long inode = listening_inode("/proc/net/tcp", port);
  if (!inode) inode = listening_inode("/proc/net/tcp6", port);
  snprintf(out, size, "another program");
  snprintf(wanted, sizeof wanted, "socket:[%lu]", inode);
  DIR *directory = inode ? opendir("/proc") : NULL;
  for (struct dirent *e; directory && (e = readdir(directory));)
    if (isdigit((unsigned char)e->d_name[0]) && holds(e->d_name, wanted)) {
      describe(e->d_name, out, size);
      break;
    }
  if (directory) closedir(directory);
}
