#!/usr/bin/env python3
"""The official OpenAI SDK works against the daemon unchanged: only its base URL differs. The pinned SDK lives in
build/venv; this script makes it when it is missing and starts itself again inside."""
import json
import os
import subprocess
import sys
import unittest
import urllib.request

import harness

VENV = harness.ROOT / "build/venv"
REQUIREMENTS = harness.ROOT / "tests/integration/requirements.txt"


def inside():
    """True with the SDK at hand. False: it cannot be installed here."""
    marker = VENV / "requirements.txt"
    if not marker.exists() or marker.read_text() != REQUIREMENTS.read_text():
        made = subprocess.run([sys.executable, "-m", "venv", str(VENV)]).returncode == 0 and subprocess.run(
            [str(VENV / "bin/pip"), "install", "-q", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]).returncode == 0
        if not made:
            return False
        marker.write_text(REQUIREMENTS.read_text())
    if sys.prefix != str(VENV):
        os.execv(str(VENV / "bin/python"), [str(VENV / "bin/python"), os.path.abspath(__file__), *sys.argv[1:]])
    return True


HAVE_SDK = inside()
if HAVE_SDK:
    import openai


@unittest.skipUnless(HAVE_SDK, "the SDK could not be installed into build/venv (no package index?)")
class Sdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon('[server]\nkeys = ["sesame"]\n' + harness.ECHO)
        cls.client = openai.OpenAI(base_url=cls.daemon.url + "/v1", api_key="sesame", max_retries=0, timeout=20)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.daemon.discard()

    def messages(self, text):
        return [{"role": "system", "content": "Repeat."}, {"role": "user", "content": text}]

    def test_completion(self):
        answer = self.client.chat.completions.create(model="auto", messages=self.messages("the quick brown fox"))
        self.assertIn("the quick brown fox", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.model, "parrot")
        self.assertGreater(answer.usage.completion_tokens, 0)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertTrue(answer.id.startswith("chatcmpl-"))

    def test_stream(self):
        text, reasons, ids = "", [], set()
        stream = self.client.chat.completions.create(model="auto", messages=self.messages("jumps over the lazy dog"),
                                                     stream=True)
        for chunk in stream:
            ids.add(chunk.id)
            self.assertIsNone(chunk.usage)
            for choice in chunk.choices:
                text += choice.delta.content or ""
                if choice.finish_reason:
                    reasons.append(choice.finish_reason)
        self.assertIn("jumps over the lazy dog", text)
        self.assertEqual(reasons, ["stop"])
        self.assertEqual(len(ids), 1)

    def test_stream_with_usage(self):
        usage = [chunk.usage for chunk in self.client.chat.completions.create(
            model="auto", messages=self.messages("count me"), stream=True, stream_options={"include_usage": True})]
        self.assertGreater(usage[-1].completion_tokens, 0)
        self.assertEqual([u for u in usage[:-1] if u], [])

    def test_unknown_fields_survive(self):
        answer = self.client.chat.completions.create(model="auto", messages=self.messages("x"), seed=7, temperature=0.25,
                                                     extra_body={"some_new_field": {"deep": [1, 2.50]}})
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_models(self):
        self.assertLessEqual({"auto", "parrot"}, {model.id for model in self.client.models.list()})

    def test_unknown_model_is_not_found(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.chat.completions.create(model="no-such-model", messages=self.messages("x"))
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_wrong_key_is_an_authentication_error(self):
        for key in ("wrong", " "):
            with self.assertRaises((openai.AuthenticationError, openai.APIConnectionError)) as caught:
                openai.OpenAI(base_url=self.daemon.url + "/v1", api_key=key, max_retries=0).chat.completions.create(
                    model="auto", messages=self.messages("x"))
            self.assertNotIn("sesame", str(caught.exception))

    def test_bad_parameter_is_a_bad_request(self):
        with self.assertRaises(openai.BadRequestError):
            self.client.chat.completions.create(model="auto", messages=self.messages("x"), max_tokens=-1)

    def test_raw_headers_name_request_and_provider(self):
        raw = self.client.chat.completions.with_raw_response.create(model="auto", messages=self.messages("x"))
        self.assertEqual(raw.headers["x-request-id"], raw.parse().id)
        self.assertEqual(raw.headers["x-self-improve-provider"], "echo")

    def test_one_model_by_its_name(self):
        self.assertEqual(self.client.models.retrieve("parrot").id, "parrot")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("no-such-model")

    def test_raw_stream_headers_and_request_ids(self):
        raw = self.client.chat.completions.with_raw_response.create(model="auto", messages=self.messages("x y"), stream=True)
        ids = {chunk.id for chunk in raw.parse()}
        self.assertEqual(ids, {raw.headers["x-request-id"]})
        answer = self.client.chat.completions.create(model="auto", messages=self.messages("x"))
        self.assertEqual(answer._request_id, answer.id)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.chat.completions.create(model="auto", messages=self.messages("x"), max_tokens=-1)
        self.assertTrue(caught.exception.request_id)
        self.assertEqual(caught.exception.body["type"], "invalid_request_error")

    def test_the_asynchronous_client(self):
        import asyncio

        async def both():
            async with openai.AsyncOpenAI(base_url=self.daemon.url + "/v1", api_key="sesame", max_retries=0, timeout=20) as c:
                whole = await c.chat.completions.create(model="auto", messages=self.messages("one two"))
                stream = await c.chat.completions.create(model="auto", messages=self.messages("one two"), stream=True)
                text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
                return whole.choices[0].message.content, text
        self.assertEqual(asyncio.run(both()), ("one two", "one two"))


@unittest.skipUnless(HAVE_SDK, "the SDK could not be installed into build/venv (no package index?)")
class Errors(unittest.TestCase):
    """Providers that fail, as the SDK's own exception classes; and what becomes of a call whose client has left."""

    @classmethod
    def setUpClass(cls):
        cls.fleet = harness.Process(["fleet", "--port", "0"])
        config = "[resilience]\nretry_attempts = 0\nidle_timeout_ms = 2000\n"
        for name in ("S01", "S04", "S06", "S08"):
            config += ('[[providers]]\nname = "%s"\nmodel = "fault-%s"\nbase_url = "%s/faults/v1"\n'
                       % (name, name, cls.fleet.url))
        cls.daemon = harness.Daemon(config)
        cls.client = openai.OpenAI(base_url=cls.daemon.url + "/v1", api_key="any", max_retries=0, timeout=20)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.daemon.discard()
        cls.fleet.kill()

    def ask(self, fault, **more):
        client = more.pop("client", self.client)
        return client.chat.completions.create(model="fault-" + fault, messages=[{"role": "user", "content": "x"}], **more)

    def cancelled(self, fault):
        for line in self.daemon.get("/metrics")[1].splitlines():
            if line.startswith('self_improve_attempt_cancelled_total{provider="%s"}' % fault):
                return int(line.split()[-1])

    def test_a_throttled_provider_is_a_rate_limit_error(self):
        with self.assertRaises(openai.RateLimitError) as caught:
            self.ask("S01")
        self.assertGreaterEqual(int(caught.exception.response.headers["retry-after"]), 1)

    def test_a_broken_provider_is_an_internal_server_error_that_the_sdk_does_not_repeat(self):
        before = self.calls("S04")
        with self.assertRaises(openai.InternalServerError) as caught:
            self.ask("S04", client=self.client.with_options(max_retries=0))
        self.assertEqual(caught.exception.status_code, 503)
        self.assertEqual(self.calls("S04"), before + 1)

    def calls(self, fault):
        with urllib.request.urlopen(self.fleet.url + "/_plant/calls", timeout=10) as answer:
            return json.load(answer).get("fault-" + fault, 0)

    def test_an_error_inside_a_stream_is_an_api_error(self):
        text = ""
        with self.assertRaises(openai.APIError) as caught:
            for chunk in self.ask("S08", stream=True, max_tokens=60, extra_body={"metadata": {"tokens_out": "60"}}):
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        self.assertEqual(caught.exception.code, "stream_cut")
        self.assertTrue(text)

    def test_a_client_that_times_out_cancels_its_call(self):
        before = self.cancelled("S06")
        with self.assertRaises(openai.APITimeoutError):
            self.ask("S06", timeout=0.5)
        harness.wait_for(lambda: self.cancelled("S06") == before + 1, 5)

    def test_a_stream_that_is_closed_cancels_its_call(self):
        before = self.cancelled("S08")
        stream = self.ask("S08", stream=True, extra_body={"metadata": {"tokens_out": "60"}})
        next(iter(stream))
        stream.close()
        harness.wait_for(lambda: self.cancelled("S08") == before + 1, 5)


if __name__ == "__main__":
    unittest.main()
