#ifndef BUS_LIMITS_H
#define BUS_LIMITS_H

/* Bounds that size the arrays of every frame, snapshot and table. Configuration beyond them is refused. */

enum {
  MAX_PROVIDERS = 32,
  MAX_ROUTES = 64,
  MAX_CANDIDATES = 16, /* of one route, fallbacks included */
  NAME_SIZE = 64,      /* of a provider, model or route, with its NUL */
};

enum stage { STAGE_RAG, STAGE_ASSEMBLE, STAGE_INFERENCE, STAGE_POST, STAGE_STREAM, STAGES };

enum priority { PRIORITY_CRITICAL, PRIORITY_HIGH, PRIORITY_NORMAL, PRIORITY_LOW, PRIORITIES };

#endif
