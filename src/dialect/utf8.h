#ifndef DIALECT_UTF8_H
#define DIALECT_UTF8_H

/* UTF-8 by RFC 3629: no surrogates, no overlong forms, nothing past U+10FFFF. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;

/* How many bytes from the start are well-formed: size when all are. */
size_t utf8_valid_prefix(const char *text, size_t size);
bool utf8_valid(const char *text, size_t size);

/* Appends the text with U+FFFD in place of each maximal ill-formed part (Unicode 15, section 3.9). */
void utf8_repair(const char *text, size_t size, struct buffer *out);

/* Writes one code point, 1 to 4 bytes, and returns how many. Surrogates become U+FFFD. */
size_t utf8_encode(uint32_t code, char out[4]);

#endif
