"""Text with gaps over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest

from skipstone import load
from skipstone.engine import Engine
from skipstone.server.access.account import Account
from skipstone.server.options import ServerOptions
from tests.server.running import running
from tests.server.test_server import wait_until

ASKED = (
    "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nWho is Joule, physics?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GAPPED = f"{ASKED}James {{{{mask:8}}}} was an English {{{{mask:12}}}} energy."


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load("pebble"), gen_length=32)


@pytest.fixture(scope="module")
def told() -> list[Account]:
    return []


@pytest.fixture(scope="module")
def http(engine: Engine, told: list[Account]) -> Iterator[httpx.Client]:
    with running(engine, ServerOptions(), told.append) as address, asking(address) as http:
        yield http


def asking(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, timeout=60)


def filled(http: httpx.Client, text: object, **more: Any) -> Any:
    answer = http.post("/fill", json={"model": "pebble", "text": text, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def canvas_of(engine: Engine) -> list[int]:
    text, mask = engine.model.text.encode_rendered, engine.model.config.mask_id
    given = [f"{ASKED}James ", " was an English ", " energy."]
    return [*text(given[0]), *[mask] * 8, *text(given[1]), *[mask] * 12, *text(given[2])]


def test_gaps_are_filled_as_the_engine_fills_them(
    engine: Engine, http: httpx.Client, told: list[Account]
) -> None:
    canvas, text = canvas_of(engine), engine.model.text
    first = canvas.index(engine.model.config.mask_id)
    whole = [*canvas[:first], *engine.edit(canvas).tokens]
    second = canvas.index(engine.model.config.mask_id, first + 8)
    told.clear()
    answer = filled(http, GAPPED)
    (choice,) = answer["choices"]
    spans = choice["spans"]
    assert [span["text"] for span in spans] == [
        text.decode(whole[first : first + 8]), text.decode(whole[second : second + 12])
    ]  # fmt: skip
    assert choice["text"] == (
        f"{ASKED}James {spans[0]['text']} was an English {spans[1]['text']} energy."
    )
    assert [choice["text"][span["start"] : span["end"]] for span in spans] == [
        span["text"] for span in spans
    ]
    assert answer["object"] == "skipstone.fill"
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(canvas) - 20, 20)
    wait_until(lambda: bool(told))
    (account,) = told
    assert (account.route, account.completion_tokens) == ("/v1/fill", 20)
    assert account.steps > 0


def test_beside_others_it_is_the_answer_that_it_is_alone(http: httpx.Client) -> None:
    alone = filled(http, GAPPED)["choices"][0]["text"]
    parts = [f"{ASKED}James ", {"mask": 8}, " was an English ", {"mask": 12}, " energy."]
    texts = [GAPPED, "{{mask:9}} physics?", parts, "Who is {{mask:20}}"]
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(filled, http, text, n=2) for text in texts]
    answers = [answer.result() for answer in answers]
    for answer, text in zip(answers, texts, strict=True):
        found = {choice["text"] for choice in answer["choices"]}
        assert found == {filled(http, text)["choices"][0]["text"]}
    assert answers[0]["choices"][0]["text"] == answers[2]["choices"][0]["text"] == alone


def test_drawn_answers_differ_and_a_seed_repeats_them(http: httpx.Client) -> None:
    asked: dict[str, Any] = {"temperature": 9.0, "seed": 7, "n": 3}
    first, again = (filled(http, GAPPED, **asked)["choices"] for _ in range(2))
    assert first == again
    assert len({choice["text"] for choice in first}) > 1


def test_the_text_of_a_mask_is_data_in_a_conversation_and_refused_in_a_text(
    engine: Engine, http: httpx.Client
) -> None:
    mask = engine.model.text.token(engine.model.config.mask_id)
    asked = f"Who is {mask} {{{{mask:3}}}} Newton?"
    chat = http.post(
        "/chat/completions",
        json={"model": "pebble", "messages": [{"role": "user", "content": asked}]},
    )
    assert chat.status_code == 200
    ids = engine.model.text.encode(asked)
    assert engine.model.config.mask_id not in ids
    assert chat.json()["choices"][0]["message"]["content"] == engine.generate(asked).text
    assert chat.json()["usage"]["prompt_tokens"] == len(ids)
    for text in (f"{mask} {{{{mask:3}}}}", [mask, {"mask": 3}]):
        refused = http.post("/fill", json={"model": "pebble", "text": text})
        assert refused.status_code == 400
        assert mask in refused.json()["error"]["message"]
    # In parts, what looks like a gap is text.
    answer = filled(http, ["{{mask:3}} ", {"mask": 2}])["choices"][0]
    assert answer["text"].startswith("{{mask:3}} ")
    assert len(answer["spans"]) == 1


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"text": "no gap"}, "text", "has no gap; write {{mask:4}}"),
        ({"text": "a {{mask}}"}, "text", "'{{mask}}' is no marker"),
        ({"text": "a {{mask:0}} {{mask:2}}"}, "text", "'{{mask:0}}' is no marker"),
        ({"text": "{{mask:9999999}}"}, "text", "9999999 tokens, gaps"),
        ({"text": "a {{mask:512}}"}, "text", "514 tokens, gaps"),
        ({"text": ""}, "text", "at least 1 character"),
        ({"text": ["a", {"mask": 0}]}, "text.1.mask", "greater than or equal to 1"),
        ({"max_tokens": 3}, "max_tokens", "not supported"),
        ({"stream": True}, "stream", "not supported"),
        ({"skipstone": {"gen_length": 8}}, "skipstone", "leave gen_length out"),
        ({"model": "other"}, "model", "is not served"),
    ],
)
def test_what_cannot_be_filled_is_refused(
    http: httpx.Client, more: dict[str, Any], param: str | None, said: str
) -> None:
    refused = http.post("/fill", json={"model": "pebble", "text": "{{mask:2}}", **more})
    assert refused.status_code in (400, 404)
    assert said in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == param


def test_gaps_that_are_not_filled_in_time_are_over_for_log_and_metrics_too() -> None:
    engine, over = Engine(load("pebble"), unmask="fixed", cache="none"), list[Account]()
    options = ServerOptions(time_limit=0.05)
    with running(engine, options, over.append) as address, asking(address) as http:
        late = http.post("/fill", json={"model": "pebble", "text": "a {{mask:400}} b c"})
        assert late.json()["error"]["code"] == "time_limit"
        wait_until(lambda: bool(over))
    # Of what stands right of a gap, nothing is shown yet.
    assert (over[0].status, over[0].prompt_tokens, over[0].completion_tokens) == (504, 4, 0)


def test_a_filled_canvas_is_recorded_and_steps_fit_its_length() -> None:
    engine = Engine(load("pebble"), gen_length=32, steps=16, unmask="fixed")
    with running(engine, ServerOptions()) as address, asking(address) as http:
        said = filled(http, GAPPED, skipstone={"trace": "decisions"})["choices"][0]["skipstone"]
        (card,) = http.get(f"{address.removesuffix('/v1')}/traces").json()["data"]
    assert card["id"] == said["trace_id"]
    assert card["settings"]["eos_stop"] == "false"
    length = int(card["settings"]["gen_length"])
    assert int(card["settings"]["steps"]) == length // 2
