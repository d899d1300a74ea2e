/* The environment, stronger than any file. The names are those that users of such gateways have set already,
 * plus SELF_IMPROVE_<TUNABLE> for every tunable, SELF_IMPROVE_<TUNABLE>_<PROVIDER> for one provider's. */

#include "config_internal.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { VARIABLE_SIZE = 192 };

static const char prefix[] = "SELF_IMPROVE_";

static const char *lookup(char *const *environment, const char *name) {
  size_t length = strlen(name);
  for (; *environment; environment++)
    if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=')
      return *environment + length + 1;
  return NULL;
}

/* The value, or NULL when the variable is not set; one that is set but empty is a problem. */
static const char *wanted(struct reader *r, char *const *environment, const char *name) {
  const char *value = lookup(environment, name);
  if (!value || *value) return value;
  reader_problem_of(r, name, "is set but empty; give it a value or unset it");
  return NULL;
}

static int find_group(const struct config *c, const char *name) {
  for (unsigned i = 0; i < c->provider_count; i++)
    if (strcmp(c->groups[i], name) == 0) return (int)i;
  return -1;
}

static void check_added(const struct config *c, struct reader *r, const char *variable, int index) {
  char error[512];
  if (index < 0)
    reader_problem_of(r, variable, "there is no room for one more provider; allowed: up to %d",
                      MAX_PROVIDERS);
  else if (provider_check(&c->providers[index], error, sizeof error) != 0)
    reader_problem_of(r, variable, "%s", error);
}

/* The address of a server that speaks the OpenAI dialect: replaces that of the provider of this name, or adds
 * one. */
static void read_server_url(struct config *c, struct reader *r, char *const *environment,
                            const char *variable, const char *name, const char *model) {
  const char *url = wanted(r, environment, variable);
  if (!url) return;
  if (strlen(url) >= PROVIDER_URL_SIZE) {
    reader_problem_of(r, variable, "is too long; allowed: up to %d bytes", PROVIDER_URL_SIZE - 1);
    return;
  }
  if (!model) {
    reader_problem_of(r, variable, "needs MODEL, too: the name of the model that the server serves");
    return;
  }
  int index = find_group(c, name);
  if (index < 0)
    index = config_add_provider(c, name, PROVIDER_OPENAI, url, "", model);
  else
    for (unsigned i = 0; i < c->provider_count; i++)
      if (strcmp(c->groups[i], name) == 0) snprintf(c->providers[i].base_url, PROVIDER_URL_SIZE, "%s", url);
  check_added(c, r, variable, index);
}

static void read_openai(struct config *c, struct reader *r, char *const *environment, const char *model,
                        bool alone) {
  const char *key = wanted(r, environment, "OPENAI_API_KEY");
  const char *url = wanted(r, environment, "OPENAI_BASE_URL");
  if (!key) return;
  if (url && strlen(url) >= PROVIDER_URL_SIZE) {
    reader_problem_of(r, "OPENAI_BASE_URL", "is too long; allowed: up to %d bytes", PROVIDER_URL_SIZE - 1);
    return;
  }
  if (strlen(key) >= PROVIDER_KEY_SIZE) {
    reader_problem_of(r, "OPENAI_API_KEY", "is too long; allowed: up to %d bytes", PROVIDER_KEY_SIZE - 1);
    return;
  }
  int index = find_group(c, "openai");
  if (index >= 0) {
    for (unsigned i = 0; i < c->provider_count; i++)
      if (strcmp(c->groups[i], "openai") == 0)
        snprintf(c->providers[i].api_key, PROVIDER_KEY_SIZE, "%s", key);
  } else if (alone) {
    index = config_add_provider(c, "openai", PROVIDER_OPENAI, url ? url : "https://api.openai.com/v1", key,
                                model ? model : "gpt-4o-mini");
    config_notice(c, "provider openai comes from OPENAI_API_KEY, without prices: write it as [[providers]] "
                     "so that cost counts");
  } else {
    config_notice(c, "OPENAI_API_KEY is not used: the file configures providers, none of them called openai");
    return;
  }
  check_added(c, r, "OPENAI_API_KEY", index);
}

static void read_preferred(struct config *c, struct reader *r, char *const *environment) {
  const char *name = wanted(r, environment, "PROVIDER");
  if (!name) return;
  if (strcasecmp(name, "anthropic") == 0) {
    reader_problem_of(r, "PROVIDER",
                      "anthropic is not supported yet; allowed: echo, openai, llama_cpp, vllm or a "
                      "configured provider's name");
    return;
  }
  if (strcasecmp(name, "llama") == 0 || strcasecmp(name, "llama.cpp") == 0) name = "llama_cpp";
  if (strcmp(name, "echo") == 0 && find_group(c, "echo") < 0)
    config_add_provider(c, "echo", PROVIDER_ECHO, "", "", "echo");
  if (find_group(c, name) < 0) {
    reader_problem_of(r, "PROVIDER", "there is no provider %s; configure it, or set %s", name,
                      strcmp(name, "openai") == 0      ? "OPENAI_API_KEY"
                      : strcmp(name, "llama_cpp") == 0 ? "LLAMA_CPP_URL"
                      : strcmp(name, "vllm") == 0      ? "VLLM_URL and MODEL"
                                                       : "PROVIDER to one that is");
    return;
  }
  snprintf(c->prefer, sizeof c->prefer, "%s", name);
}

/* RUST_LOG is a list of filters; the first that names no module is the level. */
static void read_log_level(struct config *c, struct reader *r, const char *text) {
  while (text && *text) {
    size_t length = strcspn(text, ",");
    char word[32];
    snprintf(word, sizeof word, "%.*s", (int)length, text);
    text += length + (text[length] == ',');
    if (strchr(word, '=')) continue;
    for (char *p = word; *p; p++)
      *p = (char)tolower((unsigned char)*p);
    const char *level = strcmp(word, "trace") == 0 ? "debug" : strcmp(word, "off") == 0 ? "error" : word;
    if (log_parse_level(level, &c->log_level) != 0)
      reader_problem_of(r, "RUST_LOG", "\"%s\" is no level; allowed: error, warn, info, debug, trace, off",
                        word);
    return;
  }
}

static void read_log_format(struct config *c, struct reader *r, const char *text) {
  if (!text) return;
  if (strcmp(text, "json") == 0)
    c->log_json = true;
  else if (strcmp(text, "text") == 0 || strcmp(text, "pretty") == 0)
    c->log_json = false;
  else
    reader_problem_of(r, "RUST_LOG_FORMAT", "\"%s\" is no format; allowed: json, text, pretty", text);
}

/* A name as it stands in a variable: upper case, everything else than letters and digits an underscore. */
static void variable_name(char *out, size_t size, const char *name, const char *suffix) {
  int n = snprintf(out, size, *suffix ? "%s%s_%s" : "%s%s%s", prefix, name, suffix);
  for (int i = 0; i < n && i < (int)size; i++) {
    unsigned char ch = (unsigned char)out[i];
    if (ch) out[i] = (char)(isalnum(ch) ? toupper(ch) : '_');
  }
}

static bool parse_value(struct reader *r, const char *variable, const char *text, int id, double *out) {
  const struct tunable_info *info = &tunable_infos[id];
  char *end;
  double value = strtod(text, &end);
  bool whole = info->kind != TUNABLE_INTEGER || value == floor(value);
  if (end == text || *end || !(value >= info->min && value <= info->max) || !whole) {
    reader_problem_of(r, variable, "\"%.40s\" is not allowed; allowed: %s from %.15g to %.15g %s", text,
                      info->kind == TUNABLE_INTEGER ? "a whole number" : "a number", info->min, info->max,
                      info->unit);
    return false;
  }
  *out = value;
  return true;
}

/* Does the variable set this tunable? Then true, and its values are in place (or a problem is told). */
static bool sets_tunable(struct config *c, struct reader *r, const char *variable, const char *text, int id) {
  char name[VARIABLE_SIZE];
  double value;
  variable_name(name, sizeof name, tunable_infos[id].name, "");
  bool each = tunable_infos[id].scope == TUNABLE_PROVIDER;
  if (strcmp(name, variable) == 0) {
    if (parse_value(r, variable, text, id, &value))
      for (unsigned p = 0; p < (each ? MAX_PROVIDERS : 1); p++)
        if (isnan(c->environment[id][p])) c->environment[id][p] = value;
    return true;
  }
  for (unsigned p = 0; each && p < c->provider_count; p++) {
    variable_name(name, sizeof name, tunable_infos[id].name, c->specs[p].name);
    if (strcmp(name, variable) != 0) continue;
    if (parse_value(r, variable, text, id, &value)) c->environment[id][p] = value;
    return true;
  }
  return false;
}

static void tell_unknown(struct reader *r, const char *variable) {
  char names[TUNABLES][VARIABLE_SIZE];
  const char *list[TUNABLES];
  for (int id = 0; id < TUNABLES; id++) {
    variable_name(names[id], VARIABLE_SIZE, tunable_infos[id].name, "");
    list[id] = names[id];
  }
  const char *near = reader_nearest(variable, list, TUNABLES);
  if (near)
    reader_problem_of(r, variable, "sets no tunable; did you mean %s?", near);
  else
    reader_problem_of(r, variable, "sets no tunable; docs/tunables.md lists them");
}

static void read_tunables(struct config *c, struct reader *r, char *const *environment) {
  for (; *environment; environment++) {
    const char *equals = strchr(*environment, '=');
    char variable[VARIABLE_SIZE];
    if (!equals || strncmp(*environment, prefix, sizeof prefix - 1) != 0) continue;
    snprintf(variable, sizeof variable, "%.*s", (int)(equals - *environment), *environment);
    if (strcmp(variable, "SELF_IMPROVE_DISABLE") == 0) {
      c->observe = c->observe || (strcmp(equals + 1, "") != 0 && strcmp(equals + 1, "0") != 0);
      continue;
    }
    bool found = false;
    for (int id = 0; id < TUNABLES && !found; id++)
      found = sets_tunable(c, r, variable, equals + 1, id);
    if (!found) tell_unknown(r, variable);
  }
}

void config_read_environment(struct config *c, struct reader *r, char *const *environment) {
  const char *model = wanted(r, environment, "MODEL");
  const char *key = wanted(r, environment, "API_KEY");
  const char *fault = model ? reader_name_fault(model, NAME_SIZE) : NULL;
  bool alone = c->provider_count == 0;
  if (fault) reader_problem_of(r, "MODEL", "%s", fault);
  read_server_url(c, r, environment, "LLAMA_CPP_URL", "llama_cpp", model ? model : "default");
  read_server_url(c, r, environment, "VLLM_URL", "vllm", model);
  read_openai(c, r, environment, model, alone);
  if (lookup(environment, "ANTHROPIC_API_KEY"))
    config_notice(
        c, "ANTHROPIC_API_KEY is not used: providers that speak Anthropic's own API are not supported yet");
  read_preferred(c, r, environment);
  if (key) config_add_key(c, r, NULL, "API_KEY", key);
  read_log_level(c, r, wanted(r, environment, "RUST_LOG"));
  read_log_format(c, r, wanted(r, environment, "RUST_LOG_FORMAT"));
  read_tunables(c, r, environment);
}
