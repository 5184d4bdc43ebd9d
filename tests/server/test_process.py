"""``skipstone serve`` as a process: signals that end it, and output that nobody reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from tests.conftest import ROOT
from tests.helpers import signalled
from tests.helpers.processes import told
from tests.helpers.waiting import wait_until
from tests.server.test_limits import ASKED, SLOW

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process there gets no SIGTERM")


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``skipstone serve`` with an engine that takes seconds for an answer, and its address."""
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in SLOW.items()][:3]
    command = [sys.executable, "-m", "skipstone", "serve", "--port", "0", "--slots", "1"]
    with subprocess.Popen(
        [*command, *settings, "--no-eos-stop", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            yield server, server.stdout.readline().split()[-1]
        finally:
            server.kill()


MANY = 128
"""Answers that take minutes in all: none of them is over before a server is told to stop."""


def ask(address: str, answers: int) -> Any:
    body = {**ASKED, "n": answers}
    return httpx.post(f"{address}/chat/completions", json=body, timeout=240).json()


def metrics(address: str) -> str:
    return httpx.get(f"{address[:-3]}/metrics", timeout=60).text


def listening(server: subprocess.Popen[Any]) -> list[int]:
    """The ports at which it does."""
    found = told(psutil.Process(server.pid), lambda one: one.net_connections("tcp"))
    return [one.laddr.port for one in found if one.status == psutil.CONN_LISTEN]


def test_answers_end_with_what_there_is_when_a_server_is_stopped() -> None:
    with (
        process("--drain", "0.3s", "--log", "json") as (server, address),
        ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(ask, address, MANY)
        wait_until(lambda: "skipstone_running 1.0" in metrics(address))
        server.send_signal(signal.SIGTERM)
        ended = answer.result()
        assert server.wait(timeout=60) == 0
        assert server.stderr is not None
        log = [json.loads(line) for line in server.stderr.read().splitlines()]
    assert [choice["finish_reason"] for choice in ended["choices"]] == ["length"] * MANY
    assert ended["usage"]["completion_tokens"] < MANY * 384
    assert any("the server was stopped" in note for note in ended["skipstone"]["notes"])
    (line,) = (line for line in log if line["route"] == "/v1/chat/completions")
    assert (line["status"], line["method"]) == (200, "POST")
    assert line["completion_tokens"] == ended["usage"]["completion_tokens"]
    assert "prompts" not in line


def test_a_second_signal_ends_answers_with_what_there_is() -> None:
    with process("--drain", "600s") as (server, address), ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, address, MANY)
        wait_until(lambda: "skipstone_running 1.0" in metrics(address))
        server.send_signal(signal.SIGTERM)
        # The first signal was obeyed: of two that come at once, one may be lost.
        wait_until(lambda: not listening(server))
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
        ended = answer.result()
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()
    assert any("the server was stopped" in note for note in ended["skipstone"]["notes"])


def test_a_server_whose_output_nobody_reads_goes_on() -> None:
    nobody, output = os.pipe()
    os.close(nobody)
    command = [sys.executable, "-m", "skipstone", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=output, stderr=output) as server:
        os.close(output)
        try:
            wait_until(lambda: server.poll() is not None or listening(server))
            (port,) = listening(server)
            # It answers as soon as the model is loaded; each answer has a line in the log.
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                for _ in range(3):
                    assert client.get("/health").status_code == 200
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()


@pytest.mark.parametrize(
    "place", ["skipstone.server.app", "skipstone.engine.engine:Engine.__init__"]
)
def test_a_server_that_is_stopped_before_it_has_begun_ends_in_order(place: str) -> None:
    ended = subprocess.run(
        signalled.command(signal.SIGTERM, place, "serve", "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (0, "")
