/* `self-improve load`: options, one event loop with the generator on it, the report. */

#include "cli/cli.h"
#include "cli/narrate.h"
#include "sim/demo_client.h"
#include "sim/loadgen.h"
#include "sim/measure.h"
#include "sys/clock.h"
#include "sys/evloop.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

static volatile sig_atomic_t told; /* signals so far */

static void on_signal(int sign) {
  (void)sign;
  told++;
}

static void help(FILE *out) {
  fputs("usage: self-improve load [options]\n\n"
        "Sends the traffic of a scenario to a gateway, never waiting for answers, and\n"
        "measures what its users see. Ends after --seconds or --requests, or at Ctrl-C; a\n"
        "second one does not wait for answers. What is left out of rate, stream-share,\n"
        "feedback-share, feedback-delay and timeout is as the scenario says.\n\n"
        "  --url URL             the gateway (default http://127.0.0.1:8080)\n"
        "  --key K               bearer token (default: $API_KEY, else none)\n"
        "  --route NAME          model or route asked for (default auto)\n"
        "  --scenario FILE       prompts, lengths, sessions, targets\n"
        "                        (default data/scenarios/demo.toml)\n"
        "  --data DIR            recorded traces and prompts (default data)\n"
        "  --trace NAME          gaps and lengths from azure_conv, azure_code or a CSV in\n"
        "                        the data directory\n"
        "  --speed X             the scenario's time runs X times as fast (default 1)\n"
        "  --epoch MS            Unix time in ms at which the fleet's scenario began\n"
        "                        (default now)\n"
        "  --rate R              requests a second, on average\n"
        "  --seconds N           stop sending after so long\n"
        "  --requests N          or after so many\n"
        "  --stream-share S      how many of the answers stream\n"
        "  --feedback-share S    how many of the answers are rewarded\n"
        "  --feedback-delay N    after so many seconds on average\n"
        "  --timeout N           a client leaves after so many seconds\n"
        "  --max-in-flight N     beyond, requests are not sent but counted (default 1000)\n"
        "  --seed N              of everything random (default 1)\n"
        "  --demo                also create an experiment and push a harmful change\n"
        "  --json                print the report as JSON\n",
        out);
}

struct load_options {
  struct loadgen_settings settings;
  bool demo, json;
};

static const struct option options[] = {
    {"url", required_argument, NULL, 'u'},
    {"key", required_argument, NULL, 'k'},
    {"route", required_argument, NULL, 'r'},
    {"scenario", required_argument, NULL, 'f'},
    {"data", required_argument, NULL, 'd'},
    {"trace", required_argument, NULL, 't'},
    {"speed", required_argument, NULL, 'x'},
    {"epoch", required_argument, NULL, 'e'},
    {"rate", required_argument, NULL, 'R'},
    {"seconds", required_argument, NULL, 'n'},
    {"requests", required_argument, NULL, 'N'},
    {"stream-share", required_argument, NULL, 'S'},
    {"feedback-share", required_argument, NULL, 'F'},
    {"feedback-delay", required_argument, NULL, 'D'},
    {"timeout", required_argument, NULL, 'T'},
    {"max-in-flight", required_argument, NULL, 'M'},
    {"seed", required_argument, NULL, 's'},
    {"demo", no_argument, NULL, 'm'},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static const char *option_name(int letter) {
  const struct option *o = options;
  while (o->name && o->val != letter)
    o++;
  return o->name;
}

/* A number within bounds; false, told, when it is not one. */
static bool number(int letter, double min, double max, double *out) {
  char *end;
  errno = 0;
  double value = strtod(optarg, &end);
  if (end == optarg || *end || errno || !(value >= min && value <= max)) {
    fprintf(stderr, "self-improve load: --%s %s: give a number from %g to %g\n", option_name(letter), optarg,
            min, max);
    return false;
  }
  *out = value;
  return true;
}

static bool take_text(int letter, struct load_options *o) {
  struct loadgen_settings *s = &o->settings;
  switch (letter) {
  case 'u':
    s->url = optarg;
    if (strncasecmp(optarg, "http://", 7) == 0 || strncasecmp(optarg, "https://", 8) == 0) return true;
    fprintf(stderr, "self-improve load: --url %s: give an address that begins with http:// or https://\n",
            optarg);
    return false;
  case 'k':
    s->key = optarg;
    return true;
  case 'r':
    s->route = optarg;
    return true;
  case 'f':
    s->scenario = optarg;
    return true;
  case 'd':
    s->data = optarg;
    return true;
  case 't':
    s->trace = optarg;
    return true;
  case 'm':
    o->demo = true;
    return true;
  case 'j':
    o->json = true;
    return true;
  default:
    return false;
  }
}

static bool take_option(int letter, struct load_options *o) {
  struct loadgen_settings *s = &o->settings;
  double value = 0;
  bool fine = true;
  switch (letter) {
  case 'x':
    return number(letter, 0.001, 100000, &s->speed);
  case 'R':
    return number(letter, 0.001, 100000, &s->rate);
  case 'n':
    return number(letter, 0.1, 1e7, &s->seconds);
  case 'S':
    return number(letter, 0, 1, &s->stream_share);
  case 'F':
    return number(letter, 0, 1, &s->feedback_share);
  case 'D':
    return number(letter, 0, 1e6, &s->feedback_delay_s);
  case 'T':
    return number(letter, 0.1, 1e6, &s->timeout_s);
  case 'e':
    fine = number(letter, 0, 9e15, &value);
    s->epoch_ms = (int64_t)value;
    return fine;
  case 'N':
    fine = number(letter, 1, 1e12, &value);
    s->requests = (uint64_t)value;
    return fine;
  case 'M':
    fine = number(letter, 1, 60000, &value);
    s->max_in_flight = (unsigned)value;
    return fine;
  case 's':
    fine = number(letter, 0, 9e15, &value);
    s->seed = (uint64_t)value;
    return fine;
  default:
    return take_text(letter, o);
  }
}

static double per(double sum, uint64_t count) {
  return count ? sum / (double)count : 0;
}

static void print_quantiles(const char *name, const struct sketch *s, const char *unit) {
  if (s->count == 0) return;
  printf("%-22s p50 %.0f, p90 %.0f, p99 %.0f %s (%" PRIu64 ")\n", name, sketch_quantile(s, 0.5),
         sketch_quantile(s, 0.9), sketch_quantile(s, 0.99), unit, s->count);
}

/* In target a second, whether or not the run came to its end. */
static double goodput(const struct loadgen_report *r, const struct measure *m) {
  return r->seconds > 0 ? (double)measure_run(m)->in_target / r->seconds : 0;
}

static bool conserved(const struct loadgen_report *r) {
  uint64_t sum = r->in_flight;
  for (int i = 0; i < LOADGEN_ENDS; i++)
    sum += r->ends[i];
  return sum == r->sent;
}

static void print_report(const struct loadgen_report *r, const struct measure *m) {
  const struct measure_sums *sums = measure_run(m);
  printf("%-22s %" PRIu64 " due in %.1f s, %" PRIu64 " late by over 10 ms, %" PRIu64
         " not sent (too many in flight)\n",
         "requests", r->due, r->seconds, r->late, r->unsent);
  printf("%-22s %" PRIu64 " = %" PRIu64 " answered + %" PRIu64 " refused + %" PRIu64 " failed + %" PRIu64
         " timed out + %" PRIu64 " in flight%s\n",
         "sent", r->sent, r->ends[LOADGEN_ANSWERED], r->ends[LOADGEN_REFUSED], r->ends[LOADGEN_FAILED],
         r->ends[LOADGEN_TIMED_OUT], r->in_flight, conserved(r) ? "" : " (DOES NOT ADD UP)");
  printf("%-22s %.2f in target a second, %.1f %% of %" PRIu64 " intents; %" PRIu64 " came back\n", "goodput",
         goodput(r, m), 100 * per((double)sums->in_target, sums->intents), r->intents, r->retries);
  print_quantiles("whole answer", &sums->total_ms, "ms");
  print_quantiles("first token", &sums->ttft_ms, "ms");
  print_quantiles("time per token", &sums->tpot_ms, "ms");
  printf("%-22s $%.4f reported, $%.6f an intent; %" PRIu64 " tokens in, %" PRIu64 " out\n", "cost", sums->usd,
         per(sums->usd, sums->intents), r->tokens_in, r->tokens_out);
  if (sums->intents)
    printf("%-22s quality %.3f, utility %.3f an intent\n", "worth", measure_quality(sums),
           measure_utility(m, sums));
  printf("%-22s %" PRIu64 " rewards posted, %" PRIu64 " refused\n", "feedback", r->feedback_sent,
         r->feedback_refused);
  for (unsigned i = 0; i < LOADGEN_MODELS && r->models[i].count; i++)
    printf("model %-16s %" PRIu64 "\n", r->models[i].model, r->models[i].count);
  for (unsigned i = 0; i < LOADGEN_ERRORS && r->errors[i].count; i++)
    printf("error %-16s %" PRIu64 "\n", r->errors[i].name, r->errors[i].count);
}

static void add_quantiles(cJSON *root, const char *name, const struct sketch *s) {
  cJSON *object = cJSON_AddObjectToObject(root, name);
  cJSON_AddNumberToObject(object, "count", (double)s->count);
  if (s->count == 0) return;
  cJSON_AddNumberToObject(object, "p50", sketch_quantile(s, 0.5));
  cJSON_AddNumberToObject(object, "p90", sketch_quantile(s, 0.9));
  cJSON_AddNumberToObject(object, "p95", sketch_quantile(s, 0.95));
  cJSON_AddNumberToObject(object, "p99", sketch_quantile(s, 0.99));
}

static void add_counts(cJSON *root, const struct loadgen_report *r) {
  const struct {
    const char *name;
    uint64_t value;
  } counts[] = {
      {"due", r->due},
      {"sent", r->sent},
      {"late", r->late},
      {"unsent", r->unsent},
      {"answered", r->ends[LOADGEN_ANSWERED]},
      {"refused", r->ends[LOADGEN_REFUSED]},
      {"failed", r->ends[LOADGEN_FAILED]},
      {"timed_out", r->ends[LOADGEN_TIMED_OUT]},
      {"in_flight", r->in_flight},
      {"came_back", r->retries},
      {"streams", r->streams},
      {"intents", r->intents},
      {"feedback_sent", r->feedback_sent},
      {"feedback_refused", r->feedback_refused},
      {"tokens_in", r->tokens_in},
      {"tokens_out", r->tokens_out},
  };
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    cJSON_AddNumberToObject(root, counts[i].name, (double)counts[i].value);
}

/* A window of the measures; null where nobody asked anything. */
static void add_window(cJSON *root, const char *name, const struct measure *m, const struct measure_sums *s) {
  cJSON *window = cJSON_AddObjectToObject(root, name);
  cJSON_AddNumberToObject(window, "intents", (double)s->intents);
  cJSON_AddNumberToObject(window, "complete", (double)s->complete);
  cJSON_AddNumberToObject(window, "in_target", (double)s->in_target);
  cJSON_AddNumberToObject(window, "usd", s->usd);
  cJSON_AddNumberToObject(window, "in_target_share", measure_share(s));
  cJSON_AddNumberToObject(window, "quality", measure_quality(s));
  cJSON_AddNumberToObject(window, "utility", measure_utility(m, s));
  add_quantiles(window, "total_ms", &s->total_ms);
  add_quantiles(window, "ttft_ms", &s->ttft_ms);
  add_quantiles(window, "tpot_ms", &s->tpot_ms);
}

static void print_json(const struct loadgen_report *r, const struct measure *m) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddNumberToObject(root, "seconds", r->seconds);
  add_counts(root, r);
  cJSON_AddBoolToObject(root, "conserved", conserved(r));
  cJSON_AddNumberToObject(root, "goodput_per_s", goodput(r, m));
  add_window(root, "run", m, measure_run(m));
  add_window(root, "event", m, measure_event(m));
  cJSON *models = cJSON_AddObjectToObject(root, "models"), *errors = cJSON_AddObjectToObject(root, "errors");
  for (unsigned i = 0; i < LOADGEN_MODELS && r->models[i].count; i++)
    cJSON_AddNumberToObject(models, r->models[i].model, (double)r->models[i].count);
  for (unsigned i = 0; i < LOADGEN_ERRORS && r->errors[i].count; i++)
    cJSON_AddNumberToObject(errors, r->errors[i].name, (double)r->errors[i].count);
  char *text = cJSON_Print(root);
  puts(text ? text : "{}");
  free(text);
  cJSON_Delete(root);
}

static void say(const char *line) {
  narrate("demo client", "%s", line);
}

static int send_load(const struct load_options *o) {
  char error[512] = "";
  struct evloop *loop = evloop_create();
  struct loadgen *gen = loop ? loadgen_create(loop, &o->settings, error, sizeof error) : NULL;
  if (!gen) {
    fprintf(stderr, "self-improve load: %s\n", loop ? error : "no memory or no descriptors");
    evloop_destroy(loop);
    return CLI_USAGE;
  }
  struct demo_client *demo =
      o->demo ? demo_client_create(loop, o->settings.url, loadgen_scenario(gen), say) : NULL;
  told = 0;
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
  signal(SIGPIPE, SIG_IGN);
  while (!loadgen_finished(gen) && told < 2) {
    if (told) loadgen_stop(gen);
    evloop_turn(loop, NS_PER_S / 5);
  }
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  const struct loadgen_report *report = loadgen_report(gen);
  if (o->json)
    print_json(report, loadgen_measure(gen));
  else
    print_report(report, loadgen_measure(gen));
  bool unheard = report->sent > 0 && report->ends[LOADGEN_ANSWERED] + report->ends[LOADGEN_REFUSED] == 0;
  if (unheard)
    fprintf(stderr, "self-improve load: nothing was answered at %s; is a gateway running there?\n",
            o->settings.url);
  int status = conserved(report) && !unheard ? CLI_OK : CLI_FAILED;
  demo_client_destroy(demo);
  loadgen_destroy(gen);
  evloop_destroy(loop);
  return status;
}

int cli_load(int argc, char **argv) {
  struct load_options o = {.settings = {.url = "http://127.0.0.1:8080",
                                        .key = getenv("API_KEY"),
                                        .scenario = "data/scenarios/demo.toml",
                                        .stream_share = -1,
                                        .feedback_share = -1,
                                        .feedback_delay_s = -1,
                                        .seed = 1}};
  optind = 1;
  for (int letter; (letter = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
    if (letter == 'h') {
      help(stdout);
      return CLI_OK;
    }
    if (!take_option(letter, &o)) return cli_misused("load");
  }
  if (optind < argc) {
    fprintf(stderr, "self-improve load: %s is no option\n", argv[optind]);
    return cli_misused("load");
  }
  return send_load(&o);
}
