#!/usr/bin/env python3
"""What a person at a terminal sees under make: Ctrl-C drains the daemon and make ends without an error, and so it is when
the whole process group is signalled; the terminal is make's again afterwards; lines keep to its width."""
import fcntl
import os
import pathlib
import pty
import select
import shutil
import signal
import struct
import tempfile
import termios
import time
import unittest

import harness

RECIPE = "run:\n\t@exec '%s' run --config '%s' --port 0 --data-dir '%s'\n\t@echo came back\n"
LIMIT_S = 30


class Terminal:
    """make on a pseudo-terminal, as its foreground job."""

    def __init__(self, directory):
        config = pathlib.Path(directory, "test.toml")
        config.write_text(harness.ECHO)
        pathlib.Path(directory, "Makefile").write_text(RECIPE % (harness.PROGRAM, config, directory))
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execvpe("make", ["make", "run"], harness.environment(MAKEFLAGS="", MAKELEVEL=""))
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))

    def read_until(self, word):
        """All output so far, once the word is in it; at the end of the output whatever there was."""
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until and word not in self.text:
            if not select.select([self.fd], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self.fd, 65536)
            except OSError:
                break
            self.text += piece.decode(errors="replace")
        return self.text

    def wait(self):
        """The exit status; None when it had to be killed."""
        self.read_until("\0")
        for _ in range(LIMIT_S * 10):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.1)
        return None

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


class UnderMake(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="self-improve-terminal-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.terminal = Terminal(self.directory)
        self.addCleanup(self.terminal.close)
        self.assertIn("Ctrl-C drains and ends", self.terminal.read_until("Ctrl-C drains and ends"))

    def test_ctrl_c_drains_and_make_goes_on(self):
        os.write(self.terminal.fd, b"\x03")
        self.assertEqual(self.terminal.wait(), 0, self.terminal.text)
        self.assertIn("drained and stopped", self.terminal.text)
        self.assertIn("came back", self.terminal.text)
        self.assertNotIn("***", self.terminal.text)

    def test_a_signal_to_the_group_of_make_reaches_the_daemon(self):
        os.killpg(self.terminal.pid, signal.SIGINT)
        self.assertIsNotNone(self.terminal.wait(), self.terminal.text)
        self.assertIn("drained and stopped", self.terminal.text)

    def test_lines_keep_to_the_width_of_the_terminal(self):
        os.write(self.terminal.fd, b"\x03")
        self.terminal.wait()
        told = [line for line in self.terminal.text.splitlines() if "  daemon  " in line]
        self.assertTrue(told, self.terminal.text)
        self.assertLessEqual(max(map(len, told)), 80 + len("^C"))


if __name__ == "__main__":
    unittest.main()
