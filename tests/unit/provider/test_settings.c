#include "provider/provider.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void assert_address(const char *base_url, const char *wanted) {
  char url[PROVIDER_URL_SIZE + 32], error[128];
  if (provider_chat_url(base_url, url, sizeof url, error, sizeof error) != 0)
    fail_msg("%s: %s", base_url, error);
  assert_string_equal(url, wanted);
}

static void every_way_to_write_a_base_url_gives_one_address(void **state) {
  (void)state;
  assert_address("http://h", "http://h/v1/chat/completions");
  assert_address("http://h/", "http://h/v1/chat/completions");
  assert_address("http://h/v1", "http://h/v1/chat/completions");
  assert_address("http://h/v1/", "http://h/v1/chat/completions");
  assert_address("http://h/api/v1", "http://h/api/v1/chat/completions");
  assert_address("http://h//v1//", "http://h/v1/chat/completions");
  assert_address("https://h:8443/v1/chat/completions", "https://h:8443/v1/chat/completions");
  assert_address("http://[::1]:80/x", "http://[::1]:80/x/chat/completions");
  assert_address("http://h/v1?api-version=2", "http://h/v1/chat/completions?api-version=2");
}

static void what_is_no_base_url_is_refused_with_a_reason(void **state) {
  (void)state;
  static const char *const bad[][2] = {{"h", "http://"},
                                       {"", "http://"},
                                       {"ftp://h", "http://"},
                                       {"file:///etc/passwd", "http://"},
                                       {"unix:/tmp/x", "http://"},
                                       {"http://", "address"},
                                       {"http://h:99999", "address"},
                                       {"http://u:p@h", "user name"},
                                       {"http://h/#x", "'#'"},
                                       {"http://h /v1", "blank"},
                                       {"http://h\r\nX: y", "blank"}};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char url[PROVIDER_URL_SIZE + 32], error[128];
    if (provider_chat_url(bad[i][0], url, sizeof url, error, sizeof error) != -EINVAL)
      fail_msg("taken: %s", bad[i][0]);
    if (!strstr(error, bad[i][1])) fail_msg("%s: %s", bad[i][0], error);
  }
}

static void a_long_base_url_is_refused(void **state) {
  (void)state;
  char text[PROVIDER_URL_SIZE + 8] = "http://h/", url[PROVIDER_URL_SIZE + 32], error[128];
  memset(text + 9, 'x', PROVIDER_URL_SIZE - 9);
  assert_int_equal(provider_chat_url(text, url, sizeof url, error, sizeof error), -EINVAL);
  text[PROVIDER_URL_SIZE - 1] = '\0';
  assert_int_equal(provider_chat_url(text, url, sizeof url, error, sizeof error), 0);
}

static int check(const struct provider_settings *s, char *error) {
  return provider_check(s, error, 256);
}

static void settings_are_checked_and_keys_not_told(void **state) {
  (void)state;
  char error[256];
  struct provider_settings s = {.name = "p", .base_url = "http://h", .api_key = "sk-canary"};
  assert_int_equal(check(&s, error), 0);
  strcpy(s.api_key, "sk-canary\r\nX-Evil: 1");
  assert_int_equal(check(&s, error), -EINVAL);
  assert_null(strstr(error, "canary"));
  s = (struct provider_settings){.name = "p"};
  assert_int_equal(check(&s, error), -EINVAL);
  assert_non_null(strstr(error, "base_url is missing"));
  s.local = true;
  assert_int_equal(check(&s, error), -EINVAL);
  assert_non_null(strstr(error, "command"));
  strcpy(s.command, "true");
  assert_int_equal(check(&s, error), 0);
  s = (struct provider_settings){.name = "p", .kind = PROVIDER_ECHO};
  assert_int_equal(check(&s, error), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_way_to_write_a_base_url_gives_one_address),
      cmocka_unit_test(what_is_no_base_url_is_refused_with_a_reason),
      cmocka_unit_test(a_long_base_url_is_refused),
      cmocka_unit_test(settings_are_checked_and_keys_not_told),
  };
  return cmocka_run_group_tests_name("provider/settings", tests, NULL, NULL);
}
