#include "sim/measure.h"

#include "sys/clock.h"

#include <math.h>
#include <stdlib.h>

#define MINUTE_NS (60 * NS_PER_S)
enum { RECOVERY_WINDOW = 5, RECOVERY_STAY = 15, HARM_WINDOW = 10 };

struct measure {
  struct objective objective;
  struct measure_sums run, event;
  struct measure_minute *minutes;
  size_t minute_count;
  double instance_usd; /* booked until now */
};

static void init_sums(struct measure_sums *s, int64_t from_ns, int64_t until_ns) {
  s->from_ns = from_ns;
  s->until_ns = until_ns;
  sketch_init(&s->ttft_ms);
  sketch_init(&s->tpot_ms);
  sketch_init(&s->total_ms);
}

struct measure *measure_create(const struct objective *objective, int64_t length_ns, int64_t event_ns,
                               int64_t until_ns) {
  struct measure *m = calloc(1, sizeof *m);
  if (!m) return NULL;
  m->objective = *objective;
  m->minute_count = (size_t)((length_ns + MINUTE_NS - 1) / MINUTE_NS);
  m->minutes = calloc(m->minute_count ? m->minute_count : 1, sizeof *m->minutes);
  if (!m->minutes) {
    free(m);
    return NULL;
  }
  init_sums(&m->run, 0, length_ns);
  init_sums(&m->event, event_ns, until_ns < length_ns ? until_ns : length_ns);
  return m;
}

void measure_destroy(struct measure *m) {
  if (!m) return;
  free(m->minutes);
  free(m);
}

static struct measure_minute *minute_of(struct measure *m, int64_t at_ns) {
  size_t i = at_ns < 0 ? 0 : (size_t)(at_ns / MINUTE_NS);
  return i < m->minute_count ? &m->minutes[i] : NULL;
}

static bool within(const struct measure_sums *s, int64_t at_ns) {
  return at_ns >= s->from_ns && at_ns < s->until_ns;
}

static void add_time(struct sketch *sketch, double ms) {
  if (!isnan(ms)) sketch_add(sketch, ms);
}

static void add(struct measure_sums *s, const struct intent_result *r, bool in_target) {
  if (!within(s, r->at_ns)) return;
  s->intents++;
  s->complete += r->complete;
  s->in_target += in_target;
  s->shed += r->shed;
  s->timed_out += r->timed_out;
  s->came_back += r->submissions > 1;
  if (!r->complete) return;
  s->quality += r->quality;
  if (in_target) s->useful += r->quality;
  add_time(&s->ttft_ms, r->ttft_ms);
  add_time(&s->tpot_ms, r->tpot_ms);
  add_time(&s->total_ms, r->total_ms);
}

void measure_intent(struct measure *m, const struct intent_result *r) {
  bool in_target = r->complete && objective_in_target(&m->objective, r->stream, r->ttft_ms, r->tpot_ms,
                                                      r->total_ms, r->tokens_out);
  add(&m->run, r, in_target);
  add(&m->event, r, in_target);
  struct measure_minute *minute = minute_of(m, r->at_ns);
  if (!minute) return;
  minute->intents++;
  minute->in_target += in_target;
  if (in_target) minute->useful += r->quality;
}

void measure_call(struct measure *m, int64_t at_ns, double usd) {
  struct measure_minute *minute = minute_of(m, at_ns);
  if (minute) minute->usd += usd;
  for (int i = 0; i < 2; i++) {
    struct measure_sums *s = i ? &m->event : &m->run;
    if (!within(s, at_ns)) continue;
    s->usd += usd;
    s->calls++;
  }
}

void measure_instances(struct measure *m, int64_t at_ns, double usd_until_now) {
  double usd = usd_until_now - m->instance_usd;
  struct measure_minute *minute = minute_of(m, at_ns - 1);
  m->instance_usd = usd_until_now;
  if (minute) minute->instance_usd += usd;
  if (within(&m->run, at_ns - 1)) m->run.instance_usd += usd;
  if (within(&m->event, at_ns - 1)) m->event.instance_usd += usd;
}

const struct measure_sums *measure_run(const struct measure *m) {
  return &m->run;
}

const struct measure_sums *measure_event(const struct measure *m) {
  return &m->event;
}

const struct measure_minute *measure_minutes(const struct measure *m, size_t *count) {
  *count = m->minute_count;
  return m->minutes;
}

static double over(double sum, uint64_t n) {
  return n ? sum / (double)n : NAN;
}

double measure_utility(const struct measure *m, const struct measure_sums *s) {
  double usd = s->usd + s->instance_usd;
  return over(m->objective.quality_weight * s->useful - m->objective.usd_weight * usd, s->intents);
}

double measure_goodput(const struct measure_sums *s) {
  return (double)s->in_target / ((double)(s->until_ns - s->from_ns) / 1e9);
}

double measure_share(const struct measure_sums *s) {
  return over((double)s->in_target, s->intents);
}

double measure_quality(const struct measure_sums *s) {
  return over(s->quality, s->intents);
}

/* NAN: nobody asked anything. */
static double share_over(const struct measure_minute *minutes, size_t count) {
  uint64_t intents = 0, in_target = 0;
  for (size_t i = 0; i < count; i++) {
    intents += minutes[i].intents;
    in_target += minutes[i].in_target;
  }
  return over((double)in_target, intents);
}

static bool stays(const struct measure_minute *minutes, double share) {
  for (size_t i = 0; i + RECOVERY_WINDOW <= RECOVERY_STAY; i++)
    if (share_over(minutes + i, RECOVERY_WINDOW) < share) return false;
  return true;
}

double minutes_recovery_s(const struct measure_minute *minutes, size_t count, int64_t event_ns,
                          double steady_share, bool *censored) {
  *censored = false;
  for (size_t i = (size_t)(event_ns / MINUTE_NS); i + RECOVERY_STAY <= count; i++)
    if (stays(minutes + i, 0.95 * steady_share))
      return fmax(0, (double)((int64_t)i * MINUTE_NS - event_ns) / 1e9);
  *censored = true;
  return (double)((int64_t)count * MINUTE_NS - event_ns) / 1e9;
}

static double window_utility(const struct measure_minute *minutes, size_t count, const struct objective *o,
                             uint64_t *intents) {
  double sum = 0;
  *intents = 0;
  for (size_t i = 0; i < count; i++) {
    const struct measure_minute *x = &minutes[i];
    sum += o->quality_weight * x->useful - o->usd_weight * (x->usd + x->instance_usd);
    *intents += x->intents;
  }
  return sum;
}

double minutes_harm(const struct measure_minute *minutes, const struct measure_minute *twin, size_t count,
                    const struct objective *o) {
  uint64_t all = 0, harmed = 0, intents, twins;
  for (size_t i = 0; i < count; i += HARM_WINDOW) {
    size_t n = count - i < HARM_WINDOW ? count - i : HARM_WINDOW;
    double own = window_utility(minutes + i, n, o, &intents), other = window_utility(twin + i, n, o, &twins);
    all += intents;
    if (intents && own < other - 0.05 * fabs(other)) harmed += intents;
  }
  return over((double)harmed, all);
}
