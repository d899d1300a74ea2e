#ifndef TEST_SIM_SCRATCH_H
#define TEST_SIM_SCRATCH_H

/* A scenario from a text, through a file of its own, for one test. */

#include "sim/scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct scenario *scratch_scenario(const char *text, uint64_t seed, char *error, size_t size) {
  char path[] = "/tmp/scenario-XXXXXX";
  int fd = mkstemp(path);
  FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
  if (!file) return NULL;
  fputs(text, file);
  fclose(file);
  struct scenario *s = scenario_load(path, seed, error, size);
  unlink(path);
  return s;
}

#endif
