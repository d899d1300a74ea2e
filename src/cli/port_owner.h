#ifndef CLI_PORT_OWNER_H
#define CLI_PORT_OWNER_H

/* Who listens on a TCP port of this machine, for an error message: "nginx (process 812)", or "another
 * program" when /proc does not tell this user. */

#include <stddef.h>
#include <stdint.h>

void port_owner(uint16_t port, char *out, size_t size);

#endif
