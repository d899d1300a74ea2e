#!/usr/bin/env python3
"""Bad input, as raw bytes: every refusal is JSON that says what to do, no connection is lost without an answer, and
the daemon serves the next client as before."""
import json
import re
import socket
import time
import unittest
from urllib.parse import urlparse

from harness import ECHO, Daemon, wait_for
from proving import metrics

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}


def request(method, path, body=b"", *headers, keep=False):
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: x", "Connection: " + ("keep-alive" if keep else "close")]
    lines += ["Content-Type: application/json"] + ["Content-Length: %d" % len(body)] * bool(body) + list(headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def chunked(*chunks):
    return b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"


class Hostile(unittest.TestCase):
    config = "[server]\nbody_limit_mib = 1\nheader_timeout_s = 2\nbody_timeout_s = 2\n" + ECHO

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(cls.config)
        where = urlparse(cls.daemon.url)
        cls.address = (where.hostname, where.port)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.discard()

    def tearDown(self):
        self.assertEqual(self.daemon.chat()[0], 200)

    def say(self, raw, *, half_close=False, limit_s=10):
        """All that comes back until the daemon closes or is silent for half a second after an answer."""
        with socket.create_connection(self.address, timeout=limit_s) as s:
            try:
                s.sendall(raw)
                if half_close:
                    s.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return self.hear(s)

    @staticmethod
    def hear(s):
        got = b""
        try:
            while True:
                part = s.recv(65536)
                if not part:
                    break
                got += part
                s.settimeout(0.5)
        except OSError:
            pass
        return got

    def answers(self, raw, **more):
        """[(status, head, body)] of each answer."""
        left, found = self.say(raw, **more), []
        while left:
            head, _, left = left.partition(b"\r\n\r\n")
            head = head.decode("latin-1")
            status = int(head.split()[1])
            if status == 100:
                continue
            size = re.search(r"(?im)^content-length: *(\d+)", head)
            body, left = (left[:int(size[1])], left[int(size[1]):]) if size else (left, b"")
            found.append((status, head, body))
        return found

    def refused(self, status, raw, **more):
        got = self.answers(raw, **more)
        self.assertTrue(got, raw[:200])
        self.assertEqual(got[0][0], status, (raw[:200], got[0]))
        error = json.loads(got[0][2])["error"]
        self.assertTrue(error["type"])
        self.assertGreater(len(error["message"]), 20, error)
        return error, got[0][1]

    def test_bodies(self):
        ask = json.dumps(CHAT).encode()
        for body in (b"\0", ask[:-1], ask + b"x", ask + ask, b"\xef\xbb\xbf" + ask, ask.replace(b"hello", b"\xc3\x28"),
                     ask.replace(b"hello", b"\xed\xa0\x80"), ask.replace(b"hello", b"a\0b"),
                     ask.replace(b'"auto"', b"NaN"), b'{"a":' * 100000, b"[" * 500000, ask.replace(b"}]}", b'}],"stream":"yes"}'),
                     ask.replace(b"}]}", b'}],"model":"other"}'), ask.replace(b"}]}", b'}],"max_tokens":1e999}')):
            with self.subTest(body=body[:80]):
                self.refused(400, request("POST", "/v1/chat/completions", body))

    def test_content_types(self):
        ask = json.dumps(CHAT).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            raw = request("POST", "/v1/chat/completions", ask).replace(b"application/json", kind.encode())
            self.assertIn(self.answers(raw)[0][0], (200, 415), kind)
        self.assertEqual(self.answers(request("POST", "/v1/chat/completions", ask).replace(
            b"application/json", b"application/json; charset=utf-8"))[0][0], 200)

    def test_too_large_a_body_is_413_before_it_is_read(self):
        for raw in (request("POST", "/v1/chat/completions", b"", "Content-Length: 99999999"),
                    request("POST", "/v1/chat/completions", b"", "Content-Length: 99999999", "Expect: 100-continue"),
                    request("POST", "/v1/chat/completions", b"", "Content-Length: 9999999999999999999"),
                    request("POST", "/v1/chat/completions", b"x" * ((1 << 20) + 1)),
                    request("POST", "/v1/chat/completions", b"", "Transfer-Encoding: chunked") +
                    chunked(*[b" " * 65536] * 20)):
            with self.subTest(raw=raw[:200]):
                error, _ = self.refused(413, raw)
                self.assertRegex(error["message"], r"1048576 bytes; .* server\.body_limit_mib")

    def count(self, name):
        return metric(self.daemon, name)

    def test_what_the_front_refuses_is_counted_and_has_an_id(self):
        before = self.count("requests_received_total"), self.count("requests_refused_total")
        for raw in (request("POST", "/v1/chat/completions", b"", "Content-Length: 99999999"),
                    request("POST", "/v1/prompt", b"x" * ((1 << 20) + 1)),
                    request("POST", "/v1/chat/completions", b"", "Transfer-Encoding: gzip")):
            self.assertIn("X-Request-Id: req-", self.answers(raw)[0][1])
        after = self.count("requests_received_total"), self.count("requests_refused_total")
        self.assertEqual((after[0] - before[0], after[1] - before[1]), (3, 3))

    def test_a_long_stream_of_echo_waits_for_its_reader(self):
        words = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "word " * 20000}]}
        with socket.create_connection(self.address, timeout=20) as s:
            s.sendall(request("POST", "/v1/chat/completions", json.dumps(words).encode()))
            time.sleep(1)
            got = b""
            while part := s.recv(1 << 16):
                got += part
        self.assertEqual(got.count(b'"content":"word') + got.count(b'"content":" word'), 20000)
        self.assertIn(b"data: [DONE]", got[-100:])

    def test_framing(self):
        ask = json.dumps(CHAT).encode()
        one = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        for head in (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                     b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked, chunked\r\n", b"Host: y\r\n",
                     b"X y: z\r\n", b"A: b\r\n c\r\n"):
            with self.subTest(head=head):
                self.refused(400, one + head + b"\r\n" + ask)
        self.refused(400, b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")

    def test_what_is_not_http_gets_the_right_status_and_a_close(self):
        """By the HTTP library itself, in its own words: docs/api.md lists exactly these."""
        post = ("POST", "/v1/chat/completions", b"")
        for status, raw in [(400, request(*post, "Content-Length: " + n)) for n in ("-1", "+5", "5x", "0x5", "5 5")] + [
                (413, request(*post, "Content-Length: 99999999999999999999999")),
                (400, request(*post, "Transfer-Encoding: chunked") + b"zz\r\n"),
                (400, b"GET /live HTTP/1.1\r\nno colon\r\n\r\n"),
                (414, request("GET", "/" + "a" * 200000)), (431, request("GET", "/live", b"", "X: " + "y" * 200000)),
                (431, request("GET", "/live", b"", *["X%d: y" % i for i in range(5000)])), (505, b"GET / HTTP/9.9\r\n\r\n")]:
            with self.subTest(raw=raw[:60]):
                self.assertRegex(self.say(raw), rb"^HTTP/1\.1 %d [^\r]+\r\n(?s:.*)Connection: close\r\n" % status)

    def test_chunked_bodies_are_read(self):
        ask = json.dumps(CHAT).encode()
        raw = request("POST", "/v1/chat/completions", b"", "Transfer-Encoding: chunked")
        self.assertEqual(self.answers(raw + chunked(*[ask[i:i + 7] for i in range(0, len(ask), 7)]))[0][0], 200)

    def test_garbage_costs_only_its_own_connection(self):
        for raw in (b"\r\n\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"G" * 100000,
                    request("POST", "/v1/chat/completions", b"", "Transfer-Encoding: chunked") + b"zz\r\n",
                    request("POST", "/v1/chat/completions", b"", "Transfer-Encoding: chunked") + b"ffffffffffffffffffff\r\n"):
            with self.subTest(raw=raw[:60]):
                self.say(raw, half_close=True)
                self.assertEqual(self.daemon.get("/live")[0], 200)

    def test_methods(self):
        for method, path, allowed in (("GET", "/v1/chat/completions", "POST"), ("DELETE", "/v1/prompt", "POST"),
                                      ("POST", "/v1/models", "GET"), ("PATCH", "/api/v1/tunables/retry_attempts", "PUT"),
                                      ("BREW", "/health", "GET"), ("GET", "/api/v1/feedback", "POST"),
                                      ("PUT", "/api/v1/dlq", "GET"), ("DELETE", "/api/v1/experiments", "POST")):
            with self.subTest(method=method, path=path):
                _, head = self.refused(405, request(method, path))
                self.assertRegex(head, r"(?im)^allow:.*\b%s\b" % allowed)

    def test_head_has_no_body(self):
        for path in ("/live", "/health", "/metrics", "/v1/models", "/api/v1/status"):
            got = self.say(request("HEAD", path))
            head, _, body = got.partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.1 200"), (path, head))
            self.assertEqual(body, b"", path)

    def test_expect_continue(self):
        ask = json.dumps(CHAT).encode()
        with socket.create_connection(self.address, timeout=10) as s:
            s.sendall(request("POST", "/v1/chat/completions", b"", "Content-Length: %d" % len(ask), "Expect: 100-continue"))
            self.assertTrue(s.recv(1000).startswith(b"HTTP/1.1 100"))
            s.settimeout(10)
            s.sendall(ask)
            self.assertIn(b"HTTP/1.1 200", self.hear(s))

    def test_pipelined_requests_are_all_answered_in_order(self):
        ask = json.dumps(CHAT).encode()
        raw = b"".join(request(*one, keep=True) for one in (
            ("POST", "/v1/chat/completions", ask), ("GET", "/live"), ("GET", "/nowhere"),
            ("POST", "/v1/chat/completions", b"{"), ("POST", "/v1/chat/completions", ask)))
        self.assertEqual([status for status, _, _ in self.answers(raw)], [200, 200, 404, 400, 200])

    def test_a_half_close_counts_as_leaving_and_hangs_nobody(self):
        began = time.monotonic()
        self.say(request("POST", "/v1/chat/completions", json.dumps(CHAT).encode()), half_close=True)
        self.assertLess(time.monotonic() - began, 2)

    def test_slow_heads_and_bodies_are_cut_off(self):
        for start, drip in ((b"GET /live HTTP/1.1\r\n", b"X: y\r\n"),
                            (request("POST", "/v1/chat/completions", b"", "Content-Length: 1000"), b" ")):
            with socket.create_connection(self.address, timeout=10) as s:
                s.sendall(start)
                began = time.monotonic()
                s.settimeout(0.2)
                closed = False
                while not closed and time.monotonic() - began < 8:
                    try:
                        s.sendall(drip)
                        closed = not s.recv(4096)
                    except TimeoutError:
                        continue
                    except OSError:
                        closed = True
                self.assertTrue(closed)
                self.assertLess(time.monotonic() - began, 6)

    def test_queries(self):
        for path in ("/api/v1/ledger", "/api/v1/dlq", "/api/v1/anomalies", "/api/v1/snapshots", "/api/v1/experiments"):
            self.assertEqual(self.answers(request("GET", path + "?unknown=1&&=&x"))[0][0], 200, path)
        for query in ("limit=0", "limit=-1", "limit=x", "limit=1e3", "limit=99999999999999999999", "limit=", "limit=%00",
                      "limit=1%202"):
            with self.subTest(query=query):
                self.refused(400, request("GET", "/api/v1/ledger?" + query))

    def test_a_query_of_many_arguments_is_answered_at_once(self):
        for count in (65, 150, 1500):
            began = time.monotonic()
            error, head = self.refused(414, request("GET", "/live?" + "&".join(["a=1"] * count)))
            self.assertEqual(error["code"], "query_too_long")
            self.assertIn("Connection: close", head)
            self.assertLess(time.monotonic() - began, 1.5)
        self.assertEqual(self.answers(request("GET", "/live?" + "&".join(["a=1"] * 64)))[0][0], 200)

    def test_an_absolute_target_is_the_same_path(self):
        self.assertEqual(self.answers(request("GET", "http://any.example/live"))[0][0], 200)
        self.refused(404, request("GET", "http://any.example"))

    def test_ids(self):
        for path in ("/api/v1/tunables/%00", "/api/v1/tunables/%", "/api/v1/tunables/%zz", "/api/v1/tunables/..%2f..%2fetc",
                     "/api/v1/tunables/" + "x" * 5000, "/api/v1/snapshots/zz", "/api/v1/snapshots/%27%20OR%201=1",
                     "/api/v1/snapshots/abc/diff/def", "/api/v1/dlq/%ff%fe", "/api/v1/dlq/chatcmpl-", "/api/v1/dlq/1",
                     "/api/v1/experiments/%22", "/api/v1/experiments/%0a", "/api/v1/", "/api/v1//status", "/api/v1/status/"):
            with self.subTest(path=path[:60]):
                got = self.answers(request("GET", path))
                self.assertIn(got[0][0], (400, 404), got)
                self.assertGreater(len(json.loads(got[0][2])["error"]["message"]), 20)

    def test_an_escaped_name_is_the_same_name(self):
        self.assertEqual(self.answers(request("GET", "/api/v1/tunables/retry%5Fattempts"))[0][0], 200)

    def test_bad_bodies_at_every_admin_endpoint(self):
        deep = b"[" * 100000
        for method, path in (("PUT", "/api/v1/tunables"), ("PUT", "/api/v1/tunables/retry_attempts"),
                             ("POST", "/api/v1/experiments"), ("POST", "/api/v1/feedback")):
            for body in (b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff", b"{\"value\":1e999}", deep, b'{"a":' * 50000,
                         b'{"value":true}', b'{"value":{}}', b'{"name":[],"tunable":1,"treatment":"x"}',
                         b'{"request_id":"x","reward":1}' if "feedback" in path else b'{"changes":[1]}',
                         b'{"request_id":"chatcmpl-0000000000000000","reward":NaN}'):
                with self.subTest(path=path, body=body[:40]):
                    got = self.answers(request(method, path, body, *([] if body else ["Content-Length: 0"])))
                    self.assertIn(got[0][0], (400, 404), (got, body[:60]))
                    self.assertGreater(len(json.loads(got[0][2])["error"]["message"]), 20)

    def test_wrong_types_of_options_are_refused(self):
        path = "/api/v1/tunables/retry_attempts"
        for more in ({"hold": -1}, {"hold": "x"}, {"hold": {}}, {"guard": "no"}, {"guard": 1}, {"reason": 7},
                     {"reason": "x" * 100000}, {"unknown_key": 1}):
            with self.subTest(more=str(more)[:60]):
                self.refused(400, request("PUT", path, json.dumps({"value": 4, **more}).encode()))


class Memory(unittest.TestCase):
    """server.memory_mib covers bodies while they arrive and answers while they are read."""

    def setUp(self):
        self.daemon = Daemon("[server]\nmemory_mib = 16\nbody_limit_mib = 8\nwrite_timeout_s = 2\n" + ECHO)
        self.addCleanup(self.daemon.discard)
        where = urlparse(self.daemon.url)
        self.address = (where.hostname, where.port)

    def held(self):
        return metric(self.daemon, "bytes_in_flight")

    def connect(self, raw):
        s = socket.create_connection(self.address, timeout=10)
        self.addCleanup(s.close)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(raw)
        return s

    def test_uploads_that_are_not_finished(self):
        half = request("POST", "/v1/chat/completions", b"", "Content-Length: %d" % (8 << 20)) + b" " * (5 << 20)
        uploads = []
        for _ in range(8):
            try:
                uploads.append(self.connect(half))
            except OSError:
                pass
        self.assertTrue(wait_for(lambda: self.held() > 7 << 20))
        self.assertLess(self.held(), 13 << 20)  # three quarters, for the rest is for requests that are here
        self.assertEqual(self.daemon.chat()[0], 200)
        for s in uploads:
            s.close()
        self.assertTrue(wait_for(lambda: self.held() == 0))

    def test_a_body_that_finds_no_room_is_told_so(self):
        first = self.connect(request("POST", "/v1/chat/completions", b"", "Content-Length: %d" % (8 << 20)) + b" " * (5 << 20))
        self.assertTrue(wait_for(lambda: self.held() > 7 << 20))
        s = self.connect(request("POST", "/v1/chat/completions", b" " * (6 << 20)))
        answer = Hostile.hear(s).decode()
        self.assertIn(" 503 ", answer.splitlines()[0])
        self.assertIn("Retry-After: 1", answer)
        self.assertIn("server.memory_mib", answer)
        first.close()

    def test_an_answer_whose_reader_drips_is_counted_and_cut(self):
        words = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "word " * (1 << 20)}]}).encode()
        s = self.connect(request("POST", "/v1/chat/completions", words))
        self.assertTrue(wait_for(lambda: self.held() > 5 << 20))
        end = time.monotonic() + 20
        try:
            while time.monotonic() < end and s.recv(512):
                time.sleep(0.2)
        except OSError:
            pass
        self.assertLess(time.monotonic(), end)
        self.assertTrue(wait_for(lambda: self.held() == 0))


def metric(daemon, name):
    return metrics(daemon).get(name, 0.0)


if __name__ == "__main__":
    unittest.main()
