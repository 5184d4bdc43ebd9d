"""Two replicas on this machine's CPU, behind one address."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam

from skipstone import load
from skipstone.clusters import cluster
from skipstone.engine import Engine
from skipstone.server.options import ServerOptions
from skipstone.server.serving import address_of, bind, server_of
from tests.helpers.processes import descendants, told
from tests.server.running import client_of

if TYPE_CHECKING:
    from skipstone.server.replicas.deployment import Deployment

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # Ray has some of its own
    pytest.mark.skipif(
        find_spec("grpc") is None or find_spec("ray") is None, reason="no Ray Serve"
    ),
]

QUESTIONS = [
    f"Replace somebody in the queue Tom, Anna, Leo, Mia by {name}."
    for name in ("Zoe", "Ben", "Ida", "Max", "Eva")
]
KEY = "sesame"
LIMIT_SECONDS = 180
SLOTS = 2
LONG = {"gen_length": 256, "unmask": "fixed", "cache": "none", "eos_stop": False}


def making(switch: Path) -> Callable[[], Engine]:
    """Makes an engine that is dead as long as there is a file, in whatever process it is made."""

    def make() -> Engine:
        from skipstone import load
        from skipstone.engine import Engine
        from skipstone.engine.driver import Driver

        def alive(own: Driver) -> bool:
            return not os.path.exists(f"{switch}-{os.getpid()}")

        setattr(Driver, "alive", property(alive))  # noqa: B010
        return Engine(load("pebble"), gen_length=32, slots=2)

    return make


@dataclass(frozen=True)
class Served:
    """Replicas that are reached at an address."""

    address: str
    deployment: Deployment
    switch: Path

    def names(self) -> set[str]:
        """Of the replicas that answer."""
        return set(re.findall(r'skipstone_slots\{replica="(\w+)"', self.metrics()))

    def metrics(self) -> str:
        return read(f"{self.root}/metrics").decode()

    @property
    def root(self) -> str:
        return self.address.removesuffix("/v1")

    def load(self) -> float:
        """Answers that are decoded and that wait, in all replicas."""
        found = re.findall(r"skipstone_(?:running|waiting)\{.*\} (\S+)", self.metrics())
        return sum(map(float, found))

    def steps(self) -> float:
        """Of answers that were decoded to their end, in all replicas."""
        return sum(map(float, re.findall(r"skipstone_steps_total\{.*\} (\S+)", self.metrics())))

    def pids(self) -> list[int]:
        """Of their processes."""
        return [one.pid for one in descendants(os.getpid(), "ServeReplica")]

    def client(self) -> openai.OpenAI:
        return client_of(self.address).with_options(api_key=KEY, timeout=LIMIT_SECONDS)


def read(address: str) -> bytes:
    """What is there, for whoever has a key."""
    asked = Request(address, headers={"authorization": f"Bearer {KEY}"})
    with urlopen(asked, timeout=LIMIT_SECONDS) as response:
        return response.read()


def until(true: Callable[[], bool]) -> None:
    """Wait for something that comes by itself."""
    end = time.monotonic() + LIMIT_SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    switch = tmp_path_factory.mktemp("switch") / "dead"
    options = ServerOptions(port=0, keys=(KEY,), max_waiting=20, drain=20)
    with cluster("a test", extra="replicas", cpus=2), bind(options) as bound, ExitStack() as stack:
        # It is set up before Ray is imported.
        from skipstone.server.replicas.deployment import Deployment, deployed
        from skipstone.server.replicas.front import make_front

        deployment = Deployment(making(switch), options, replicas=2, slots=SLOTS, gpus=0)
        handle = stack.enter_context(deployed(deployment))
        server = server_of(make_front(handle, options, lambda account: None))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
        thread.start()
        try:
            yield Served(address_of(bound), deployment, switch)
        finally:
            server.should_exit = True
            thread.join(timeout=LIMIT_SECONDS)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def alone() -> Engine:
    return Engine(load("pebble"), gen_length=32)


def temperature(number: int) -> float:
    """Half of the answers are drawn."""
    return 0.8 if number % 2 else 0.0


def ask(served: Served, number: int) -> str | None:
    """One of twenty requests; an answer is whole, or it raises."""
    answer = served.client().chat.completions.create(
        model="pebble",
        messages=[{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        temperature=temperature(number),
        seed=number,
    )
    return answer.choices[0].message.content


def expected(alone: Engine, number: int) -> str:
    """What the engine itself answers."""
    question = QUESTIONS[number % len(QUESTIONS)]
    return alone.submit(question, temperature=temperature(number), seed=number).result().text


def test_whatever_replica_answers_it_is_the_engines_answer(served: Served, alone: Engine) -> None:
    for number in range(4):
        assert ask(served, number) == expected(alone, number)


def test_nothing_listens_beyond_the_loopback(served: Served) -> None:
    own = psutil.Process()
    every = (own, *own.children(recursive=True))
    found = [c for one in every for c in told(one, lambda p: p.net_connections("inet"))]
    listening = {c.laddr.ip.removeprefix("::ffff:") for c in found if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    assert len(served.pids()) == 2


def test_a_killed_replica_takes_no_request_with_it(served: Served, alone: Engine) -> None:
    before = served.names()
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(ask, served, number) for number in range(20)]
        until(lambda: any(one.done() for one in waiting))
        os.kill(served.pids()[0], signal.SIGKILL)
        answers = [one.result(LIMIT_SECONDS) for one in waiting]
    assert answers == [expected(alone, number) for number in range(20)]
    until(lambda: len(served.names() - before) == 1 and len(served.names()) == 2)


def test_a_stream_whose_replica_is_killed_ends_with_an_error(served: Served) -> None:
    stream = served.client().chat.completions.create(
        model="pebble",
        messages=[{"role": "user", "content": QUESTIONS[0]}],
        stream=True,
        n=16,
        extra_body={"skipstone": LONG},
    )
    pieces = iter(stream)
    next(pieces)
    for pid in served.pids():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="the replica that answered has died; ask again"):
        list(pieces)
    until(lambda: len(served.names()) == 2)


def test_a_stream_comes_in_pieces_and_whoever_hangs_up_is_forgotten(
    served: Served, alone: Engine
) -> None:
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTIONS[0]}]
    stream = served.client().chat.completions.create(model="pebble", messages=asked, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == alone.generate(QUESTIONS[0]).text
    assert len([piece for piece in pieces if piece]) > 1
    steps = served.steps()
    running = served.client().chat.completions.create(
        model="pebble", messages=asked, stream=True, n=20, extra_body={"skipstone": LONG}
    )
    next(iter(running))
    until(lambda: served.load() > 0)
    running.close()
    until(lambda: served.load() == 0)
    assert served.steps() - steps < 20 * 256


def test_keys_and_limits_hold(served: Served) -> None:
    stranger = client_of(served.address)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    assert json.loads(read(f"{served.root}/health")) == {"status": "ok"}
    assert b"/page/main.js" in read(f"{served.root}/")
    assert b"/v1/settings" in read(f"{served.root}/page/main.js")
    with pytest.raises(openai.BadRequestError, match="there are places for 22"):
        served.client().completions.create(model="pebble", prompt="Anna", n=23)
    with pytest.raises(openai.NotFoundError, match="'marble' is not served here"):
        served.client().completions.create(model="marble", prompt="Anna")
    assert 'skipstone_requests_total{replica="front",route="other",status="401"}' in (
        served.metrics()
    )


def test_a_replica_whose_engine_died_is_replaced(served: Served, alone: Engine) -> None:
    before = served.names()
    (served.switch.parent / f"dead-{served.pids()[0]}").touch()
    until(lambda: len(served.names() - before) == 1 and len(served.names()) == 2)
    assert ask(served, 0) == expected(alone, 0)


def test_all_are_restarted_one_after_the_other_and_nobody_notices(
    served: Served, alone: Engine
) -> None:
    before, answers = served.names(), list[str | None]()
    served.deployment.restart()
    # Whatever comes meanwhile is answered.
    end = time.monotonic() + LIMIT_SECONDS
    while served.names() & before:
        assert time.monotonic() < end
        answers.append(ask(served, 0))
    until(lambda: len(served.names()) == 2)
    assert set(answers) == {expected(alone, 0)}
