"""``skipstone serve`` as a process: signals that end it, and output that nobody reads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2 as httpx
import pytest

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


def test_answers_end_with_what_there_is_when_a_server_is_stopped() -> None:
    with (
        process("--drain", "0.3s", "--log", "json") as (server, address),
        ThreadPoolExecutor() as pool,
    ):
        body = {**ASKED, "n": 8}
        answer = pool.submit(httpx.post, f"{address}/chat/completions", json=body, timeout=60)
        while "skipstone_running 1.0" not in httpx.get(f"{address[:-3]}/metrics").text:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        ended = answer.result().json()
        assert server.wait(timeout=30) == 0
        assert server.stderr is not None
        log = [json.loads(line) for line in server.stderr.read().splitlines()]
    assert [choice["finish_reason"] for choice in ended["choices"]] == ["length"] * 8
    assert ended["usage"]["completion_tokens"] < 8 * 384
    assert any("the server was stopped" in note for note in ended["skipstone"]["notes"])
    (line,) = (line for line in log if line["route"] == "/v1/chat/completions")
    assert (line["status"], line["method"]) == (200, "POST")
    assert line["completion_tokens"] == ended["usage"]["completion_tokens"]
    assert "prompts" not in line


def test_a_second_signal_ends_answers_with_what_there_is() -> None:
    with process("--drain", "60s") as (server, address), ThreadPoolExecutor() as pool:
        body = {**ASKED, "n": 128}
        answer = pool.submit(httpx.post, f"{address}/chat/completions", json=body, timeout=60)
        while "skipstone_running 1.0" not in httpx.get(f"{address[:-3]}/metrics").text:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.poll() is None
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
        assert time.monotonic() - began < 10
        ended = answer.result().json()
        assert server.returncode == 0
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()
    assert any("the server was stopped" in note for note in ended["skipstone"]["notes"])


def test_a_server_whose_output_nobody_reads_goes_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nobody, output = os.pipe()
    os.close(nobody)
    command = [sys.executable, "-m", "skipstone", "serve", "--port", str(port)]
    with subprocess.Popen(command, stdout=output, stderr=output) as server:
        os.close(output)
        ask, end = httpx.Client(base_url=f"http://127.0.0.1:{port}"), time.monotonic() + 60
        try:
            # Each has a line in the log.
            for _ in range(3):
                while refused(ask):
                    assert server.poll() is None
                    assert time.monotonic() < end
                    time.sleep(0.05)
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()
            ask.close()


def test_a_server_that_is_stopped_before_it_has_begun_ends_in_order() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "skipstone", "serve", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            # It listens before the model is loaded.
            end = time.monotonic() + 60
            while not listens(port):
                assert time.monotonic() < end
                time.sleep(0.01)
            server.send_signal(signal.SIGTERM)
            assert server.communicate(timeout=30) == (b"", None)
        finally:
            server.kill()
    assert server.returncode == 0


def refused(ask: httpx.Client) -> bool:
    """Whether nobody answers yet."""
    try:
        return ask.get("/health").status_code != 200
    except httpx.ConnectError:
        return True


def listens(port: int) -> bool:
    """Whether somebody does on this machine."""
    with socket.socket() as asked:
        return not asked.connect_ex(("127.0.0.1", port))
