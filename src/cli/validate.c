#include "cli/cli.h"
#include "cli/run_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The file that was named, with or without --config. NULL: wrong use. */
static const char *named_file(int argc, char **argv) {
  if (argc == 1) return run_options_file(NULL);
  if (argc == 2 && strncmp(argv[1], "--config=", 9) == 0) return argv[1] + 9;
  if (argc == 2 && argv[1][0] != '-') return argv[1];
  return argc == 3 && strcmp(argv[1], "--config") == 0 ? argv[2] : NULL;
}

int cli_validate(int argc, char **argv) {
  const char *file = named_file(argc, argv);
  struct config_source source = {.path = file, .environment = environ};
  struct config *config = NULL;
  char *problems = NULL, error[512];
  if (!file) return cli_misused("validate");
  if (config_load(&source, &config, &problems) != 0) {
    fputs(problems ? problems : "self-improve: out of memory\n", stderr);
    free(problems);
    return CLI_USAGE;
  }
  int status = CLI_OK;
  if (config->server.port && config_check_loops(config, config->server.port, error, sizeof error) != 0) {
    fprintf(stderr, "%s: %s\n", file, error);
    status = CLI_USAGE;
  }
  for (unsigned i = 0; i < config->notice_count; i++)
    printf("note: %s\n", config->notices[i]);
  if (status == CLI_OK)
    printf("%s is in order: %u providers, %u routes\n", file, config->provider_count, config->route_count);
  config_free(config);
  return status;
}
