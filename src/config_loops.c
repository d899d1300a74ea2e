/* A gateway that is its own provider would answer every request with a new one. */

#include "config.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Host and port of a URL; the host malloc'ed by libcurl. False when it cannot be read. */
static bool split_url(const char *text, char **host, unsigned *port) {
  char *number = NULL;
  CURLU *url = curl_url();
  bool ok = url && curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK &&
            curl_url_get(url, CURLUPART_HOST, host, 0) == CURLUE_OK &&
            curl_url_get(url, CURLUPART_PORT, &number, CURLU_DEFAULT_PORT) == CURLUE_OK;
  if (ok) *port = (unsigned)strtoul(number, NULL, 10);
  curl_free(number);
  curl_url_cleanup(url);
  return ok;
}

static bool is_any(const struct sockaddr *a) {
  if (a->sa_family == AF_INET) return ((const struct sockaddr_in *)a)->sin_addr.s_addr == htonl(INADDR_ANY);
  return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

static bool same_address(const struct sockaddr *a, const struct sockaddr *b) {
  if (!a || !b || a->sa_family != b->sa_family) return false;
  if (a->sa_family == AF_INET)
    return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
           ((const struct sockaddr_in *)b)->sin_addr.s_addr;
  if (a->sa_family != AF_INET6) return false;
  return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr,
                sizeof(struct in6_addr)) == 0;
}

static bool is_loopback(const struct sockaddr *a) {
  if (a->sa_family == AF_INET) return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
  return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

/* Is the address one of this machine's? */
static bool is_own(const struct sockaddr *a) {
  struct ifaddrs *list;
  bool own = is_loopback(a) || is_any(a);
  if (getifaddrs(&list) != 0) return own;
  for (struct ifaddrs *i = list; i && !own; i = i->ifa_next)
    own = same_address(i->ifa_addr, a);
  freeifaddrs(list);
  return own;
}

static bool leads_here(const char *host, const struct sockaddr *listening) {
  struct addrinfo *list, hints = {.ai_socktype = SOCK_STREAM};
  char bare[256];
  size_t length = strlen(host);
  bool bracketed = length > 2 && host[0] == '[' && host[length - 1] == ']';
  snprintf(bare, sizeof bare, "%.*s", (int)(bracketed ? length - 2 : length), bracketed ? host + 1 : host);
  if (getaddrinfo(bare, NULL, &hints, &list) != 0) return false;
  bool here = false;
  for (struct addrinfo *i = list; i && !here; i = i->ai_next)
    here = same_address(i->ai_addr, listening) || is_any(i->ai_addr) ||
           (is_any(listening) && is_own(i->ai_addr));
  freeaddrinfo(list);
  return here;
}

int config_check_loops(const struct config *config, uint16_t port, char *error, size_t error_size) {
  struct addrinfo *own, hints = {.ai_socktype = SOCK_STREAM};
  if (getaddrinfo(config->server.host, NULL, &hints, &own) != 0) return 0;
  int result = 0;
  for (unsigned i = 0; i < config->provider_count && result == 0; i++) {
    const struct provider_settings *p = &config->providers[i];
    char *host = NULL;
    unsigned to = 0;
    if (p->kind == PROVIDER_OPENAI && !p->local && split_url(p->base_url, &host, &to) && to == port &&
        leads_here(host, own->ai_addr)) {
      snprintf(error, error_size,
               "provider %s: its base_url leads back to this daemon itself (%s:%u); point it at the "
               "provider, or let "
               "the daemon listen elsewhere (server.port, --port)",
               p->name, config->server.host, (unsigned)port);
      result = -EINVAL;
    }
    curl_free(host);
  }
  freeaddrinfo(own);
  return result;
}
