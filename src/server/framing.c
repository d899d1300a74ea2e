/* Request smuggling lives on two readers of one request that disagree about where it ends. So everything that
 * another reader could understand differently is refused (RFC 9112, sections 5.1, 5.2, 6.1 and 6.3): both
 * length fields, two lengths, a length that is not plain digits, any transfer coding but a single "chunked",
 * a transfer coding in HTTP/1.0, names that are not tokens (such as with a space before the colon) and folded
 * lines.
 *
 * libmicrohttpd 0.9.75 appends a folded line to the *name* of its field, in new memory: name and value are
 * then no longer neighbours, which is how folding shows. */

#include "server/exchange.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

struct scan {
  struct framing *framing;
  unsigned lengths, codings, hosts;
};

static bool token(const char *name) {
  static const char marks[] = "!#$%&'*+-.^_`|~";
  const char *c = name;
  for (; *c; c++) {
    bool alnum = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9');
    if (!alnum && !strchr(marks, *c)) return false;
  }
  return c != name;
}

static bool folded(const char *name, const char *value) {
  const char *after = name + strlen(name) + 1;
  if (value < after || value > after + 4096) return true;
  for (; after < value; after++)
    if (*after != ' ' && *after != '\t') return true;
  return false;
}

static bool read_length(const char *value, size_t *length) {
  uint64_t n = 0;
  if (!*value) return false;
  for (const char *c = value; *c; c++) {
    if (*c < '0' || *c > '9') return false;
    n = n > (SIZE_MAX - 9) / 10 ? SIZE_MAX : n * 10 + (uint64_t)(*c - '0');
  }
  *length = n;
  return true;
}

static enum MHD_Result read_field(void *ctx, enum MHD_ValueKind kind, const char *name, const char *value) {
  (void)kind;
  struct scan *scan = ctx;
  struct framing *f = scan->framing;
  if (!value) value = "";
  if (!token(name))
    f->refusal =
        "a header name holds characters that are not allowed there, such as a space before the colon";
  else if (*value && folded(name, value))
    f->refusal = "a header is folded over two lines; send each on one line";
  else if (!strcasecmp(name, "content-length")) {
    if (++scan->lengths > 1) f->refusal = "there are two Content-Length headers; send one";
    if (!read_length(value, &f->length)) f->refusal = "Content-Length is not a plain number";
  } else if (!strcasecmp(name, "transfer-encoding")) {
    if (++scan->codings > 1 || strcasecmp(value, "chunked") != 0)
      f->refusal = "the only Transfer-Encoding understood is a single \"chunked\"";
    f->chunked = true;
  } else if (!strcasecmp(name, "host")) {
    if (++scan->hosts > 1) f->refusal = "there are two Host headers; send one";
  } else if (!strcasecmp(name, "expect")) {
    f->expects_continue = true;
  }
  return f->refusal ? MHD_NO : MHD_YES;
}

void framing_read(struct MHD_Connection *connection, const char *version, struct framing *framing) {
  *framing = (struct framing){0};
  struct scan scan = {.framing = framing};
  MHD_get_connection_values(connection, MHD_HEADER_KIND, read_field, &scan);
  if (framing->refusal) return;
  bool old = !strcmp(version, "HTTP/1.0");
  if (scan.lengths && scan.codings)
    framing->refusal = "Content-Length and Transfer-Encoding stand together; send one of them";
  else if (scan.codings && old)
    framing->refusal = "HTTP/1.0 has no Transfer-Encoding";
  else if (!scan.hosts && !old)
    framing->refusal = "the Host header is missing";
}
