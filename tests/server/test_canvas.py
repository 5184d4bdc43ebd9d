"""The canvas of a stream: what a page that draws it would show is what the engine has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx2 as httpx
import jsonschema
import numpy as np
import pytest
from openai import OpenAI

from skipstone import Engine, load
from skipstone.record import StepRecord
from skipstone.server.options import ServerOptions
from skipstone.tracing import Recorder
from tests.server.running import client_of, running
from tests.server.test_server import ASKED, QUESTION, watched

MODEL = load("pebble")
WITH_CANVAS: Any = {"canvas": True}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(MODEL, gen_length=32, block_length=16)


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[OpenAI]:
    with running(engine, ServerOptions()) as address, client_of(address) as client:
        yield client


class Page:
    """Draws an answer from its stream alone."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, int | None, float]] = []
        """What is drawn at each position: its state, token and confidence."""
        self.begun: dict[str, Any] = {}
        self.finish: str | None = None
        self.frames: list[list[tuple[str, int | None, float]]] = []
        """What was drawn after each step."""
        self.text = ""

    def take(self, news: dict[str, Any]) -> None:
        if news["type"] == "begin":
            assert not self.begun
            self.begun, self.cells = news, [("masked", None, 0.0)] * news["length"]
        elif news["type"] == "end":
            self.finish = news["finish_reason"]
        else:
            assert news["number"] == len(self.frames)
            for position in news["revoked"]:
                assert self.cells[position][0] == "committed"
                self.cells[position] = ("masked", None, 0.0)
            for state in ("committed", "provisional"):
                for one in news[state]:
                    self.cells[one["position"]] = (state, one["id"], one["confidence"])
            for position in news["filled"]:
                self.cells[position] = ("filled", MODEL.config.eos_id, 1.0)
            self.frames.append(self.cells.copy())


def drawn(chunks: Iterable[Any]) -> list[Page]:
    pages = dict[int, Page]()
    for chunk in chunks:
        for choice in chunk.choices:
            page = pages.setdefault(choice.index, Page())
            page.text += (choice.delta.content if "chat" in chunk.object else choice.text) or ""
            if choice.skipstone is not None:
                page.take(choice.skipstone["canvas"])
    return [pages[index] for index in sorted(pages)]


def asked(client: OpenAI, **fields: Any) -> list[Page]:
    stream = client.chat.completions.create(
        model="pebble", messages=ASKED, stream=True, stream_options=WITH_CANVAS, **fields
    )
    return drawn(stream)


def assert_drawn(frame: list[tuple[str, int | None, float]], step: StepRecord, start: int) -> None:
    """A frame shows every candidate of a step as it was recorded."""
    found = step.candidates
    for index, position in enumerate((found.position - start).tolist()):
        state, token, confidence = frame[position]
        if state in ("committed", "provisional"):
            assert (state == "committed") == found.committed[index]
            assert token == found.token[index]
            assert confidence == pytest.approx(found.confidence[index], abs=6e-5)
        else:
            assert state == "filled"


@pytest.mark.parametrize("unmask", ["fixed", "threshold:0.6"])
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_page_draws_every_step_as_it_was_recorded(
    engine: Engine, client: OpenAI, unmask: str, cache: str
) -> None:
    settings = {"unmask": unmask, "cache": cache}
    (page,) = asked(client, extra_body={"skipstone": settings})
    recorder = Recorder()
    alone = Engine(MODEL, engine.settings.replace(unmask=unmask, cache=cache))
    result = alone.generate(QUESTION, observer=recorder)
    begun = {"prompt_length": 16, "length": 32, "limit": 32, "block_length": 16}
    assert begun.items() <= page.begun.items()
    assert page.begun["blocks"] == [[0, 16], [16, 32]]
    steps = recorder.records[0].steps
    # Nothing is decoded any more once the text has ended.
    assert 1 < len(page.frames) <= len(steps)
    for frame, step in zip(page.frames, steps, strict=False):
        assert_drawn(frame, step, 16)
    states = {state for frame in page.frames for state, _, _ in frame}
    assert {"masked", "provisional", "committed"} <= states
    for (state, token, _), decoded in zip(page.cells, result.tokens, strict=True):
        assert state != "committed" or token == decoded
    ends = "stop" if result.length < len(result.tokens) else "length"
    assert (page.text, page.finish) == (result.text, ends)


def test_what_is_taken_back_is_masked_again(client: OpenAI) -> None:
    settings = {"unmask": "wino:value=0.3,back=0.9", "cache": "none"}
    (page,) = asked(client, extra_body={"skipstone": settings})
    kept = np.array([[cell[0] == "committed" for cell in frame] for frame in page.frames])
    assert (kept[:-1] & ~kept[1:]).any()
    shown = [token for state, token, _ in page.cells if state == "committed" and token is not None]
    assert MODEL.text.decode(shown).startswith(page.text)


def test_each_answer_has_its_canvas_and_completions_have_it_too(client: OpenAI) -> None:
    fields: dict[str, Any] = {"n": 2, "temperature": 1.0, "seed": 3, "max_tokens": 9}
    pages = asked(client, **fields)
    prompt = MODEL.text.encode(QUESTION)
    stream = client.completions.create(
        model="pebble", prompt=prompt, stream=True, stream_options=WITH_CANVAS, **fields
    )
    others = drawn(stream)
    assert [page.begun["limit"] for page in pages] == [9, 9]
    assert pages[0].frames != pages[1].frames
    for page, other in zip(pages, others, strict=True):
        assert (page.frames, page.text, page.finish) == (other.frames, other.text, other.finish)
        assert page.finish is not None


def test_it_goes_with_a_trace_and_log_probabilities(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="pebble",
        messages=ASKED,
        stream=True,
        stream_options=WITH_CANVAS,
        logprobs=True,
        extra_body={"skipstone": {"trace": "decisions"}},
    )
    chunks: list[Any] = list(stream)
    told = [one for c in chunks if c.choices[0].logprobs for one in c.choices[0].logprobs.content]
    (page,) = drawn(chunks)
    assert page.finish == chunks[-1].choices[0].finish_reason
    assert "".join(one.token for one in told) == page.text
    assert chunks[-1].choices[0].skipstone["trace_id"]


def test_the_stream_is_the_same_without_it(engine: Engine, client: OpenAI) -> None:
    plain = client.chat.completions.create(model="pebble", messages=ASKED, stream=True)
    with watched(engine) as handles:
        (page,) = asked(client)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in plain)
    assert page.text == text
    assert handles[0].watch is not None


def test_the_description_has_what_a_stream_consists_of(engine: Engine) -> None:
    with running(engine, ServerOptions()) as address, httpx.Client(base_url=address) as http:
        described = http.get(f"{address[:-3]}/openapi.json").json()
        body = {"model": "pebble", "stream": True, "stream_options": WITH_CANVAS}
        for path, fields in (
            ("/chat/completions", {"messages": ASKED, "logprobs": True, "top_logprobs": 2}),
            ("/completions", {"prompt": "Who is Newton?", "logprobs": 2}),
        ):
            answer = described["paths"][f"/v1{path}"]["post"]["responses"]["200"]
            schema = {**answer["content"]["text/event-stream"]["schema"], **described}
            chunks = http.post(path, json={**body, **fields}, timeout=30).text.split("\n\n")[:-2]
            assert len(chunks) > 3
            for chunk in chunks:
                jsonschema.validate(json.loads(chunk.removeprefix("data: ")), schema)
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({**json.loads(chunks[1][6:]), "choices": [{}]}, schema)
