#ifndef TESTS_UNIT_SERVER_RIG_H
#define TESTS_UNIT_SERVER_RIG_H

/* Two real shards with a scripted provider and a scripted ticker, over real HTTP. Header only; every test
 * binary includes it once. What a prompt contains decides what the provider does: "slow" never answers,
 * "reject" is a 400, "fail" a 500, "cut" a stream that stops; the rest is answered after a millisecond. */

#include "bus/telemetry.h"
#include "loop.h"
#include "pipeline/plane.h"
#include "pipeline/request.h"
#include "server/clerk.h"
#include "server/server.h"
#include "shard.h"
#include "store/store.h"
#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/mailbox.h"

#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { RIG_SHARDS = 2, RIG_ANSWER = 65536 };

struct fake {
  struct upstream upstream;
  struct rig *rig;
  struct evloop *loop;
};

struct rig {
  struct server_settings settings;
  struct plane *plane;
  struct store *store;
  struct store_sink sink;
  struct clerk *clerk;
  struct mailbox *commands;
  struct shards *shards;
  pthread_t ticker;
  _Atomic bool stop;
  bool stopped;
  struct fake fakes[RIG_SHARDS];
  _Atomic int started, cancelled;
  char directory[64], path[96];
};

struct fake_call {
  struct timer timer;
  struct fake *fake;
  struct attempt *attempt;
  int sent;
};

static bool says(const struct attempt *attempt, const char *word) {
  const struct request_spec *spec = &attempt->request->spec;
  return memmem(spec->body, spec->body_size, word, strlen(word)) != NULL;
}

static void fake_end(struct fake_call *call, enum upstream_error error, int status, const char *body,
                     int64_t now_ns) {
  struct upstream_result result = {.error = error,
                                   .status = status,
                                   .retry_after_ns = -1,
                                   .body = body ? strdup(body) : NULL,
                                   .body_size = body ? strlen(body) : 0,
                                   .usage_known = error == UPSTREAM_OK,
                                   .tokens_in = 7,
                                   .tokens_out = 3,
                                   .cost_usd = NAN,
                                   .requests_left = NAN,
                                   .requests_reset_ns = -1};
  struct attempt *attempt = call->attempt;
  free(call);
  attempt_done(attempt, &result, now_ns);
}

static void fake_play(struct timer *timer, int64_t now_ns) {
  static const char *const events[] = {"data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n",
                                       "data: {\"choices\":[{\"delta\":{\"content\":\"lo\"}}]}\n\n",
                                       "data: [DONE]\n\n"};
  struct fake_call *call = (struct fake_call *)timer;
  struct attempt *attempt = call->attempt;
  bool cut = says(attempt, "cut");
  if (says(attempt, "slow")) return;
  if (says(attempt, "reject")) {
    fake_end(call, UPSTREAM_STATUS, 400,
             "{\"error\":{\"message\":\"no\",\"type\":\"invalid_request_error\"}}", now_ns);
  } else if (says(attempt, "fail")) {
    fake_end(call, UPSTREAM_STATUS, 500, "{}", now_ns);
  } else if (!attempt->request->spec.stream) {
    fake_end(
        call, UPSTREAM_OK, 200,
        "{\"id\":\"x\",\"object\":\"chat.completion\",\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":"
        "{\"role\":\"assistant\",\"content\":\"Hello \\u00e9\"},\"finish_reason\":\"stop\"}]}",
        now_ns);
  } else if (call->sent < (cut ? 1 : 3)) {
    const char *event = events[call->sent++];
    timer_arm(evloop_timers(call->fake->loop), timer, now_ns + NS_PER_MS);
    attempt_event(attempt, &(struct upstream_event){event, strlen(event), call->sent < 3}, now_ns);
  } else {
    fake_end(call, cut ? UPSTREAM_CUT : UPSTREAM_OK, 200, NULL, now_ns);
  }
}

static int fake_start(struct upstream *upstream, struct attempt *attempt, int64_t now_ns) {
  struct fake *fake = (struct fake *)upstream;
  struct fake_call *call = calloc(1, sizeof *call);
  *call = (struct fake_call){.timer.fire = fake_play, .fake = fake, .attempt = attempt};
  attempt->transport = call;
  fake->rig->started++;
  int64_t after_ns = says(attempt, "shared") ? 50 * NS_PER_MS : NS_PER_MS;
  return timer_arm(evloop_timers(fake->loop), &call->timer, now_ns + after_ns);
}

static void fake_cancel(struct upstream *upstream, struct attempt *attempt) {
  struct fake *fake = (struct fake *)upstream;
  struct fake_call *call = attempt->transport;
  timer_disarm(evloop_timers(fake->loop), &call->timer);
  fake->rig->cancelled++;
  free(call);
}

static int rig_attach(void *ctx, unsigned shard, struct evloop *loop,
                      struct upstream *upstreams[MAX_PROVIDERS], char *error, size_t error_size) {
  static const struct upstream_ops ops = {.start = fake_start, .cancel = fake_cancel};
  struct rig *rig = ctx;
  (void)error;
  (void)error_size;
  rig->fakes[shard] = (struct fake){.upstream.ops = &ops, .rig = rig, .loop = loop};
  upstreams[0] = upstreams[1] = &rig->fakes[shard].upstream;
  return 0;
}

static void rig_detach(void *ctx, unsigned shard) {
  (void)ctx;
  (void)shard;
}

/* Says back what it was asked. */
static void rig_answer(struct command *c) {
  c->status = 200;
  if (c->kind == COMMAND_TUNABLE && strcmp(c->name, "rate_limit_rps") != 0) c->status = 404;
  if (c->kind == COMMAND_REWARD && c->provider < 0) c->status = 404;
  if (c->kind == COMMAND_EXPERIMENTS) {
    c->body = strdup("{\"experiments\":[{\"id\":1,\"effect\":0.25,\"words\":\"so far\"}]}");
    return;
  }
  if (asprintf(&c->body,
               "{\"kind\":%d,\"name\":\"%s\",\"reason\":\"%s\",\"changes\":%u,\"value\":%g,\"hold\":%lld,"
               "\"unguarded\":%d,"
               "\"text_bytes\":%zu,\"treatment\":%g}",
               (int)c->kind,
               c->change_count ? c->changes[0].name
               : c->name       ? c->name
                               : "",
               c->reason ? c->reason : "", c->change_count, c->change_count ? c->changes[0].value : c->value,
               (long long)c->hold_until_ms, c->unguarded, c->text ? strlen(c->text) : 0, c->treatment) < 0)
    c->body = NULL;
}

static void *rig_tick(void *ctx) {
  struct rig *rig = ctx;
  while (!rig->stop) {
    void *items[8];
    struct pollfd fd = {.fd = mailbox_fd(rig->commands), .events = POLLIN};
    poll(&fd, 1, 20);
    for (size_t i = 0, n = mailbox_take(rig->commands, items, 8); i < n; i++) {
      struct command *command = items[i];
      rig_answer(command);
      command->done(command);
    }
  }
  return NULL;
}

static void rig_store(struct rig *rig) {
  static const char *const providers[] = {"first", "second"}, *const routes[] = {"auto", "lone"};
  char error[256];
  snprintf(rig->directory, sizeof rig->directory, "/tmp/self-improve-test-XXXXXX");
  assert_non_null(mkdtemp(rig->directory));
  snprintf(rig->path, sizeof rig->path, "%s/x.db", rig->directory);
  struct store_options options = {.path = rig->path,
                                  .provider_names = providers,
                                  .route_names = routes,
                                  .provider_count = 2,
                                  .route_count = 2,
                                  .frame_days = 1,
                                  .request_days = 1,
                                  .dead_letter_rows = 100,
                                  .dead_letter_bytes = 1 << 20};
  rig->store = store_open(&options, error, sizeof error);
  assert_non_null(rig->store);
  rig->sink = store_sink(rig->store);
  rig->clerk = clerk_create(rig->path, error, sizeof error);
  assert_non_null(rig->clerk);
}

static void rig_plane(struct rig *rig) {
  struct provider_spec providers[2] = {{.name = "first", .model = "m-1"}, {.name = "second", .model = "m-2"}};
  struct route_spec routes[2] = {
      {.name = "auto", .candidates = {0, 1}, .candidate_count = 2, .primary_count = 2, .coalesce = true},
      {.name = "lone", .candidates = {0}, .candidate_count = 1, .primary_count = 1}};
  struct plane_config config = {.objective = {1000, 100, 1, 1},
                                .provider_count = 2,
                                .route_count = 2,
                                .providers = providers,
                                .routes = routes};
  rig->plane = plane_create(&config, clock_now_ns());
  assert_non_null(rig->plane);
}

static struct rig *rig_create(const char *key) {
  struct rig *rig = calloc(1, sizeof *rig);
  char error[256];
  bool busy;
  server_settings_init(&rig->settings);
  rig->settings.port = 0;
  rig->settings.shards = RIG_SHARDS;
  rig->settings.drain_s = 1;
  if (key) client_key_hash(key, strlen(key), &rig->settings.keys[rig->settings.key_count++]);
  rig_plane(rig);
  rig_store(rig);
  rig->commands = mailbox_create(64);
  struct shard_settings settings = {.server = &rig->settings,
                                    .plane = rig->plane,
                                    .transport = {rig, rig_attach, rig_detach},
                                    .sink = &rig->sink,
                                    .store = rig->store,
                                    .clerk = rig->clerk,
                                    .commands = rig->commands,
                                    .seed = 1,
                                    .wall_ms = clock_wall_ms()};
  rig->shards = shards_create(&settings, &busy, error, sizeof error);
  assert_non_null(rig->shards);
  assert_int_equal(shards_start(rig->shards), 0);
  assert_int_equal(pthread_create(&rig->ticker, NULL, rig_tick, rig), 0);
  return rig;
}

static int rig_setup(void **state) {
  *state = rig_create(NULL);
  return 0;
}

static void rig_stop(struct rig *rig) {
  if (!rig->stopped) shards_stop(rig->shards);
  rig->stopped = true;
}

static int rig_teardown(void **state) {
  struct rig *rig = *state;
  char command[128];
  rig_stop(rig);
  rig->stop = true;
  pthread_join(rig->ticker, NULL);
  shards_destroy(rig->shards);
  mailbox_destroy(rig->commands);
  clerk_destroy(rig->clerk);
  store_close(rig->store);
  plane_destroy(rig->plane);
  snprintf(command, sizeof command, "rm -rf %s", rig->directory);
  int ignored = system(command);
  (void)ignored;
  free(rig);
  return 0;
}

/* ---- a client ---- */

static int rig_dial(struct rig *rig) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(shards_port(rig->shards))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval wait = {.tv_sec = 5};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

static int rig_send(struct rig *rig, const char *method, const char *path, const char *headers,
                    const char *body) {
  char head[2048];
  int fd = rig_dial(rig);
  int n = snprintf(head, sizeof head,
                   "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n",
                   method, path, headers ? headers : "", body ? strlen(body) : 0);
  assert_int_equal(send(fd, head, (size_t)n, MSG_NOSIGNAL), n);
  if (body) assert_int_equal(send(fd, body, strlen(body), MSG_NOSIGNAL), (ssize_t)strlen(body));
  return fd;
}

/* Reads the answer to its end and closes; returns the status. */
static int rig_hear(int fd, char answer[RIG_ANSWER]) {
  size_t n = 0;
  ssize_t got;
  while (n + 1 < RIG_ANSWER && (got = recv(fd, answer + n, RIG_ANSWER - 1 - n, 0)) > 0)
    n += (size_t)got;
  answer[n] = '\0';
  close(fd);
  int status = 0;
  return sscanf(answer, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

static int rig_ask(struct rig *rig, const char *method, const char *path, const char *headers,
                   const char *body, char answer[RIG_ANSWER]) {
  return rig_hear(rig_send(rig, method, path, headers, body), answer);
}

static inline bool rig_wait(_Atomic int *value, int wanted, int ms) {
  for (int i = 0; i < ms && *value != wanted; i++)
    usleep(1000);
  return *value == wanted;
}

#define CHAT(model, text)                                                                                    \
  "{\"model\":\"" model "\",\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]}"
#define STREAM(model, text)                                                                                  \
  "{\"model\":\"" model "\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]}"

#endif
