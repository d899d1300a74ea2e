/* One table of subcommands drives dispatch and help. */

#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

struct subcommand {
  const char *name, *summary;
  int (*run)(int argc, char **argv);
  const char *help; /* NULL: not listed */
};

static const char connect_help[] =
    "  --url URL         the daemon's address (default: as the configuration says)\n"
    "  --config FILE     read address and database from this file\n"
    "                    (default data/self-improve.toml)\n"
    "  --data-dir DIR    where the daemon keeps its database\n"
    "  --json            print the answer as it comes\n"
    "API_KEY in the environment is sent as the client key.\n";

static const char offline_help[] =
    "When no daemon answers, the database file is read instead, but with --url only\n"
    "if --data-dir or --config says which one.\n";

static const struct subcommand subcommands[] = {
    {"run", "start the daemon", cli_run,
     "usage: self-improve run [options]\n\n"
     "Starts the gateway. With no provider configured and no API key in the\n"
     "environment it starts a simulated fleet and sends it recorded traffic, so that\n"
     "there is something to see.\n\n"
     "  --config FILE     TOML file (default data/self-improve.toml, if it is there)\n"
     "  --port N          listen on this port; 0: any free one\n"
     "  --data-dir DIR    keep the database in this directory\n"
     "  --observe         decide and record everything, apply nothing\n"
     "  --log-level L     error, warn, info or debug\n"
     "  --log-format F    text or json\n"
     "  --no-demo         without providers, refuse to start: no demo\n\n"
     "Ctrl-C or SIGTERM drains and ends; a second one ends at once.\n"
     "docs/configuration.md lists the keys of the file and the environment variables.\n"},
    {"status", "what the daemon sees and does now", cli_status,
     "usage: self-improve status [options]\n\n"
     "Requests, utility and providers as the daemon sees them now, and what is under\nway.\n\n"},
    {"why", "why a tunable, route or experiment is as it is", cli_why,
     "usage: self-improve why NAME [options]\n\n"
     "NAME is a tunable (retry_attempts, concurrency_limit.openai) or another subject\n"
     "of the ledger (route:auto).\n\n"
     "  --limit N         how many entries (default 20)\n"},
    {"history", "snapshots of the configuration, or with --changes the ledger", cli_history,
     "usage: self-improve history [--changes] [options]\n\n"
     "  --changes         every change with its reason and outcome, not the snapshots\n"
     "  --limit N         how many entries (default 20)\n"},
    {"diff", "what differs between two snapshots", cli_diff,
     "usage: self-improve diff A B [options]\n\n"
     "A and B are snapshot ids, their first six or more characters, head or best.\n\n"},
    {"rollback", "go back to a snapshot", cli_rollback,
     "usage: self-improve rollback ID [--reason TEXT] [options]\n\n"
     "ID is as for diff; self-improve history lists them. Needs a running daemon.\n\n"
     "  --reason TEXT     what the ledger is to say\n"},
    {"experiments", "experiments and their verdicts", cli_experiments,
     "usage: self-improve experiments [options]\n\n"
     "  --limit N         how many (default 20)\n"},
    {"validate", "check a configuration file", cli_validate,
     "usage: self-improve validate [--config FILE | FILE]\n\n"
     "Prints every error with file, line, key and what is allowed; exits 0 or 2.\n"},
    {"fleet", "serve simulated providers over HTTP", cli_fleet, ""},
    {"load", "send recorded traffic to a gateway and measure", cli_load, ""},
    {"docs", "print the tables of the documentation", cli_docs, NULL},
};

enum { SUBCOMMANDS = sizeof subcommands / sizeof *subcommands };

static const struct subcommand *find(const char *name) {
  for (int i = 0; i < SUBCOMMANDS; i++)
    if (strcmp(subcommands[i].name, name) == 0) return &subcommands[i];
  return NULL;
}

static int overview(FILE *out, int status) {
  fprintf(out, "self-improve " CLI_VERSION ": a gateway to language models that tunes itself\n\n"
               "usage: self-improve COMMAND [options]\n\n");
  for (int i = 0; i < SUBCOMMANDS; i++)
    if (subcommands[i].help) fprintf(out, "  %-12s %s\n", subcommands[i].name, subcommands[i].summary);
  fprintf(out, "\nself-improve COMMAND --help says more of each. Exit status: 0 done, 1 could not\n"
               "be done, 2 wrong use or wrong configuration.\n");
  return status;
}

void cli_help(const char *name) {
  const struct subcommand *s = find(name);
  if (!s || !s->help) return;
  fputs(s->help, stdout);
  if (s->run == cli_run || s->run == cli_validate) return;
  fputs(connect_help, stdout);
  if (s->run != cli_rollback) fputs(offline_help, stdout);
}

int cli_misused(const char *name) {
  fprintf(stderr, "self-improve %s: see self-improve %s --help\n", name, name);
  return CLI_USAGE;
}

int cli_main(int argc, char **argv) {
  static char title[48];
  char *of_one[] = {argv[0], argc > 2 ? argv[2] : NULL, "--help", NULL};
  if (argc > 2 && strcmp(argv[1], "help") == 0) { /* help NAME is NAME --help */
    argc = 3;
    argv = of_one;
  }
  const char *name = argc > 1 ? argv[1] : "--help";
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
    return overview(stdout, CLI_OK);
  if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
    puts("self-improve " CLI_VERSION);
    return CLI_OK;
  }
  const struct subcommand *s = find(name);
  if (!s) {
    fprintf(stderr, "self-improve: there is no command %s; self-improve --help lists them\n", name);
    return CLI_USAGE;
  }
  if (s->help && *s->help && argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0)) {
    cli_help(name);
    return CLI_OK;
  }
  snprintf(title, sizeof title, "self-improve %s", name);
  argv[1] = title; /* what getopt puts before its messages */
  return s->run(argc - 1, argv + 1);
}
