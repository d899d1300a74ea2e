/* Instances are this same program, run as "test_local child [cold-ms] [life-ms] [well-ms]": a stub that says
 * where it listens, is unhealthy until its cold start has passed, answers chats with its pid, and may end by
 * itself, or live on and answer nobody. */

#include "pipeline/plane.h"
#include "rig.h"
#include "stub.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

static struct plane *plane;
static struct local_pool *pool;
static struct provider_settings settings;
static char program[512];

/* ---- the child ---- */

static int64_t ready_ns, hangs_ns = NS_NEVER;

static bool child_script(struct stub *s, int fd, int connection, int request) {
  char body[256];
  (void)connection;
  (void)request;
  while (clock_now_ns() > hangs_ns)
    usleep(100000);
  if (memcmp(s->last, "GET /health", 11) == 0) {
    stub_answer(fd, clock_now_ns() < ready_ns ? "503 Loading" : "200 OK", "{}");
    return false;
  }
  if (strstr(s->last, "slowly")) usleep(400000);
  snprintf(body, sizeof body, "{\"choices\":[{\"message\":{\"content\":\"%d\"}}]}", (int)getpid());
  stub_answer(fd, "200 OK", body);
  return true;
}

static int child(int cold_ms, int life_ms, int well_ms) {
  if (well_ms) hangs_ns = clock_now_ns() + well_ms * NS_PER_MS;
  ready_ns = clock_now_ns() + cold_ms * NS_PER_MS;
  struct stub *s = stub_create(child_script);
  for (int layer = 0; layer < 100; layer++) /* as servers of models do */
    printf("loading layer %d of 100 to the device\n", layer);
  printf("listening on http://127.0.0.1:%u\n", s->port);
  fflush(stdout);
  usleep((life_ms ? (unsigned)life_ms : 20000) * 1000);
  kill(getpid(), SIGKILL); /* its threads never end by themselves */
  return 1;
}

/* ---- the pool ---- */

static unsigned ready(void) {
  return atomic_load(&plane->providers[0].ready_instances);
}
static unsigned starting(void) {
  return atomic_load(&plane->providers[0].starting_instances);
}

static bool wait_for(unsigned wanted, int timeout_ms) {
  for (int i = 0; i < timeout_ms / 5 && (ready() != wanted || starting() != 0); i++)
    usleep(5000);
  return ready() == wanted && starting() == 0;
}

static void open_pool(const char *arguments, unsigned instances) {
  struct provider_spec spec = {.name = "local", .model = "m", .local = true, .max_instances = 8};
  struct route_spec route = {.name = "m", .candidate_count = 1, .primary_count = 1};
  struct plane_config config = {.provider_count = 1, .providers = &spec, .route_count = 1, .routes = &route};
  plane = plane_create(&config, clock_now_ns());
  tunable_set(&plane->tunables, (struct tunable_key){TUNABLE_instances, 0}, instances);
  settings = (struct provider_settings){.name = "local", .model = "m", .local = true};
  snprintf(settings.command, sizeof settings.command, "%s %s", program, arguments);
  pool = local_pool_create(plane, &settings, 1);
  assert_non_null(pool);
}

static int close_pool(void **state) {
  (void)state;
  local_pool_destroy(pool, 0);
  plane_destroy(plane);
  pool = NULL;
  int status;
  return waitpid(-1, &status, WNOHANG) == -1 ? 0 : -1; /* no child is left */
}

static void instances_start_and_are_ready_after_their_cold_start(void **state) {
  (void)state;
  open_pool("child 600", 2);
  usleep(300000);
  assert_int_equal(ready(), 0);
  assert_int_equal(starting(), 2);
  assert_null(local_acquire(pool, 0));
  assert_true(wait_for(2, 8000));
}

static void the_least_busy_instance_is_taken(void **state) {
  (void)state;
  open_pool("child", 2);
  assert_true(wait_for(2, 8000));
  struct local_instance *a = local_acquire(pool, 0), *b = local_acquire(pool, 0);
  assert_ptr_not_equal(a, b);
  assert_string_not_equal(local_url(a), local_url(b));
  assert_non_null(strstr(local_url(a), "/v1/chat/completions"));
  local_release(pool, a);
  struct local_instance *c = local_acquire(pool, 0);
  assert_ptr_equal(c, a);
  local_release(pool, b);
  local_release(pool, c);
}

static void calls_reach_an_instance(void **state) {
  (void)state;
  open_pool("child", 1);
  assert_true(wait_for(1, 8000));
  struct evloop *loop = evloop_create();
  struct upstream *upstreams[MAX_PROVIDERS];
  char error[128];
  struct rig rig = {.loop = loop};
  struct call call;
  rig.providers = providers_attach(loop, &settings, 1, pool, upstreams, error, sizeof error);
  rig.upstreams[0] = upstreams[0];
  call_run(&call, &rig, false);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  call_free(&call);
  assert_int_equal(local_pool_set(pool, 0, 0), 0);
  assert_true(wait_for(0, 8000));
  call_init(&call, &rig, BODY, false);
  assert_true(call_start(&call) < 0);
  providers_detach(rig.providers);
  evloop_destroy(loop);
}

static void fewer_are_drained_before_they_stop(void **state) {
  (void)state;
  open_pool("child", 2);
  assert_true(wait_for(2, 8000));
  struct local_instance *a = local_acquire(pool, 0), *b = local_acquire(pool, 0);
  struct scaler scaler = local_pool_scaler(pool);
  assert_int_equal(scaler.set_instances(scaler.ctx, 0, 0, 0), 0);
  assert_true(wait_for(0, 2000));
  assert_null(local_acquire(pool, 0));
  usleep(300000); /* both still run: one more is wanted, and one of them is taken back at once */
  assert_int_equal(local_pool_set(pool, 0, 1), 0);
  assert_true(wait_for(1, 400));
  struct local_instance *c = local_acquire(pool, 0);
  assert_true(c == a || c == b);
  local_release(pool, a);
  local_release(pool, b);
  local_release(pool, c);
}

static void an_instance_that_dies_is_started_again(void **state) {
  (void)state;
  open_pool("child 0 400", 1);
  assert_true(wait_for(1, 8000));
  for (int i = 0; i < 600 && ready() == 1; i++)
    usleep(5000);
  assert_int_equal(ready(), 0);
  assert_true(wait_for(1, 8000));
}

static void an_instance_that_hangs_is_killed_and_replaced(void **state) {
  (void)state;
  open_pool("child 0 0 1000", 0);
  settings.health_ns = 100 * NS_PER_MS;
  assert_int_equal(local_pool_set(pool, 0, 1), 0);
  assert_true(wait_for(1, 8000));
  struct local_instance *kept = local_acquire(pool, 0);
  for (int i = 0; i < 1600 && ready() == 1; i++)
    usleep(5000);
  assert_int_equal(ready(), 0);
  local_release(pool, kept);
  assert_true(wait_for(1, 8000));
}

static void a_command_that_fails_is_tried_with_growing_pauses(void **state) {
  (void)state;
  char path[] = "/tmp/test_local_XXXXXX", line[600];
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  snprintf(line, sizeof line, "%s fail %s", program, path);
  open_pool(line + strlen(program) + 1, 1);
  usleep(1900000); /* at 0, 0.5 and 1.5 s; the fourth would come at 3.5 s */
  char said[64];
  ssize_t n = pread(fd, said, sizeof said, 0);
  close(fd);
  unlink(path);
  assert_in_range(n, 2, 3);
  assert_int_equal(ready(), 0);
}

static void an_instance_that_is_never_ready_is_given_up(void **state) {
  (void)state;
  open_pool("child 100000", 0);
  settings.start_ns = 300 * NS_PER_MS;
  assert_int_equal(local_pool_set(pool, 0, 1), 0);
  for (int i = 0; i < 400 && starting() == 0; i++)
    usleep(5000);
  assert_int_equal(starting(), 1);
  for (int i = 0; i < 400 && starting() == 1; i++)
    usleep(5000);
  assert_int_equal(starting() + ready(), 0);
}

static void wrong_numbers_are_refused(void **state) {
  (void)state;
  open_pool("child", 0);
  assert_int_equal(local_pool_set(pool, 1, 1), -EINVAL);
  assert_int_equal(local_pool_set(pool, 0, LOCAL_MAX_INSTANCES + 1), -ENOSPC);
}

static int fail_once(const char *path) {
  FILE *file = fopen(path, "a");
  if (!file) return 4;
  fputc('x', file);
  fclose(file);
  return 1;
}

int main(int argc, char **argv) {
  if (argc > 2 && strcmp(argv[1], "fail") == 0) return fail_once(argv[2]);
  if (argc > 1 && strcmp(argv[1], "child") == 0)
    return child(argc > 2 ? atoi(argv[2]) : 0, argc > 3 ? atoi(argv[3]) : 0, argc > 4 ? atoi(argv[4]) : 0);
  ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
  if (n < 0) return 1;
#define TEST(name) cmocka_unit_test_teardown(name, close_pool)
  const struct CMUnitTest tests[] = {
      TEST(instances_start_and_are_ready_after_their_cold_start),
      TEST(the_least_busy_instance_is_taken),
      TEST(calls_reach_an_instance),
      TEST(fewer_are_drained_before_they_stop),
      TEST(an_instance_that_dies_is_started_again),
      TEST(an_instance_that_hangs_is_killed_and_replaced),
      TEST(a_command_that_fails_is_tried_with_growing_pauses),
      TEST(an_instance_that_is_never_ready_is_given_up),
      TEST(wrong_numbers_are_refused),
  };
  return cmocka_run_group_tests_name("provider/local", tests, NULL, NULL);
}
