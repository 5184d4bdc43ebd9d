"""The official client against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from skipstone import load
from skipstone.engine import Engine
from skipstone.server.options import ServerOptions
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
    error = refused(messages=[{"role": "user"}])
    assert (error.param, error.code) == ("messages.0.content", "missing_required_parameter")
    error = refused(messages=[{"role": "user", "content": " "}])
    assert "the prompt is empty" in error.message
    assert "more than the model's 512; shorten one" in refused(max_tokens=10**6).message


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
