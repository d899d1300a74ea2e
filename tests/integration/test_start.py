#!/usr/bin/env python3
"""Starting and stopping: every refusal says what to do and exits 2, a signal drains and exits 0."""
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import unittest

import harness
from harness import ECHO, Daemon, run


class Refusals(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="self-improve-test-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def config(self, text):
        path = os.path.join(self.directory, "c.toml")
        with open(path, "w") as file:
            file.write(text)
        return path

    def refused(self, text, *options, **more):
        if "--port" not in options:
            options += ("--port", "0")
        status, out, err = run("run", "--config", self.config(text), "--data-dir", self.directory, *options, **more)
        self.assertEqual(status, 2, err)
        self.assertNotIn("listening", out)
        return err

    def test_busy_port_names_its_holder_and_the_way_out(self):
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            err = self.refused(ECHO, "--port", str(port))
        self.assertIn("port %d of 127.0.0.1 is in use by " % port, err)
        self.assertIn("process %d" % os.getpid(), err)
        self.assertIn("--port", err)

    def test_port_of_another_daemon_is_refused_and_not_shared(self):
        daemon = Daemon()
        self.addCleanup(daemon.discard)
        err = self.refused(ECHO, "--port", daemon.url.rsplit(":", 1)[1])
        self.assertIn("self-improve (process %d)" % daemon.process.pid, err)

    def test_second_daemon_on_the_same_database_is_refused(self):
        daemon = Daemon()
        self.addCleanup(daemon.discard)
        status, _, err = run("run", "--config", daemon.config, "--port", "0", "--data-dir", daemon.directory)
        self.assertEqual(status, 2)
        self.assertIn(daemon.directory, err)
        self.assertEqual(daemon.get("/live")[0], 200)

    def test_database_that_cannot_be_written_is_refused(self):
        blocked = os.path.join(self.directory, "file")
        open(blocked, "w").close()
        status, _, err = run("run", "--config", self.config(ECHO), "--port", "0", "--data-dir", blocked + "/below")
        self.assertEqual(status, 2)
        self.assertIn(blocked, err)

    @unittest.skipIf(os.geteuid() == 0, "root may write anywhere")
    def test_directory_without_permission_is_refused(self):
        locked = os.path.join(self.directory, "locked")
        os.mkdir(locked, 0o500)
        status, _, err = run("run", "--config", self.config(ECHO), "--port", "0", "--data-dir", locked)
        self.assertEqual(status, 2)
        self.assertIn(locked, err)

    def test_missing_key_names_the_variable(self):
        err = self.refused('[[providers]]\nname = "a"\nbase_url = "http://h"\nmodel = "m"\nkey = "${NO_SUCH_KEY}"\n')
        self.assertRegex(err, r"c\.toml:5: providers\.key: the environment variable NO_SUCH_KEY is not set; set it")

    def test_provider_that_leads_back_is_refused(self):
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
        err = self.refused('[[providers]]\nname = "me"\nmodel = "m"\nbase_url = "http://localhost:%d/v1"\n' % port,
                           "--port", str(port))
        self.assertIn("provider me", err)
        self.assertIn("leads back to this daemon", err)

    def test_all_value_errors_at_once(self):
        err = self.refused('[server]\nport = 99999\nprot = 1\n[resilience]\nretry_attempts = 50\n')
        self.assertRegex(err, r"c\.toml:2: server\.port: 99999 is out of range; allowed: 0 to 65535")
        self.assertRegex(err, r"c\.toml:3: server\.prot: is no key; did you mean server\.port\?")
        self.assertRegex(err, r"c\.toml:5: resilience\.retry_attempts: 50 is out of range; allowed: 0 to 10")

    def test_syntax_error_has_its_line(self):
        self.assertRegex(self.refused("[server]\nport = = 1\n"), r"c\.toml:2:\d+: ")

    def test_no_provider_and_no_demo_says_what_to_set(self):
        self.assertIn("OPENAI_API_KEY", self.refused("", "--no-demo"))

    def test_a_demo_that_cannot_start_says_so_and_what_to_set(self):
        config = self.config('[demo]\nscenario = "/nonexistent.toml"\n')
        status, _, err = run("run", "--config", config, "--port", "0", "--data-dir", self.directory)
        self.assertEqual(status, 1)
        self.assertRegex(err, "no provider is configured.*/nonexistent.toml.*OPENAI_API_KEY")

    def test_off_loopback_without_keys_is_refused(self):
        self.assertIn("key", self.refused('[server]\nhost = "0.0.0.0"\n' + ECHO))

    def test_wrong_options_exit_2_and_name_the_help(self):
        for arguments in (["run", "--prot", "1"], ["run", "--port", "99999"], ["nonsense"], ["why"], ["diff", "a"],
                          ["run", "--log-level", "loud", "--config", self.config(ECHO)]):
            status, out, err = run(*arguments)
            self.assertEqual(status, 2, arguments)
            self.assertTrue(err.strip(), arguments)


class Help(unittest.TestCase):
    def test_help_lists_every_command(self):
        status, out, _ = run("--help")
        self.assertEqual(status, 0)
        for name in ("run", "status", "why", "history", "diff", "rollback", "experiments", "fleet", "load", "validate"):
            self.assertRegex(out, r"(?m)^  %s +\w" % name)
            status, text, _ = run(name, "--help")
            self.assertLessEqual(max(map(len, text.splitlines())), 80, name)
            self.assertEqual(status, 0, name)
            self.assertIn("self-improve " + name, text)

    def test_version(self):
        status, out, _ = run("--version")
        self.assertEqual(status, 0)
        self.assertRegex(out, r"^self-improve \d+\.\d+\.\d+\n$")

    def test_validate(self):
        status, out, err = run("validate", "data/self-improve.toml")
        self.assertEqual((status, err), (0, ""))
        status, _, err = run("validate", "/nonexistent.toml")
        self.assertEqual(status, 2)
        self.assertIn("/nonexistent.toml", err)


class Stopping(unittest.TestCase):
    def test_sigterm_and_sigint_exit_0(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            daemon = Daemon()
            self.addCleanup(daemon.discard)
            self.assertEqual(daemon.chat()[0], 200)
            self.assertEqual(daemon.stop(number=number), 0)

    def test_requests_in_flight_are_answered_before_the_end(self):
        upstream = SlowUpstream(1.0)
        self.addCleanup(upstream.close)
        daemon = Daemon('[[providers]]\nname = "slow"\nmodel = "m"\nbase_url = "%s"\n' % upstream.url)
        self.addCleanup(daemon.discard)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(daemon.chat()[0]))
        thread.start()
        harness.wait_for(lambda: upstream.begun)
        began = time.monotonic()
        self.assertEqual(daemon.stop(), 0)
        thread.join(10)
        self.assertEqual(answers, [200])
        self.assertLess(time.monotonic() - began, 8)

    def test_second_signal_ends_at_once(self):
        upstream = SlowUpstream(60)
        self.addCleanup(upstream.close)
        daemon = Daemon('[[providers]]\nname = "slow"\nmodel = "m"\nbase_url = "%s"\n' % upstream.url)
        self.addCleanup(daemon.discard)
        thread = threading.Thread(target=self._ignore, args=(daemon,))
        thread.start()
        harness.wait_for(lambda: upstream.begun)
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        self.assertIsNone(daemon.process.poll())
        began = time.monotonic()
        self.assertNotEqual(daemon.stop(5), None)
        self.assertLess(time.monotonic() - began, 2)
        thread.join(10)

    @staticmethod
    def _ignore(daemon):
        try:
            daemon.chat()
        except OSError:
            pass


class SlowUpstream:
    """Answers every chat request after so many seconds."""

    def __init__(self, seconds):
        import http.server

        owner = self
        self.begun = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                owner.begun += 1
                owner.ended.wait(seconds)
                body = (b'{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":'
                        b'{"role":"assistant","content":"late"},"finish_reason":"stop"}],'
                        b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}')
                try:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        self.ended = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = "http://127.0.0.1:%d/v1" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()


if __name__ == "__main__":
    unittest.main()
