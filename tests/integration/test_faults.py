#!/usr/bin/env python3
"""The fleet's faults S01, S03, S04, S06, S08 and S09 through the daemon, streamed and not: never a truncated answer that
looks whole, never more attempts than are fair to the provider, and what is behind the fault is used."""
import http.client
import json
import socket
import threading
import time
import unittest
import urllib.request
from urllib.parse import urlparse

import proving
from harness import Daemon, Process, wait_for

FAULTS = ("S01", "S03", "S04", "S06", "S08", "S09")
FIRST_TOKEN_S, IDLE_S = 1.5, 2.0


class Faults(unittest.TestCase):
    def setUp(self):
        self.fleet = Process(["fleet", "--port", "0"])
        self.addCleanup(self.fleet.kill)
        config = "[resilience]\nfirst_token_timeout_ms = %d\nidle_timeout_ms = %d\n" % (FIRST_TOKEN_S * 1000, IDLE_S * 1000)
        for name in FAULTS:
            config += '[[providers]]\nname = "%s"\nmodel = "fault-%s"\nbase_url = "%s/faults/v1"\n' % (name, name, self.fleet.url)
        config += '[[providers]]\nname = "spare"\nkind = "echo"\nmodel = "parrot"\n'
        for name in FAULTS:
            config += '[[routes]]\nname = "%s"\ncandidates = ["%s"]\nfallbacks = ["spare"]\n' % (name, name)
            config += '[[routes]]\nname = "%s-alone"\ncandidates = ["%s"]\n' % (name, name)
        self.daemon = Daemon(config)
        self.addCleanup(self.daemon.discard)

    def tearDown(self):
        self.assertEqual(self.daemon.get("/live")[0], 200)
        self.assertEqual(self.daemon.chat("healthy afterwards", model="S03")[0], 200)

    def calls(self, fault):
        with urllib.request.urlopen(self.fleet.url + "/_plant/calls", timeout=10) as answer:
            return json.load(answer)["fault-" + fault]

    def timed(self, model, **headers):
        began = time.monotonic()
        status, answer, headers = self.daemon.chat("one two three", model=model, limit_s=60, headers=headers)
        return status, answer, headers, time.monotonic() - began

    def stream(self, model):
        """(tokens, error, done, headers, seconds)"""
        began = time.monotonic()
        connection = http.client.HTTPConnection(urlparse(self.daemon.url).netloc, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(
            {"model": model, "stream": True, "max_tokens": 60, "metadata": {"tokens_out": "60"},
             "messages": [{"role": "user", "content": "one two three"}]}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        events = [e[6:] for e in answer.read().decode().split("\n\n") if e.startswith("data: ")]
        connection.close()
        done = events[-1] == "[DONE]"
        parsed = [json.loads(e) for e in events if e != "[DONE]"]
        error = next((e["error"] for e in parsed if "error" in e), None)
        tokens = sum(bool(c["delta"].get("content")) for e in parsed for c in e.get("choices", ()))
        return tokens, error, done, answer.headers, time.monotonic() - began

    def test_s01_waits_for_retry_after_when_alone(self):
        early = []
        timer = threading.Timer(1.5, lambda: early.append(self.calls("S01")))
        timer.start()
        status, _, headers, seconds = self.timed("S01-alone")
        timer.join()
        self.assertEqual(status, 200)
        self.assertEqual(headers["x-self-improve-provider"], "S01")
        self.assertLessEqual(early[0], 2)
        self.assertGreaterEqual(seconds, 1.8)
        self.assertLess(seconds, 20)
        self.assertEqual(self.calls("S01"), 2)

    def test_s01_leaves_a_throttled_provider_alone_until_then(self):
        began = time.monotonic()
        self.assertEqual(self.timed("S01")[0], 200)
        while time.monotonic() - began < 1.5:
            self.assertEqual(self.timed("S01")[0], 200)
        self.assertLessEqual(self.calls("S01"), 2)

    def test_s03_is_retried_at_the_same_provider(self):
        status, _, headers, _ = self.timed("S03")
        self.assertEqual((status, headers["x-self-improve-provider"]), (200, "S03"))
        self.assertEqual(self.calls("S03"), 2)

    def test_s04_fails_over_within_six_attempts(self):
        status, answer, headers, _ = self.timed("S04")
        self.assertEqual((status, headers["x-self-improve-model"], answer["model"]), (200, "parrot", "parrot"))
        self.assertLessEqual(self.calls("S04"), 6)
        tokens, error, done, headers, _ = self.stream("S04")
        self.assertTrue(done and tokens and not error)
        self.assertLessEqual(self.calls("S04"), 12)

    def test_s04_alone_is_an_error_with_a_dead_letter(self):
        status, answer, headers, _ = self.timed("S04-alone")
        self.assertIn(status, (502, 503))
        self.assertGreater(len(answer["error"]["message"]), 20)
        letter = wait_for(lambda: self.daemon.get("/api/v1/dlq/" + headers["x-request-id"])[1].get("body"))
        self.assertIn("one two three", letter)

    def test_s06_is_given_up_for_another_and_not_tried_again(self):
        tokens, error, done, _, seconds = self.stream("S06")
        self.assertTrue(tokens and done and not error)
        self.assertLess(seconds, FIRST_TOKEN_S + 1)
        self.assertEqual(self.calls("S06"), 1)
        status, _, headers, seconds = self.timed("S06", **{"X-Deadline-Ms": "6000"})  # a whole answer: half of what is left
        self.assertEqual((status, headers["x-self-improve-provider"]), (200, "spare"))
        self.assertLess(seconds, 5)
        self.assertEqual(self.calls("S06"), 2)

    def test_s06_alone_ends_at_the_deadline(self):
        status, answer, _, seconds = self.timed("S06-alone", **{"X-Deadline-Ms": "3000"})
        self.assertIn(status, (502, 503, 504))
        self.assertGreater(len(answer["error"]["message"]), 20)
        self.assertLess(seconds, 4)

    def test_s08_is_never_a_truncated_success(self):
        tokens, error, done, headers, _ = self.stream("S08")
        self.assertEqual((tokens, done), (40, False))
        self.assertGreater(len(error["message"]), 20)
        self.assertEqual(error["code"], "stream_cut")
        status, answer, headers, _ = self.timed("S08")
        self.assertEqual((status, headers["x-self-improve-provider"]), (200, "spare"))
        self.assertEqual(answer["choices"][0]["message"]["content"], "one two three")

    def test_s09_finds_the_stall_inside_its_window(self):
        tokens, error, done, _, seconds = self.stream("S09")
        self.assertEqual((tokens, done), (20, False))
        self.assertGreater(len(error["message"]), 20)
        self.assertLess(seconds, IDLE_S + 4)
        self.assertEqual(self.stream("S03")[2], True)


class Connecting(unittest.TestCase):
    def silent_host(self):
        """The port of a host that does not answer the knock: its line is full and nobody takes from it."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.addCleanup(listener.close)
        for _ in range(8):
            knock = socket.socket()
            self.addCleanup(knock.close)
            knock.setblocking(False)
            knock.connect_ex(listener.getsockname())
        return listener.getsockname()[1]

    def test_a_call_given_up_while_it_connects_spoils_none_to_a_named_host(self):
        name = socket.gethostname()
        try:
            address = socket.gethostbyname(name)
        except OSError:
            self.skipTest("this machine's name has no address")
        mock = proving.MockProvider("--mix", "fine=1", "--host", address)
        self.addCleanup(mock.close)
        config = "[resilience]\nretry_attempts = 0\n"
        for provider, host, port in (("silent", "127.0.0.1", self.silent_host()), ("named", name, mock.url.rsplit(":", 1)[1])):
            config += '[[providers]]\nname = "%s"\nmodel = "%s"\nbase_url = "http://%s:%s/v1"\n' % (
                provider, provider, host, port)
        daemon = Daemon(config)
        self.addCleanup(daemon.discard)
        self.assertEqual(daemon.chat(model="silent", headers={"X-Deadline-Ms": "200"})[0], 504)
        answers = [daemon.chat("number %d" % i, model="named", headers={"X-Deadline-Ms": "3000"})[0] for i in range(3)]
        self.assertEqual(answers, [200, 200, 200])


if __name__ == "__main__":
    unittest.main()
