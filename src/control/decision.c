#include "control/decision.h"

#include <stdarg.h>
#include <stdio.h>

static void fill(struct decision *decision, double value, bool change, bool blind, const char *format,
                 va_list args) {
  decision->value = value;
  decision->change = change;
  decision->blind = blind;
  vsnprintf(decision->reason, sizeof decision->reason, format, args);
}

void decision_wish(struct decision *decision, double current, double value, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fill(decision, value, value != current, false, format, args);
  va_end(args);
}

void decision_keep(struct decision *decision, double current, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fill(decision, current, false, false, format, args);
  va_end(args);
}

void decision_blind(struct decision *decision, double current, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fill(decision, current, false, true, format, args);
  va_end(args);
}
