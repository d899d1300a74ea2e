#include "dialect/buffer.h"
#include "dialect/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define BAD "\xEF\xBF\xBD"

static void assert_repaired(const char *given, size_t size, const char *wanted) {
  struct buffer out = {0};
  utf8_repair(given, size, &out);
  assert_int_equal(out.size, strlen(wanted));
  assert_memory_equal(out.bytes, wanted, out.size);
  assert_true(utf8_valid(out.bytes, out.size));
  buffer_free(&out);
}

#define REPAIRED(given, wanted) assert_repaired(given, sizeof(given) - 1, wanted)

static void well_formed_text_is_valid(void **state) {
  (void)state;
  static const char *const texts[] = {"",
                                      "plain text longer than one word",
                                      "\xC2\x80\xDF\xBF",
                                      "\xE0\xA0\x80",
                                      "\xED\x9F\xBF",
                                      "\xEE\x80\x80",
                                      "\xF0\x90\x80\x80",
                                      "\xF4\x8F\xBF\xBF"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
    assert_true(utf8_valid(texts[i], strlen(texts[i])));
}

static void ill_formed_text_is_found_at_its_place(void **state) {
  (void)state;
  static const char *const bad[] = {"\x80",
                                    "\xC0\x80",
                                    "\xC1\xBF",
                                    "\xE0\x9F\xBF",
                                    "\xED\xA0\x80",
                                    "\xF0\x8F\xBF\xBF",
                                    "\xF4\x90\x80\x80",
                                    "\xF5\x80\x80\x80",
                                    "\xC3(",
                                    "\xE2\x82",
                                    "\xFF"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char text[32];
    snprintf(text, sizeof text, "12345678é%s", bad[i]);
    assert_int_equal(utf8_valid_prefix(text, strlen(text)), 10);
  }
}

static void each_maximal_bad_part_becomes_one_replacement(void **state) {
  (void)state;
  REPAIRED("a\xC3(b", "a" BAD "(b");
  REPAIRED("a\xF0\x9F\x98\"b", "a" BAD "\"b");
  REPAIRED("\xC0\x80", BAD BAD);
  REPAIRED("\xED\xA0\x80", BAD BAD BAD);
  REPAIRED("\xF5\x80\x80\x80", BAD BAD BAD BAD);
  REPAIRED("ok\xE2\x82", "ok" BAD);
  REPAIRED("é€😀", "é€😀");
}

static void code_points_are_encoded_and_surrogates_replaced(void **state) {
  (void)state;
  char out[4];
  assert_int_equal(utf8_encode('A', out), 1);
  assert_int_equal(utf8_encode(0xE9, out), 2);
  assert_memory_equal(out, "é", 2);
  assert_int_equal(utf8_encode(0x20AC, out), 3);
  assert_memory_equal(out, "€", 3);
  assert_int_equal(utf8_encode(0x1F600, out), 4);
  assert_memory_equal(out, "😀", 4);
  assert_int_equal(utf8_encode(0xD800, out), 3);
  assert_memory_equal(out, BAD, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(well_formed_text_is_valid),
      cmocka_unit_test(ill_formed_text_is_found_at_its_place),
      cmocka_unit_test(each_maximal_bad_part_becomes_one_replacement),
      cmocka_unit_test(code_points_are_encoded_and_surrogates_replaced),
  };
  return cmocka_run_group_tests_name("dialect/utf8", tests, NULL, NULL);
}
