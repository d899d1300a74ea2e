#ifndef PIPELINE_REQUEST_H
#define PIPELINE_REQUEST_H

/* One request from admission to its last byte. Belongs to its pipeline and lives on that shard's thread. */

#include "bus/limits.h"
#include "bus/outcome.h"
#include "pipeline/upstream.h"
#include "sys/timer.h"

enum { REQUEST_ID_SIZE = 32 }; /* "chatcmpl-" and 16 hex digits */

enum request_form {
  FORM_CHAT,   /* body is an OpenAI chat request, forwarded with small edits */
  FORM_PROMPT, /* body is {"input": ...}: assembled into a chat request */
};

struct request;
struct pipeline;
struct flight;

/* How a request ended, for its client. Strings are borrowed for the call. */
struct answer {
  int status;       /* HTTP: 200, 4xx, 5xx */
  const char *body; /* the provider's whole answer or error body; NULL: make one from the fields below */
  size_t body_size;
  const char *error_type;       /* "rate_limit_error", "overloaded_error", ... ; NULL when status is 200 */
  const char *error_code;       /* "deadline_exceeded", "provider_unavailable", ... */
  const char *error_message;    /* a sentence that says what to do */
  int retry_after_s;            /* -1: none */
  const char *provider, *model; /* that served it; NULL when none did */
  uint32_t tokens_in, tokens_out;
  double cost_usd;
  unsigned attempts;
  bool coalesced;
};

/* The client's side: the HTTP front, or a simulated client. Called on the shard's thread. */
struct client_ops {
  /* Streams only, before the first event: status 200 is certain. */
  void (*begin)(void *client, const struct request *request, const struct answer *answer);
  /* One event; size 0: only a question. Returns the bytes that the client has not read yet. */
  size_t (*event)(void *client, const char *bytes, size_t size);
  /* Exactly once for every admitted request, last call. After begin(), a status other than 200 means an error
   * frame. Not called after request_cancel. */
  void (*finish)(void *client, const struct request *request, const struct answer *answer);
};

struct request_spec {
  enum request_form form;
  uint16_t route;
  enum priority priority;
  bool stream;
  bool include_usage; /* the client asked for the usage chunk itself */
  bool no_coalesce;
  uint8_t choices;  /* asked for; 0: one */
  uint64_t session; /* hash of X-Session-Id, else user; 0: none, the request stands for itself */
  uint64_t tenant;
  int64_t deadline_ns; /* absolute; 0: the default */
  char *body;          /* malloc'ed; taken over when submit returns a request */
  size_t body_size;
  size_t model_at, model_size; /* the model's value in body, with its quotes; 0, 0: absent */
  uint32_t tokens_in;          /* estimate */
  const struct client_ops *ops;
  void *client;
};

enum request_phase {
  PHASE_QUEUED,  /* in a ring */
  PHASE_WAITING, /* in inference: for a provider, a back-off or a flight */
  PHASE_CALLING, /* an attempt is under way */
  PHASE_ENDED
};

struct request {
  struct request_spec spec;
  char *original; /* the body as its client sent it, once spec.body is another; else NULL */
  size_t original_size;
  uint64_t id;
  char id_text[REQUEST_ID_SIZE];
  struct pipeline *pipeline;
  enum request_phase phase;
  enum stage stage;              /* whose ring holds it, or held it last */
  int64_t arrived_ns, staged_ns; /* admitted; pushed into the present ring */
  int64_t dispatched_ns;         /* first attempt; 0: none yet */
  int64_t deadline_ns;
  struct timer deadline_timer, attempt_timer, backoff_timer;
  struct attempt attempt;
  uint32_t breaker_generation;
  uint8_t candidate;             /* of the present attempt, index into the route */
  uint8_t tries[MAX_CANDIDATES]; /* attempts at each */
  uint32_t spent;                /* candidates given up, one bit each */
  bool treated;                  /* session in the treatment arm of the SESSION experiment */
  bool begun;                    /* the client has its first event */
  uint32_t passed_over;          /* the last round in which it had to wait: struct lanes_skip */
  bool surveyed, pinned;         /* its candidates were looked at; its next try is at the same one */
  int64_t reopens_ns;            /* the first provider that it was turned away from; 0: none did */
  int last_status;               /* of the last failed attempt, with what the provider said */
  char last_detail[96];
  struct upstream_result result; /* once the last attempt is done */
  struct outcome outcome;        /* filled as things happen */
  struct flight *flight;         /* coalescing: led or joined */
  bool leads;
  bool detached;                             /* leads a flight, but its own client is gone or answered */
  struct request *next, *previous;           /* in a ring or the ended list of its pipeline */
  struct request *next_live, *previous_live; /* all requests of the pipeline that have not ended */
  struct request *next_waiter;               /* in its flight */
  char *held;                                /* stream events before the first content */
  size_t held_size;
};

#endif
