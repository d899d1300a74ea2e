#include "sys/toml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct toml_doc *parse(const char *text, char *error) {
  return toml_parse_text(text, "t.toml", error, 256);
}

static void nodes_know_their_type_value_and_line(void **state) {
  (void)state;
  char error[256];
  struct toml_doc *doc = parse("b = 1\na = \"x\"\n[t]\nf = 1.5\nlist = [1, 2]\non = true\n", error);
  assert_non_null(doc);
  const struct toml_node *root = toml_root(doc), *t = toml_get(root, "t");
  const char *text;
  int64_t integer;
  double number;
  bool boolean;
  assert_int_equal(toml_count(root), 3);
  assert_string_equal(toml_key(root, 0), "b");
  assert_true(toml_as_integer(toml_get(root, "b"), &integer) && integer == 1);
  assert_true(toml_as_double(toml_get(root, "b"), &number) && number == 1.0);
  assert_true(toml_as_string(toml_get(root, "a"), &text) && strcmp(text, "x") == 0);
  assert_false(toml_as_integer(toml_get(root, "a"), &integer));
  assert_true(toml_as_double(toml_get(t, "f"), &number) && number == 1.5);
  assert_false(toml_as_integer(toml_get(t, "f"), &integer));
  assert_true(toml_as_bool(toml_get(t, "on"), &boolean) && boolean);
  assert_int_equal(toml_line(toml_get(t, "list")), 5);
  assert_int_equal(toml_count(toml_get(t, "list")), 2);
  assert_null(toml_get(t, "absent"));
  assert_false(toml_as_string(NULL, &text));
  toml_free(doc);
}

static void errors_name_file_line_and_column(void **state) {
  (void)state;
  static const char *const bad[] = {"a = 1\na = 2\n", "x\n", "a = 9223372036854775808\n", "[t]\n[t]\n",
                                    "a = 1234abcd\n"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char error[256] = "";
    assert_null(parse(bad[i], error));
    assert_ptr_equal(strstr(error, "t.toml:"), error);
  }
}

static void a_byte_order_mark_crlf_and_an_empty_text_are_accepted(void **state) {
  (void)state;
  static const char *const good[] = {"\xEF\xBB\xBF[t]\n", "a = 1\r\nb = 2\r\n", ""};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    char error[256];
    struct toml_doc *doc = parse(good[i], error);
    assert_non_null(doc);
    toml_free(doc);
  }
}

static void an_empty_file_is_a_document_and_a_missing_one_an_error(void **state) {
  (void)state;
  char error[256] = "";
  struct toml_doc *doc = toml_parse_file("/dev/null", error, sizeof error);
  assert_non_null(doc);
  toml_free(doc);
  assert_null(toml_parse_file("/nowhere/x.toml", error, sizeof error));
  assert_non_null(strstr(error, "cannot be read"));
}

static void what_is_no_text_is_an_error(void **state) {
  (void)state;
  char error[256], path[] = "/tmp/test_toml_XXXXXX";
  assert_null(toml_parse_file("/dev/zero", error, sizeof error));
  assert_non_null(strstr(error, "larger than 16 MiB"));
  assert_null(toml_parse_file("/tmp", error, sizeof error));
  assert_string_equal(error, "/tmp: cannot be read: Is a directory");
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, "a = 1\nb = 2\n\0c = 3\n", 18), 18);
  close(fd);
  assert_null(toml_parse_file(path, error, sizeof error));
  unlink(path);
  assert_non_null(strstr(error, ":3:1: holds a zero byte"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nodes_know_their_type_value_and_line),
      cmocka_unit_test(errors_name_file_line_and_column),
      cmocka_unit_test(a_byte_order_mark_crlf_and_an_empty_text_are_accepted),
      cmocka_unit_test(an_empty_file_is_a_document_and_a_missing_one_an_error),
      cmocka_unit_test(what_is_no_text_is_an_error),
  };
  return cmocka_run_group_tests_name("toml", tests, NULL, NULL);
}
