/* `self-improve fleet`: options, one event loop, the fleet on it, until a signal. */

#include "sim/fleet.h"
#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct evloop *running; /* for the signal handler: the one thing that it can be told */

static void stop(int sign) {
  (void)sign;
  evloop_stop(running);
}

static void help(FILE *out) {
  fputs("usage: self-improve fleet [options]\n\n"
        "Serves the simulated providers of a scenario over HTTP, in OpenAI's form, at\n"
        "http://HOST:PORT/NAME/v1. The first line says where. Model names fault-S01,\n"
        "-S03, -S04, -S06, -S08 and -S09 at provider \"faults\" fail on purpose; POST\n"
        "/_plant/event starts an event.\n\n"
        "  --scenario FILE   the world (default data/scenarios/demo.toml)\n"
        "  --data DIR        recorded traces and prompts (default data)\n"
        "  --provider NAME   serve this one; may be given again (default: all)\n"
        "  --host H          numeric address to listen on (default 127.0.0.1)\n"
        "  --port N          0: any free one (default)\n"
        "  --seed N          of everything random (default 1)\n"
        "  --speed X         the scenario's events come X times as fast (default 1)\n"
        "  --epoch MS        Unix time in ms at which the scenario began (default now)\n"
        "  --instances N     of every server (default: as the scenario starts, 1 with\n"
        "                    --cold-start)\n"
        "  --cold-start      answer 503 until the provider's start-up time has passed\n",
        out);
}

static const struct option options[] = {
    {"scenario", required_argument, NULL, 'f'},
    {"data", required_argument, NULL, 'd'},
    {"provider", required_argument, NULL, 'p'},
    {"host", required_argument, NULL, 'H'},
    {"port", required_argument, NULL, 'P'},
    {"seed", required_argument, NULL, 's'},
    {"speed", required_argument, NULL, 'x'},
    {"epoch", required_argument, NULL, 'e'},
    {"instances", required_argument, NULL, 'i'},
    {"cold-start", no_argument, NULL, 'c'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* A number within bounds; false, told, when it is not one. */
static bool number(const char *name, const char *text, double min, double max, double *out) {
  char *end;
  errno = 0;
  double value = strtod(text, &end);
  if (end == text || *end || errno || !(value >= min && value <= max)) {
    fprintf(stderr, "self-improve fleet: --%s %s: give a number from %g to %g\n", name, text, min, max);
    return false;
  }
  *out = value;
  return true;
}

static bool add_provider(struct fleet_settings *settings, const char *name) {
  if (settings->provider_count == FLEET_PROVIDERS) {
    fprintf(stderr, "self-improve fleet: at most %d providers\n", FLEET_PROVIDERS);
    return false;
  }
  settings->providers[settings->provider_count++] = name;
  return true;
}

static bool take_option(int option, struct fleet_settings *settings) {
  double value = 0;
  switch (option) {
  case 'f':
    settings->scenario = optarg;
    return true;
  case 'd':
    settings->data = optarg;
    return true;
  case 'H':
    settings->host = optarg;
    return true;
  case 'p':
    return add_provider(settings, optarg);
  case 'c':
    settings->cold_start = true;
    return true;
  case 'P':
    if (!number("port", optarg, 0, 65535, &value)) return false;
    settings->port = (uint16_t)value;
    return true;
  case 's':
    if (!number("seed", optarg, 0, 9e15, &value)) return false;
    settings->seed = (uint64_t)value;
    return true;
  case 'x':
    return number("speed", optarg, 0.001, 100000, &settings->speed);
  case 'e':
    if (!number("epoch", optarg, 0, 9e15, &value)) return false;
    settings->epoch_ms = (int64_t)value;
    return true;
  case 'i':
    if (!number("instances", optarg, 1, 64, &value)) return false;
    settings->instances = (unsigned)value;
    return true;
  default:
    return false;
  }
}

static int serve(const struct fleet_settings *settings) {
  char error[512] = "";
  struct evloop *loop = evloop_create();
  struct fleet *fleet = loop ? fleet_create(loop, settings, error, sizeof error) : NULL;
  if (!fleet) {
    fprintf(stderr, "self-improve fleet: %s\n", loop ? error : "no memory or no descriptors");
    evloop_destroy(loop);
    return CLI_USAGE;
  }
  running = loop;
  signal(SIGINT, stop);
  signal(SIGTERM, stop);
  signal(SIGPIPE, SIG_IGN);
  printf("listening on http://%s:%u\n", settings->host ? settings->host : "127.0.0.1", fleet_port(fleet));
  fflush(stdout);
  evloop_run(loop);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  fleet_destroy(fleet);
  evloop_destroy(loop);
  return CLI_OK;
}

int cli_fleet(int argc, char **argv) {
  struct fleet_settings settings = {.scenario = "data/scenarios/demo.toml", .seed = 1, .speed = 1};
  optind = 1;
  for (int option; (option = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
    if (option == 'h') {
      help(stdout);
      return CLI_OK;
    }
    if (!take_option(option, &settings)) return cli_misused("fleet");
  }
  if (optind < argc) {
    fprintf(stderr, "self-improve fleet: %s is no option\n", argv[optind]);
    return cli_misused("fleet");
  }
  if (settings.cold_start && !settings.instances) settings.instances = 1;
  return serve(&settings);
}
