#include "provider/provider.h"

#include "provider/echo.h"
#include "provider/local.h"
#include "provider/openai_upstream.h"
#include "provider/wire.h"
#include "sys/evloop.h"

#include <curl/curl.h>
#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char chat_path[] = "/chat/completions";

static int refuse(char *error, size_t error_size, const char *what) {
  snprintf(error, error_size, "%s", what);
  return -EINVAL;
}

/* ---- addresses ---- */

/* One slash where there are several, none at the end. */
static void tidy_path(char *path) {
  char *to = path;
  for (const char *from = path; *from; from++)
    if (*from != '/' || to == path || to[-1] != '/') *to++ = *from;
  while (to > path && to[-1] == '/')
    to--;
  *to = '\0';
}

static bool ends_with(const char *text, const char *end) {
  size_t size = strlen(text), end_size = strlen(end);
  return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

static char *part(CURLU *url, CURLUPart what) {
  char *text = NULL;
  return curl_url_get(url, what, &text, 0) == CURLUE_OK ? text : NULL;
}

static const char *objection(CURLU *url) {
  static const struct {
    CURLUPart part;
    const char *why;
  } unwanted[] = {{CURLUPART_USER, "holds a user name; put the key into the provider's key"},
                  {CURLUPART_PASSWORD, "holds a password; put the key into the provider's key"},
                  {CURLUPART_FRAGMENT, "holds a '#' part, which means nothing to a server"}};
  for (size_t i = 0; i < sizeof unwanted / sizeof unwanted[0]; i++) {
    char *text = part(url, unwanted[i].part);
    curl_free(text);
    if (text) return unwanted[i].why;
  }
  char *scheme = part(url, CURLUPART_SCHEME);
  bool http = scheme && (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
  curl_free(scheme);
  return http ? NULL : "must begin with http:// or https://";
}

static int write_url(CURLU *url, char *out, size_t out_size, char *error, size_t error_size) {
  char path[PROVIDER_URL_SIZE + 32];
  char *given = part(url, CURLUPART_PATH), *whole = NULL;
  snprintf(path, sizeof path, "%s", given ? given : "");
  curl_free(given);
  tidy_path(path);
  if (!ends_with(path, chat_path)) {
    if (path[0] == '\0') strcpy(path, "/v1");
    strcat(path, chat_path);
  }
  bool good = curl_url_set(url, CURLUPART_PATH, path, 0) == CURLUE_OK &&
              curl_url_get(url, CURLUPART_URL, &whole, 0) == CURLUE_OK;
  if (good && strlen(whole) >= out_size) good = false;
  if (good) strcpy(out, whole);
  curl_free(whole);
  return good ? 0 : refuse(error, error_size, "is too long");
}

int provider_chat_url(const char *base_url, char *url, size_t url_size, char *error, size_t error_size) {
  if (strlen(base_url) >= PROVIDER_URL_SIZE) return refuse(error, error_size, "is too long");
  if (base_url[strcspn(base_url, " \t\r\n")]) return refuse(error, error_size, "holds a blank");
  CURLU *parsed = curl_url();
  if (!parsed) return refuse(error, error_size, "could not be read: out of memory");
  int result = 0;
  if (strncasecmp(base_url, "http://", 7) != 0 && strncasecmp(base_url, "https://", 8) != 0)
    result = refuse(error, error_size, "must begin with http:// or https://");
  else if (curl_url_set(parsed, CURLUPART_URL, base_url, 0) != CURLUE_OK)
    result = refuse(error, error_size, "is not an address such as https://api.example.com/v1");
  const char *why = result == 0 ? objection(parsed) : NULL;
  if (why) result = refuse(error, error_size, why);
  if (result == 0) result = write_url(parsed, url, url_size, error, error_size);
  curl_url_cleanup(parsed);
  return result;
}

/* ---- settings ---- */

int provider_check_ca(const char *path) {
  FILE *file = fopen(path, "r");
  X509 *certificate = file ? PEM_read_X509(file, NULL, NULL, NULL) : NULL;
  int result = certificate ? 0 : -EINVAL;
  X509_free(certificate);
  if (file) fclose(file);
  return result;
}

int provider_check(const struct provider_settings *s, char *error, size_t error_size) {
  char url[PROVIDER_URL_SIZE + 32], why[96];
  if (s->kind == PROVIDER_ECHO) return 0;
  for (const char *c = s->api_key; *c; c++)
    if ((unsigned char)*c <= ' ' || (unsigned char)*c > '~')
      return refuse(error, error_size, "the key holds a blank or a character that no header may have");
  if (s->local)
    return s->command[0]
               ? 0
               : refuse(error, error_size, "a local provider needs the command that starts an instance");
  if (!s->base_url[0])
    return refuse(error, error_size, "base_url is missing, such as \"https://api.example.com/v1\"");
  if (provider_chat_url(s->base_url, url, sizeof url, why, sizeof why) == 0) return 0;
  snprintf(error, error_size, "base_url %s", why);
  return -EINVAL;
}

/* ---- one shard's transports ---- */

struct providers {
  struct wire *wire;
  unsigned count;
  enum provider_kind kinds[MAX_PROVIDERS];
  struct upstream *upstreams[MAX_PROVIDERS];
};

static struct upstream *attach_one(struct providers *p, struct evloop *loop,
                                   const struct provider_settings *settings, unsigned index,
                                   struct local_pool *pool) {
  if (settings->kind == PROVIDER_ECHO) return echo_create(settings, evloop_timers(loop));
  return openai_upstream_create(settings, index, pool, p->wire, evloop_timers(loop));
}

struct providers *providers_attach(struct evloop *loop, const struct provider_settings *settings,
                                   unsigned count, struct local_pool *pool,
                                   struct upstream *upstreams[MAX_PROVIDERS], char *error,
                                   size_t error_size) {
  char why[128];
  struct providers *p = calloc(1, sizeof *p);
  snprintf(error, error_size, "out of memory");
  if (!p) return NULL;
  p->wire = wire_create(loop);
  bool good = p->wire != NULL;
  for (unsigned i = 0; good && i < count; i++) {
    if (provider_check(&settings[i], why, sizeof why) < 0) {
      snprintf(error, error_size, "provider %s: %s", settings[i].name, why);
      good = false;
      break;
    }
    p->kinds[i] = settings[i].kind;
    p->upstreams[i] = upstreams[i] = attach_one(p, loop, &settings[i], i, pool);
    good = upstreams[i] != NULL;
    p->count = i + good;
  }
  if (good) return p;
  providers_detach(p);
  return NULL;
}

void providers_detach(struct providers *p) {
  if (!p) return;
  for (unsigned i = 0; i < p->count; i++) {
    if (p->kinds[i] == PROVIDER_ECHO)
      echo_destroy(p->upstreams[i]);
    else
      openai_upstream_destroy(p->upstreams[i]);
  }
  wire_destroy(p->wire);
  free(p);
}
