#include "bus/outcome.h"

const char *outcome_kind_name(enum outcome_kind kind) {
  static const char *const names[OUTCOME_KINDS] = {"answered", "failed", "shed", "expired", "client_gone"};
  return names[kind];
}

const char *attempt_result_name(enum attempt_result result) {
  static const char *const names[ATTEMPT_RESULTS] = {"ok",        "failed",   "timed_out",
                                                     "throttled", "rejected", "cancelled"};
  return names[result];
}
