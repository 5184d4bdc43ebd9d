"""The official client against a real server."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Unpack

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from skipstone import load
from skipstone.engine import Engine, Handle
from skipstone.engine.observe import Observer
from skipstone.engine.prompts import Prompt
from skipstone.engine.settings import SettingsFields
from skipstone.server.access.account import Account
from skipstone.server.options import ServerOptions
from tests.helpers.waiting import standing, wait_until
from tests.server.running import client_of, running

QUESTION = "Who is Newton, physics?"
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load("pebble"), gen_length=32)


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[OpenAI]:
    with running(engine, ServerOptions()) as address, client_of(address) as client:
        yield client


def test_an_answer_is_the_engines(engine: Engine, client: OpenAI) -> None:
    alone = engine.generate(QUESTION)
    answer = client.chat.completions.create(model="pebble", messages=ASKED)
    assert answer.choices[0].message.content == alone.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == alone.prompt_tokens
    assert answer.usage.completion_tokens == alone.length


def test_a_stream_is_the_same_answer_in_pieces(engine: Engine, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="pebble", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == engine.generate(QUESTION).text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "stop"
    ]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == engine.generate(QUESTION).length


def test_a_step_that_finishes_text_is_one_chunk(engine: Engine, client: OpenAI) -> None:
    with watched(engine) as handles:
        stream = client.chat.completions.create(
            model="pebble",
            messages=ASKED,
            stream=True,
            extra_body={"skipstone": {"unmask": "threshold:0.5"}},
        )
        pieces = [chunk.choices[0].delta.content for chunk in stream]
    texts = list(dict.fromkeys(["", *(commit.text for commit in handles[0])]))
    grown = [after[len(before) :] for before, after in pairwise(texts)]
    assert [piece for piece in pieces if piece] == grown
    assert any(len(piece.split()) > 1 for piece in grown)


def test_each_answer_of_a_stream_is_closed_when_it_ends(engine: Engine, client: OpenAI) -> None:
    """Not when all have ended: one that takes long holds up no other one."""
    # The first answer takes 16 steps, the second one 8; so the engine stands between them.
    with standing(engine, after=12):
        stream = client.completions.create(
            model="pebble",
            prompt=["Ioraac Newton was an English physicist and mathematician who", "A"],
            stream=True,
            max_tokens=64,
            extra_body={"skipstone": {"unmask": "fixed", "block_length": 8}},
        )
        while (ended := next(stream).choices[0]).finish_reason is None:
            pass
        assert ended.index == 1
    after = [chunk.choices[0] for chunk in stream]
    assert {choice.index for choice in after} == {0}
    assert after[-1].finish_reason == "stop"


def test_a_prompt_that_leaves_no_room_is_told_as_openai_tells_it(client: OpenAI) -> None:
    for tokens, content, said in ((600, "Who?", "600 are asked for"), (5, "x " * 600, "no room")):
        with pytest.raises(openai.BadRequestError, match=said) as refused:
            client.chat.completions.create(
                model="pebble", max_tokens=tokens, messages=[{"role": "user", "content": content}]
            )
        assert refused.value.code == "context_length_exceeded"


def test_completions_take_text_as_it_stands(engine: Engine, client: OpenAI) -> None:
    text = engine.model.text.render([{"role": "user", "content": QUESTION}])
    ids = engine.model.text.encode(QUESTION)
    alone = engine.generate(QUESTION)
    answer = client.completions.create(model="pebble", prompt=[text, text], n=2)
    assert [c.text for c in answer.choices] == [alone.text] * 4
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2 * len(ids)
    assert client.completions.create(model="pebble", prompt=ids).choices[0].text == alone.text
    stream = client.completions.create(model="pebble", prompt=[ids], stream=True)
    assert "".join(c.choices[0].text for c in stream) == alone.text


def test_the_model_is_listed_and_another_one_is_not_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pebble"]
    assert client.models.retrieve("pebble").id == "pebble"
    with pytest.raises(openai.NotFoundError, match="'pebbel' is not served here"):
        client.chat.completions.create(model="pebbel", messages=ASKED)


def test_what_is_wrong_is_said_in_openais_form(client: OpenAI) -> None:
    def refused(**fields: object) -> openai.BadRequestError:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="pebble", messages=ASKED, extra_body=fields)
        return caught.value

    error = refused(temprature=0.5)
    assert error.param == "temprature"
    assert error.code == "unknown_parameter"
    assert "did you mean 'temperature'?" in error.message
    error = refused(tools=[{"type": "function"}])
    assert (error.param, error.code) == ("tools", "unsupported_parameter")
    error = refused(temperature="hot")
    assert (error.param, error.code) == ("temperature", "invalid_value")
    error = refused(response_format={"type": "json_object"})
    assert error.param == "response_format.type"
    error = refused(response_format={"type": "json_schema", "json_schema": {"name": "a"}})
    assert (error.param, error.code) == ("response_format.json_schema", "unsupported_parameter")
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    error = refused(messages=[{"role": "user", "content": [picture]}])
    assert error.param == "messages.0.content.0.image_url"
    assert error.code == "unsupported_parameter"
    error = refused(messages=[{"role": "tool", "tool_call_id": "1", "content": "a"}])
    assert (error.param, error.code) == ("messages.0.tool_call_id", "unsupported_parameter")
    error = refused(messages=[{"role": "user"}])
    assert (error.param, error.code) == ("messages.0.content", "missing_required_parameter")
    error = refused(messages=[{"role": "user", "content": " "}])
    assert "the prompt is empty" in error.message
    assert (error.param, error.code) == ("messages", "invalid_value")
    for settings, param in (
        ({"unmask": "threshold:value=2"}, "skipstone"),
        ({"skip": "cosine:skip_layer_k=99"}, "skipstone"),
        ({"block_length": 0}, "skipstone"),
        ({"gen_length": 4}, "skipstone.gen_length"),
    ):
        assert refused(skipstone=settings, max_tokens=5).param == param
    for fields in ({"max_tokens": 10**6}, {"skipstone": {"gen_length": 10**6}}):
        error = refused(**fields)
        assert "more than the model's 512 together" in error.message
        assert (error.param, error.code) == ("messages", "context_length_exceeded")


@pytest.mark.parametrize("prompt", ["", ["a", ""], [2**30], [-1]])
def test_a_prompt_that_is_none_is_refused_by_its_field(client: OpenAI, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="pebble", prompt=prompt)
    assert (refused.value.param, refused.value.code) == ("prompt", "invalid_value")


def test_what_asks_for_nothing_is_taken(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="pebble",
        messages=ASKED,
        n=1,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        store=False,
        user="somebody",
        metadata={"a": "b"},
        logprobs=False,
        response_format={"type": "text"},
        tool_choice="none",
    )
    assert answer.choices[0].finish_reason == "stop"


def test_settings_of_a_request_are_those_of_the_engine(engine: Engine, client: OpenAI) -> None:
    def asked(**settings: object) -> str | None:
        answer = client.chat.completions.create(
            model="pebble", messages=ASKED, extra_body={"skipstone": settings}
        )
        return answer.choices[0].message.content

    with watched(engine) as handles:
        assert asked(unmask="fixed", block_length=8, cache="none", gen_length=24) is not None
        assert asked(eos_stop=False, stop_ids=[5, 17], temperature=0.5, seed=3) is not None
    first, second = (handle.request.settings for handle in handles)
    assert first == engine.settings.replace(
        unmask="fixed", block_length=8, cache="none", gen_length=24
    )
    assert second.stop_ids == (5, 17)
    assert (second.eos_stop, second.temperature, second.seed) == (False, 0.5, 3)
    for settings, said in (
        ({"unmaks": "fixed"}, "did you mean 'unmask'?"),
        ({"unmask": "treshold"}, "did you mean 'threshold'?"),
        ({"block_length": "many"}, "block_length"),
        ({"gen_length": 8, "max_new_tokens": 9}, "two values"),
    ):
        with pytest.raises(openai.BadRequestError, match=re.escape(said)):
            asked(**settings)


def test_answers_to_a_prompt_are_drawn_each_for_itself(engine: Engine, client: OpenAI) -> None:
    def drawn(**settings: Any) -> list[int | None]:
        with watched(engine) as handles:
            client.chat.completions.create(
                model="pebble", messages=ASKED, temperature=1.0, max_tokens=4, **settings
            )
        return [handle.request.settings.seed for handle in handles]

    assert drawn(n=3, seed=7) == [7, 8, 9]
    assert drawn() != drawn()


def test_an_answer_is_cut_where_it_was_asked_for(engine: Engine, client: OpenAI) -> None:
    alone = engine.generate(QUESTION)
    with watched(engine) as handles:
        answer = client.chat.completions.create(
            model="pebble", messages=ASKED, max_completion_tokens=5
        )
    assert handles[0].request.settings.gen_length == 32  # one block
    assert answer.choices[0].message.content == engine.model.text.decode(alone.tokens[:5])
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    stopped = client.chat.completions.create(model="pebble", messages=ASKED, stop=["ton was"])
    assert stopped.choices[0].message.content == alone.text[: alone.text.index("ton was")]
    assert stopped.choices[0].finish_reason == "stop"


def test_an_answer_that_a_stop_text_ends_leaves_its_slot_to_the_next() -> None:
    engine = Engine(load("pebble"), slots=1, gen_length=64, block_length=8, unmask="fixed")
    with running(engine, ServerOptions()) as address, watched(engine) as handles:
        client_of(address).chat.completions.create(
            model="pebble", messages=ASKED, n=2, stop=["Newton"]
        )
    assert [handle.cancelled() for handle in handles] == [True, True]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("queued", [False, True])
def test_a_client_that_hangs_up_leaves_nothing_in_the_engine(stream: bool, queued: bool) -> None:
    engine = Engine(load("pebble"), slots=1, gen_length=384, unmask="fixed", cache="none")
    body = json.dumps(
        {"model": "pebble", "messages": ASKED, "stream": stream, "n": 2 if queued else 1}
    )
    over = list[Account]()
    with (
        running(engine, ServerOptions(), over.append) as address,
        watched(engine) as handles,
        standing(engine, after=9),
    ):
        host, port = address.removeprefix("http://").removesuffix("/v1").split(":")
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as client:
            client.sendall((head + body).encode())
            wait_until(lambda: len(handles) == 1 + queued and bool(handles[0]._told.steps))
            assert not any(handle.done() for handle in handles)
        wait_until(lambda: all(handle.cancelled() for handle in handles))
        wait_until(lambda: over)
    # Nobody was told a status, unless a stream had begun.
    assert (over[0].status, over[0].error) == (200 if stream else None, "client_gone")
    # Its slot is free: a request that waited for it would have to be decoded first.
    assert len(handles[0]._told.steps) < 10
    assert engine.submit(QUESTION, gen_length=1).result(timeout=60).length <= 1


@contextmanager
def watched(engine: Engine) -> Iterator[list[Handle]]:
    """What is submitted to an engine meanwhile."""
    handles, submit = list[Handle](), engine.submit

    def watching(
        prompt: Prompt, *, observer: Observer | None = None, **changes: Unpack[SettingsFields]
    ) -> Handle:
        handles.append(submit(prompt, observer=observer, **changes))
        return handles[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "submit", watching)
        yield handles
