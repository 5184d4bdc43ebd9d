"""All sorts of clients for hours: memory stays as it is, and nothing is left of any of them.

    python -m tests.server.soak --minutes 120

Clients ask, stream, hang up in the middle, never read what they asked for, send malformed requests,
and ask for traces; each begins anew with a connection of its own. From time to time all stop, and
what the server holds is written down when it has nothing to do.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil

from tests.fuzz.serve import CHAT, FILL, SOUND, case_of, judged, left, served
from tests.server.under_load import body_of

CLIENTS = 6
WORK_SECONDS = 40.0
REST_SECONDS = 13.0
"""Threads that wait for work end after ten."""
MOST_GROWTH = 0.02
WARM_UP = 0.3
"""Of all samples: memory grows to what the busiest moments need."""


@dataclass(frozen=True)
class Held:
    """What a server holds while it has nothing to do."""

    minutes: float
    requests: int
    megabytes: float
    threads: int
    descriptors: int


class Clients:
    """Threads that ask until they are told to stop."""

    def __init__(self, address: str) -> None:
        """Nobody asks yet."""
        self.address, self.asked, self.found = address, 0, list[str]()
        self._stop = threading.Event()

    def work(self, seconds: float, round_: int) -> None:
        """Let all ask for so long, and wait until they have stopped."""
        self._stop.clear()
        threads = [
            threading.Thread(target=self._ask, args=(Random(f"soak:{round_}:{number}"),))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self._stop.set()
        for thread in threads:
            thread.join()

    def _ask(self, random: Random) -> None:
        while not self._stop.is_set():
            self.asked += 1
            with httpx.Client(base_url=self.address, timeout=60) as http:
                try:
                    random.choice((self._sound, self._cut, self._unread, self._bad, self._traced))(
                        http, random
                    )
                except (httpx.HTTPError, OSError) as error:
                    self.found.append(repr(error))

    def _sound(self, http: httpx.Client, random: Random) -> None:
        path, body = body_of(random)
        self._check(http.post(path, json=body))

    def _traced(self, http: httpx.Client, random: Random) -> None:
        level = random.choice(("decisions", "sketches"))
        body = {**SOUND[FILL], "skipstone": {"trace": level}}
        answer = http.post(FILL, json=body)
        self._check(answer)
        if random.random() < 0.3:
            name = answer.json()["choices"][0]["skipstone"]["trace_id"]
            http.get(f"/traces/{name}")  # it may have given way already

    def _bad(self, http: httpx.Client, random: Random) -> None:
        if wrong := judged(http, case := case_of(random.randrange(10**9)))[1]:
            self.found.append(f"{case}: {wrong}")

    def _cut(self, http: httpx.Client, random: Random) -> None:
        """Hang up after some events."""
        path, body = body_of(random)
        with http.stream("POST", path, json={**body, "stream": True}) as answer:
            for number, _ in enumerate(answer.iter_lines()):
                if number == random.randrange(8):
                    return

    def _unread(self, http: httpx.Client, random: Random) -> None:
        """Ask for a stream and read nothing of it."""
        found = urlsplit(self.address)
        body = json.dumps({**SOUND[CHAT], "stream": True, "n": 4, "max_tokens": 64}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        with socket.create_connection((found.hostname, found.port)) as bare:
            bare.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(random.random())

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code != 200 or '"type":"server_error"' in answer.text:
            self.found.append(f"{answer.status_code}: {answer.text[-300:]}")


def held(server: psutil.Process, minutes: float, requests: int) -> Held:
    """What it holds now."""
    with server.oneshot():
        memory = server.memory_full_info().uss / 2**20
        return Held(minutes, requests, memory, server.num_threads(), server.num_fds())


def soaked(address: str, minutes: float) -> tuple[list[Held], list[str]]:
    """What the server held after each round of work, and what went wrong."""
    (server,) = psutil.Process().children()
    clients, samples, began = Clients(address), list[Held](), time.monotonic()
    with httpx.Client(base_url=address, timeout=60) as http:
        while not samples or time.monotonic() - began < 60 * minutes:
            clients.work(WORK_SECONDS, len(samples))
            clients.found += left(http)
            time.sleep(REST_SECONDS)
            passed = (time.monotonic() - began) / 60
            samples.append(held(server, passed, clients.asked))
            print(samples[-1], flush=True)
    return samples, [*clients.found, *grown(samples)]


def grown(samples: list[Held]) -> list[str]:
    """What there is more of at the end than after the warm-up."""
    warm = samples[int(len(samples) * WARM_UP) :]
    few = max(1, len(warm) // 4)
    before, after = (
        statistics.median(one.megabytes for one in part) for part in (warm[:few], warm[-few:])
    )
    print(f"memory {before:.1f} MB after the warm-up, {after:.1f} MB at the end", end=" ")
    print(f"({after / before - 1:+.2%})")
    found = list[str]()
    if after > before * (1 + MOST_GROWTH):
        found.append(f"memory grew from {before:.1f} to {after:.1f} MB")
    for name in ("threads", "descriptors"):
        first, last = getattr(warm[0], name), getattr(warm[-1], name)
        if last > first:
            found.append(f"{name} grew from {first} to {last}")
    return found


def main() -> int:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0, metavar="M")
    options = parser.parse_args()
    with served("--keep-traces", "5") as address:
        samples, found = soaked(address, options.minutes)
    print(f"{samples[-1].requests} requests in {samples[-1].minutes:.0f} minutes")
    print(f"{len(found)} findings", *found[:20], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
