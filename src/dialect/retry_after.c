#include "dialect/retry_after.h"

#include "sys/clock.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TEXT_SIZE = 48 };

#define LONGEST_S 604800.0

static int64_t from_seconds(double seconds) {
  if (!(seconds >= 0)) return -1;
  return (int64_t)((seconds > LONGEST_S ? LONGEST_S : seconds) * 1e9);
}

static bool copy(const char *value, size_t size, char out[TEXT_SIZE]) {
  if (size == 0 || size >= TEXT_SIZE || memchr(value, '\0', size)) return false;
  memcpy(out, value, size);
  out[size] = '\0';
  return true;
}

/* Digits with an optional fraction, nothing else: no sign, no exponent, no "inf". */
static bool plain_number(const char *text, const char **end, double *out) {
  size_t whole = strspn(text, "0123456789");
  size_t all = whole;
  if (whole == 0) return false;
  if (text[whole] == '.') all = whole + 1 + strspn(text + whole + 1, "0123456789");
  if (all == whole + 1) return false;
  *out = strtod(text, NULL);
  *end = text + all;
  return true;
}

static int month_number(const char *name) {
  static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
  const char *at = strstr(months, name);
  return strlen(name) == 3 && at && (at - months) % 3 == 0 ? (int)(at - months) / 3 : -1;
}

/* A year of two digits is in this century unless that is more than 50 years ahead (RFC 9110, section 5.6.7).
 */
static int full_year(int year, int64_t wall_ms) {
  time_t now = (time_t)(wall_ms / 1000);
  struct tm today;
  if (year >= 100 || !gmtime_r(&now, &today)) return year;
  int current = today.tm_year + 1900, guess = current - current % 100 + year;
  return guess > current + 50 ? guess - 100 : guess;
}

/* The three forms of RFC 9110, section 5.6.7: "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37
 * GMT", "Sun Nov  6 08:49:37 1994". */
static bool parse_date(const char *text, int64_t wall_ms, int64_t *seconds) {
  struct tm t = {0};
  char month[4] = "", zone[4] = "";
  int year = -1, end = -1;
  if (sscanf(text, "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d %3[A-Z]%n", &t.tm_mday, month, &year,
             &t.tm_hour, &t.tm_min, &t.tm_sec, zone, &end) != 7)
    end = -1;
  if (end < 0 && sscanf(text, "%*[A-Za-z], %2d-%3[A-Za-z]-%2d %2d:%2d:%2d %3[A-Z]%n", &t.tm_mday, month,
                        &year, &t.tm_hour, &t.tm_min, &t.tm_sec, zone, &end) != 7)
    end = -1;
  if (end < 0) {
    strcpy(zone, "GMT");
    if (sscanf(text, "%*3[A-Za-z] %3[A-Za-z] %2d %2d:%2d:%2d %4d%n", month, &t.tm_mday, &t.tm_hour, &t.tm_min,
               &t.tm_sec, &year, &end) != 6)
      return false;
  }
  t.tm_mon = month_number(month);
  t.tm_year = full_year(year, wall_ms) - 1900;
  bool sane = t.tm_mon >= 0 && t.tm_mday >= 1 && t.tm_mday <= 31 && year >= 0 && t.tm_hour >= 0 &&
              t.tm_hour < 24 && t.tm_min >= 0 && t.tm_min < 60 && t.tm_sec >= 0 && t.tm_sec <= 60;
  if (end < 0 || text[end] != '\0' || strcmp(zone, "GMT") != 0 || !sane) return false;
  *seconds = timegm(&t);
  return true;
}

int64_t retry_after_ns(const char *value, size_t size, int64_t wall_ms) {
  char text[TEXT_SIZE];
  const char *end;
  double number;
  int64_t date;
  if (!copy(value, size, text)) return -1;
  if (plain_number(text, &end, &number) && *end == '\0') return from_seconds(number);
  if (!parse_date(text, wall_ms, &date)) return -1;
  double ahead = (double)date - (double)wall_ms / 1000.0;
  return ahead <= 0 ? 0 : from_seconds(ahead);
}

int64_t retry_after_ms_ns(const char *value, size_t size) {
  char text[TEXT_SIZE];
  const char *end;
  double number;
  if (!copy(value, size, text) || !plain_number(text, &end, &number) || *end != '\0') return -1;
  return from_seconds(number / 1000);
}

/* The unit at *text, in seconds, moved behind it; 0: none. */
static double unit(const char **text) {
  static const struct {
    const char *name;
    double seconds;
  } units[] = {{"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}, {"h", 3600}, {"m", 60}, {"s", 1}, {"d", 86400}};
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
    size_t n = strlen(units[i].name);
    if (strncmp(*text, units[i].name, n) != 0) continue;
    *text += n;
    return units[i].seconds;
  }
  return 0;
}

int64_t reset_duration_ns(const char *value, size_t size) {
  char text[TEXT_SIZE];
  const char *at = text;
  double sum = 0, number;
  if (!copy(value, size, text)) return -1;
  if (plain_number(text, &at, &number) && *at == '\0') return from_seconds(number);
  for (at = text; *at != '\0';) {
    if (!plain_number(at, &at, &number)) return -1;
    double seconds = unit(&at);
    if (seconds <= 0) return -1;
    sum += number * seconds;
  }
  return from_seconds(sum);
}
