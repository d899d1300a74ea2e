#include "config.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct config *load_with(const char *text, char *const *environment) {
  struct config_source source = {.text = text, .text_name = "test.toml", .environment = environment};
  struct config *config = NULL;
  char *problems = NULL;
  int status = config_load(&source, &config, &problems);
  if (status != 0) print_error("%s", problems ? problems : "?");
  free(problems);
  assert_int_equal(status, 0);
  return config;
}

static struct config *load(const char *text) {
  return load_with(text, NULL);
}

/* The problems of a text that must be refused. */
static char *refuse_with(const char *text, char *const *environment) {
  struct config_source source = {.text = text, .text_name = "test.toml", .environment = environment};
  struct config *config = NULL;
  char *problems = NULL;
  assert_int_equal(config_load(&source, &config, &problems), -22);
  assert_null(config);
  assert_non_null(problems);
  return problems;
}

static void must_say(const char *problems, const char *part) {
  if (!strstr(problems, part)) print_error("no \"%s\" in:\n%s", part, problems);
  assert_non_null(strstr(problems, part));
}

static void refused_saying(const char *text, const char *part) {
  char *problems = refuse_with(text, NULL);
  must_say(problems, part);
  free(problems);
}

static size_t lines(const char *text) {
  size_t n = 0;
  for (; *text; text++)
    n += *text == '\n';
  return n;
}

#define PROVIDER(name, more) "[[providers]]\nname = \"" name "\"\nbase_url = \"http://h/v1\"\n" more "\n"

static void an_empty_file_gives_the_defaults(void **state) {
  (void)state;
  struct config *c = load("");
  assert_string_equal(c->server.host, "127.0.0.1");
  assert_int_equal(c->server.port, 8080);
  assert_int_equal(c->server.key_count, 0);
  assert_string_equal(c->store_path, "var/self-improve.db");
  assert_float_equal(c->objective.ttft_ms, 2000, 0);
  assert_int_equal(c->provider_count, 0);
  assert_int_equal(c->route_count, 0);
  assert_true(isnan(c->file_values[TUNABLE_retry_attempts][0]));
  config_free(c);
}

static void values_reach_their_owners(void **state) {
  (void)state;
  struct config *c =
      load("[server]\nport = 0\nshards = 2\nbody_limit_mib = 3\ndrain_s = 4\n"
           "[store]\npath = \"x/y.db\"\nrequest_days = 3\n"
           "[objective]\nttft_ms = 900\ntpot_ms = 33.5\nusd_weight = 7\nquality_weight = 2\n"
           "[rate_limits]\nenabled = true\nburst_capacity = 7\nrequests_per_second = 55.5\n"
           "[stages.rag]\ncapacity = 99\n[resilience]\nretry_attempts = 5\nshed_threshold = 0.75\n"
           "[log]\nlevel = \"debug\"\nformat = \"json\"\n");
  assert_int_equal(c->server.port, 0);
  assert_int_equal(c->server.shards, 2);
  assert_int_equal(c->server.body_limit, 3 << 20);
  assert_int_equal(c->server.drain_s, 4);
  assert_string_equal(c->store_path, "x/y.db");
  assert_int_equal(c->request_days, 3);
  assert_float_equal(c->objective.tpot_ms, 33.5, 0);
  assert_float_equal(c->objective.quality_weight, 2, 0);
  assert_true(c->rate_limited);
  assert_float_equal(c->rate_burst, 7, 0);
  assert_float_equal(c->file_values[TUNABLE_rate_limit_rps][0], 55.5, 0);
  assert_float_equal(c->file_values[TUNABLE_buffer_rag][0], 99, 0);
  assert_float_equal(c->file_values[TUNABLE_retry_attempts][0], 5, 0);
  assert_float_equal(c->file_values[TUNABLE_shed_threshold][0], 0.75, 0);
  assert_int_equal(c->log_level, LOG_DEBUG);
  assert_true(c->log_json);
  config_free(c);
}

/* C37 a: lenient parsers take the second one. */
static void a_double_key_or_table_is_refused_with_its_line(void **state) {
  (void)state;
  refused_saying("[server]\nport = 1\nport = 2\n", "test.toml:3:");
  refused_saying("[server]\nport = 1\n[server]\nhost = \"::1\"\n", "test.toml:3:");
}

/* C37 b, c */
static void a_byte_order_mark_and_crlf_are_accepted(void **state) {
  (void)state;
  struct config *c = load("\xef\xbb\xbf[server]\r\nport = 8123\r\n");
  assert_int_equal(c->server.port, 8123);
  config_free(c);
}

/* C37 d */
static void numbers_that_are_none_are_refused_with_their_line(void **state) {
  (void)state;
  refused_saying("[server]\nport = 9223372036854775808\n", "test.toml:2:");
  refused_saying("[server]\nport = 1234abcd\n", "test.toml:2:");
  refused_saying("[server]\nport = \"8080\"\n",
                 "test.toml:2: server.port: is not a whole number; allowed: 0 to 65535");
  refused_saying("[server]\nport = 80.5\n", "test.toml:2: server.port: is not a whole number");
  refused_saying("[objective]\nttft_ms = nan\n", "test.toml:2: objective.ttft_ms: nan is out of range");
  refused_saying("[resilience]\nshed_threshold = inf\n", "resilience.shed_threshold: inf is out of range");
}

/* C37 e */
static void a_misspelt_key_is_refused_with_what_was_meant(void **state) {
  (void)state;
  refused_saying("[server]\nprot = 1\n", "test.toml:2: server.prot: is no key; did you mean server.port?");
  refused_saying("[resilience]\nretry_atempts = 1\n", "did you mean resilience.retry_attempts?");
  refused_saying("[sever]\nport = 1\n", "test.toml:1: sever: is no key");
  refused_saying("nonsense_that_resembles_nothing = 1\n", "is no key; docs/configuration.md lists them");
  refused_saying(PROVIDER("a", "model = \"m\"\nusd_per_m_inn = 1"),
                 "providers.usd_per_m_inn: is no key; did you mean providers.usd_per_m_in?");
  refused_saying("[[routes]]\nname = \"r\"\ncandidate = []\n", "did you mean routes.candidates?");
  refused_saying("server = 3\n", "test.toml:1: server: is not a table");
}

/* C37 f */
static void an_unset_or_empty_variable_is_refused_by_name(void **state) {
  (void)state;
  unsetenv("TEST_KEY");
  refused_saying(PROVIDER("a", "model = \"m\"\nkey = \"${TEST_KEY}\""),
                 "test.toml:5: providers.key: the environment variable TEST_KEY is not set");
  refused_saying(PROVIDER("a", "model = \"m\"\nkey_env = \"TEST_KEY\""),
                 "the environment variable TEST_KEY is not set");
  setenv("TEST_KEY", "", 1);
  refused_saying(PROVIDER("a", "model = \"m\"\nkey = \"${TEST_KEY}\""),
                 "the environment variable TEST_KEY is empty");
  refused_saying("[server]\nkeys = [\"${TEST_KEY}\"]\n", "TEST_KEY is empty");
  setenv("TEST_KEY", "canary-sesame", 1);
  struct config *c = load(PROVIDER("a", "model = \"m\"\nkey = \"x-${TEST_KEY}-y\""));
  assert_string_equal(c->providers[0].api_key, "x-canary-sesame-y");
  config_free(c);
  c = load(PROVIDER("a", "model = \"m\"\nkey_env = \"TEST_KEY\""));
  assert_string_equal(c->providers[0].api_key, "canary-sesame");
  config_free(c);
  char *problems = refuse_with(PROVIDER("a", "model = \"m\"\nkey = \"${TEST_KEY}\"\nlimit = 0"), NULL);
  assert_null(strstr(problems, "sesame"));
  free(problems);
  unsetenv("TEST_KEY");
}

/* C37 g */
static void an_empty_list_of_keys_is_refused_unless_auth_is_off(void **state) {
  (void)state;
  refused_saying("[server]\nkeys = []\n", "test.toml:2: server.keys: is empty");
  refused_saying("[server]\nauth = true\n",
                 "test.toml:2: server.auth: asks for client keys, but there is none");
  refused_saying("[server]\nkeys = [\"\"]\n", "server.keys: is empty");
  struct config *c = load("[server]\nauth = false\nkeys = []\n");
  assert_int_equal(c->server.key_count, 0);
  config_free(c);
  c = load("[server]\nkeys = [\"one\", \"two\"]\n");
  assert_int_equal(c->server.key_count, 2);
  config_free(c);
}

static void off_loopback_needs_keys(void **state) {
  (void)state;
  refused_saying("[server]\nhost = \"0.0.0.0\"\n", "test.toml:2: server: server.host is 0.0.0.0");
  char *problems = refuse_with("[server]\nhost = \"0.0.0.0\"\nport = 99999\nmax_depth = 500\n", NULL);
  must_say(problems, "test.toml:2: server: server.host is 0.0.0.0");
  must_say(problems, "test.toml:3: server.port: 99999 is out of range");
  must_say(problems, "test.toml:4: server.max_depth: 500 is out of range; allowed: 64 to 256");
  free(problems);
  problems = refuse_with("[server]\nhost = \"0.0.0.0\"\nkeys = [\"${SURELY_UNSET}\"]\n", NULL);
  assert_int_equal(lines(problems), 1);
  free(problems);
  struct config *c = load("[server]\nhost = \"0.0.0.0\"\nkeys = [\"one\"]\n");
  assert_int_equal(c->server.key_count, 1);
  config_free(c);
}

/* C37 h */
static void a_provider_tells_all_that_is_wrong_with_it(void **state) {
  (void)state;
  static const char text[] =
      "[[providers]]\nname = \"a b\"\nmodel = \"m\"\nbase_url = \"ftp://h\"\nusd_per_m_in = -1\n"
      "key_env = \"NO_SUCH_KEY\"\n";
  refused_saying(text, "test.toml:2: providers.name: holds a space");
  refused_saying(text, "test.toml:4: providers.base_url: must begin with http:// or https://; allowed: ");
  refused_saying(text, "test.toml:5: providers.usd_per_m_in: ");
  refused_saying(text, "test.toml:6: providers.key_env: ");
}

static void every_form_of_a_base_url_gives_one_path(void **state) {
  (void)state;
  static const char *const forms[][2] = {{"http://h", "http://h/v1/chat/completions"},
                                         {"http://h/", "http://h/v1/chat/completions"},
                                         {"http://h/v1", "http://h/v1/chat/completions"},
                                         {"http://h/v1/", "http://h/v1/chat/completions"},
                                         {"http://h/api/v1", "http://h/api/v1/chat/completions"}};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    char text[256], url[512], error[256];
    snprintf(text, sizeof text, "[[providers]]\nname = \"a\"\nmodel = \"m\"\nbase_url = \"%s\"\n",
             forms[i][0]);
    struct config *c = load(text);
    assert_int_equal(provider_chat_url(c->providers[0].base_url, url, sizeof url, error, sizeof error), 0);
    assert_string_equal(url, forms[i][1]);
    config_free(c);
  }
  refused_saying("[[providers]]\nname = \"a\"\nmodel = \"m\"\nbase_url = \"file:///etc/passwd\"\n",
                 "test.toml:4: providers.base_url: ");
  refused_saying("[[providers]]\nname = \"a\"\nmodel = \"m\"\n", "test.toml:1: providers.base_url: ");
}

static void all_value_errors_are_told_at_once(void **state) {
  (void)state;
  char *problems = refuse_with("[server]\nport = 70000\ndrain_s = -1\nprot = 1\n"
                               "[objective]\nttft_ms = \"fast\"\n"
                               "[resilience]\nretry_attempts = 99\nshed_threshold = 2\n"
                               "[log]\nlevel = \"loud\"\n"
                               "[[providers]]\nkind = \"magic\"\nusd_per_m_in = -1\n"
                               "[[routes]]\nname = \"r\"\ncandidates = [\"nobody\"]\n",
                               NULL);
  must_say(problems, "test.toml:2: server.port: 70000 is out of range; allowed: 0 to 65535\n");
  must_say(problems, "test.toml:3: server.drain_s: -1 is out of range");
  must_say(problems, "test.toml:4: server.prot: is no key");
  must_say(problems, "test.toml:6: objective.ttft_ms: is not a number");
  must_say(problems, "test.toml:8: resilience.retry_attempts: 99 is out of range; allowed: 0 to 10\n");
  must_say(problems, "test.toml:9: resilience.shed_threshold: 2 is out of range; allowed: 0.5 to 0.99\n");
  must_say(problems, "test.toml:11: log.level: \"loud\" is no level; allowed: error, warn, info, debug\n");
  must_say(problems, "providers.name: is missing");
  must_say(problems, "test.toml:13: providers.kind: \"magic\" is no kind");
  must_say(problems, "test.toml:14: providers.usd_per_m_in: -1 is out of range");
  must_say(problems, "routes.candidates: no provider or model is called nobody");
  assert_int_equal(lines(problems), 12);
  free(problems);
}

static void of_syntax_errors_the_first_is_told(void **state) {
  (void)state;
  char *problems = refuse_with("[server\nport = 1\n]]\n", NULL);
  must_say(problems, "test.toml:1:");
  assert_int_equal(lines(problems), 1);
  free(problems);
}

static void every_tunable_has_its_key_and_its_bounds(void **state) {
  (void)state;
  for (int id = 0; id < TUNABLES; id++) {
    const struct tunable_info *info = &tunable_infos[id];
    char text[512], key[128];
    if (info->scope == TUNABLE_PROVIDER) continue;
    snprintf(text, sizeof text, "%s = %.15g\n", info->toml, info->max);
    struct config *c = load(text);
    assert_float_equal(c->file_values[id][0], info->max, 0);
    config_free(c);
    snprintf(text, sizeof text, "%s = %.15g\n", info->toml, info->max * 2 + 1);
    snprintf(key, sizeof key, "test.toml:1: %s: ", info->toml);
    refused_saying(text, key);
    snprintf(text, sizeof text, "%s = -1\n", info->toml);
    refused_saying(text, key);
  }
}

static void several_models_make_a_deployment_each(void **state) {
  (void)state;
  struct config *c =
      load(PROVIDER("p", "models = [\"small\", \"large\"]\nlimit = 7\nusd_per_m_in = 2\nusd_per_m_out = 4"));
  assert_int_equal(c->provider_count, 2);
  assert_string_equal(c->specs[0].name, "p/small");
  assert_string_equal(c->specs[1].name, "p/large");
  assert_string_equal(c->providers[1].model, "large");
  assert_float_equal(c->specs[1].price.cached, 2, 0);
  assert_float_equal(c->file_values[TUNABLE_concurrency_limit][1], 7, 0);
  assert_int_equal(c->route_count, 3); /* auto, small, large */
  config_free(c);
}

static int route_of(const struct config *c, const char *name) {
  for (unsigned i = 0; i < c->route_count; i++)
    if (strcmp(c->routes[i].name, name) == 0) return (int)i;
  return -1;
}

static void a_models_name_is_a_route_to_all_who_serve_it(void **state) {
  (void)state;
  struct config *c = load(PROVIDER("a", "model = \"m\"") PROVIDER("b", "model = \"m\"") PROVIDER(
      "c",
      "model = \"n\"") "[[routes]]\nname = \"n\"\nfallbacks = [\"m\"]\nsticky = true\ncoalesce = false\n");
  const struct route_spec *m = &c->routes[route_of(c, "m")], *n = &c->routes[route_of(c, "n")],
                          *all = &c->routes[route_of(c, "auto")];
  assert_int_equal(m->candidate_count, 2);
  assert_int_equal(m->primary_count, 2);
  assert_true(m->coalesce);
  assert_int_equal(n->candidate_count, 3);
  assert_int_equal(n->primary_count, 1);
  assert_int_equal(n->candidates[0], 2);
  assert_true(n->sticky);
  assert_false(n->coalesce);
  assert_int_equal(all->candidate_count, 3);
  assert_int_equal(all->primary_count, 3);
  config_free(c);
}

static void a_candidate_may_be_a_provider_or_a_model(void **state) {
  (void)state;
  struct config *c =
      load(PROVIDER("p", "models = [\"x\", \"y\"]")
               PROVIDER("q", "model = \"x\"") "[[routes]]\nname = \"r\"\ncandidates = [\"p/y\", \"x\"]\n"
                                              "[[routes]]\nname = \"s\"\ncandidates = [\"p\"]\n");
  const struct route_spec *r = &c->routes[route_of(c, "r")], *s = &c->routes[route_of(c, "s")];
  assert_int_equal(r->candidate_count, 3);
  assert_int_equal(r->candidates[0], 1);
  assert_int_equal(r->candidates[1], 0);
  assert_int_equal(r->candidates[2], 2);
  assert_int_equal(s->candidate_count, 2);
  config_free(c);
  refused_saying(PROVIDER("claude", "model = \"m\"") "[[routes]]\nname = \"r\"\ncandidates = [\"clade\"]\n",
                 "did you mean claude?");
}

static void local_providers_have_instances_within_their_bounds(void **state) {
  (void)state;
  struct config *c =
      load("[[providers]]\nname = \"l\"\nmodel = \"m\"\ninstances = 2\nusd_per_instance_hour = 0.5\n"
           "local = { command = \"serve\", min = 1, max = 3, start_s = 9, health_s = 2 }\n");
  assert_true(c->specs[0].local);
  assert_int_equal(c->specs[0].max_instances, 3);
  assert_int_equal(c->providers[0].start_ns, INT64_C(9000000000));
  assert_int_equal(c->providers[0].health_ns, INT64_C(2000000000));
  assert_float_equal(c->specs[0].usd_per_instance_hour, 0.5, 0);
  assert_float_equal(c->file_values[TUNABLE_instances][0], 2, 0);
  config_free(c);
  refused_saying(
      "[[providers]]\nname = \"l\"\nmodel = \"m\"\ninstances = 9\nlocal = { command = \"s\", max = 3 }\n",
      "test.toml:4: providers.instances: 9 is out of range; allowed: 1 to 3");
  refused_saying(PROVIDER("a", "model = \"m\"\ninstances = 2"),
                 "providers.instances: has no meaning without local");
  refused_saying("[[providers]]\nname = \"l\"\nmodel = \"m\"\nlocal = { max = 3 }\n",
                 "providers.local.command: is missing");
  refused_saying("[[providers]]\nname = \"l\"\nmodel = \"m\"\nlocal = { command = \"s\", maxx = 3 }\n",
                 "did you mean providers.local.max?");
}

static void a_ca_file_must_hold_a_certificate(void **state) {
  (void)state;
  refused_saying(
      "[[providers]]\nname = \"a\"\nmodel = \"m\"\nbase_url = \"https://h/v1\"\nca_file = \"/no/such\"\n",
      "test.toml:5: providers.ca_file: /no/such cannot be read or holds no certificate");
  refused_saying(
      "[[providers]]\nname = \"a\"\nmodel = \"m\"\nbase_url = \"https://h\"\nca_file = \"/dev/null\"\n",
      "allowed: a PEM file");
  refused_saying(
      PROVIDER("a", "model = \"m\"\nca_file = \"/dev/null\""),
      "providers.ca_file: has no meaning here; allowed: with a base_url that begins with https://");
}

static void the_environment_wins_over_the_file(void **state) {
  (void)state;
  char *environment[] = {"SELF_IMPROVE_RETRY_ATTEMPTS=5",
                         "SELF_IMPROVE_CONCURRENCY_LIMIT=9",
                         "SELF_IMPROVE_CONCURRENCY_LIMIT_MY_A=3",
                         "RUST_LOG=hyper=trace,warn",
                         "RUST_LOG_FORMAT=json",
                         "API_KEY=sesame",
                         "SELF_IMPROVE_DISABLE=1",
                         "ANTHROPIC_API_KEY=x",
                         NULL};
  struct config *c = load_with("[resilience]\nretry_attempts = 1\n" PROVIDER("my-a", "model = \"m\"")
                                   PROVIDER("b", "model = \"m\""),
                               environment);
  assert_float_equal(c->file_values[TUNABLE_retry_attempts][0], 1, 0);
  assert_float_equal(c->environment[TUNABLE_retry_attempts][0], 5, 0);
  assert_float_equal(c->environment[TUNABLE_concurrency_limit][0], 3, 0);
  assert_float_equal(c->environment[TUNABLE_concurrency_limit][1], 9, 0);
  assert_int_equal(c->log_level, LOG_WARN);
  assert_true(c->log_json);
  assert_int_equal(c->server.key_count, 1);
  assert_true(c->observe);
  assert_int_equal(c->notice_count, 1);
  config_free(c);
}

static void parts_of_the_loop_run_unless_switched_off(void **state) {
  (void)state;
  struct config *c = load_with("[loop]\nlearn = false\n" PROVIDER("a", "model = \"m\""), NULL);
  assert_true(c->control && c->evolve);
  assert_false(c->learn);
  assert_false(c->observe);
  config_free(c);
}

static void wrong_variables_are_refused_by_name(void **state) {
  (void)state;
  char *environment[] = {"SELF_IMPROVE_RETRY_ATTEMPTS=many",
                         "SELF_IMPROVE_RETRY_ATEMPTS=1",
                         "RUST_LOG=loud",
                         "API_KEY=",
                         "PROVIDER=anthropic",
                         "VLLM_URL=http://h",
                         "OPENAI_API_KEY=",
                         NULL};
  char *problems = refuse_with("", environment);
  must_say(problems,
           "SELF_IMPROVE_RETRY_ATTEMPTS: \"many\" is not allowed; allowed: a whole number from 0 to 10");
  must_say(problems,
           "SELF_IMPROVE_RETRY_ATEMPTS: sets no tunable; did you mean SELF_IMPROVE_RETRY_ATTEMPTS?");
  must_say(problems, "RUST_LOG: \"loud\" is no level");
  must_say(problems, "API_KEY: is set but empty");
  must_say(problems, "PROVIDER: anthropic is not supported yet");
  must_say(problems, "VLLM_URL: needs MODEL");
  must_say(problems, "OPENAI_API_KEY: is set but empty");
  assert_int_equal(lines(problems), 7);
  free(problems);
}

static void names_and_addresses_from_the_environment_are_checked_as_those_of_the_file(void **state) {
  (void)state;
  char url[700] = "OPENAI_BASE_URL=http://h/";
  memset(url + strlen(url), 'x', 600);
  char *environment[] = {"OPENAI_API_KEY=k", "MODEL=a\"b", url, NULL};
  char *problems = refuse_with("", environment);
  must_say(problems, "MODEL: holds a space, quote");
  must_say(problems, "OPENAI_BASE_URL: is too long; allowed: up to 511 bytes");
  free(problems);
}

static void providers_come_from_the_environment(void **state) {
  (void)state;
  char *environment[] = {"OPENAI_API_KEY=k", "LLAMA_CPP_URL=http://127.0.0.1:9", "MODEL=m", "PROVIDER=llama",
                         NULL};
  struct config *c = load_with("", environment);
  assert_int_equal(c->provider_count, 2);
  assert_string_equal(c->specs[0].name, "llama_cpp");
  assert_string_equal(c->specs[1].name, "openai");
  assert_string_equal(c->providers[1].api_key, "k");
  assert_string_equal(c->specs[1].model, "m");
  assert_int_equal(c->routes[route_of(c, "auto")].primary_count, 1);
  assert_int_equal(c->routes[route_of(c, "auto")].candidate_count, 2);
  config_free(c);
  char *echo[] = {"PROVIDER=echo", NULL};
  c = load_with("", echo);
  assert_int_equal(c->provider_count, 1);
  assert_int_equal(c->providers[0].kind, PROVIDER_ECHO);
  config_free(c);
}

static void the_preferred_provider_leads_a_written_route_auto(void **state) {
  (void)state;
  char *environment[] = {"PROVIDER=c", NULL};
  struct config *c =
      load_with(PROVIDER("a", "model = \"m\"") PROVIDER("b", "model = \"m\"")
                    PROVIDER("c", "model = \"m\"") "[[routes]]\nname = \"auto\"\ncandidates = "
                                                   "[\"a\"]\nfallbacks = [\"c\"]\nsticky = true\n",
                environment);
  const struct route_spec *route = &c->routes[route_of(c, "auto")];
  assert_int_equal(route->primary_count, 1);
  assert_int_equal(route->candidate_count, 2);
  assert_int_equal(route->candidates[0], 2);
  assert_int_equal(route->candidates[1], 0);
  assert_true(route->sticky);
  config_free(c);
}

static void too_many_providers_are_refused(void **state) {
  (void)state;
  char text[16384] = "";
  for (int i = 0; i <= MAX_PROVIDERS; i++) {
    char one[160];
    snprintf(one, sizeof one, "[[providers]]\nname = \"p%d\"\nbase_url = \"http://h\"\nmodel = \"m\"\n", i);
    strcat(text, one);
  }
  refused_saying(text, "there are too many; allowed: up to 32");
  refused_saying(PROVIDER("a", "model = \"m\"") PROVIDER("a", "model = \"n\""),
                 "providers.name: a is there already");
}

static void a_provider_that_leads_back_to_us_is_found(void **state) {
  (void)state;
  static const char *const back[] = {"http://127.0.0.1:8080/v1", "http://localhost:8080",
                                     "http://0.0.0.0:8080"};
  static const char *const away[] = {"http://127.0.0.1:8081/v1", "https://127.0.0.1",
                                     "http://127.0.0.2:8080"};
  char text[256], error[512];
  for (size_t i = 0; i < 3; i++) {
    snprintf(text, sizeof text, "[[providers]]\nname = \"me\"\nmodel = \"m\"\nbase_url = \"%s\"\n", back[i]);
    struct config *c = load(text);
    assert_int_equal(config_check_loops(c, 8080, error, sizeof error), -22);
    must_say(error, "provider me");
    config_free(c);
    snprintf(text, sizeof text, "[[providers]]\nname = \"me\"\nmodel = \"m\"\nbase_url = \"%s\"\n", away[i]);
    c = load(text);
    assert_int_equal(config_check_loops(c, 8080, error, sizeof error), 0);
    config_free(c);
  }
}

static void a_file_that_is_not_there_is_told(void **state) {
  (void)state;
  struct config_source source = {.path = "/nonexistent/self-improve.toml"};
  struct config *config = NULL;
  char *problems = NULL;
  assert_int_equal(config_load(&source, &config, &problems), -22);
  must_say(problems, "/nonexistent/self-improve.toml: cannot be read: No such file or directory");
  free(problems);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_empty_file_gives_the_defaults),
      cmocka_unit_test(values_reach_their_owners),
      cmocka_unit_test(a_double_key_or_table_is_refused_with_its_line),
      cmocka_unit_test(a_byte_order_mark_and_crlf_are_accepted),
      cmocka_unit_test(numbers_that_are_none_are_refused_with_their_line),
      cmocka_unit_test(a_misspelt_key_is_refused_with_what_was_meant),
      cmocka_unit_test(an_unset_or_empty_variable_is_refused_by_name),
      cmocka_unit_test(an_empty_list_of_keys_is_refused_unless_auth_is_off),
      cmocka_unit_test(off_loopback_needs_keys),
      cmocka_unit_test(a_provider_tells_all_that_is_wrong_with_it),
      cmocka_unit_test(every_form_of_a_base_url_gives_one_path),
      cmocka_unit_test(all_value_errors_are_told_at_once),
      cmocka_unit_test(of_syntax_errors_the_first_is_told),
      cmocka_unit_test(every_tunable_has_its_key_and_its_bounds),
      cmocka_unit_test(several_models_make_a_deployment_each),
      cmocka_unit_test(a_models_name_is_a_route_to_all_who_serve_it),
      cmocka_unit_test(a_candidate_may_be_a_provider_or_a_model),
      cmocka_unit_test(local_providers_have_instances_within_their_bounds),
      cmocka_unit_test(a_ca_file_must_hold_a_certificate),
      cmocka_unit_test(the_environment_wins_over_the_file),
      cmocka_unit_test(parts_of_the_loop_run_unless_switched_off),
      cmocka_unit_test(wrong_variables_are_refused_by_name),
      cmocka_unit_test(names_and_addresses_from_the_environment_are_checked_as_those_of_the_file),
      cmocka_unit_test(providers_come_from_the_environment),
      cmocka_unit_test(the_preferred_provider_leads_a_written_route_auto),
      cmocka_unit_test(too_many_providers_are_refused),
      cmocka_unit_test(a_provider_that_leads_back_to_us_is_found),
      cmocka_unit_test(a_file_that_is_not_there_is_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
