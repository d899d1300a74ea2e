#!/usr/bin/env python3
"""A provider that misbehaves as it is told: `mock_provider.py --seed N --mix fine=8,slow=1,error=1 --delay-ms 5:40`.

Speaks enough of the OpenAI API for the daemon, whole answers and streams. Each call draws its behaviour:
  fine     answers after the delay
  slow     answers after ten times the delay
  error    503
  throttle 429, to be tried again at once
  reset    closes without a word
  cut      closes in the middle of the answer
  silent   says nothing until the caller leaves
Prints `listening on URL`; ends when its standard input does. GET /counts tells how often each was drawn."""
import argparse
import asyncio
import json
import random
import sys

WORDS = ("a", "gateway", "that", "tunes", "itself", "and", "says", "why")


def whole_answer():
    return json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": " ".join(WORDS)}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": len(WORDS), "total_tokens": 7 + len(WORDS)}}).encode()


def event(delta, finish=None, usage=None):
    body = {"id": "x", "object": "chat.completion.chunk", "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    if usage:
        body.update(choices=[], usage=usage)
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def events():
    yield event({"role": "assistant", "content": ""})
    for word in WORDS:
        yield event({"content": word + " "})
    yield event({}, "stop")
    yield event({}, usage={"prompt_tokens": 7, "completion_tokens": len(WORDS), "total_tokens": 7 + len(WORDS)})
    yield b"data: [DONE]\n\n"


class Left(Exception):
    """The connection ends here."""


class Provider:
    def __init__(self, options):
        self.rng = random.Random(options.seed)
        self.low, self.high = (float(x) / 1000 for x in options.delay_ms.split(":"))
        parts = [part.split("=") for part in options.mix.split(",")]
        self.names, self.weights = [p[0] for p in parts], [float(p[1]) for p in parts]
        self.counts = dict.fromkeys(self.names, 0)

    async def connection(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = next((int(line.split(":")[1]) for line in head.split("\r\n")
                             if line.lower().startswith("content-length:")), 0)
                body = await reader.readexactly(size)
                if head.startswith("GET /counts"):
                    await self.say(writer, 200, json.dumps(self.counts).encode())
                elif head.startswith("GET "):
                    await self.say(writer, 200, b"{}")
                else:
                    await self.answer(reader, writer, json.loads(body))
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, asyncio.CancelledError, Left):
            pass
        finally:
            writer.close()

    async def say(self, writer, status, body, headers="", size=None):
        writer.write(b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n" %
                     (status, len(body) if size is None else size, headers.encode()) + body)
        await writer.drain()

    async def answer(self, reader, writer, request):
        how = self.rng.choices(self.names, self.weights)[0]
        self.counts[how] += 1
        delay = self.rng.uniform(self.low, self.high) * (10 if how == "slow" else 1)
        if how == "silent":
            await asyncio.wait_for(reader.read(1), 30)
            raise Left
        if how == "error":
            return await self.say(writer, 503, b'{"error":{"message":"broken","type":"server_error"}}')
        if how == "throttle":
            return await self.say(writer, 429, b'{"error":{"message":"slower","type":"rate_limit"}}', "Retry-After: 0\r\n")
        if how == "reset":
            raise Left
        if request.get("stream"):
            return await self.stream(writer, delay, how == "cut")
        await asyncio.sleep(delay)
        body = whole_answer()
        if how == "cut":
            await self.say(writer, 200, body[:len(body) // 2], size=len(body))
            raise Left
        await self.say(writer, 200, body)

    async def stream(self, writer, delay, cut):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, piece in enumerate(events()):
            await asyncio.sleep(delay / 12)
            if cut and number == 6:
                raise Left
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mix", default="fine=1")
    parser.add_argument("--delay-ms", default="1:5")
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    provider = Provider(options)
    server = await asyncio.start_server(provider.connection, options.host, 0, backlog=1024)
    print("listening on http://%s:%d" % (options.host, server.sockets[0].getsockname()[1]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
