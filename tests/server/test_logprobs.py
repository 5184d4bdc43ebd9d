"""Log-probabilities: those of the step that committed, whoever is decoded beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob

from skipstone import Engine, load
from skipstone.engine import Handle
from skipstone.server.answer.chances import CommitChances
from skipstone.server.answer.spelled import spelled
from skipstone.server.options import ServerOptions
from skipstone.testing.tiny import MASK
from skipstone.tracing import Recorder
from tests.helpers import naive
from tests.helpers.watching import BASE, LOW, prompt_of, uneven_model
from tests.server.running import client_of, running
from tests.server.test_server import ASKED, QUESTION, watched

MODEL = load("pebble")
UNMASKS = ["fixed", "threshold:0.5", "wino:value=0.3,back=0.9", "editing:threshold=0.5,edit=0.3"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(MODEL, gen_length=32, block_length=16, slots=8)


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[OpenAI]:
    with running(engine, ServerOptions()) as address, client_of(address) as client:
        yield client


def told(client: OpenAI, **fields: Any) -> list[ChatCompletionTokenLogprob]:
    answer = client.chat.completions.create(model="pebble", messages=ASKED, logprobs=True, **fields)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert "".join(one.token for one in found.content) == answer.choices[0].message.content
    return found.content


def expected(handle: Handle) -> dict[int, np.ndarray]:
    """Of each offset, the log-softmax of a plain forward over the canvas that its commit saw."""
    prompt, network = list(handle.request.prompt), MODEL.network
    canvas, found = list(handle.request.region), dict[int, np.ndarray]()
    for step in handle.steps():
        chances_LV = naive.logits(network, [*prompt, *canvas]).float().log_softmax(-1)
        for offset, token in zip(step.offsets_C.tolist(), step.tokens_C.tolist(), strict=True):
            found[offset] = chances_LV[len(prompt) + offset].numpy()
            canvas[offset] = token
        for offset in step.revoked:
            canvas[offset] = MODEL.config.mask_id
    return found


@pytest.mark.parametrize("unmask", UNMASKS)
def test_they_are_those_of_the_commit_that_stands(
    engine: Engine, client: OpenAI, unmask: str
) -> None:
    settings = {"unmask": unmask, "cache": "none", "eos_stop": False}
    drawn = {"temperature": 0.7, "seed": 3} if unmask in UNMASKS[:2] else {}
    with watched(engine) as handles:
        content = told(client, top_logprobs=5, extra_body={"skipstone": settings}, **drawn)
    names = [spelled(MODEL.text, token)[0] for token in range(MODEL.config.vocab_size)]
    chances = expected(handles[0])
    assert len(content) > 4
    for offset, one in enumerate(content):
        token = names.index(one.token)
        assert one.logprob == pytest.approx(chances[offset][token], abs=1e-4)
        best = np.argsort(-chances[offset], kind="stable")
        best = [int(token) for token in best if token != MODEL.config.mask_id][:5]
        assert [names.index(top.token) for top in one.top_logprobs] == best
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(
            chances[offset][best], abs=1e-4
        )
    if unmask.startswith("wino"):
        assert any(step.revoked for step in handles[0].steps())


def test_they_are_the_same_under_load(client: OpenAI) -> None:
    texts = [QUESTION, "Who is Gauss, physics?", "Put b, a, c in alphabetical order.", "What?"]
    prompts = [MODEL.text.encode(text) for text in texts]

    def asked(prompt: list[list[int]]) -> list[Any]:
        answer = client.completions.create(model="pebble", prompt=prompt, logprobs=5)
        return [choice.logprobs for choice in answer.choices]

    # All are decoded at once.
    for beside, prompt in zip(asked(prompts), prompts, strict=True):
        (alone,) = asked([prompt])
        assert beside.tokens == alone.tokens
        # The sums of a forward over more rows may be rounded otherwise.
        assert beside.token_logprobs == pytest.approx(alone.token_logprobs, abs=1e-5)
        for mine, theirs in zip(beside.top_logprobs, alone.top_logprobs, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-5)


def test_a_stream_has_them_where_the_text_is(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="pebble", messages=ASKED, logprobs=True, top_logprobs=2, stream=True
    )
    found = list[ChatCompletionTokenLogprob]()
    shown = ""
    for chunk in stream:
        shown += chunk.choices[0].delta.content or ""
        new = chunk.choices[0].logprobs
        found += (new.content or []) if new is not None else []
        assert "".join(one.token for one in found) == shown
    assert found == told(client, top_logprobs=2)
    assert bytes(byte for one in found for byte in one.bytes or []) == shown.encode()


def test_completions_have_them_in_their_own_form(client: OpenAI) -> None:
    prompt = MODEL.text.encode(QUESTION)

    def asked(**fields: Any) -> tuple[str, Any]:
        choice = client.completions.create(model="pebble", prompt=prompt, **fields).choices[0]
        return choice.text, choice.logprobs

    text, found = asked(logprobs=3, max_tokens=9)
    assert "".join(found.tokens) == text
    for token, logprob, top, start in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset, strict=True
    ):
        assert text[start:].startswith(token)
        assert top[token] == logprob
        assert len(top) in (3, 4)
    stop = text[found.text_offset[4] + 1 :][:3]
    cut, fewer = asked(logprobs=0, max_tokens=9, stop=stop)
    assert cut == text[: text.index(stop)]
    assert fewer.top_logprobs is None
    # Whole tokens that the stop string has cut off are not told.
    assert fewer.tokens == found.tokens[: sum(start < len(cut) for start in found.text_offset)]


def test_who_does_not_ask_does_not_pay(engine: Engine, client: OpenAI) -> None:
    with watched(engine) as handles:
        client.chat.completions.create(model="pebble", messages=ASKED, logprobs=False)
        client.chat.completions.create(model="pebble", messages=ASKED, stream=True).close()
        told(client)
    assert [handle.watch is not None for handle in handles] == [False, False, True]


def test_what_cannot_be_told_is_refused(client: OpenAI) -> None:
    for fields, said in (
        ({"top_logprobs": 3}, "logprobs is not true"),
        ({"logprobs": True, "top_logprobs": 21}, "less than or equal to 20"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.chat.completions.create(model="pebble", messages=ASKED, extra_body=fields)
    with pytest.raises(openai.BadRequestError, match="less than or equal to 5"):
        client.completions.create(model="pebble", prompt="Who", logprobs=6)


def test_a_commit_by_an_older_score_has_the_chances_of_that_score() -> None:
    settings = BASE.replace(unmask="fixed", skip=LOW)
    chances, recorder = CommitChances(10**6), Recorder()
    engine = Engine(uneven_model(2), settings)
    result = engine.submit(prompt_of(1, 7), observer=chances).result(20)
    engine.generate(prompt_of(1, 7), observer=recorder)
    ages = list[int]()
    for step in recorder.records[0].steps:
        found = step.candidates
        for index in np.flatnonzero(found.committed):
            kept = chances.committed[int(found.position[index]) - 7]
            ages.append(int(found.age[index]))
            assert np.exp(kept.logprob) == pytest.approx(found.confidence[index], 1e-4)
            assert MASK not in [token for token, _ in kept.top]
    assert any(ages)
    assert [chances.committed[offset].token for offset in range(18)] == list(result.tokens)


def test_tokens_are_spelled_in_bytes_where_they_are_half_a_character() -> None:
    text = "He — saw 光"
    names = [spelled(MODEL.text, token) for token in MODEL.text.encode_rendered(text)]
    assert bytes(byte for _, spelling in names for byte in spelling or []) == text.encode()
    assert names[-1] == ("\\x89", [0x89])
    assert spelled(MODEL.text, MODEL.config.eos_id)[0] == MODEL.text.token(MODEL.config.eos_id)
