"""What the proofs share: how they are called, what they leave behind, the provider they run against."""
import json
import os
import pathlib
import resource
import subprocess
import sys

import harness

SHORT = "--short" in sys.argv[1:]
SEED = int(os.environ.get("SEED", "1"))


def raise_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))


def finish(name, figures, problems):
    """Writes the figures, says in the last line whether the claim is met; returns the exit status."""
    folder = harness.ROOT / "build/figures"
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"seed": SEED, "short": SHORT, **figures, "problems": problems, "met": not problems}
    (folder / (name + ".json")).write_text(json.dumps(figures, indent=1) + "\n")
    for problem in problems[:20]:
        print("  " + problem)
    more = "" if len(problems) < 2 else " (and %d more)" % (len(problems) - 1)
    print("%s: met" % name if not problems else "%s: short: %s%s" % (name, problems[0], more), flush=True)
    return 1 if problems else 0


class MockProvider:
    """mock_provider.py as a process of its own."""

    def __init__(self, *options):
        program = pathlib.Path(__file__).with_name("mock_provider.py")
        self.process = subprocess.Popen([sys.executable, str(program), "--seed", str(SEED), *options],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def metrics(daemon):
    """Every series of /metrics, summed over its labels, without the prefix."""
    sums = {}
    for line in daemon.get("/metrics")[1].splitlines():
        if line.startswith("self_improve_"):
            name, value = line.rsplit(" ", 1)
            name = name.split("{")[0][len("self_improve_"):]
            sums[name] = sums.get(name, 0) + float(value)
    return sums
