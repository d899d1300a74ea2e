#include "dialect/buffer.h"
#include "dialect/json_scan.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int scan_size(const char *text, size_t size) {
  struct json_scan s;
  int error = json_scan(&s, text, size, 0, true);
  if (error < 0) assert_non_null(s.why);
  json_release(&s);
  return error;
}

static int scan(const char *text) {
  return scan_size(text, strlen(text));
}

static void good_texts_pass(void **state) {
  (void)state;
  static const char *const good[] = {
      "{}",
      " \t\r\n{ } ",
      "{\"a\":[],\"b\":{},\"c\":[[],{}]}",
      "{\"a\":0,\"b\":-0,\"c\":1.5e+10,\"d\":1E-7,\"e\":12345678901234567890,\"f\":1e400}",
      "{\"a\":true,\"b\":false,\"c\":null}",
      "{\"\":\"\",\"\\u00e9\\n\\/\":\"\\\"\\\\\"}",
      "{\"a\":\"\xC3\xA9\xF0\x9F\x98\x80\",\"b\":\"\\ud83d\\ude00\\ud800\"}",
      "{\"a\" : [ 1 , 2 , { \"b\" : [ ] } ] }",
  };
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
    assert_int_equal(scan(good[i]), 0);
}

static void what_the_grammar_forbids_is_an_error(void **state) {
  (void)state;
  static const char *const bad[] = {
      "",
      " ",
      "[]",
      "1",
      "\"a\"",
      "null",
      "{",
      "}",
      "{]",
      "{}}",
      "{}{}",
      "{} x",
      "{}\x01",
      "x{}",
      "{\"a\"}",
      "{\"a\":}",
      "{\"a\":1,}",
      "{,\"a\":1}",
      "{\"a\":1,,\"b\":2}",
      "{\"a\":1 \"b\":2}",
      "{\"a\" 1}",
      "{\"a\"::1}",
      "{\"a\":1:2}",
      "{\"a\":\"b\" \"c\"}",
      "{\"a\":\"b\":\"c\"}",
      "{a:1}",
      "{1:1}",
      "{'a':1}",
      "{true:1}",
      "{[]:1}",
      "{{}:1}",
      "{\"a\":[1,]}",
      "{\"a\":[,1]}",
      "{\"a\":[1 2]}",
      "{\"a\":[\"a\" \"b\"]}",
      "{\"a\":[1}",
      "{\"a\":[1]]}",
      "{\"a\":[\"b\":1]}",
      "{\"a\":tru}",
      "{\"a\":truee}",
      "{\"a\":nul}",
      "{\"a\":True}",
      "{\"a\":NaN}",
      "{\"a\":Infinity}",
      "{\"a\":-}",
      "{\"a\":+1}",
      "{\"a\":01}",
      "{\"a\":1.}",
      "{\"a\":.5}",
      "{\"a\":1e}",
      "{\"a\":1e+}",
      "{\"a\":0x10}",
      "{\"a\":1_000}",
      "{\"a\":1a}",
      "{\"a\":\"b}",
      "{\"a\":\"\\x\"}",
      "{\"a\":\"\\u12g4\"}",
      "{\"a\":\"\\u12\"}",
      "{\"a\":\"tab\there\"}",
      "{\"a\":\"line\nhere\"}",
      "{\"a\":\"long enough for a word\x1f\"}",
      "{\"a\":\"\xC3(\"}",
      "{\"a\":\"\xED\xA0\x80\"}",
      "\xEF\xBB\xBF{}",
      "{\"a\":1}//",
      "{/**/}",
  };
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (scan(bad[i]) != -EINVAL) fail_msg("taken: %s", bad[i]);
  assert_int_equal(scan_size("{\"a\":1}\0", 8), -EINVAL);
  assert_int_equal(scan_size("{\"a\":\"\0\"}", 9), -EINVAL);
  assert_int_equal(scan_size("{\0}", 3), -EINVAL);
}

static void a_top_level_name_that_occurs_twice_is_an_error(void **state) {
  (void)state;
  assert_int_equal(scan("{\"model\":1,\"b\":2,\"model\":3}"), -EINVAL);
  assert_int_equal(scan("{\"model\":1,\"mod\\u0065l\":3}"), -EINVAL);
  assert_int_equal(scan("{\"a\":{\"x\":1},\"b\":{\"x\":1}}"), 0);
  struct json_scan s;
  const char *text = "{\"a\":1,\"a\":2}";
  int64_t number = 0;
  assert_int_equal(json_scan(&s, text, strlen(text), 0, false), 0);
  assert_true(json_integer(&s, json_member(&s, 0, "a"), &number));
  assert_int_equal(number, 2);
  json_release(&s);
}

static char *nested(unsigned depth, size_t *size) {
  char *text = malloc(depth * 2 + 8);
  memcpy(text, "{\"a\":", 5);
  memset(text + 5, '[', depth - 1);
  memset(text + 4 + depth, ']', depth - 1);
  text[3 + depth * 2] = '}';
  *size = depth * 2 + 4;
  return text;
}

static void depth_is_limited_and_64_levels_are_allowed(void **state) {
  (void)state;
  size_t size;
  char *text = nested(64, &size);
  assert_int_equal(scan_size(text, size), 0);
  free(text);
  text = nested(65, &size);
  assert_int_equal(scan_size(text, size), -E2BIG);
  free(text);
  text = nested(100000, &size);
  assert_int_equal(scan_size(text, size), -E2BIG);
  memset(text, '[', size);
  memcpy(text, "{\"x\":", 5);
  assert_int_equal(scan_size(text, size), -E2BIG);
  free(text);
}

static void brackets_inside_strings_have_no_depth(void **state) {
  (void)state;
  char text[1024] = "{\"a\":\"\\\\\",\"b\":\"\\\"";
  for (int i = 0; i < 400; i++)
    strcat(text, "[");
  strcat(text, "\"}");
  assert_int_equal(scan(text), 0);
}

static void many_values_need_memory_and_too_many_are_refused(void **state) {
  (void)state;
  size_t count = JSON_MAX_VALUES, size = 0;
  char *text = malloc(count * 2 + 16);
  size += (size_t)sprintf(text, "{\"a\":[0");
  for (size_t i = 0; i < 999; i++)
    size += (size_t)sprintf(text + size, ",%d", (int)(i % 10));
  size_t end = size;
  memcpy(text + size, "]}", 2);
  struct json_scan s;
  assert_int_equal(json_scan(&s, text, end + 2, 0, true), 0);
  assert_int_equal(json_count(&s, json_member(&s, 0, "a")), 1000);
  int sum = 0, array = json_member(&s, 0, "a");
  for (int v = json_first(&s, array); v >= 0; v = json_next(&s, array, v)) {
    int64_t number;
    assert_true(json_integer(&s, v, &number));
    sum += (int)number;
  }
  assert_int_equal(sum, 4491);
  json_release(&s);
  for (size_t i = 999; i < count; i++)
    size += (size_t)sprintf(text + size, ",%d", (int)(i % 10));
  memcpy(text + size, "]}", 2);
  assert_int_equal(scan_size(text, size + 2), -E2BIG);
  free(text);
}

static void members_and_paths_are_found_without_copying(void **state) {
  (void)state;
  const char *text =
      "{ \"a\" : {\"b\":[10,{\"c\":\"x\\ny\"},null]} , \"d\":-7, \"e\":1.5,\"f\":true,\"g\":\"\"}";
  struct json_scan s;
  int64_t number = 0;
  double real = 0;
  bool yes = false;
  char copy[8];
  assert_int_equal(json_scan(&s, text, strlen(text), 0, true), 0);
  int b = json_member(&s, json_member(&s, 0, "a"), "b");
  int first = json_first(&s, b), second = json_next(&s, b, first), third = json_next(&s, b, second);
  int c = json_member(&s, second, "c");
  assert_int_equal(json_count(&s, 0), 5);
  assert_int_equal(json_type(&s, b), JSON_ARRAY);
  assert_int_equal(json_type(&s, third), JSON_NULL);
  assert_int_equal(json_next(&s, b, third), -1);
  assert_memory_equal(text + json_at(&s, c), "\"x\\ny\"", json_size(&s, c));
  assert_int_equal(json_size(&s, c), 6);
  assert_int_equal(json_copy(&s, c, copy, sizeof copy), 3);
  assert_string_equal(copy, "x\ny");
  assert_true(json_integer(&s, json_member(&s, 0, "d"), &number));
  assert_int_equal(number, -7);
  assert_false(json_integer(&s, json_member(&s, 0, "e"), &number));
  assert_true(json_double(&s, json_member(&s, 0, "e"), &real));
  assert_true(real == 1.5);
  assert_true(json_bool(&s, json_member(&s, 0, "f"), &yes) && yes);
  assert_true(json_text_empty(&s, json_member(&s, 0, "g")));
  assert_int_equal(json_member(&s, json_member(&s, json_member(&s, 0, "no"), "such"), "path"), -1);
  assert_int_equal(json_type(&s, -1), JSON_ABSENT);
  json_release(&s);
}

static void numbers_out_of_range_are_no_integers(void **state) {
  (void)state;
  const char *text = "{\"a\":9223372036854775807,\"b\":9223372036854775808,\"c\":1e400}";
  struct json_scan s;
  int64_t number = 0;
  double real = 0;
  assert_int_equal(json_scan(&s, text, strlen(text), 0, true), 0);
  assert_true(json_integer(&s, json_member(&s, 0, "a"), &number));
  assert_true(number == INT64_MAX);
  assert_false(json_integer(&s, json_member(&s, 0, "b"), &number));
  assert_false(json_double(&s, json_member(&s, 0, "c"), &real));
  json_release(&s);
}

static void strings_are_decoded_and_cut_between_characters(void **state) {
  (void)state;
  const char *text = "{\"a\":\"\\ud83d\\ude00\\u00e9\\ud800z\",\"mod\\u0065l\":\"\\u006d\"}";
  struct json_scan s;
  struct buffer out = {0};
  char copy[16], little[6];
  assert_int_equal(json_scan(&s, text, strlen(text), 0, true), 0);
  int a = json_member(&s, 0, "a");
  json_copy(&s, a, copy, sizeof copy);
  assert_string_equal(copy, "😀é\xEF\xBF\xBDz");
  assert_int_equal(json_copy(&s, a, little, sizeof little), 4);
  json_append(&s, a, &out);
  assert_int_equal(out.size, strlen(copy));
  assert_memory_equal(out.bytes, copy, out.size);
  assert_true(json_is_text(&s, json_member(&s, 0, "model"), "m"));
  buffer_free(&out);
  json_release(&s);
}

static void quoted_text_reads_back(void **state) {
  (void)state;
  struct buffer out = {0};
  json_quote(&out, "a\"\\\n\x01\0é\xC3", 9);
  assert_int_equal(out.size, strlen("\"a\\\"\\\\\\n\\u0001\\u0000é\xEF\xBF\xBD\""));
  assert_memory_equal(out.bytes, "\"a\\\"\\\\\\n\\u0001\\u0000é\xEF\xBF\xBD\"", out.size);
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(good_texts_pass),
      cmocka_unit_test(what_the_grammar_forbids_is_an_error),
      cmocka_unit_test(a_top_level_name_that_occurs_twice_is_an_error),
      cmocka_unit_test(depth_is_limited_and_64_levels_are_allowed),
      cmocka_unit_test(brackets_inside_strings_have_no_depth),
      cmocka_unit_test(many_values_need_memory_and_too_many_are_refused),
      cmocka_unit_test(members_and_paths_are_found_without_copying),
      cmocka_unit_test(numbers_out_of_range_are_no_integers),
      cmocka_unit_test(strings_are_decoded_and_cut_between_characters),
      cmocka_unit_test(quoted_text_reads_back),
  };
  return cmocka_run_group_tests_name("dialect/json_scan", tests, NULL, NULL);
}
