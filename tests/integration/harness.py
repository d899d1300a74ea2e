"""The real daemon for tests: started on a free port with a database of its own, talked to over HTTP, ended by its id."""
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Debian's nginx, installed or unpacked by scripts/install; None: neither.
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", str(ROOT / "build/peers/usr/sbin")]))
PROGRAM = os.environ.get("SELF_IMPROVE", str(ROOT / "build/release/self-improve"))
STRIPPED = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "LLAMA_CPP_URL", "VLLM_URL", "API_KEY", "PROVIDER",
            "MODEL", "RUST_LOG", "RUST_LOG_FORMAT")

ECHO = '[[providers]]\nname = "echo"\nkind = "echo"\nmodel = "parrot"\n'


def environment(**more):
    env = {k: v for k, v in os.environ.items() if k not in STRIPPED and not k.startswith("SELF_IMPROVE_")}
    env.update(more)
    return env


def run(*arguments, limit_s=30, **more):
    """One command that ends by itself: (exit status, standard output, standard error)."""
    done = subprocess.run([PROGRAM, *arguments], cwd=ROOT, env=environment(**more), capture_output=True, text=True,
                          timeout=limit_s)
    return done.returncode, done.stdout, done.stderr


class Process:
    """A child whose first line is `listening on URL`; its output is collected."""

    def __init__(self, arguments, env=None, start_s=30):
        self.process = subprocess.Popen([PROGRAM, *arguments], cwd=ROOT, env=env or environment(),
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        self.out, self.err, self._lines = [], [], queue.Queue()
        self._threads = [threading.Thread(target=self._collect, args=(self.process.stdout, self.out, self._lines)),
                         threading.Thread(target=self._collect, args=(self.process.stderr, self.err, None))]
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        self.url = self._first_line(start_s)

    @staticmethod
    def _collect(stream, into, lines):
        for line in stream:
            into.append(line)
            if lines is not None:
                lines.put(line)

    def _first_line(self, start_s):
        until = time.monotonic() + start_s
        while time.monotonic() < until:
            try:
                line = self._lines.get(timeout=0.05)
            except queue.Empty:
                if self.process.poll() is not None:
                    break
                continue
            if line.startswith("listening on "):
                return line.split()[2]
        self.kill()
        raise AssertionError("did not start: " + "".join(self.err[-20:]))

    def stop(self, limit_s=30, number=signal.SIGTERM):
        """Asks it to end; returns the exit status, None when it had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self._wait(limit_s)

    def kill(self):
        """kill -9"""
        if self.process.poll() is None:
            self.process.kill()
        return self._wait(10)

    def _wait(self, limit_s):
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            status = None
        for thread in self._threads:
            thread.join(5)
        self.process.stdout.close()
        self.process.stderr.close()
        return status


class Daemon(Process):
    """`self-improve run` with this configuration. directory: kept between starts when the caller gives one."""

    def __init__(self, config=ECHO, directory=None, options=(), **more):
        self.own = directory is None
        self.directory = directory or tempfile.mkdtemp(prefix="self-improve-test-")
        self.config = os.path.join(self.directory, "test.toml")
        with open(self.config, "w") as file:
            file.write(config)
        super().__init__(["run", "--config", self.config, "--port", "0", "--data-dir", self.directory, *options],
                         env=environment(**more))
        self.database = os.path.join(self.directory, "self-improve.db")

    def call(self, method, path, body=None, headers=None, limit_s=30):
        """(status, parsed JSON or text, headers in lower case)"""
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method,
                                         headers={"Content-Type": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=limit_s) as answer:
                return self._read(answer.status, answer)
        except urllib.error.HTTPError as error:
            with error:
                return self._read(error.code, error)

    @staticmethod
    def _read(status, answer):
        text = answer.read().decode(errors="replace")
        headers = {k.lower(): v for k, v in answer.headers.items()}
        if "json" in headers.get("content-type", ""):
            return status, json.loads(text), headers
        return status, text, headers

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def post(self, path, body, **more):
        return self.call("POST", path, body, **more)

    def put(self, path, body, **more):
        return self.call("PUT", path, body, **more)

    def chat(self, text="hello there", model="auto", **more):
        return self.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}]}, **more)

    def command(self, *arguments):
        return run(*arguments, "--url", self.url, "--data-dir", self.directory)

    def discard(self):
        """Ends it and removes its directory."""
        self.kill()
        if self.own:
            shutil.rmtree(self.directory, ignore_errors=True)


def wait_for(condition, limit_s=20, every_s=0.1):
    """The condition's first true value; AssertionError when time runs out."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError("did not come true within %g s" % limit_s)
