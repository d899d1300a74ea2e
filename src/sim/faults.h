#ifndef SIM_FAULTS_H
#define SIM_FAULTS_H

/* A provider that fails in a chosen way: faults of the public failoverbench catalogue, selected by model
 * name.
 *
 *   fault-S01   429 with Retry-After 2 once, then healthy     fault-S06   never answers; closed after 120 s
 *   fault-S03   500 once, then healthy                        fault-S08   cut after 40 of 60 tokens
 *   fault-S04   503 always                                    fault-S09   silent for 30 s after 20 tokens,
 * then closed healthy     always answers
 *
 * A healthy answer has 60 tokens, 10 ms apart. */

#include <stdint.h>

struct evloop;
struct exchange;
struct faults;

struct faults *faults_create(struct evloop *loop); /* NULL: no memory */
void faults_destroy(struct faults *faults);        /* exchanges under way end without a word */

/* Answers a chat request for a model, now or later; takes the exchange over. */
void faults_chat(struct faults *faults, struct exchange *exchange, int64_t now_ns);

/* "Once" begins anew, counts go back to 0. */
void faults_reset(struct faults *faults);

/* Chat requests seen for the fault, in the order of the table above. NULL name: past the end. */
uint64_t faults_count(const struct faults *faults, unsigned i, const char **name);

#endif
