"""Many clients at once, each of which says what became of its request.

A view is one of
  answered   200 and the whole answer
  cut        200, then a proper error event in the stream
  error      an error of the API after admission: it carries the id of an admitted request
  refused    an error of the API before admission
  left       the client broke off on purpose
  unreached  no connection, or one that ended before the daemon had read anything of the request
  lost       anything else: silence, half an answer, something that is no HTTP"""
import asyncio
import json
import random
import time

LIMIT_S = 60
PIECE = 65536


class Reply:
    def __init__(self, view, status=0, headers=None, body=b"", why=""):
        self.view, self.status, self.headers, self.body, self.why = view, status, headers or {}, body, why
        self.id = self.headers.get("x-request-id", "")

    def json(self):
        return json.loads(self.body)


class Leaving(Exception):
    pass


class Client:
    """One client with at most one connection, kept between requests unless told otherwise."""

    def __init__(self, url, keep=False):
        self.host, self.port = url.split("//")[1].split(":")
        self.keep, self.reader, self.writer = keep, None, None

    def close(self, rudely=False):
        if self.writer:
            self.writer.transport.abort() if rudely else self.writer.close()
        self.reader = self.writer = None

    @staticmethod
    def compose(method, path, body, headers):
        lines = ["%s %s HTTP/1.1" % (method, path), "Host: test", "Content-Type: application/json",
                 "Content-Length: %d" % len(body), *("%s: %s" % item for item in (headers or {}).items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def ask(self, method, path, body=b"", headers=None, leave=None):
        """leave: None, or (point, share): break off while sending, when share of the time or of the answer has passed."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        message = self.compose(method, path, body, headers)
        reused, began = self.writer is not None, time.monotonic()
        try:
            return await asyncio.wait_for(self._ask(message, leave), LIMIT_S)
        except Leaving:
            self.close(rudely=random.random() < 0.5)
            return Reply("left")
        except asyncio.TimeoutError:
            self.close()
            return Reply("lost", why="no answer within %d s" % LIMIT_S)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            begun = getattr(error, "begun", False)
            if reused and not begun and leave is None:  # the daemon may close a kept connection at any time
                return await self.ask(method, path, body, headers)
            view = "unreached" if isinstance(error, ConnectionRefusedError) else "lost"
            why = "%s %s on a %s connection after %.3f s%s" % (
                type(error).__name__, "inside the answer" if begun else "before any answer", "kept" if reused else "new",
                time.monotonic() - began, ", was to leave at %s" % (leave,) if leave else "")
            return Reply(view, why=why)

    async def _ask(self, message, leave):
        if not self.writer:
            self.reader, self.writer = await asyncio.open_connection(self.host, int(self.port))
        if leave and leave[0] == "sending":
            self.writer.write(message[:int(len(message) * leave[1])])
            await self.writer.drain()
            raise Leaving
        self.writer.write(message)
        await self.writer.drain()
        if leave and leave[0] == "waiting":
            try:
                await asyncio.wait_for(self.reader.readexactly(1), leave[1])
            except asyncio.TimeoutError:
                pass
            raise Leaving
        return await self._read(leave)

    async def _read(self, leave):
        head = await self._head()
        status = int(head[0].split()[1])
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        try:
            if headers.get("transfer-encoding") == "chunked":
                body = await self._chunks(leave)
            else:
                size = int(headers.get("content-length", 0))
                if leave and leave[0] == "reading":
                    await self.reader.readexactly(int(size * leave[1]))
                    raise Leaving
                body = await self.reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            error.begun = True
            raise
        if not self.keep or headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(view_of(status, headers, body), status, headers, body)

    async def _head(self):
        try:
            return (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError as error:
            error.begun = bool(error.partial)
            raise

    async def _chunks(self, leave):
        body = b""
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            body += (await self.reader.readexactly(size + 2))[:-2]
            if size == 0:
                return body
            if leave and leave[0] == "reading" and len(body) > 1000 * leave[1]:
                raise Leaving


def view_of(status, headers, body):
    if status == 200 and headers.get("content-type", "").startswith("text/event-stream"):
        last = [piece for piece in body.split(b"\n\n") if piece.strip()][-1:]
        if last == [b"data: [DONE]"]:
            return "answered"
        proper = last and last[0].startswith(b'data: {"error":') and json.loads(last[0][6:])["error"]["message"]
        return "cut" if proper else "lost"
    if 200 <= status < 300:
        return "answered"
    try:
        proper = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return "lost"
    if not proper:
        return "lost"
    return "error" if headers.get("x-request-id", "").startswith("chatcmpl-") else "refused"


def chat(text, stream=False, **more):
    return {"model": "auto", "messages": [{"role": "user", "content": text}], "stream": stream, **more}


def leave_at(rng):
    """Some point at which a client breaks off."""
    return rng.choice([("sending", rng.random()), ("waiting", rng.random() * 0.02), ("waiting", rng.random() * 0.02),
                       ("reading", rng.random())])


async def open_loop(rate, seconds, start, rng, stop=None):
    """Starts start(n) as tasks at Poisson arrivals, whatever becomes of the earlier ones; returns all results."""
    loop, tasks = asyncio.get_running_loop(), []
    began = due = loop.time()
    while due < began + seconds and not (stop and stop.is_set()):
        tasks.append(loop.create_task(start(len(tasks))))
        due += rng.expovariate(rate)
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        elif len(tasks) % 20 == 0:
            await asyncio.sleep(0)
    return await asyncio.gather(*tasks)


async def closed_loop(workers, total, work):
    """workers tasks share total calls of work(worker, n)."""
    numbers = iter(range(total))

    async def worker(number):
        for n in numbers:
            await work(number, n)

    await asyncio.gather(*(worker(i) for i in range(workers)))
