#include "cli/run_options.h"

#include "cli/cli.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char default_file[] = "data/self-improve.toml";

enum {
  OPTION_CONFIG = 256,
  OPTION_PORT,
  OPTION_DATA_DIR,
  OPTION_OBSERVE,
  OPTION_LEVEL,
  OPTION_FORMAT,
  OPTION_NO_DEMO
};

static const struct option long_options[] = {{"config", required_argument, NULL, OPTION_CONFIG},
                                             {"port", required_argument, NULL, OPTION_PORT},
                                             {"data-dir", required_argument, NULL, OPTION_DATA_DIR},
                                             {"observe", no_argument, NULL, OPTION_OBSERVE},
                                             {"log-level", required_argument, NULL, OPTION_LEVEL},
                                             {"log-format", required_argument, NULL, OPTION_FORMAT},
                                             {"no-demo", no_argument, NULL, OPTION_NO_DEMO},
                                             {0}};

static bool parse_port(const char *text, long *port) {
  char *end;
  *port = strtol(text, &end, 10);
  if (end != text && !*end && *port >= 0 && *port <= 65535) return true;
  fprintf(stderr, "self-improve run: --port %s is no port; allowed: 0 (any free one) to 65535\n", text);
  return false;
}

static bool take(struct run_options *o, int option) {
  switch (option) {
  case OPTION_CONFIG:
    o->file = optarg;
    return true;
  case OPTION_PORT:
    return parse_port(optarg, &o->port);
  case OPTION_DATA_DIR:
    o->data_dir = optarg;
    return true;
  case OPTION_OBSERVE:
    o->observe = true;
    return true;
  case OPTION_LEVEL:
    o->log_level = optarg;
    return true;
  case OPTION_FORMAT:
    o->log_format = optarg;
    return true;
  case OPTION_NO_DEMO:
    o->no_demo = true;
    return true;
  default:
    return false;
  }
}

bool run_options_parse(struct run_options *options, int argc, char **argv) {
  *options = (struct run_options){.port = -1};
  optind = 1;
  for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;)
    if (!take(options, option)) return false;
  if (optind == argc) return true;
  fprintf(stderr, "self-improve run: %s is no option\n", argv[optind]);
  return false;
}

const char *run_options_file(const char *given) {
  if (given) return given;
  return access(default_file, F_OK) == 0 ? default_file : NULL;
}

static bool override(const struct run_options *o, struct config *c) {
  if (o->port >= 0) c->server.port = (uint16_t)o->port;
  if (o->data_dir) snprintf(c->store_path, sizeof c->store_path, "%s/self-improve.db", o->data_dir);
  if (o->observe) c->observe = true;
  if (o->log_level && log_parse_level(o->log_level, &c->log_level) != 0) {
    fprintf(stderr, "self-improve run: --log-level %s is no level; allowed: error, warn, info, debug\n",
            o->log_level);
    return false;
  }
  if (o->log_format && strcmp(o->log_format, "json") != 0 && strcmp(o->log_format, "text") != 0) {
    fprintf(stderr, "self-improve run: --log-format %s is no format; allowed: text, json\n", o->log_format);
    return false;
  }
  if (o->log_format) c->log_json = strcmp(o->log_format, "json") == 0;
  return true;
}

struct config *run_options_load(const struct run_options *options, const char *layer) {
  struct config_source source = {.path = run_options_file(options->file),
                                 .text = layer,
                                 .text_name = layer ? "the demo's fleet" : NULL,
                                 .environment = environ};
  struct config *config = NULL;
  char *problems = NULL;
  if (config_load(&source, &config, &problems) != 0) {
    fputs(problems ? problems : "self-improve: out of memory\n", stderr);
    free(problems);
    return NULL;
  }
  if (override(options, config)) return config;
  config_free(config);
  return NULL;
}
