#ifndef CLI_NARRATE_H
#define CLI_NARRATE_H

/* One readable line for each explained decision, on standard output: a sink that prints what passes and hands
 * it on. Changes of one tick with one reason are one line, told when the tick is over. Ledger, judgement and
 * anomaly rows, frames and commits come from the loop's thread only. */

#include "store/sink.h"

struct narrator;

struct narrator *narrator_create(const struct store_sink *inner); /* NULL: no memory. inner must outlive it */
void narrator_destroy(struct narrator *narrator);

struct store_sink narrator_sink(struct narrator *narrator);

void narrator_hush(struct narrator *narrator); /* tells no more, hands on only; any thread; NULL is fine */

/* A line of the same form from someone else, such as the demo's client. On a terminal it is broken to its
 * width. Any thread. */
void narrate(const char *who, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
