#ifndef CLI_CLI_H
#define CLI_CLI_H

/* The subcommands. Each gets "self-improve" and its own name as argv[0], prints for people, and returns the
 * exit status: 0 done, 1 it could not be done, 2 wrong use or wrong configuration. */

#define CLI_VERSION "0.1.0"

enum { CLI_OK, CLI_FAILED, CLI_USAGE };

int cli_main(int argc, char **argv); /* dispatches */

int cli_run(int argc, char **argv);
int cli_validate(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_why(int argc, char **argv);
int cli_history(int argc, char **argv);
int cli_diff(int argc, char **argv);
int cli_rollback(int argc, char **argv);
int cli_experiments(int argc, char **argv);
int cli_fleet(int argc, char **argv);
int cli_load(int argc, char **argv);
int cli_docs(int argc, char **argv);

/* The help of one subcommand on standard output, or on standard error after a mistake. */
void cli_help(const char *name);
int cli_misused(const char *name); /* tells where help is; returns CLI_USAGE */

#endif
