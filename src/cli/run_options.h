#ifndef CLI_RUN_OPTIONS_H
#define CLI_RUN_OPTIONS_H

/* The options of `run` and the configuration that comes of them. */

#include "config.h"

#include <stdbool.h>

struct run_options {
  const char *file;     /* NULL: data/self-improve.toml when it is there */
  const char *data_dir; /* NULL: as configured */
  const char *log_level, *log_format;
  long port; /* -1: as configured */
  bool observe, no_demo;
};

/* Parses; on a mistake it is told and false returned. */
bool run_options_parse(struct run_options *options, int argc, char **argv);

/* Loads file, further layer (may be NULL) and environment, then the options over all of them. NULL: every
 * problem has been told on standard error. */
struct config *run_options_load(const struct run_options *options, const char *layer);

/* The file that --config or its absence means; NULL: there is none. */
const char *run_options_file(const char *given);

#endif
