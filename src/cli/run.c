/* The daemon: everything is started bottom-up in `start`, and stopped in exactly the reverse order in `stop`.
 * Signals are blocked in every thread; the main thread waits for them, so that a stop is an ordinary function
 * call. */

#include "cli/cli.h"
#include "cli/demo.h"
#include "cli/narrate.h"
#include "cli/port_owner.h"
#include "cli/run_options.h"
#include "cli/terminal.h"
#include "cli/ticker.h"
#include "loop.h"
#include "provider/local.h"
#include "server/clerk.h"
#include "shard.h"
#include "store/store.h"
#include "sys/clock.h"

#include <curl/curl.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

struct run {
  struct run_options options;
  struct config *config;
  struct terminal terminal;
  struct demo demo;
  bool in_demo, narrates;
  const char *provider_names[MAX_PROVIDERS], *route_names[MAX_ROUTES];
  struct store *store;
  struct store_state state;
  struct store_sink store_sink, sink; /* sink: the store's, or the narrator's before it */
  struct narrator *narrator;
  struct plane *plane;
  struct local_pool *pool;
  struct scaler scaler;
  struct ticker *ticker;
  struct clerk *clerk;
  struct providers *transports[MAX_SHARDS];
  struct shards *shards;
  bool serving;
  struct loop *loop;
  uint64_t seed;
};

static int refuse(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int refuse(int status, const char *format, ...) {
  va_list args;
  fputs("self-improve: ", stderr);
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  return status;
}

static int no_memory(void) {
  return refuse(CLI_FAILED, "out of memory or descriptors");
}

/* ---- the steps ---- */

static int load_config(struct run *run) {
  run->config = run_options_load(&run->options, NULL);
  return run->config ? CLI_OK : CLI_USAGE;
}

static int busy_port(const struct config *c, const char *detail) {
  char owner[128];
  port_owner(c->server.port, owner, sizeof owner);
  return refuse(CLI_USAGE, "port %u of %s is in use by %s%s%s; stop that one, or use --port",
                (unsigned)c->server.port, c->server.host, owner, detail ? ": " : "", detail ? detail : "");
}

static int claim_port(struct run *run) {
  const struct config *c = run->config;
  int status = c->server.port ? front_claim(c->server.host, c->server.port) : 0;
  if (status == -EADDRINUSE) return busy_port(c, NULL);
  if (status != 0)
    return refuse(CLI_USAGE, "cannot listen on %s:%u: %s; change server.host or use --port", c->server.host,
                  (unsigned)c->server.port, strerror(-status));
  return CLI_OK;
}

/* No provider: the fleet takes their place, and the configuration is read again with it. */
static int choose_providers(struct run *run) {
  char error[512];
  struct config *c = run->config;
  if (c->provider_count > 0) {
    if (c->server.port && config_check_loops(c, c->server.port, error, sizeof error) != 0)
      return refuse(CLI_USAGE, "%s", error);
    return CLI_OK;
  }
  if (run->options.no_demo || !c->demo.enabled)
    return refuse(CLI_USAGE, "no provider is configured; set OPENAI_API_KEY, or add [[providers]] to %s",
                  *c->file ? c->file : "a file and name it with --config");
  char *layer =
      demo_start_fleet(&run->demo, c->demo.scenario, c->demo.data, c->demo.speed, error, sizeof error);
  if (!layer)
    return refuse(CLI_FAILED,
                  "no provider is configured, and the demo cannot start: %s. Set OPENAI_API_KEY, or add "
                  "[[providers]] to %s",
                  error, *c->file ? c->file : "a file and name it with --config");
  struct config *with_fleet = run_options_load(&run->options, layer);
  free(layer);
  if (!with_fleet) return CLI_USAGE;
  run->in_demo = true;
  run->demo.scenario = with_fleet->demo.scenario;
  run->demo.data = with_fleet->demo.data;
  config_free(run->config);
  run->config = with_fleet;
  return CLI_OK;
}

static int open_store(struct run *run) {
  char error[1024];
  const struct config *c = run->config;
  for (unsigned i = 0; i < c->provider_count; i++)
    run->provider_names[i] = c->specs[i].name;
  for (unsigned i = 0; i < c->route_count; i++)
    run->route_names[i] = c->routes[i].name;
  struct store_options options = {.path = c->store_path,
                                  .provider_names = run->provider_names,
                                  .route_names = run->route_names,
                                  .provider_count = c->provider_count,
                                  .route_count = c->route_count,
                                  .frame_days = c->frame_days,
                                  .request_days = c->request_days,
                                  .dead_letter_rows = c->dead_letter_rows,
                                  .dead_letter_bytes = c->dead_letter_mib << 20};
  run->store = store_open(&options, error, sizeof error);
  if (!run->store) return refuse(CLI_USAGE, "%s", error);
  int status = store_load(run->store, &run->state);
  if (status != 0) return refuse(CLI_FAILED, "%s cannot be read: %s", c->store_path, strerror(-status));
  run->store_sink = run->sink = store_sink(run->store);
  if (!run->narrates) return CLI_OK;
  run->narrator = narrator_create(&run->store_sink);
  if (!run->narrator) return no_memory();
  run->sink = narrator_sink(run->narrator);
  return CLI_OK;
}

/* Processes of local providers start with what is wished now; the loop corrects it once it has its memory. */
static void preset_instances(struct run *run) {
  for (uint16_t p = 0; p < run->config->provider_count; p++) {
    const struct provider_spec *spec = &run->config->specs[p];
    double wished = run->config->file_values[TUNABLE_instances][p];
    if (!isnan(run->config->environment[TUNABLE_instances][p]))
      wished = run->config->environment[TUNABLE_instances][p];
    if (spec->local)
      tunable_set(&run->plane->tunables, (struct tunable_key){TUNABLE_instances, p},
                  isnan(wished) ? spec->min_instances : wished);
  }
}

static int create_plane(struct run *run) {
  const struct config *c = run->config;
  struct plane_config config = {.objective = c->objective,
                                .provider_count = c->provider_count,
                                .route_count = c->route_count,
                                .providers = c->specs,
                                .routes = c->routes,
                                .rate_limited = c->rate_limited,
                                .rate_burst = c->rate_burst};
  run->plane = plane_create(&config, clock_now_ns());
  if (!run->plane) return no_memory();
  preset_instances(run);
  return CLI_OK;
}

static bool has_local(const struct config *c) {
  for (unsigned i = 0; i < c->provider_count; i++)
    if (c->specs[i].local) return true;
  return false;
}

static int create_pool(struct run *run) {
  if (!has_local(run->config)) return CLI_OK;
  run->pool = local_pool_create(run->plane, run->config->providers, run->config->provider_count);
  if (!run->pool) return no_memory();
  run->scaler = local_pool_scaler(run->pool);
  return CLI_OK;
}

static int create_helpers(struct run *run) {
  char error[512];
  run->ticker = ticker_create();
  if (!run->ticker) return no_memory();
  run->clerk = clerk_create(run->config->store_path, error, sizeof error);
  return run->clerk ? CLI_OK : refuse(CLI_FAILED, "%s", error);
}

static int attach(void *ctx, unsigned shard, struct evloop *loop, struct upstream *upstreams[MAX_PROVIDERS],
                  char *error, size_t error_size) {
  struct run *run = ctx;
  run->transports[shard] = providers_attach(loop, run->config->providers, run->config->provider_count,
                                            run->pool, upstreams, error, error_size);
  return run->transports[shard] ? 0 : -EINVAL;
}

static void detach(void *ctx, unsigned shard) {
  struct run *run = ctx;
  providers_detach(run->transports[shard]);
  run->transports[shard] = NULL;
}

static int create_shards(struct run *run) {
  char error[512];
  bool busy = false;
  struct shard_settings settings = {.server = &run->config->server,
                                    .plane = run->plane,
                                    .transport = {.ctx = run, .attach = attach, .detach = detach},
                                    .sink = run->config->dead_letter_rows > 0 ? &run->sink : NULL,
                                    .store = run->store,
                                    .clerk = run->clerk,
                                    .commands = ticker_commands(run->ticker),
                                    .seed = run->seed,
                                    .wall_ms = clock_wall_ms()};
  run->shards = shards_create(&settings, &busy, error, sizeof error);
  if (run->shards) {
    if (config_check_loops(run->config, shards_port(run->shards), error, sizeof error) == 0) return CLI_OK;
    return refuse(CLI_USAGE, "%s", error);
  }
  return busy ? busy_port(run->config, NULL) : refuse(CLI_USAGE, "%s", error);
}

static int start_loop(struct run *run) {
  struct loop_config config = {.plane = run->plane,
                               .telemetries = shards_telemetries(run->shards),
                               .pipelines = shards_pipelines(run->shards),
                               .shards = shards_count(run->shards),
                               .sink = &run->sink,
                               .scaler = run->pool ? &run->scaler : NULL,
                               .seed = run->seed,
                               .observe = run->config->observe,
                               .control = run->config->control,
                               .learn = run->config->learn,
                               .evolve = run->config->evolve};
  int64_t now_ns = clock_now_ns(), wall_ms = clock_wall_ms();
  run->loop = loop_create(&config, now_ns, wall_ms);
  if (!run->loop) return no_memory();
  int status = loop_restore(run->loop, &run->state, run->config->file_values, run->config->environment,
                            now_ns, wall_ms);
  if (status != 0)
    return refuse(CLI_FAILED, "the stored configuration cannot be applied: %s", strerror(-status));
  for (unsigned p = 0; run->pool && p < run->config->provider_count; p++)
    if (run->config->specs[p].local)
      local_pool_set(run->pool, p, (unsigned)tunable_of(&run->plane->tunables, TUNABLE_instances, p));
  status = ticker_start(run->ticker, run->loop);
  return status == 0 ? CLI_OK : refuse(CLI_FAILED, "the control loop cannot start: %s", strerror(-status));
}

static void url_of(const struct run *run, char *out, size_t size) {
  const char *host = run->config->server.host;
  if (strcmp(host, "0.0.0.0") == 0) host = "127.0.0.1";
  if (strcmp(host, "::") == 0) host = "::1";
  snprintf(out, size, strchr(host, ':') ? "http://[%s]:%u" : "http://%s:%u", host,
           (unsigned)shards_port(run->shards));
}

/* How the reader would call this program from where it was started. */
static const char *program_name(const struct run *run) {
  char here[1024];
  const char *program = run->in_demo ? run->demo.program : "self-improve";
  size_t n = getcwd(here, sizeof here) ? strlen(here) : 0;
  return n > 1 && strncmp(program, here, n) == 0 && program[n] == '/' ? program + n + 1 : program;
}

static void introduce(const struct run *run, const char *url) {
  const char *program = program_name(run);
  printf("listening on %s\n", url);
  if (!run->narrates) {
    fflush(stdout);
    return;
  }
  if (run->in_demo)
    printf("\nNo provider is configured: this is the demo. Simulated providers answer over real HTTP at\n"
           "%s, and recorded traffic is replayed into this daemon. Set OPENAI_API_KEY or add\n"
           "[[providers]] to %s to serve real ones.\n",
           *run->demo.fleet_url ? run->demo.fleet_url : "ports of their own",
           *run->config->file ? run->config->file : "a configuration file");
  printf("\nlook at\n  %s/api/v1/status\n  %s/api/v1/tunables\n  %s/api/v1/ledger\n  %s/metrics\n", url, url,
         url, url);
  printf(
      "try next\n"
      "  curl %s/v1/chat/completions -H 'content-type: application/json' \\\n"
      "    -d '{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"Why is the sky "
      "blue?\"}]}'\n"
      "  %s status --url %s\n"
      "  %s why route:auto --url %s\n"
      "Ctrl-C drains and ends.\n\n"
      "Each line below is a decision of the daemon and its reason. route: who is asked first; limit: calls "
      "at\na time; scale: instances; regulated: other settings; incident: something is wrong; changed: by "
      "a person;\nexperiment: tried on a share of the traffic; judged, undone: what became of a change.\n\n",
      url, program, url, program, url);
  fflush(stdout);
}

static int start_serving(struct run *run) {
  char url[128];
  int status = shards_start(run->shards);
  if (status != 0) return refuse(CLI_FAILED, "the shards cannot start: %s", strerror(-status));
  run->serving = true;
  url_of(run, url, sizeof url);
  introduce(run, url);
  log_info("run", "%u shards, %u providers, %u routes, database %s%s", shards_count(run->shards),
           run->config->provider_count, run->config->route_count, run->config->store_path,
           run->config->observe ? ", observing only" : "");
  if (!run->in_demo) return CLI_OK;
  status = demo_start_client(&run->demo, url);
  return status == 0 ? CLI_OK : refuse(CLI_FAILED, "the demo's client cannot start: %s", strerror(-status));
}

static int start(struct run *run) {
  static int (*const steps[])(struct run *) = {load_config,  claim_port,   choose_providers, open_store,
                                               create_plane, create_pool,  create_helpers,   create_shards,
                                               start_loop,   start_serving};
  int status = CLI_OK;
  for (size_t i = 0; i < sizeof steps / sizeof *steps && status == CLI_OK; i++) {
    status = steps[i](run);
    if (i > 0 || status != CLI_OK) continue;
    bool demo = run->config->provider_count == 0, told = run->options.log_level != NULL;
    run->narrates = demo || isatty(STDOUT_FILENO);
    log_setup(demo && !told && run->config->log_level == LOG_INFO ? LOG_WARN : run->config->log_level,
              run->config->log_json); /* what is worth knowing of the demo is narrated */
  }
  for (unsigned i = 0; status == CLI_OK && i < run->config->notice_count; i++)
    log_warn("config", "%s", run->config->notices[i]);
  return status;
}

/* The reverse of start; what was never started is NULL or does nothing. */
static void stop(struct run *run) {
  narrator_hush(run->narrator);
  demo_stop_client(&run->demo);
  if (run->serving) shards_stop(run->shards);
  if (run->ticker) ticker_stop(run->ticker);
  loop_destroy(run->loop);
  shards_destroy(run->shards);
  clerk_destroy(run->clerk);
  ticker_destroy(run->ticker);
  if (run->pool) local_pool_destroy(run->pool, NS_PER_S);
  plane_destroy(run->plane);
  store_state_free(&run->state);
  store_close(run->store);
  narrator_destroy(run->narrator);
  demo_stop_fleet(&run->demo);
  config_free(run->config);
}

static void watch_children(struct run *run) {
  if (!run->in_demo) return;
  if (child_ended(&run->demo.fleet))
    log_error("demo", "the simulated fleet has ended: start the daemon again");
  if (child_ended(&run->demo.client))
    log_warn("demo", "the demo's client has ended: no more traffic comes from it");
}

/* Until a signal asks for the end; from then on a second one ends the process at once. */
static int wait_for_signal(struct run *run, const sigset_t *signals) {
  struct timespec second = {.tv_sec = 1};
  int number;
  while ((number = sigtimedwait(signals, NULL, &second)) < 0)
    watch_children(run);
  sigprocmask(SIG_UNBLOCK, signals, NULL);
  return number;
}

/* For the log, and for whoever looks on. */
static void announce(const struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void announce(const struct run *run, const char *format, ...) {
  char text[256];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (run->narrates)
    narrate("daemon", "%s", text);
  else
    log_info("run", "%s", text);
}

int cli_run(int argc, char **argv) {
  struct run *run = calloc(1, sizeof *run);
  sigset_t signals;
  if (!run) return no_memory();
  run->demo = (struct demo){.fleet.out = -1, .client.out = -1};
  if (!run_options_parse(&run->options, argc, argv)) {
    free(run);
    return cli_misused("run");
  }
  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGHUP);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  terminal_take(&run->terminal);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  if (getrandom(&run->seed, sizeof run->seed, 0) < 0) run->seed = (uint64_t)clock_wall_ms();
  int status = start(run);
  if (status == CLI_OK) {
    int number = wait_for_signal(run, &signals);
    announce(run, "%s: draining for at most %d s; once more ends at once",
             number == SIGINT ? "Ctrl-C" : strsignal(number), run->config->server.drain_s);
  }
  stop(run);
  if (status == CLI_OK) announce(run, "drained and stopped");
  terminal_return(&run->terminal);
  curl_global_cleanup();
  free(run);
  return status;
}
