#ifndef STEADY_H
#define STEADY_H

/* A simulated world at five requests a second without events, for tests of what the loop does in it. */

#include "loop/internal.h"
#include "sim/dataset.h"
#include "sim/scenario.h"
#include "sim/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MINUTE_NS (60 * NS_PER_S)

static struct scenario *scenario;
static struct dataset *data;

static int open_data(void **state) {
  char error[512];
  (void)state;
  scenario = scenario_load("data/scenarios/week.toml", 7, error, sizeof error);
  if (!scenario) return -1;
  scenario->length_ns = 80 * MINUTE_NS;
  scenario->mean_rps = 5;
  scenario->event_count = 0;
  snprintf(scenario->daily_shape, sizeof scenario->daily_shape, "flat");
  data = dataset_load(scenario, "data", 0, error, sizeof error);
  return data ? 0 : -1;
}

static int close_data(void **state) {
  (void)state;
  dataset_destroy(data);
  scenario_destroy(scenario);
  return 0;
}

static struct world *make(bool observe) {
  struct world_options o = {.scenario = scenario,
                            .data = data,
                            .seed = 7,
                            .arm = WORLD_TUNED,
                            .freeze_at_ns = NS_NEVER,
                            .observe = observe,
                            .event_ns = NS_NEVER,
                            .event_until_ns = NS_NEVER};
  struct world *w = world_create(&o);
  assert_non_null(w);
  return w;
}

#endif
