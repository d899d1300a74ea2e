#!/usr/bin/env python3
"""Streams that come faster than they are read: the provider is held back and the reader gets everything; one that reads
nothing is cut off and costs a bounded number of bytes."""
import http.client
import json
import socket
import threading
import time
import unittest
from urllib.parse import urlparse

from harness import Daemon, wait_for

EVENTS, TEXT = 1500, "x" * 8000  # more than the buffers of the kernel hold


class Torrent:
    """Sends its whole stream as fast as it is taken."""

    def __init__(self):
        self.sent = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d/v1" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        try:
            while True:
                threading.Thread(target=self.pour, args=(self.listener.accept()[0],), daemon=True).start()
        except OSError:
            pass

    def pour(self, peer):
        with peer:
            try:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
                number = len(self.sent)
                self.sent.append(0)
                for i in range(EVENTS):
                    event = {"id": "x", "object": "chat.completion.chunk", "choices": [
                        {"index": 0, "delta": {"content": TEXT}, "finish_reason": None if i < EVENTS - 1 else "stop"}]}
                    peer.sendall(b"data: %s\n\n" % json.dumps(event).encode())
                    self.sent[number] = i + 1
                peer.sendall(b"data: [DONE]\n\n")
            except OSError:
                pass

    def close(self):
        self.listener.close()


class Readers(unittest.TestCase):
    def setUp(self):
        self.torrent = Torrent()
        self.addCleanup(self.torrent.close)
        self.daemon = Daemon('[server]\nstream_backlog_kib = 64\n[[providers]]\nname = "torrent"\nmodel = "m"\n'
                             'base_url = "%s"\n' % self.torrent.url)
        self.addCleanup(self.daemon.discard)

    def ask(self):
        where = urlparse(self.daemon.url)
        s = socket.socket()
        self.addCleanup(s.close)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        s.settimeout(20)
        s.connect((where.hostname, where.port))
        body = json.dumps({"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return s

    def cut(self):
        return next(float(line.split()[1]) for line in self.daemon.get("/metrics")[1].splitlines()
                    if line.startswith("self_improve_slow_readers_cut_total"))

    @staticmethod
    def read(s, pause_s):
        answer = http.client.HTTPResponse(s)
        answer.begin()
        got = []
        while part := answer.read1(65536):
            got.append(part)
            time.sleep(pause_s)
        return b"".join(got)

    def test_whoever_reads_gets_everything(self):
        for pause_s in (0, 0.002):
            got = self.read(self.ask(), pause_s)
            self.assertEqual(got.count(TEXT.encode()), EVENTS)
            self.assertTrue(got.endswith(b"data: [DONE]\n\n"))
        self.assertEqual(self.cut(), 0)

    def test_whoever_does_not_read_is_cut_off_and_the_provider_with_it(self):
        silent = self.ask()
        wait_for(lambda: self.cut() == 1, 15)
        self.assertLess(self.torrent.sent[0], EVENTS)
        with self.assertRaises((http.client.IncompleteRead, OSError)):
            self.read(silent, 0)
        self.assertTrue(wait_for(lambda: "\nself_improve_bytes_in_flight 0\n" in self.daemon.get("/metrics")[1]))


if __name__ == "__main__":
    unittest.main()
