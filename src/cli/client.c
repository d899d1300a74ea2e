#include "cli/client.h"

#include "cli/run_options.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_MAX = 64 << 20, TIMEOUT_S = 20, CONNECT_TIMEOUT_MS = 2000 };

enum {
  OPTION_URL = 256,
  OPTION_CONFIG,
  OPTION_DATA_DIR,
  OPTION_JSON,
  OPTION_LIMIT,
  OPTION_REASON,
  OPTION_CHANGES
};

static const struct option long_options[] = {{"url", required_argument, NULL, OPTION_URL},
                                             {"config", required_argument, NULL, OPTION_CONFIG},
                                             {"data-dir", required_argument, NULL, OPTION_DATA_DIR},
                                             {"json", no_argument, NULL, OPTION_JSON},
                                             {"limit", required_argument, NULL, OPTION_LIMIT},
                                             {"reason", required_argument, NULL, OPTION_REASON},
                                             {"changes", no_argument, NULL, OPTION_CHANGES},
                                             {0}};

struct places {
  const char *url, *config, *data_dir;
};

static bool take(struct client *c, struct places *places, int option) {
  char *end;
  switch (option) {
  case OPTION_URL:
    places->url = optarg;
    return true;
  case OPTION_CONFIG:
    places->config = optarg;
    return true;
  case OPTION_DATA_DIR:
    places->data_dir = optarg;
    return true;
  case OPTION_JSON:
    c->json = true;
    return true;
  case OPTION_REASON:
    c->reason = optarg;
    return true;
  case OPTION_CHANGES:
    c->changes = true;
    return true;
  case OPTION_LIMIT:
    c->limit = strtoll(optarg, &end, 10);
    if (end != optarg && !*end && c->limit > 0) return true;
    fprintf(stderr, "self-improve: --limit %s is no number; allowed: 1 and more\n", optarg);
    return false;
  default:
    return false;
  }
}

/* Address and database as the configuration says; a file that is wrong only matters when it was named. */
static bool find_places(struct client *c, const struct places *places) {
  struct config_source source = {.path = run_options_file(places->config), .places = true};
  struct config *config = NULL;
  char *problems = NULL;
  bool ok = config_load(&source, &config, &problems) == 0;
  if (!ok && places->config) fputs(problems ? problems : "self-improve: out of memory\n", stderr);
  free(problems);
  if (!ok && places->config) return false;
  const char *host = ok ? config->server.host : "127.0.0.1";
  snprintf(c->url, sizeof c->url, strchr(host, ':') ? "http://[%s]:%u" : "http://%s:%u", host,
           ok ? (unsigned)config->server.port : 8080U);
  snprintf(c->database, sizeof c->database, "%s", ok ? config->store_path : "var/self-improve.db");
  config_free(config);
  if (places->url) {
    snprintf(c->url, sizeof c->url, "%s", places->url);
    if (!places->config) *c->database = '\0'; /* another daemon's would be taken for its own */
  }
  if (places->data_dir) snprintf(c->database, sizeof c->database, "%s/self-improve.db", places->data_dir);
  for (size_t n = strlen(c->url); n > 0 && c->url[n - 1] == '/'; n--)
    c->url[n - 1] = '\0';
  return true;
}

bool client_parse(struct client *c, int argc, char **argv, unsigned min, unsigned max) {
  struct places places = {0};
  *c = (struct client){.limit = 20};
  optind = 1;
  for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;)
    if (!take(c, &places, option)) return false;
  for (; optind < argc && c->name_count < 2; optind++)
    c->names[c->name_count++] = argv[optind];
  if (c->name_count < min || c->name_count > max || optind < argc) {
    fprintf(stderr, "%s: wants %u name%s, not %u\n", argv[0], max, max == 1 ? "" : "s", c->name_count);
    return false;
  }
  const char *key = getenv("API_KEY");
  if (key) snprintf(c->key, sizeof c->key, "%s", key);
  return find_places(c, &places);
}

struct growing {
  char *text;
  size_t size;
};

static size_t collect(char *bytes, size_t one, size_t n, void *ctx) {
  struct growing *g = ctx;
  size_t size = one * n;
  char *grown = g->size + size < ANSWER_MAX ? realloc(g->text, g->size + size + 1) : NULL;
  if (!grown) return 0;
  memcpy(grown + g->size, bytes, size);
  g->text = grown;
  g->size += size;
  g->text[g->size] = '\0';
  return size;
}

static struct curl_slist *headers_of(const struct client *c) {
  char line[600];
  struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
  snprintf(line, sizeof line, "Authorization: Bearer %s", c->key);
  return *c->key ? curl_slist_append(headers, line) : headers;
}

int client_call(const struct client *c, const char *path, const char *body, char **answer) {
  char url[2 * CLIENT_PATH];
  long status = 0;
  struct growing g = {0};
  CURL *easy = curl_easy_init();
  if (!easy) return 0;
  struct curl_slist *headers = headers_of(c);
  snprintf(url, sizeof url, "%s%s", c->url, path);
  curl_easy_setopt(easy, CURLOPT_URL, url);
  curl_easy_setopt(easy, CURLOPT_PROXY, "");
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT, (long)TIMEOUT_S);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, collect);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &g);
  if (body) curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
  if (curl_easy_perform(easy) == CURLE_OK) curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  curl_slist_free_all(headers);
  curl_easy_cleanup(easy);
  if (status == 0) {
    free(g.text);
    g.text = NULL;
  }
  *answer = g.text;
  return (int)status;
}

void client_tell(int status, const char *answer) {
  cJSON *json = answer ? cJSON_Parse(answer) : NULL;
  const cJSON *error = cJSON_GetObjectItem(json, "error");
  const char *message = cJSON_GetStringValue(cJSON_GetObjectItem(error, "message"));
  fprintf(stderr, "self-improve: %s (HTTP %d)\n", message ? message : "the daemon did not say why", status);
  cJSON_Delete(json);
}

static cJSON *from_database(const struct client *c, enum store_query query, const char *text) {
  char error[512];
  int status;
  if (!*c->database) {
    fprintf(stderr,
            "self-improve: no daemon answers at %s; --data-dir or --config says where its database is\n",
            c->url);
    return NULL;
  }
  struct store_reader *reader = store_reader_open(c->database, error, sizeof error);
  if (!reader) {
    fprintf(stderr, "self-improve: no daemon answers at %s, and %s\n", c->url, error);
    return NULL;
  }
  char *answer = store_query(reader, query, text, c->limit, &status);
  store_reader_close(reader);
  if (!answer)
    fprintf(stderr, "self-improve: %s: %s\n", c->database,
            status == -ENOENT   ? "there is no such entry"
            : status == -EINVAL ? "that is no id, or means several entries"
                                : strerror(-status));
  cJSON *json = answer ? cJSON_Parse(answer) : NULL;
  free(answer);
  return json;
}

cJSON *client_ask(const struct client *c, const char *path, enum store_query query, const char *text,
                  bool *offline) {
  char *answer = NULL;
  int status = client_call(c, path, NULL, &answer);
  *offline = status == 0;
  if (status == 0) return from_database(c, query, text);
  cJSON *json = status == 200 ? cJSON_Parse(answer) : NULL;
  if (!json) client_tell(status, answer);
  free(answer);
  return json;
}

void client_escape(const char *name, char *out, size_t size) {
  size_t n = 0;
  for (; *name && n + 4 < size; name++) {
    if (isalnum((unsigned char)*name) || strchr("-_.~", *name))
      out[n++] = *name;
    else
      n += (size_t)snprintf(out + n, size - n, "%%%02X", (unsigned char)*name);
  }
  out[n] = '\0';
}
