/* Anomaly and episode rows replace earlier ones and are told once for each state; a judgement names the
 * change it judges, so the last ledger rows are remembered by number. Experiments are told by their notes in
 * the ledger. What was said just before is not said again: a change by the same words as the note before it
 * is told without them, and a judgement that repeats the reason of an undoing is left out. */

#include "cli/narrate.h"

#include "cli/table.h"
#include "sys/clock.h"

#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { REMEMBERED = 256, NAME_BYTES = 160, LINE_BYTES = 2048, WHO_WIDTH = 11, INDENT = 23, NARROWEST = 60 };

struct told {
  int64_t id;
  char text[NAME_BYTES]; /* a change's name, an episode's end, an anomaly's state */
};

struct narrator {
  const struct store_sink *inner;
  struct told changes[REMEMBERED], episodes[REMEMBERED], anomalies[REMEMBERED];
  const char *who;              /* of the line that waits; NULL: none does */
  char items[LINE_BYTES / 2];   /* its subjects so far */
  char because[LINE_BYTES / 2]; /* how it ends */
  char said[LINE_BYTES / 2];    /* the reason told last in this tick */
  _Atomic bool hushed;
};

/* Columns of the terminal; 0: it is none, or nobody knows. */
static size_t columns(void) {
  struct winsize size;
  if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col >= NARROWEST ? size.ws_col : 0;
}

/* Breaks at spaces; what follows the first line is indented. */
static void print_broken(const char *line, size_t width) {
  size_t indent = 0;
  while (width > 0 && strlen(line) > width - indent) {
    size_t n = width - indent;
    while (n > 0 && line[n] != ' ')
      n--;
    if (n <= (indent ? 0 : INDENT)) break; /* one long word */
    printf("%*s%.*s\n", (int)indent, "", (int)n, line);
    line += n + strspn(line + n, " ");
    indent = INDENT;
  }
  printf("%*s%s\n", (int)indent, "", line);
}

/* Who reads may stop doing so, and no decision waits for him: see sys/log.c. */
static bool has_reader(void) {
  struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
  return poll(&out, 1, 0) != 0;
}

void narrate(const char *who, const char *format, ...) {
  static unsigned long lost; /* guarded by the lock of stdout */
  char line[LINE_BYTES + 64], when[16];
  time_t now = (time_t)(clock_wall_ms() / 1000);
  struct tm local;
  localtime_r(&now, &local);
  strftime(when, sizeof when, "%H:%M:%S", &local);
  int n = snprintf(line, sizeof line, "%s  %-*s  ", when, WHO_WIDTH, who);
  va_list args;
  va_start(args, format);
  vsnprintf(line + n, sizeof line - (size_t)n, format, args);
  va_end(args);
  flockfile(stdout);
  if (has_reader()) {
    if (lost > 0) printf("          (%lu lines before this one were lost: nobody read them)\n", lost);
    print_broken(line, columns());
    fflush(stdout);
    lost = 0;
  } else {
    lost++;
  }
  funlockfile(stdout);
}

/* ---- the line that waits ---- */

static void tell_waiting(struct narrator *n) {
  if (n->who) narrate(n->who, "%s%s", n->items, n->because);
  n->who = NULL;
}

/* One more subject for the line that ends so; another line when there is none. */
static void tell(struct narrator *n, const char *who, const char *item, const char *because) {
  size_t used = n->who ? strlen(n->items) : 0;
  bool fits = used + strlen(item) + 3 < sizeof n->items;
  if (n->who && fits && strcmp(n->who, who) == 0 && strcmp(n->because, because) == 0) {
    snprintf(n->items + used, sizeof n->items - used, ", %s", item);
    return;
  }
  tell_waiting(n);
  n->who = who;
  snprintf(n->items, sizeof n->items, "%s", item);
  snprintf(n->because, sizeof n->because, "%s", because);
}

/* ---- rows ---- */

/* Remembers the text; true when it is another one than before. */
static bool remember(struct told *told, int64_t id, const char *text) {
  struct told *slot = &told[(uint64_t)id % REMEMBERED];
  if (slot->id == id && strncmp(slot->text, text, NAME_BYTES - 1) == 0) return false;
  slot->id = id;
  snprintf(slot->text, sizeof slot->text, "%s", text);
  return true;
}

/* What kind of story a row belongs to. */
static const char *story(const struct ledger_row *row) {
  const char *name = row->name ? row->name : "", *actor = row->actor ? row->actor : "";
  if (strncmp(name, "route:", 6) == 0) return "route";
  if (strncmp(name, "experiment:", 11) == 0 || strncmp(actor, "experiment", 10) == 0) return "experiment";
  if (strncmp(actor, "rollback", 8) == 0) return "undone";
  if (strncmp(actor, "controller:", 11) != 0) return "changed";
  if (strncmp(name, "concurrency_limit", 17) == 0) return "limit";
  return strncmp(name, "instances", 9) == 0 ? "scale" : "regulated";
}

static void describe_change(const struct ledger_row *row, char *out, size_t size) {
  char from[TABLE_NUMBER], to[TABLE_NUMBER], least[TABLE_NUMBER], most[TABLE_NUMBER];
  int n = snprintf(out, size, "%.150s %s -> %s", row->name ? row->name : "", table_number(row->from, from),
                   table_number(row->to, to));
  if (strcmp(row->kind, "episode") != 0 || row->count < 2) return;
  n += snprintf(out + n, size - (size_t)n, " in %lld steps", (long long)row->count);
  if (row->least < fmin(row->from, row->to) || row->most > fmax(row->from, row->to))
    snprintf(out + n, size - (size_t)n, " from %s to %s", table_number(row->least, least),
             table_number(row->most, most));
}

static void tell_ledger(struct narrator *n, const struct ledger_row *row) {
  const char *reason = row->reason ? row->reason : "", *actor = row->actor ? row->actor : "?";
  char item[512], because[LINE_BYTES / 2];
  bool note = isnan(row->from) || isnan(row->to) || strcmp(row->kind, "note") == 0;
  bool again = !note && n->said[0] && strcmp(n->said, reason) == 0 && !n->who;
  if (note) {
    snprintf(item, sizeof item, "%.300s", row->name ? row->name : "");
    snprintf(because, sizeof because, ": %s", reason);
  } else {
    describe_change(row, item, sizeof item);
    snprintf(because, sizeof because, again ? " by %.64s" : " by %.64s: %s", actor, reason);
  }
  tell(n, story(row), item, because);
  if (note) tell_waiting(n);
  snprintf(n->said, sizeof n->said, "%s", reason);
}

static int put_ledger(void *ctx, const struct ledger_row *row) {
  struct narrator *n = ctx;
  char end[64] = "";
  bool episode = row->count > 0; /* one that is only observed is a note */
  bool goes_on =
      episode && row->count > 1 && !row->snapshot_after; /* told when it began, and when it is over */
  if (episode) snprintf(end, sizeof end, "%lld %g", (long long)row->count, row->to);
  remember(n->changes, row->id, row->name ? row->name : "");
  if ((!episode || (!goes_on && remember(n->episodes, row->id, end))) && !n->hushed) tell_ledger(n, row);
  return n->inner->ledger(n->inner->ctx, row);
}

static void tell_judgement(struct narrator *n, const struct judgement_row *row) {
  const struct told *change = &n->changes[(uint64_t)row->ledger_id % REMEMBERED];
  const char *words = row->words ? row->words : "";
  char item[256], because[LINE_BYTES / 2];
  bool undone = strcmp(row->outcome, "undone") == 0;
  if (undone && n->said[0] && strstr(n->said, words)) return;
  snprintf(item, sizeof item, "%s (change %lld)", change->id == row->ledger_id ? change->text : "a change",
           (long long)row->ledger_id);
  snprintf(because, sizeof because, ": %s: %s", row->outcome, words);
  tell(n, undone ? "undone" : "judged", item, because);
}

static int put_judgement(void *ctx, const struct judgement_row *row) {
  struct narrator *n = ctx;
  if (!n->hushed) tell_judgement(n, row);
  return n->inner->judgement(n->inner->ctx, row);
}

static int put_experiment(void *ctx, const struct experiment_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->experiment(inner->ctx, row);
}

static int put_anomaly(void *ctx, const struct anomaly_row *row) {
  struct narrator *n = ctx;
  const char *state = row->closed_ms ? "over" : row->severity, *message = row->message ? row->message : "";
  bool named = strncmp(message, row->metric, strlen(row->metric)) == 0;
  if (remember(n->anomalies, row->id, state) && !n->hushed) {
    tell_waiting(n);
    narrate("incident", "%s%s%s%s%s: %s", state, named ? "" : ": ", named ? "" : row->metric,
            row->provider ? " at " : "", row->provider ? row->provider : "", message);
  }
  return n->inner->anomaly(n->inner->ctx, row);
}

static int put_snapshot(void *ctx, const struct snapshot_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->snapshot(inner->ctx, row);
}

static int put_score(void *ctx, const struct score_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->score(inner->ctx, row);
}

static int put_value(void *ctx, const struct value_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->value(inner->ctx, row);
}

static int put_learned(void *ctx, const char *name, const char *json, int64_t wall_ms) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->learned(inner->ctx, name, json, wall_ms);
}

static int put_reward(void *ctx, const struct reward_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->reward(inner->ctx, row);
}

/* A tick begins with its frame: the one before is over. */
static int put_frame(void *ctx, const struct frame *frame) {
  struct narrator *n = ctx;
  tell_waiting(n);
  n->said[0] = '\0';
  return n->inner->frame(n->inner->ctx, frame);
}

static int put_outcomes(void *ctx, const struct outcome *outcomes, size_t count, int64_t now_ns,
                        int64_t wall_ms) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->outcomes(inner->ctx, outcomes, count, now_ns, wall_ms);
}

static int put_dead_letter(void *ctx, const struct dead_letter_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->dead_letter(inner->ctx, row);
}

static int commit(void *ctx) {
  struct narrator *n = ctx;
  tell_waiting(n);
  return n->inner->commit(n->inner->ctx);
}

struct narrator *narrator_create(const struct store_sink *inner) {
  struct narrator *n = calloc(1, sizeof *n);
  if (!n) return NULL;
  n->inner = inner;
  for (int i = 0; i < REMEMBERED; i++)
    n->changes[i].id = n->episodes[i].id = n->anomalies[i].id = -1;
  return n;
}

void narrator_destroy(struct narrator *narrator) {
  free(narrator);
}

void narrator_hush(struct narrator *narrator) {
  if (narrator) narrator->hushed = true;
}

struct store_sink narrator_sink(struct narrator *narrator) {
  return (struct store_sink){.ctx = narrator,
                             .ledger = put_ledger,
                             .judgement = put_judgement,
                             .snapshot = put_snapshot,
                             .score = put_score,
                             .experiment = put_experiment,
                             .anomaly = put_anomaly,
                             .value = put_value,
                             .learned = put_learned,
                             .reward = put_reward,
                             .frame = put_frame,
                             .outcomes = put_outcomes,
                             .dead_letter = put_dead_letter,
                             .commit = commit};
}
