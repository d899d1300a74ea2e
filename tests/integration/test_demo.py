#!/usr/bin/env python3
"""What a newcomer sees: the demo for two minutes. Decisions appear within thirty seconds, are in the ledger, and `why`
explains one."""
import os
import re
import shutil
import signal
import tempfile
import time
import unittest

import harness
from harness import Process, wait_for

SECONDS = float(os.environ.get("DEMO_SECONDS", "120"))
DECISION = re.compile(r"^\d\d:\d\d:\d\d  (route|limit|scale|regulated|changed|experiment|incident|undone|judged) +\S")


class Demo(unittest.TestCase):
    def test_decisions_appear_are_recorded_and_explained(self):
        directory = tempfile.mkdtemp(prefix="self-improve-demo-")
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        began = time.monotonic()
        demo = Process(["run", "--config", "data/self-improve.toml", "--port", "0", "--data-dir", directory])
        self.addCleanup(demo.kill)
        wait_for(lambda: any(DECISION.match(line) for line in demo.out), 30 - (time.monotonic() - began))
        time.sleep(max(0, SECONDS - (time.monotonic() - began)))
        self.assertIsNone(demo.process.poll(), "".join(demo.err[-20:]))
        told = [line for line in demo.out if DECISION.match(line)]
        self.assertGreaterEqual(len(told), 5, "".join(demo.out))
        self.assertTrue(any(DECISION.match(line).group(1) == "route" for line in told), "".join(told))
        self.assertTrue(any(DECISION.match(line).group(1) in ("limit", "regulated") for line in told), "".join(told))
        self.assertTrue(any(" demo client " in line for line in demo.out), "".join(demo.out))
        self.look(demo, directory)
        self.assertEqual(demo.stop(number=signal.SIGINT), 0)
        self.assertNotIn("ERROR", "".join(demo.err))

    def look(self, demo, directory):
        here = ("--url", demo.url, "--data-dir", directory)
        code, ledger, err = harness.run("history", "--changes", "--json", *here)
        self.assertEqual(code, 0, err)
        self.assertIn('"reason"', ledger)
        code, out, err = harness.run("why", "route:auto", *here)
        self.assertEqual(code, 0, err)
        self.assertIn("leads with utility", out)
        code, out, err = harness.run("status", *here)
        self.assertEqual(code, 0, err)
        self.assertRegex(out, r"answered +[1-9]")


if __name__ == "__main__":
    unittest.main()
