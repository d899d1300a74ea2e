#include "pipeline/upstream.h"

const char *upstream_error_name(enum upstream_error error) {
  static const char *const names[UPSTREAM_ERRORS] = {"ok",  "status",  "connect",  "reset",
                                                     "cut", "invalid", "too_large"};
  return names[error];
}
