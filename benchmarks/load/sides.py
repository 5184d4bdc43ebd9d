"""Who is asked: an engine in this process, or a server in a process of its own.

Both are asked at the time at which a request arrives, whatever has come back until then; what a
request took counts from that time, whether or not it was sent as late.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.load.arrivals import Ask
from skipstone import Engine
from skipstone.engine import Handle

LIMIT = 2**22
"""Bytes of a line of an answer."""
LEAD = 0.05
"""Seconds before the first request."""


@dataclass(frozen=True)
class Answered:
    """What one request took."""

    due: float
    """Seconds at which it arrived."""
    lag: float
    """Seconds from then until it was sent."""
    first: float
    """Seconds from its arrival until its first tokens were committed."""
    seconds: float
    """Seconds from its arrival to the end of its answer."""
    tokens: int
    """Of its answer."""

    @property
    def done(self) -> float:
        """Seconds at which its answer ended."""
        return self.due + self.seconds


class Side(Protocol):
    """Answers requests."""

    def ask(self, asks: Sequence[Ask], due: Sequence[float]) -> list[Answered]:
        """Ask each at its time, and wait for all.

        Args:
            asks: requests.
            due: seconds at which each arrives, ascending.
        """
        ...

    def cpu_seconds(self) -> float:
        """What the process that answers has taken of CPUs so far; others do not slow that down."""
        ...


@dataclass(frozen=True)
class InProcess:
    """``Engine.submit``; no HTTP."""

    engine: Engine

    def ask(self, asks: Sequence[Ask], due: Sequence[float]) -> list[Answered]:
        """Submit in this thread; the engine's own thread decodes, and notes the times."""
        sent, began = list[tuple[float, Handle]](), time.perf_counter() + LEAD
        for ask, at in zip(asks, due, strict=True):
            time.sleep(max(0.0, began + at - time.perf_counter()))
            own, now = ask.settings(self.engine.settings), time.perf_counter()
            handle = self.engine.submit(ask.prompt, gen_length=own.gen_length, steps=own.steps)
            sent.append((now - began - at, handle))
        for _, handle in sent:
            handle.result()
        return [
            Answered(
                at, lag, lag + (handle.seconds_to_first or 0.0), lag + handle.seconds, a.tokens
            )
            for a, at, (lag, handle) in zip(asks, due, sent, strict=True)
        ]

    def cpu_seconds(self) -> float:
        """Of this process."""
        return time.process_time()


@dataclass(frozen=True)
class OverHttp:
    """``POST /v1/completions``, streamed, a connection for each request."""

    host: str
    port: int
    pid: int
    firsts: dict[str, float]
    """Seconds to the first commit by the ids of requests, as the server's log has them."""

    def ask(self, asks: Sequence[Ask], due: Sequence[float]) -> list[Answered]:
        """Send in an event loop of its own."""
        return asyncio.run(self._all(asks, due))

    def cpu_seconds(self) -> float:
        """Of the server, as Linux counts it."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def _all(self, asks: Sequence[Ask], due: Sequence[float]) -> list[Answered]:
        began = time.perf_counter() + LEAD
        each = (self._one(ask, at, began) for ask, at in zip(asks, due, strict=True))
        return list(await asyncio.gather(*each))

    async def _one(self, ask: Ask, due: float, began: float) -> Answered:
        body = json.dumps(
            {
                "model": "pebble",
                "prompt": ask.prompt if ask.text is None else ask.text,
                "max_tokens": ask.tokens,
                "stream": True,
            }
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: {self.host}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        lag = time.perf_counter() - began - due
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=LIMIT)
        try:
            writer.write(head + body)
            answer = await reader.read()
        finally:
            writer.close()
        seconds = time.perf_counter() - began - due
        if not answer.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in answer:
            raise RuntimeError(f"no whole answer: {answer[-300:]!r}")
        name = answer.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
        while name not in self.firsts:  # its line follows the end of its answer
            await asyncio.sleep(0.001)
        return Answered(due, lag, lag + self.firsts.pop(name), seconds, ask.tokens)


@contextmanager
def served(slots: int) -> Iterator[OverHttp]:
    """``skipstone serve`` with the embedded model, in a process of its own on the CPU."""
    command = [sys.executable, "-m", "skipstone", "serve", "--port", "0", "--device", "cpu"]
    command += ["--slots", str(slots), "--max-waiting", "100000", "--log", "json"]
    command += ["--unmask", "fixed", "--no-eos-stop", "--gen-length", "128", "--steps", "32"]
    firsts = dict[str, float]()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        reader = threading.Thread(target=_note, args=(run, firsts))
        reader.start()
        try:
            assert run.stdout is not None
            address = run.stdout.readline().split()[-1]
            host, _, port = address.removeprefix("http://").removesuffix("/v1").partition(":")
            yield OverHttp(host, int(port), run.pid, firsts)
        finally:
            run.terminate()
            reader.join()


def _note(run: subprocess.Popen[str], firsts: dict[str, float]) -> None:
    """Read the server's log to its end."""
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("{"):
            entry = json.loads(line)
            firsts[entry["id"]] = entry["first_commit_seconds"]
