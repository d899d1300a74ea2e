#!/usr/bin/env python3
"""A provider that speaks HTTP/2, as the large ones do: nginx stands before the mock provider. Many calls on one connection,
streams, clients that leave, and a server that ends its connections in good order (GOAWAY)."""
import concurrent.futures
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest
from urllib.parse import urlparse

from harness import NGINX, ROOT, Daemon, wait_for

CONFIG = """daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format short '$server_protocol $connection $status';
  access_log {dir}/access.log short;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s;
  server {{
    listen 127.0.0.1:{port} ssl http2; ssl_certificate {dir}/c.pem; ssl_certificate_key {dir}/c.key;
    keepalive_requests {requests};
    location / {{ proxy_pass {upstream}; proxy_http_version 1.1; proxy_buffering off; }}
  }}
}}
"""


@unittest.skipUnless(NGINX, "nginx is not installed")
class Http2(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="self-improve-test-")
        self.addCleanup(shutil.rmtree, self.directory, True)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
                        "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-out", self.directory + "/c.pem",
                        "-keyout", self.directory + "/c.key"], check=True, capture_output=True)

    def start(self, mix, delay="1:5", requests=1000):
        mock = subprocess.Popen([sys.executable, str(ROOT / "tests/integration/mock_provider.py"), "--mix", mix, "--delay-ms", delay],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.end, mock)
        upstream = mock.stdout.readline().split()[2]
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
        config = os.path.join(self.directory, "nginx.conf")
        with open(config, "w") as file:
            file.write(CONFIG.format(dir=self.directory, port=port, upstream=upstream, requests=requests))
        nginx = subprocess.Popen([NGINX, "-p", self.directory, "-e", self.directory + "/error.log", "-c", config],
                                 stderr=subprocess.DEVNULL)
        self.addCleanup(self.end, nginx)
        wait_for(lambda: self.listens(port))
        self.daemon = Daemon('[resilience]\nretry_attempts = 0\n[[providers]]\nname = "far"\nmodel = "m"\nca_file = "%s/c.pem"\n'
                             'base_url = "https://127.0.0.1:%d/v1"\n' % (self.directory, port))
        self.addCleanup(self.daemon.discard)

    @staticmethod
    def listens(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    @staticmethod
    def end(process):
        process.terminate()
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()

    def served(self):
        """[(protocol, connection, status)] as nginx has written them down."""
        with open(self.directory + "/access.log") as file:
            return [tuple(line.split()) for line in file]

    def many(self, count, ask):
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            return list(pool.map(ask, range(count)))

    def stream(self, number):
        status, text, _ = self.daemon.post("/v1/chat/completions", {"model": "auto", "stream": True, "messages": [
            {"role": "user", "content": "stream %d" % number}]})
        events = [json.loads(e[6:]) for e in text.split("\n\n") if e and e != "data: [DONE]"]
        words = "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])
        return status, words, text.endswith("data: [DONE]\n\n")

    def test_many_calls_whole_and_streamed(self):
        self.start("fine=1")
        self.assertEqual([a[0] for a in self.many(60, lambda i: self.daemon.chat("whole %d" % i))], [200] * 60)
        self.assertEqual(set(self.many(60, self.stream)), {(200, "a gateway that tunes itself and says why ", True)})
        served = wait_for(lambda: len(self.served()) == 120 and self.served())
        self.assertEqual({protocol for protocol, _, _ in served}, {"HTTP/2.0"})

    def test_a_connection_that_ends_in_good_order_costs_no_request(self):
        self.start("fine=1", requests=7)
        self.assertEqual([a[0] for a in self.many(80, lambda i: self.daemon.chat("whole %d" % i))], [200] * 80)
        for i in range(20):
            self.assertEqual(self.daemon.chat("one after the other %d" % i)[0], 200)
        self.assertGreater(len({connection for _, connection, _ in self.served()}), 5)

    def test_a_client_that_leaves_ends_its_stream_and_no_other(self):
        self.start("fine=1", delay="1000:1000")
        connection = http.client.HTTPConnection(urlparse(self.daemon.url).netloc, timeout=20)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            others = [pool.submit(self.stream, i) for i in range(4)]
            connection.request("POST", "/v1/chat/completions", json.dumps(
                {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "I go"}]}))
            self.assertTrue(connection.getresponse().read(20))
            connection.close()
            self.assertEqual({o.result()[2] for o in others}, {True})
        text = self.daemon.get("/metrics")[1]
        self.assertIn('self_improve_attempt_cancelled_total{provider="far"} 1\n', text)
        self.assertIn('self_improve_attempt_successes_total{provider="far"} 4\n', text)

    def test_a_cut_stream_is_an_error(self):
        self.start("cut=1")
        status, text, _ = self.daemon.post("/v1/chat/completions", {"model": "auto", "stream": True, "messages": [
            {"role": "user", "content": "x"}]})
        self.assertIn('"stream_cut"', text)
        self.assertNotIn("[DONE]", text)
        self.assertIn(self.daemon.chat()[0], (502, 503))


if __name__ == "__main__":
    unittest.main()
