#ifndef SIM_LOADGEN_H
#define SIM_LOADGEN_H

/* A client of an OpenAI-compatible gateway that sends on a schedule: an open loop, arrivals never wait for
 * answers. It measures what its user would see and posts rewards to /api/v1/feedback as a client would: for a
 * share of the answers, late, with noise. One event loop, its thread. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct evloop;
struct loadgen;
struct measure;
struct scenario;

struct loadgen_settings {
  const char *url;             /* of the gateway: http://127.0.0.1:8080 */
  const char *key;             /* bearer token; NULL: none */
  const char *route;           /* the model asked for; NULL: "auto" */
  const char *scenario, *data; /* prompts, lengths, sessions, repeats, rewards; NULL data: "data" */
  const char *trace;       /* gaps and lengths: "azure_conv", or a CSV's name; NULL: as the scenario says */
  double speed;            /* of the scenario's time: 2 is twice as fast; 0: 1 */
  double rate;             /* requests a second, mean; 0: as the scenario says, times speed */
  double seconds;          /* stop sending after this; 0: no limit */
  uint64_t requests;       /* or after so many intents; 0: no limit */
  double stream_share;     /* negative: the scenario's */
  double feedback_share;   /* negative: the scenario's */
  double feedback_delay_s; /* mean; negative: the scenario's */
  double timeout_s;        /* of one request; 0: the scenario's */
  unsigned max_in_flight;  /* beyond: not sent, counted; 0: 1000 */
  int64_t epoch_ms;        /* wall-clock time at which the fleet's scenario began; 0: now */
  uint64_t seed;
};

enum loadgen_end {
  LOADGEN_ANSWERED,  /* whole answer */
  LOADGEN_REFUSED,   /* 429 or 503 */
  LOADGEN_FAILED,    /* any other error, also an error frame or a cut inside a stream */
  LOADGEN_TIMED_OUT, /* the client's own limit */
  LOADGEN_ENDS
};

enum { LOADGEN_ERRORS = 32, LOADGEN_MODELS = 16 };

/* Requests: sent = the sum of ends + in_flight. An intent whose client comes back is two requests. */
struct loadgen_report {
  double seconds; /* from the first moment until the last request ended */
  uint64_t due, sent, late,
      unsent; /* intents due; late: sent over 10 ms after its time; unsent: max_in_flight */
  uint64_t ends[LOADGEN_ENDS], in_flight, retries;
  uint64_t streams; /* answered ones */
  uint64_t intents; /* those that have ended */
  uint64_t feedback_sent, feedback_refused;
  uint64_t quality_known; /* answers whose model the scenario knows */
  uint64_t tokens_in, tokens_out;
  struct {
    char name[48]; /* "429 rate_limit_error", "cut", "no connection", ... */
    uint64_t count;
  } errors[LOADGEN_ERRORS];
  struct {
    char model[64];
    uint64_t count;
  } models[LOADGEN_MODELS];
};

/* NULL: error says what and what to do. Strings of the settings are borrowed for the generator's life. */
struct loadgen *loadgen_create(struct evloop *loop, const struct loadgen_settings *settings, char *error,
                               size_t size);
void loadgen_destroy(struct loadgen *gen);

void loadgen_stop(struct loadgen *gen);           /* sends no more; what is under way goes on */
bool loadgen_finished(const struct loadgen *gen); /* nothing to send, nothing under way */
const struct loadgen_report *loadgen_report(const struct loadgen *gen);

/* What the run was worth to its users, as the simulator measures it, in seconds since the start; the second
 * window is the scenario's first event. Dollars are those that the answers report: without instances. */
const struct measure *loadgen_measure(const struct loadgen *gen);
const struct scenario *loadgen_scenario(const struct loadgen *gen); /* as the settings changed it */

#endif
