"""How many may wait and how long it may take, and what a server does when it is told to stop."""

from __future__ import annotations

import asyncio
import json
import time
from threading import Thread

import httpx2 as httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from skipstone import load
from skipstone.engine import Engine
from skipstone.server.access.account import Account
from skipstone.server.access.ending import Endings
from skipstone.server.access.queue import check_queue
from skipstone.server.answer.choices import Answers, silent, submit
from skipstone.server.answer.plan import Ask
from skipstone.server.options import ServerOptions
from skipstone.server.protocol.errors import AnswerError
from skipstone.server.served import RecentAnswers, ServedModel
from skipstone.server.traces.kept import KeptTraces
from tests.helpers.waiting import standing, wait_until
from tests.server.running import running

ASKED = {"model": "pebble", "messages": [{"role": "user", "content": "Who is Newton, physics?"}]}
# A step for each of 384 tokens, over all rows.
SLOW = {"gen_length": 384, "unmask": "fixed", "cache": "none", "eos_stop": False}


def slow_engine() -> Engine:
    return Engine(
        load("pebble"), slots=1, gen_length=384, unmask="fixed", cache="none", eos_stop=False
    )


def test_who_comes_when_all_places_are_taken_is_told_so() -> None:
    engine = slow_engine()
    with running(engine, ServerOptions(max_waiting=1)) as address, httpx.Client(timeout=60) as http:
        ask = f"{address}/chat/completions"
        with standing(engine, after=3):
            held = [engine.submit("Who is Newton, physics?") for _ in range(2)]
            refused = http.post(ask, json=ASKED)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "queue_full"
            never = http.post(ask, json={**ASKED, "n": 3})
            assert never.status_code == 400
            assert "3 answers are asked for at once, and there are places for 2" in never.text
            for handle in held:
                handle.cancel()
        assert http.post(ask, json={**ASKED, "max_tokens": 1}).status_code == 200


def test_who_is_refused_is_told_when_to_come_again_by_what_recent_answers_took() -> None:
    engine = Engine(load("pebble"), slots=4)
    busy = engine.load._replace(running=4, waiting=6)
    last = (*[9.0] * 9, *[2.0] * 32)
    for seconds, said in (((), "1"), ((2.0, 4.0), "5"), ((0.01,), "1"), (last, "3")):
        recent = RecentAnswers()
        recent.seconds.extend(seconds)
        with pytest.raises(AnswerError) as refused:
            check_queue(busy, 1, 6, recent)
        assert refused.value.headers == {"retry-after": said}


def served_by(engine: Engine) -> ServedModel:
    options = ServerOptions()
    return ServedModel(engine, options, KeptTraces(options))


def read_one(served: ServedModel) -> Answers:
    """One answer, read to its end."""
    prompt = served.engine.model.text.encode_rendered("Who is Newton, physics?")
    ask = Ask(prompt, {}, 32, (), None, canvas=False, trace=None)
    answers = submit(served, Account("POST"), [ask], 1)
    asyncio.run(answers.read(silent))
    return answers


def test_what_an_answer_waited_is_not_what_it_took() -> None:
    engine, went_on = Engine(load("pebble"), slots=1, gen_length=32), list[float]()
    served = served_by(engine)

    def go_on() -> None:
        """Some time after the answer was asked for, which waits for the one before."""
        wait_until(lambda: served.open.handles)
        time.sleep(0.3)
        went_on.append(time.perf_counter())
        turns.going_on = True

    with standing(engine, after=3) as turns:
        engine.submit("Who is Newton, physics?")
        turns.wait()
        going = Thread(target=go_on)
        going.start()
        read_one(served)
        ended = time.perf_counter()
        going.join()
    (took,) = served.recent.seconds
    assert 0 < took < ended - went_on[0]


def test_a_request_that_eos_does_not_stop_is_decoded_to_its_end() -> None:
    engine = Engine(load("pebble"), gen_length=32, unmask="fixed", eos_stop=False)
    answers = read_one(served_by(engine))
    (choice,) = answers.choices
    assert choice.finish == "stop"
    assert choice.text.tokens < 32
    assert choice.handle.result().stats.num_forwards == 32


def test_what_would_never_fit_is_refused_with_the_numbers() -> None:
    engine = Engine(load("pebble"), memory="100kB", gen_length=32)
    with running(engine, ServerOptions()) as address:
        refused = httpx.post(f"{address}/chat/completions", json=ASKED)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "no_room"
    assert "there is room for" in refused.text


def test_an_answer_that_takes_too_long_ends_with_an_error() -> None:
    engine = slow_engine()
    with running(engine, ServerOptions(time_limit=0.15)) as address:
        ask = f"{address}/chat/completions"
        late = httpx.post(ask, json=ASKED, timeout=30)
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "time_limit"
        assert late.headers["x-should-retry"] == "false"
        streamed = httpx.post(ask, json={**ASKED, "stream": True}, timeout=30)
        assert streamed.status_code == 200
        *_, last = streamed.text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "time_limit"
        wait_until_idle(engine)


def wait_until_idle(engine: Engine) -> None:
    wait_until(lambda: not any(engine.load[:2]))


def test_metrics_count_requests_and_tokens() -> None:
    engine = Engine(load("pebble"), gen_length=128)
    alone = engine.generate("Who is Newton, physics?")
    with running(engine, ServerOptions(keys=("key",))) as address:
        knows = {"authorization": "Bearer key"}
        with httpx.Client(base_url=address[:-3], headers=knows) as http:
            told = [http.post("/v1/chat/completions", json=ASKED).json() for _ in range(4)]
            http.post("/v1/chat/completions", json={**ASKED, "n": 0})
            http.get("/nowhere/else")
            assert httpx.get(f"{address[:-3]}/metrics").status_code == 401
            # An answer may be there some moments before its slot is free.
            wait_until_idle(engine)
            lines = http.get("/metrics").text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    chat = 'skipstone_requests_total{route="/v1/chat/completions",status="%d"}'
    assert [found[chat % status] for status in (200, 400)] == ["4.0", "1.0"]
    assert found['skipstone_requests_total{route="other",status="404"}'] == "1.0"
    assert found["skipstone_prompt_tokens_total"] == f"{4 * alone.prompt_tokens}.0"
    assert found["skipstone_completion_tokens_total"] == f"{4 * alone.length}.0"
    assert found["skipstone_steps_total"] == f"{4 * alone.stats.num_forwards}.0"
    assert found["skipstone_first_commit_seconds_count"] == "4.0"
    assert [answer["skipstone"]["notes"] for answer in told] == [list(alone.notes)] * 4
    assert alone.notes
    assert (found["skipstone_slots"], found["skipstone_running"]) == ("16.0", "0.0")


@pytest.mark.parametrize("kind", [None, "text/event-stream"])
def test_what_is_cancelled_at_the_end_tells_its_client_why(kind: str | None) -> None:
    begun, sent = asyncio.Event(), list[Message]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if kind is not None:
            headers = [(b"content-type", kind.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        begun.set()
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(message)

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    account = Account("POST")

    async def cancelled() -> None:
        scope: Scope = {"type": "http", "headers": [], "state": {"account": account}}
        answering = asyncio.ensure_future(Endings(app)(scope, nothing, send))
        await begun.wait()
        answering.cancel()
        await answering

    asyncio.run(cancelled())
    assert account.error == "stopped"
    head, body = sent
    assert head["status"] == (200 if kind else 503)
    told = body["body"].removeprefix(b"data: ") if kind else body["body"]
    assert json.loads(told)["error"]["message"] == "the server was stopped; ask again"
    assert not body.get("more_body", False)
