#!/usr/bin/env python3
"""The public and the admin API of the real daemon, errors included: each refusal is JSON that says what to do."""
import http.client
import json
import pathlib
import sqlite3
import tempfile
import unittest
from urllib.parse import urlparse

import harness
from harness import ECHO, Daemon, wait_for


class WithDaemon(unittest.TestCase):
    config, options = ECHO, ()

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(cls.config, options=cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.discard()

    def refused(self, status, method, path, body=None, **more):
        got, answer, headers = self.daemon.call(method, path, body, **more)
        self.assertEqual(got, status, (method, path, answer))
        self.assertIn("json", headers["content-type"])
        self.assertEqual(list(answer["error"]), ["message", "type", "param", "code"])
        self.assertRegex(answer["error"]["type"], "_error$")
        self.assertGreater(len(answer["error"]["message"]), 20, answer)
        return answer["error"], headers

    def found(self, path, **more):
        status, answer, _ = self.daemon.get(path, **more)
        self.assertEqual(status, 200, (path, answer))
        return answer


class Public(WithDaemon):
    def test_chat_answers_with_id_and_names_who_served(self):
        status, answer, headers = self.daemon.chat("good morning")
        self.assertEqual(status, 200)
        self.assertEqual(answer["choices"][0]["message"]["content"], "good morning")
        self.assertEqual(answer["id"], headers["x-request-id"])
        self.assertEqual(headers["x-self-improve-model"], "parrot")

    def test_stream_ends_with_done(self):
        connection = http.client.HTTPConnection(urlparse(self.daemon.url).netloc, timeout=20)
        body = json.dumps({"model": "auto", "stream": True, "messages": [{"role": "user", "content": "one two three"}]})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        events = [e for e in answer.read().decode().split("\n\n") if e]
        connection.close()
        self.assertIn("text/event-stream", answer.headers["content-type"])
        self.assertEqual(events[-1], "data: [DONE]")
        text = "".join(c["delta"].get("content") or "" for e in events[:-1] for c in json.loads(e[6:])["choices"])
        self.assertEqual(text, "one two three")

    def test_prompt(self):
        status, answer, headers = self.daemon.post("/v1/prompt", {"input": "just say this"})
        self.assertEqual(status, 200)
        self.assertEqual(answer["output"], "just say this")
        self.assertEqual(answer["request_id"], headers["x-request-id"])
        self.assertEqual((answer["model"], answer["provider"]), ("parrot", "echo"))

    def test_models_health_and_metrics(self):
        self.assertLessEqual({"auto", "parrot"}, {m["id"] for m in self.found("/v1/models")["data"]})
        self.assertEqual(self.found("/health")["status"], "ok")
        self.assertEqual(self.daemon.get("/live")[0], 200)
        self.assertEqual(self.daemon.get("/ready")[0], 200)
        text = self.found("/metrics")
        for name in ("requests_admitted_total", "provider_limit", "stage_depth"):
            self.assertRegex(text, r"(?m)^# TYPE self_improve_%s (counter|gauge)$" % name)

    def test_every_counter_is_exported_as_documented(self):
        exported = self.found("/metrics")
        for line in (harness.ROOT / "docs/metrics.md").read_text().splitlines():
            if line.startswith("| `self_improve_"):
                self.assertIn("# TYPE %s " % line.split("`")[1], exported)

    def test_bad_bodies_are_refused_and_cost_nothing(self):
        bad = (b"", b"{", b"[]", b"null", b'{"model":"auto"}', b'{"model":"auto","messages":3}', b"\xff\xfe",
               b'{"model":5,"messages":[]}', b'{"model":"auto","messages":[{"role":"user","content":"x"}],"max_tokens":"9"}',
               b'{"model":"auto","messages":[' + b"[" * 5000 + b"]" * 5000 + b"]}")
        for body in bad:
            self.refused(400, "POST", "/v1/chat/completions", body)
        error, _ = self.refused(404, "POST", "/v1/chat/completions", {"model": "nobody", "messages": [{"role": "user", "content": "x"}]})
        self.assertIn("/v1/models", error["message"])
        self.refused(400, "POST", "/v1/prompt", {"prompt": "x"})
        self.assertEqual(self.daemon.chat()[0], 200)

    def test_wrong_methods_and_paths(self):
        for method, path in (("GET", "/v1/chat/completions"), ("POST", "/v1/models"), ("DELETE", "/api/v1/status"),
                             ("PUT", "/health"), ("POST", "/metrics")):
            error, headers = self.refused(405, method, path, {} if method != "GET" else None)
            self.assertTrue(headers["allow"])
        for path in ("/", "/v1", "/v2/chat/completions", "/api/v1/nonsense", "/api/v1/tunables/a/b/c"):
            self.refused(404, "GET", path)


class Admin(WithDaemon):
    def test_status(self):
        status = self.found("/api/v1/status")
        self.assertEqual([p["name"] for p in status["providers"]], ["echo"])
        self.assertEqual(len(status["snapshot"]), 64)
        self.assertEqual(status["objective"]["ttft_ms"], 2000)

    def test_all_documented_tunables_are_listed(self):
        names = {t["name"] for t in self.found("/api/v1/tunables")["tunables"]}
        for line in (harness.ROOT / "docs/tunables.md").read_text().splitlines():
            if line.startswith("| `"):
                name = line.split("`")[1]
                self.assertTrue(name in names or name + ".echo" in names, name)

    def test_change_has_history_and_why(self):
        path = "/api/v1/tunables/idle_timeout_ms"
        before = self.found(path)["tunable"]["value"]
        status, answer, _ = self.daemon.put(path, {"value": 12345, "guard": False, "reason": "because a test says so"})
        self.assertEqual(status, 200)
        self.assertEqual(answer["changes"][0]["from"], before)
        now = self.found(path)
        self.assertEqual(now["tunable"]["value"], 12345)
        self.assertEqual(now["history"][0]["to"], 12345)
        self.assertEqual(now["history"][0]["reason"], "because a test says so")
        code, out, _ = self.daemon.command("why", "idle_timeout_ms")
        self.assertEqual(code, 0)
        self.assertIn("%g -> 12345 by http: because a test says so" % before, out)
        ledger = self.found("/api/v1/ledger?name=idle_timeout_ms&limit=1")["ledger"]
        self.assertEqual([row["to"] for row in ledger], [12345])

    def test_wrong_changes_are_refused(self):
        path = "/api/v1/tunables/retry_attempts"
        self.assertIn("0 to 10", self.refused(400, "PUT", path, {"value": 11})[0]["message"])
        for body in ({}, {"value": "3"}, {"value": None}, [], {"value": 2.5}, {"value": 3, "hold": "for ever"}):
            self.refused(400, "PUT", path, body)
        self.refused(404, "PUT", "/api/v1/tunables/no_such_thing", {"value": 3})
        self.refused(404, "GET", "/api/v1/tunables/no_such_thing")
        self.refused(400, "PUT", "/api/v1/tunables", {"changes": {}})
        self.refused(404, "PUT", "/api/v1/tunables", {"changes": {"no_such_thing": 1}})

    def test_several_changes_are_one_or_none(self):
        status, _, _ = self.daemon.put("/api/v1/tunables", {"changes": {"retry_base_ms": 77, "retry_max_ms": 7777},
                                                            "guard": False, "reason": "both"})
        self.assertEqual(status, 200)
        self.refused(400, "PUT", "/api/v1/tunables", {"changes": {"retry_base_ms": 78, "retry_max_ms": -1}, "guard": False})
        self.assertEqual(self.found("/api/v1/tunables/retry_base_ms")["tunable"]["value"], 77)

    def test_hold_and_release(self):
        path = "/api/v1/tunables/deadline_ms"
        self.assertEqual(self.daemon.put(path, {"value": 50000, "guard": False, "hold": 3600, "reason": "t"})[0], 200)
        self.assertIsInstance(self.found(path)["tunable"]["held_until_ms"], (int, float))
        self.assertEqual(self.daemon.call("DELETE", path + "/hold")[0], 200)
        self.assertIsNone(self.found(path)["tunable"]["held_until_ms"])

    def test_snapshots_diff_and_rollback(self):
        path = "/api/v1/tunables/coalesce_waiters"
        before = self.found("/api/v1/snapshots/head")["id"]
        old = self.found(path)["tunable"]["value"]
        self.daemon.put(path, {"value": old + 5, "guard": False, "hold": False, "reason": "to be undone"})
        after = self.found("/api/v1/snapshots/head")["id"]
        self.assertNotEqual(before, after)
        self.assertLessEqual({before, after}, {s["id"] for s in self.found("/api/v1/snapshots")["snapshots"]})
        code, out, _ = self.daemon.command("diff", before[:10], after[:10])
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^coalesce_waiters +%g +%g$" % (old, old + 5))
        code, _, err = self.daemon.command("rollback", before[:10], "--reason", "test")
        self.assertEqual(code, 0, err)
        self.assertEqual(self.found(path)["tunable"]["value"], old)
        self.refused(404, "GET", "/api/v1/snapshots/" + "0" * 64)
        self.refused(404, "POST", "/api/v1/snapshots/" + "0" * 64 + "/rollback", {})

    def test_experiments(self):
        asked = {"name": "quicker", "tunable": "first_token_timeout_ms", "treatment": 5000, "share": 0.5, "duration_s": 600}
        status, answer, _ = self.daemon.post("/api/v1/experiments", asked)
        self.assertEqual(status, 201, answer)
        self.refused(400, "POST", "/api/v1/experiments", asked)
        self.refused(409, "PUT", "/api/v1/tunables/first_token_timeout_ms", {"value": 6000})
        self.assertEqual(self.found("/api/v1/experiments/quicker")["status"], "running")
        self.assertIn("quicker", [e["name"] for e in self.found("/api/v1/experiments")["experiments"]])
        self.assertEqual(self.daemon.post("/api/v1/experiments/quicker/stop", {})[0], 200)
        self.assertEqual(self.found("/api/v1/experiments/quicker")["status"], "stopped")
        code, out, _ = self.daemon.command("experiments")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"quicker +first_token_timeout_ms +10000 +5000 +stopped")
        for body in ({}, {"name": "x"}, {**asked, "name": "x", "share": 2}, {**asked, "name": "x", "treatment": -5}):
            self.refused(400, "POST", "/api/v1/experiments", body)
        self.refused(404, "POST", "/api/v1/experiments", {**asked, "name": "x", "tunable": "no_such"})
        self.refused(404, "GET", "/api/v1/experiments/nobody")
        self.refused(404, "POST", "/api/v1/experiments/nobody/stop", {})

    def test_feedback(self):
        _, _, headers = self.daemon.chat("rate me")
        mine = headers["x-request-id"]
        self.assertEqual(self.daemon.post("/api/v1/feedback", {"request_id": mine, "reward": 0.25})[0], 200)
        self.assertEqual(self.daemon.post("/api/v1/feedback", {"request_id": mine, "reward": 0.75})[0], 200)
        self.refused(404, "POST", "/api/v1/feedback", {"request_id": "chatcmpl-0000000000000001", "reward": 1})
        for body in ({}, {"request_id": mine}, {"request_id": mine, "reward": 1.5}, {"request_id": mine, "reward": "good"},
                     {"request_id": 7, "reward": 1}):
            self.refused(400, "POST", "/api/v1/feedback", body)
        wait_for(lambda: self.rewards() == [0.75])

    def rewards(self):
        db = sqlite3.connect(self.daemon.database, timeout=10)
        try:
            return [row[0] for row in db.execute("SELECT value FROM rewards")]
        finally:
            db.close()

    def test_routes_anomalies_and_limits(self):
        routes = self.found("/api/v1/routes")
        routes = routes if isinstance(routes, list) else routes["routes"]
        self.assertEqual({r["name"] for r in routes}, {"auto", "parrot"})
        self.found("/api/v1/anomalies")
        for limit in ("0", "-1", "x", "999999999999"):
            status, answer, _ = self.daemon.get("/api/v1/ledger?limit=" + limit)
            self.assertIn(status, (200, 400), answer)
        self.refused(404, "GET", "/api/v1/dlq/chatcmpl-0000000000000001")

    def test_status_command(self):
        code, out, _ = self.daemon.command("status")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^echo +parrot ")


class Observing(WithDaemon):
    options = ("--observe",)

    def test_changes_are_refused_and_requests_served(self):
        self.assertTrue(self.found("/api/v1/status")["observe"])
        self.refused(409, "PUT", "/api/v1/tunables/retry_attempts", {"value": 5})
        self.assertEqual(self.daemon.chat()[0], 200)


class WithKeys(WithDaemon):
    config = '[server]\nkeys = ["canary-sesame"]\n' + ECHO

    def test_only_the_key_opens(self):
        good = {"Authorization": "Bearer canary-sesame"}
        self.assertEqual(self.daemon.chat(headers=good)[0], 200)
        for bad in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer"}, {"Authorization": "Bearer canary-sesam"},
                    {"Authorization": "Basic canary-sesame"}, {"Authorization": ""}):
            status, answer, _ = self.daemon.chat(headers=bad)
            self.assertEqual(status, 401, bad)
            self.assertNotIn("sesame", json.dumps(answer))
            self.assertEqual(self.daemon.get("/api/v1/status", headers=bad)[0], 401)
        self.assertEqual(self.daemon.get("/live")[0], 200)
        self.assertNotIn("sesame", "".join(self.daemon.err))


class DeadLetters(unittest.TestCase):
    def test_a_failed_request_is_kept_whole_and_answered(self):
        daemon = Daemon('[resilience]\nretry_attempts = 0\n[[providers]]\nname = "gone"\nmodel = "m"\n'
                        'base_url = "http://127.0.0.1:9/v1"\n')
        self.addCleanup(daemon.discard)
        status, answer, headers = daemon.chat("keep me whole")
        self.assertGreaterEqual(status, 500)
        self.assertTrue(answer["error"]["message"])
        letters = wait_for(lambda: daemon.get("/api/v1/dlq")[1]["dead_letters"])
        self.assertEqual(letters[0]["request_id"], headers["x-request-id"])
        letter = daemon.get("/api/v1/dlq/" + headers["x-request-id"])[1]
        self.assertIn("keep me whole", letter["body"])
        self.assertEqual(letter["provider"], "gone")


class Memory(unittest.TestCase):
    def test_a_change_that_was_answered_survives_kill_9(self):
        daemon = Daemon()
        self.addCleanup(daemon.discard)
        self.assertEqual(daemon.put("/api/v1/tunables/retry_attempts", {"value": 7, "guard": False, "reason": "keep"})[0], 200)
        daemon.kill()
        again = Daemon(directory=daemon.directory)
        self.addCleanup(again.discard)
        tunable = again.get("/api/v1/tunables/retry_attempts")[1]
        self.assertEqual(tunable["tunable"]["value"], 7)
        self.assertEqual(tunable["history"][0]["reason"], "keep")
        code, out, _ = again.command("why", "retry_attempts")
        self.assertIn("3 -> 7 by http: keep", out)

    def test_a_new_value_in_the_file_wins_and_the_environment_over_both(self):
        daemon = Daemon("[resilience]\nretry_attempts = 4\n" + ECHO)
        self.addCleanup(daemon.discard)
        daemon.put("/api/v1/tunables/retry_attempts", {"value": 7, "guard": False, "reason": "by hand"})
        daemon.stop()
        steps = ((4, {}, 7), (6, {}, 6), (6, {"SELF_IMPROVE_RETRY_ATTEMPTS": "2"}, 2))
        for in_file, variables, expected in steps:
            again = Daemon("[resilience]\nretry_attempts = %d\n" % in_file + ECHO, daemon.directory, **variables)
            self.assertEqual(again.get("/api/v1/tunables/retry_attempts")[1]["tunable"]["value"], expected)
            self.assertEqual(again.stop(), 0)

    def test_an_unjudged_trial_is_undone_at_the_next_start(self):
        daemon = Daemon()
        self.addCleanup(daemon.discard)
        self.assertEqual(daemon.put("/api/v1/tunables/retry_attempts", {"value": 7, "reason": "on trial"})[0], 200)
        daemon.kill()
        again = Daemon(directory=daemon.directory)
        self.addCleanup(again.discard)
        tunable = again.get("/api/v1/tunables/retry_attempts")[1]
        self.assertEqual(tunable["tunable"]["value"], 3)
        self.assertEqual([row["judgement"]["outcome"] for row in tunable["history"] if row["judgement"]], ["interrupted"])

    def test_commands_read_the_database_when_no_daemon_runs(self):
        daemon = Daemon()
        self.addCleanup(daemon.discard)
        daemon.put("/api/v1/tunables/retry_attempts", {"value": 7, "guard": False, "reason": "for later"})
        self.assertEqual(daemon.stop(), 0)
        code, out, _ = daemon.command("why", "retry_attempts")
        self.assertEqual(code, 0)
        self.assertIn("No daemon answers", out)
        self.assertIn("3 -> 7 by http: for later", out)
        self.assertEqual(daemon.command("history")[0], 0)
        self.assertEqual(daemon.command("experiments")[0], 0)
        code, _, err = daemon.command("rollback", "abcdef")
        self.assertEqual(code, 1)
        self.assertIn("needs one that runs", err)
        code, out, err = harness.run("history", "--url", daemon.url)
        self.assertEqual((code, out), (1, ""))  # no other daemon's database in its place
        self.assertIn("--data-dir", err)

    def test_commands_find_the_daemon_of_a_file_whose_secrets_they_lack(self):
        with tempfile.TemporaryDirectory() as directory:
            for host in ("127.0.0.1", "::1"):
                path = pathlib.Path(directory, "c.toml")
                path.write_text('[server]\nhost = "%s"\nport = 1\nkeys = ["${SURELY_UNSET}"]\n[store]\npath = "%s/x.db"\n' % (host, directory))
                code, _, err = harness.run("status", "--config", str(path))
                self.assertEqual(code, 1)
                self.assertIn("http://%s:1," % (host if "." in host else "[%s]" % host), err)


if __name__ == "__main__":
    unittest.main()
