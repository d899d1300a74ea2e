#!/usr/bin/env python3
"""Two event loops, real processes: what is process-wide holds across shards. Breaker, closing after a 429, retry budget,
coalescing, concurrency limit and the three counters do not care which shard a request came to."""
import concurrent.futures
import http.server
import json
import threading
import time
import unittest

from harness import Daemon, wait_for

ANSWER = {"id": "x", "object": "chat.completion", "model": "m", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


class Upstream(http.server.ThreadingHTTPServer):
    """Answers as `act` says: (status, seconds, headers); notes when each call came and how many ran at once."""
    daemon_threads = True
    request_queue_size = 512

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status, seconds, headers = self.server.begin()
            time.sleep(seconds)
            self.server.end_call()
            body = json.dumps(ANSWER if status == 200 else {"error": {"message": "no", "type": "x"}}).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    def __init__(self, act):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.act, self.calls, self.running, self.most, self.lock = act, [], 0, 0, threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def begin(self):
        with self.lock:
            self.calls.append(time.monotonic())
            self.running += 1
            self.most = max(self.most, self.running)
            return self.act(len(self.calls)) if callable(self.act) else self.act

    def end_call(self):
        with self.lock:
            self.running -= 1

    def handle_error(self, *_):
        pass

    def end(self):
        self.shutdown()
        self.server_close()


class Shards(unittest.TestCase):
    def start(self, act, more="", limit=64):
        self.upstream = Upstream(act)
        self.addCleanup(self.upstream.end)
        self.daemon = Daemon('[server]\nshards = 2\n%s[[providers]]\nname = "up"\nmodel = "m"\nlimit = %d\n'
                             'base_url = "http://127.0.0.1:%d/v1"\n' % (more, limit, self.upstream.server_address[1]))
        self.addCleanup(self.daemon.discard)

    def many(self, count, text=None, **more):
        """Statuses of so many requests at once, each over a connection of its own, so that both shards get some."""
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda i: self.daemon.chat(text or "number %d" % i, **more), range(count)))

    def metric(self, name, label='{provider="up"}'):
        for line in self.daemon.get("/metrics")[1].splitlines():
            if line.startswith("self_improve_" + name + label + " "):
                return float(line.split()[-1])

    def test_identical_requests_share_one_call_across_shards(self):
        self.start((200, 2.5, {}))
        answers = self.many(24, "the same question")
        self.assertEqual([status for status, _, _ in answers], [200] * 24)
        self.assertEqual(len(self.upstream.calls), 1)
        self.assertEqual(sum(h["x-self-improve-coalesced"] == "true" for _, _, h in answers), 23)
        self.assertEqual(len({h["x-request-id"] for _, _, h in answers}), 24)

    def test_a_failed_flight_fails_for_all_with_a_dead_letter_each(self):
        self.start((400, 2, {}))
        self.assertEqual([status for status, _, _ in self.many(16, "the same question")], [400] * 16)
        self.assertEqual(len(self.upstream.calls), 1)
        wait_for(lambda: len(self.daemon.get("/api/v1/dlq")[1]["dead_letters"]) == 16)

    def test_the_limit_holds_over_both_shards(self):
        self.start((200, 0.2, {}), limit=3)
        self.assertEqual([status for status, _, _ in self.many(24)], [200] * 24)
        self.assertLessEqual(self.upstream.most, 3)

    def test_a_429_closes_the_provider_for_all_until_retry_after(self):
        self.start(lambda n: (429, 0, {"Retry-After": "2"}) if n == 1 else (200, 0, {}))
        self.daemon.put("/api/v1/tunables/retry_attempts", {"value": 3, "guard": False})
        first = threading.Thread(target=self.daemon.chat, args=("the first",))
        first.start()
        wait_for(lambda: self.metric("attempt_throttled_total") == 1, 5, 0.02)
        self.assertEqual([status for status, _, _ in self.many(16)], [200] * 16)
        first.join()
        self.assertGreaterEqual(self.upstream.calls[1] - self.upstream.calls[0], 1.95)
        self.assertEqual(self.metric("breaker_opened_total"), 0)

    def test_the_breaker_opens_for_all_and_probes_one_at_a_time(self):
        broken = [True]
        self.start(lambda n: (500, 0.1, {}) if broken[0] else (200, 0.3, {}),
                   "[resilience]\nretry_attempts = 0\ncircuit_breaker_threshold = 4\ncircuit_breaker_timeout_ms = 1500\n")
        for i in range(4):
            self.daemon.chat("bad %d" % i)
        self.assertEqual(self.metric("breaker_opened_total"), 1)
        statuses = [status for status, _, _ in self.many(12)]
        self.assertEqual((statuses, len(self.upstream.calls)), ([503] * 12, 4))
        broken[0] = False
        time.sleep(1.6)
        self.upstream.most = 0
        self.many(12)
        self.assertEqual(self.upstream.most, 1)
        wait_for(lambda: self.daemon.chat("again %f" % time.time())[0] == 200 and self.metric("provider_breaker") == 0)

    def test_time_outs_open_the_breaker(self):
        self.start((200, 5, {}), "[resilience]\ndeadline_ms = 800\ncircuit_breaker_threshold = 2\n")
        for i in range(3):  # in a hurry: no fault of the provider
            self.assertEqual(self.daemon.chat("hasty %d" % i, headers={"X-Deadline-Ms": "40"})[0], 504)
        self.assertEqual((self.metric("attempt_timeouts_total"), self.metric("attempt_cancelled_total")), (0, 3))
        for i in range(2):
            self.assertEqual(self.daemon.chat("slow %d" % i)[0], 504)
        self.assertEqual((self.metric("attempt_timeouts_total"), self.metric("breaker_opened_total")), (2, 1))

    def test_retries_keep_to_their_budget(self):
        self.start((503, 0, {}), "[resilience]\nretry_attempts = 1\ncircuit_breaker_threshold = 1000\n")
        self.many(60)
        calls, retries = self.metric("attempts_total"), self.metric("retries_total")
        self.assertEqual(calls, 60 + retries)
        self.assertGreaterEqual(retries, 3)
        self.assertLessEqual(retries, 3 + 0.1 * calls)
        self.assertEqual(self.metric("retries_denied_total"), 60 - retries)

    def test_the_three_counters_add_up(self):
        self.start(lambda n: (200, 0.05, {}) if n % 3 else (500, 0.05, {}), "[resilience]\nretry_attempts = 0\n", limit=8)
        self.many(60)
        wait_for(lambda: self.metric("requests_in_flight", "") == 0)
        admitted = sum(self.metric("requests_admitted_total", '{priority="%s"}' % p)
                       for p in ("critical", "high", "normal", "low"))
        self.assertEqual(admitted, 60)
        self.assertEqual(admitted, sum(self.metric("requests_%s_total" % how, "")
                                       for how in ("answered", "dead_lettered", "client_gone")))

    def test_critical_requests_go_before_low_ones(self):
        self.start(lambda n: (200, 2 if n == 1 else 0.1, {}), limit=1)  # all are there before the second call
        order, lock = [], threading.Lock()

        def ask(priority, number):
            self.daemon.chat("%s %d" % (priority, number), headers={"X-Priority": priority})
            with lock:
                order.append(priority)
        threads = [threading.Thread(target=ask, args=("low", i)) for i in range(8)]
        for thread in threads:
            thread.start()
        wait_for(lambda: self.metric("requests_in_flight", "") == 8, 5, 0.02)
        threads += [threading.Thread(target=ask, args=("critical", i)) for i in range(4)]
        for thread in threads[8:]:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(self.upstream.calls), 12)
        self.assertGreaterEqual(order[1:5].count("critical"), 3, order)  # the clients' own order may slip by one


if __name__ == "__main__":
    unittest.main()
