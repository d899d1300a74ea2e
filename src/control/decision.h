#ifndef CONTROL_DECISION_H
#define CONTROL_DECISION_H

/* What a controller hands to the loop: a wish and the sentence that explains it. The loop clamps, slews,
 * applies and records it, and then tells the controller what was really applied. */

#include <stdbool.h>

enum { REASON_SIZE = 192 };

struct decision {
  double value;             /* wished; the value in force when nothing should move */
  bool change;              /* value differs from the one in force */
  bool blind;               /* data are missing, NaN or too few: held for that reason */
  char reason[REASON_SIZE]; /* one sentence with the numbers used; cut when too long */
};

/* Fill *decision with a wish, with "nothing to do", or with "cannot see". */
void decision_wish(struct decision *decision, double current, double value, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void decision_keep(struct decision *decision, double current, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void decision_blind(struct decision *decision, double current, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
