/* One row of a table a fault: what happens before the first token and after how many tokens what happens
 * then. A request is one `victim`, driven by one timer; each firing is the next act: a token, the silence,
 * the end. */

#include "sim/faults.h"

#include "server/front.h"
#include "sim/chat_request.h"
#include "sim/wording.h"
#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/timer.h"

#include <stdlib.h>
#include <string.h>

enum { ANSWER_TOKENS = 60, PROMPT_TOKENS = 20, TOKEN_GAP_MS = 10, SILENCE_S = 120 };

struct fault {
  const char *name;
  int status;         /* answered instead of a stream; 200: none */
  bool once;          /* then healthy */
  bool silent;        /* no answer at all */
  unsigned cut_after; /* tokens; 0: whole answer */
  int64_t stall_ns;   /* between the last token and the cut */
  const char *retry_after;
};

static const struct fault table[] = {
    {.name = "fault-S01", .status = 429, .once = true, .retry_after = "2"},
    {.name = "fault-S03", .status = 500, .once = true},
    {.name = "fault-S04", .status = 503},
    {.name = "fault-S06", .status = 200, .silent = true},
    {.name = "fault-S08", .status = 200, .cut_after = 40},
    {.name = "fault-S09", .status = 200, .cut_after = 20, .stall_ns = 30 * NS_PER_S},
    {.name = "healthy", .status = 200},
};

enum { FAULTS = sizeof table / sizeof *table };

struct victim {
  struct timer timer; /* first: cast back */
  struct faults *owner;
  const struct fault *fault;
  struct exchange *exchange;
  struct chat_request request;
  struct wording wording;
  uint32_t sent;
  bool begun, stalled;
  struct victim *next, *previous;
};

struct faults {
  struct evloop *loop;
  struct victim live; /* ring head */
  uint64_t counts[FAULTS], number;
};

struct faults *faults_create(struct evloop *loop) {
  struct faults *faults = calloc(1, sizeof *faults);
  if (!faults) return NULL;
  faults->loop = loop;
  faults->live.next = faults->live.previous = &faults->live;
  return faults;
}

static void free_victim(struct victim *victim) {
  timer_disarm(evloop_timers(victim->owner->loop), &victim->timer);
  victim->previous->next = victim->next;
  victim->next->previous = victim->previous;
  chat_request_free(&victim->request);
  free(victim);
}

void faults_destroy(struct faults *faults) {
  if (!faults) return;
  while (faults->live.next != &faults->live)
    free_victim(faults->live.next);
  free(faults);
}

static void victim_gone(struct exchange *exchange, void *owner, int64_t now_ns) {
  (void)exchange;
  (void)now_ns;
  free_victim(owner);
}

static void cut(struct victim *victim) {
  exchange_abort(victim->exchange);
  free_victim(victim);
}

static void wait_for(struct victim *victim, int64_t due_ns) {
  if (timer_arm(evloop_timers(victim->owner->loop), &victim->timer, due_ns) < 0) cut(victim);
}

static void begin(struct victim *victim) {
  victim->begun = true;
  if (!victim->request.stream) return;
  char out[WORDING_EVENT];
  exchange_begin(victim->exchange, 200, "text/event-stream", NULL, 0);
  exchange_write(victim->exchange, out, wording_role(&victim->wording, out));
}

static void write_token(struct victim *victim) {
  char out[WORDING_EVENT];
  if (victim->request.stream)
    exchange_write(victim->exchange, out, wording_token(&victim->wording, victim->sent, out));
  victim->sent++;
}

static void finish(struct victim *victim) {
  const struct wording_usage usage = {.tokens_in = PROMPT_TOKENS, .tokens_out = ANSWER_TOKENS};
  if (victim->request.stream) {
    char out[WORDING_EVENT];
    exchange_write(victim->exchange, out, wording_finish(&victim->wording, "stop", out));
    if (victim->request.include_usage)
      exchange_write(victim->exchange, out, wording_usage_event(&victim->wording, &usage, out));
    exchange_write(victim->exchange, out, wording_done(out));
    exchange_end(victim->exchange);
  } else {
    size_t size;
    char *body = wording_answer(&victim->wording, &usage, "stop", &size);
    if (body)
      exchange_reply_owned(victim->exchange, 200, "application/json", body, size, NULL, 0);
    else
      exchange_abort(victim->exchange);
  }
  free_victim(victim);
}

/* The part of a whole answer that had been sent when it was cut. Streams have sent theirs. */
static void write_part(struct victim *victim) {
  const struct wording_usage usage = {.tokens_in = PROMPT_TOKENS, .tokens_out = ANSWER_TOKENS};
  size_t size;
  char *body = victim->request.stream ? NULL : wording_answer(&victim->wording, &usage, "stop", &size);
  if (!body) return;
  exchange_begin(victim->exchange, 200, "application/json", NULL, 0);
  exchange_write(victim->exchange, body, size / 2);
  free(body);
}

static void act(struct timer *timer, int64_t now_ns) {
  struct victim *victim = (struct victim *)timer;
  const struct fault *fault = victim->fault;
  unsigned tokens = fault->cut_after ? fault->cut_after : ANSWER_TOKENS;
  if (fault->silent) {
    cut(victim);
    return;
  }
  if (!victim->begun) begin(victim);
  if (victim->sent < tokens) {
    write_token(victim);
    wait_for(victim, now_ns + TOKEN_GAP_MS * NS_PER_MS);
  } else if (!fault->cut_after) {
    finish(victim);
  } else if (!victim->stalled) {
    victim->stalled = true;
    write_part(victim);
    wait_for(victim, now_ns + (fault->stall_ns ? fault->stall_ns : TOKEN_GAP_MS * NS_PER_MS));
  } else {
    cut(victim);
  }
}

static void refuse(struct exchange *exchange, int status, const char *retry_after, const char *message) {
  char body[WORDING_EVENT];
  const char *type = status == 429  ? "rate_limit_error"
                     : status < 500 ? "invalid_request_error"
                                    : "server_error";
  const struct front_header header = {"Retry-After", retry_after};
  size_t size = wording_error(type, status == 404 ? "model_not_found" : "simulated", message, body);
  exchange_reply(exchange, status, "application/json", body, size, &header, retry_after ? 1 : 0);
}

static int find_fault(const char *model) {
  for (int i = 0; i < FAULTS; i++)
    if (strcmp(table[i].name, model) == 0) return i;
  return -1;
}

static void start(struct faults *faults, struct exchange *exchange, int index, struct chat_request *request,
                  int64_t now_ns) {
  static const struct fault well = {.name = "healthy", .status = 200};
  const struct fault *fault = &table[index];
  bool passed = fault->once && faults->counts[index] > 1;
  struct victim *victim = calloc(1, sizeof *victim);
  if (!victim) {
    exchange_abort(exchange);
    chat_request_free(request);
    return;
  }
  victim->timer.fire = act;
  victim->owner = faults;
  victim->fault = passed ? &well : fault;
  victim->exchange = exchange;
  victim->request = *request;
  wording_init(&victim->wording, request->model, request->prompt, request->prompt_size, ++faults->number,
               clock_wall_ms() / 1000);
  victim->next = &faults->live;
  victim->previous = faults->live.previous;
  victim->previous->next = victim->next->previous = victim;
  exchange_set_owner(exchange, victim);
  exchange_on_gone(exchange, victim_gone);
  wait_for(victim, now_ns + (victim->fault->silent ? SILENCE_S * NS_PER_S : TOKEN_GAP_MS * NS_PER_MS));
}

void faults_chat(struct faults *faults, struct exchange *exchange, int64_t now_ns) {
  struct chat_request request;
  const char *error;
  if (chat_request_read(exchange, &request, &error) < 0) {
    refuse(exchange, 400, NULL, error);
    return;
  }
  int index = find_fault(request.model);
  if (index < 0) {
    refuse(exchange, 404, NULL, "no such fault: ask GET /faults/v1/models for the list");
    chat_request_free(&request);
    return;
  }
  const struct fault *fault = &table[index];
  faults->counts[index]++;
  if (fault->status != 200 && (!fault->once || faults->counts[index] == 1)) {
    refuse(exchange, fault->status, fault->retry_after, "a simulated fault");
    chat_request_free(&request);
    return;
  }
  start(faults, exchange, index, &request, now_ns);
}

void faults_reset(struct faults *faults) {
  memset(faults->counts, 0, sizeof faults->counts);
}

uint64_t faults_count(const struct faults *faults, unsigned i, const char **name) {
  *name = i < FAULTS ? table[i].name : NULL;
  return i < FAULTS ? faults->counts[i] : 0;
}
