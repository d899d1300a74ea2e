#ifndef TESTS_PROVIDER_RIG_H
#define TESTS_PROVIDER_RIG_H

/* The pipeline's side of the seam, as a recorder: one loop, one provider, calls that note what arrives. */

#include "pipeline/request.h"
#include "provider/local.h"
#include "provider/provider.h"
#include "sys/clock.h"
#include "sys/evloop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BODY "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello  you\"}]}"

struct rig {
  struct evloop *loop;
  struct provider_settings settings;
  struct providers *providers;
  struct upstream *upstreams[MAX_PROVIDERS];
};

/* A request with its one attempt, and what became of it. */
struct call {
  struct request request;
  struct rig *rig;
  char events[16384];
  size_t events_size;
  unsigned event_count, ends;
  int64_t first_ns, ended_ns;
  struct upstream_result result;
  char detail[128];
  unsigned cancel_at; /* cancels inside that event, counted from 1; 0: never */
};

static inline struct call *call_of(struct attempt *attempt) {
  return (struct call *)attempt->request;
}

static inline void call_cancel(struct call *call) {
  struct upstream *upstream = call->rig->upstreams[0];
  upstream->ops->cancel(upstream, &call->request.attempt);
}

void attempt_event(struct attempt *attempt, const struct upstream_event *event, int64_t now_ns) {
  struct call *call = call_of(attempt);
  assert_int_equal(call->ends, 0);
  assert_true(call->events_size + event->size < sizeof call->events);
  memcpy(call->events + call->events_size, event->bytes, event->size);
  call->events_size += event->size;
  call->event_count++;
  if (event->tokens && !call->first_ns) call->first_ns = now_ns;
  attempt->tokens += event->tokens;
  if (call->event_count == call->cancel_at) call_cancel(call);
}

void attempt_done(struct attempt *attempt, struct upstream_result *result, int64_t now_ns) {
  struct call *call = call_of(attempt);
  attempt->transport = NULL;
  call->result = *result;
  call->ended_ns = now_ns;
  call->ends++;
  if (result->detail) strncpy(call->detail, result->detail, sizeof call->detail - 1);
  result->body = NULL;
}

static inline struct rig *rig_create(const struct provider_settings *settings) {
  struct rig *rig = calloc(1, sizeof *rig);
  char error[256];
  rig->settings = *settings;
  rig->loop = evloop_create();
  rig->providers = providers_attach(rig->loop, &rig->settings, 1, NULL, rig->upstreams, error, sizeof error);
  if (!rig->providers) fail_msg("%s", error);
  return rig;
}

static inline void rig_destroy(struct rig *rig) {
  providers_detach(rig->providers);
  evloop_destroy(rig->loop);
  free(rig);
}

static inline void call_init(struct call *call, struct rig *rig, const char *body, bool stream) {
  memset(call, 0, sizeof *call);
  call->rig = rig;
  call->request.spec.body = (char *)body;
  call->request.spec.body_size = strlen(body);
  call->request.spec.stream = stream;
  const char *model = strstr(body, "\"auto\"");
  if (model) {
    call->request.spec.model_at = (size_t)(model - body);
    call->request.spec.model_size = 6;
  }
  strcpy(call->request.id_text, "chatcmpl-00000000000000ff");
}

static inline int call_start(struct call *call) {
  struct upstream *upstream = call->rig->upstreams[0];
  call->request.attempt = (struct attempt){.request = &call->request, .started_ns = clock_now_ns()};
  return upstream->ops->start(upstream, &call->request.attempt, evloop_now_ns(call->rig->loop));
}

/* Turns the loop until the call has ended; false when it has not after that time. */
static inline bool call_wait(struct call *call, int timeout_ms) {
  int64_t until_ns = clock_now_ns() + timeout_ms * NS_PER_MS;
  while (!call->ends && clock_now_ns() < until_ns)
    evloop_turn(call->rig->loop, 20 * NS_PER_MS);
  return call->ends == 1;
}

static inline void rig_turn(struct rig *rig, int ms) {
  int64_t until_ns = clock_now_ns() + ms * NS_PER_MS;
  while (clock_now_ns() < until_ns)
    evloop_turn(rig->loop, 5 * NS_PER_MS);
}

static inline void call_free(struct call *call) {
  free(call->result.body);
  call->result.body = NULL;
}

/* One call from start to end. */
static inline void call_run(struct call *call, struct rig *rig, bool stream) {
  call_init(call, rig, BODY, stream);
  assert_int_equal(call_start(call), 0);
  assert_true(call_wait(call, 5000));
}

#endif
