#!/usr/bin/env python3
"""Providers over HTTPS: nobody is believed without a certificate that somebody known vouches for, `ca_file` names who may
vouch, and what went wrong is said."""
import http.server
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import unittest

from harness import Daemon, run, wait_for

ANSWER = {"id": "x", "object": "chat.completion", "model": "m", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "in private"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}


class Upstream(http.server.ThreadingHTTPServer):
    """Answers chats over TLS with this certificate."""
    daemon_threads = True

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.asked.append(body)
            stream = json.loads(body).get("stream")
            delta = {"id": "x", "object": "chat.completion.chunk", "choices": [
                {"index": 0, "delta": {"content": "in private"}, "finish_reason": "stop"}]}
            data = b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(delta).encode() if stream else json.dumps(ANSWER).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    def __init__(self, certificate, key):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.asked = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.context = context
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, client_address):
        """The handshake belongs to the connection's thread: one that fails holds nobody up."""
        request.settimeout(10)
        with self.context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, *_):
        pass

    def end(self):
        self.shutdown()
        self.server_close()


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="self-improve-test-")
        cls.mine = cls.certificate("mine", "127.0.0.1")
        cls.other = cls.certificate("other", "127.0.0.1")
        cls.misnamed = cls.certificate("misnamed", "10.9.8.7")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.directory, ignore_errors=True)

    @classmethod
    def certificate(cls, name, address):
        """Signed by itself: (certificate, key)"""
        paths = [os.path.join(cls.directory, name + end) for end in (".pem", ".key")]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-subj", "/CN=" + name, "-addext", "subjectAltName=IP:" + address, "-out", paths[0],
                        "-keyout", paths[1]], check=True, capture_output=True)
        return paths

    def start(self, certificate, more=""):
        self.upstream = Upstream(*certificate)
        self.addCleanup(self.upstream.end)
        daemon = Daemon('[resilience]\nretry_attempts = 0\n[[providers]]\nname = "far"\nmodel = "m"\n'
                        'base_url = "https://127.0.0.1:%d/v1"\n%s' % (self.upstream.server_address[1], more))
        self.addCleanup(daemon.discard)
        return daemon

    def trusting(self, path):
        return 'ca_file = "%s"\n' % path

    def test_a_vouched_for_provider_answers_whole_and_streamed(self):
        daemon = self.start(self.mine, self.trusting(self.mine[0]))
        status, answer, _ = daemon.chat()
        self.assertEqual((status, answer["choices"][0]["message"]["content"]), (200, "in private"))
        status, text, _ = daemon.post("/v1/chat/completions", {"model": "auto", "stream": True, "messages": [
            {"role": "user", "content": "x"}]})
        self.assertIn("in private", text)
        self.assertTrue(text.endswith("data: [DONE]\n\n"))

    def refused(self, daemon):
        status, answer, _ = daemon.chat("a secret")
        self.assertEqual(status, 503)
        self.assertEqual(answer["error"]["code"], "provider_unavailable")
        self.assertEqual(self.upstream.asked, [])
        letter = wait_for(lambda: daemon.get("/api/v1/dlq")[1]["dead_letters"])[0]
        for said in (letter["detail"], "".join(daemon.err)):
            self.assertIn("its certificate is not trusted", said)
            self.assertIn("ca_file", said)

    def test_a_stranger_is_told_nothing_and_the_error_says_what_to_do(self):
        self.refused(self.start(self.mine))

    def test_another_authority_does_not_vouch(self):
        self.refused(self.start(self.mine, self.trusting(self.other[0])))

    def test_a_certificate_for_another_name_is_refused(self):
        self.refused(self.start(self.misnamed, self.trusting(self.misnamed[0])))

    def test_a_ca_file_that_is_none_is_told_at_the_start(self):
        path = os.path.join(self.directory, "c.toml")
        with open(path, "w") as file:
            file.write('[[providers]]\nname = "far"\nmodel = "m"\nbase_url = "https://h/v1"\nca_file = "%s"\n' % self.mine[1])
        status, _, err = run("validate", path)
        self.assertEqual(status, 2)
        self.assertRegex(err, r"c\.toml:5: providers\.ca_file: .*mine\.key cannot be read or holds no certificate; allowed: a PEM file")


if __name__ == "__main__":
    unittest.main()
