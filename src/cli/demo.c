#include "cli/demo.h"

#include "sim/scenario.h"
#include "sys/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FLEET_START_MS = 20000, DEMO_SEED = 1 };

static int find_program(char *out, size_t size) {
  ssize_t n = readlink("/proc/self/exe", out, size - 1);
  if (n < 0) return -errno;
  out[n] = '\0';
  return 0;
}

static void provider_toml(FILE *out, const struct demo *demo, const struct scenario_provider *p) {
  fprintf(out, "[[providers]]\nname = \"%s\"\nmodel = \"%s\"\n", p->name, p->model);
  fprintf(out, "usd_per_m_in = %.9g\nusd_per_m_cached = %.9g\nusd_per_m_out = %.9g\n", p->price.in,
          p->price.cached, p->price.out);
  if (p->kind == PROVIDER_HOSTED) {
    fprintf(out, "base_url = \"%s/%s/v1\"\n\n", demo->fleet_url, p->name);
    return;
  }
  fprintf(out, "usd_per_instance_hour = %.9g\ninstances = %u\n", p->usd_per_instance_hour,
          p->start_instances);
  fprintf(out,
          "local = { command = '''\"%s\" fleet --scenario \"%s\" --data \"%s\" --provider \"%s\" --port 0 "
          "--seed %d "
          "--speed %g --epoch %lld --cold-start''', min = %u, max = %u }\n\n",
          demo->program, demo->scenario, demo->data, p->name, DEMO_SEED, demo->speed,
          (long long)demo->epoch_ms, p->min_instances, p->max_instances);
}

/* The layer: the scenario's targets and its providers. */
static char *layer(const struct demo *demo, const struct scenario *s) {
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  if (!out) return NULL;
  fprintf(out, "[objective]\nttft_ms = %.9g\ntpot_ms = %.9g\nusd_weight = %.9g\nquality_weight = 1\n\n",
          s->ttft_ms, s->tpot_ms, s->lambda_per_usd);
  for (unsigned i = 0; i < s->provider_count; i++)
    provider_toml(out, demo, &s->providers[i]);
  if (fclose(out) != 0) {
    free(text);
    return NULL;
  }
  return text;
}

/* One process serves all hosted providers; each instance of a local one is a process of the local pool. */
static int start_hosted(struct demo *demo, const struct scenario *s, char *error, size_t error_size) {
  char speed[32], seed[16], epoch[32], line[256];
  char *argv[2 * SCENARIO_MODELS + 20];
  int n = 0;
  snprintf(speed, sizeof speed, "%g", demo->speed);
  snprintf(seed, sizeof seed, "%d", DEMO_SEED);
  snprintf(epoch, sizeof epoch, "%lld", (long long)demo->epoch_ms);
  char *const fixed[] = {demo->program, "fleet",
                         "--scenario",  (char *)demo->scenario,
                         "--data",      (char *)demo->data,
                         "--port",      "0",
                         "--seed",      seed,
                         "--epoch",     epoch,
                         "--speed",     speed};
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
    argv[n++] = fixed[i];
  for (unsigned i = 0; i < s->provider_count; i++) {
    if (s->providers[i].kind != PROVIDER_HOSTED) continue;
    argv[n++] = "--provider";
    argv[n++] = (char *)s->providers[i].name;
  }
  if (argv[n - 1] == speed) return 0; /* none is hosted */
  argv[n] = NULL;
  int status = child_start(&demo->fleet, argv, 1);
  if (status == 0) status = child_first_line(&demo->fleet, line, sizeof line, FLEET_START_MS);
  if (status == 0 && sscanf(line, "listening on %127s", demo->fleet_url) != 1) status = -EPROTO;
  if (status == 0) return 0;
  snprintf(error, error_size,
           "the simulated fleet did not start (%s); its own message is above. Set OPENAI_API_KEY or "
           "configure [[providers]] to serve real ones instead",
           strerror(-status));
  return status;
}

char *demo_start_fleet(struct demo *demo, const char *scenario, const char *data, double speed, char *error,
                       size_t error_size) {
  *demo = (struct demo){.fleet.out = -1,
                        .client.out = -1,
                        .scenario = scenario,
                        .data = data,
                        .speed = speed,
                        .epoch_ms = clock_wall_ms()};
  if (find_program(demo->program, sizeof demo->program) != 0) {
    snprintf(error, error_size, "the demo cannot find its own program: is /proc mounted?");
    return NULL;
  }
  struct scenario *s = scenario_load(scenario, DEMO_SEED, error, error_size);
  if (!s) return NULL;
  char *text = start_hosted(demo, s, error, error_size) == 0 ? layer(demo, s) : NULL;
  if (!text) demo_stop_fleet(demo);
  scenario_destroy(s);
  return text;
}

int demo_start_client(struct demo *demo, const char *url) {
  char speed[32], epoch[32], seed[16];
  snprintf(speed, sizeof speed, "%g", demo->speed);
  snprintf(epoch, sizeof epoch, "%lld", (long long)demo->epoch_ms);
  snprintf(seed, sizeof seed, "%d", DEMO_SEED);
  char *argv[] = {demo->program,
                  "load",
                  "--demo",
                  "--url",
                  (char *)url,
                  "--scenario",
                  (char *)demo->scenario,
                  "--data",
                  (char *)demo->data,
                  "--speed",
                  speed,
                  "--epoch",
                  epoch,
                  "--seed",
                  seed,
                  NULL};
  return child_start(&demo->client, argv, 0);
}

void demo_stop_client(struct demo *demo) {
  child_stop(&demo->client, 2000);
}
void demo_stop_fleet(struct demo *demo) {
  child_stop(&demo->fleet, 2000);
}
