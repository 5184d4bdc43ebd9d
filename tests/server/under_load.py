"""Answers under load are the answers alone: many requests of mixed settings, over HTTP, exact.

    python -m tests.server.under_load --requests 1000

Each request is asked alone first, of a server that has nothing else to do, then all in a random
order, many at once. On a CPU in float32, the text, why it ended and what was used are the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random

import httpx2 as httpx

from tests.fuzz.serve import CHAT, COMPLETIONS, served

SECONDS = 600.0
AT_ONCE = 24
Body = dict[str, object]
Answer = tuple[object, ...]

WORDS = ("Newton", "physics", "Tom", "Anna", "Leo", "Mia", "queue", "who", "is", "the", "capital")
CACHES = ("dual", "none", "prefix")
UNMASKS = ("threshold:value=0.9", "threshold:value=0.6", "fixed", "entropy")


def body_of(random: Random) -> tuple[str, Body]:
    """An endpoint and what is asked there."""
    text = " ".join(random.choice(WORDS) for _ in range(random.randint(1, 40)))
    settings: Body = {"unmask": random.choice(UNMASKS), "cache": random.choice(CACHES)}
    settings["block_length"] = random.choice((4, 8, 16, 32))
    settings["eos_stop"] = random.random() < 0.7
    body: Body = {"model": "pebble", "max_tokens": random.randint(1, 48), "skipstone": settings}
    if random.random() < 0.1:
        settings["skip"] = "cosine"
    if random.random() < 0.4:
        body |= {"temperature": 0.7, "top_p": 0.9, "seed": random.randrange(1000)}
    if random.random() < 0.2:
        body["stop"] = [" the"]
    if random.random() < 0.2:
        body["n"] = 2
    body["stream"] = random.random() < 0.5
    if random.random() < 0.5:
        return CHAT, {**body, "messages": [{"role": "user", "content": text}]}
    return COMPLETIONS, {**body, "prompt": text}


def ask(http: httpx.Client, path: str, body: Body) -> Answer:
    """Text and end of each choice, and of a whole answer what was used."""
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        found = answer.json()
        ends = [(_text(one), one["finish_reason"]) for one in found["choices"]]
        return (*ends, found["usage"]["completion_tokens"])
    texts, ends = dict[int, str](), dict[int, object]()
    *events, done, _ = answer.text.split("\n\n")
    assert done == "data: [DONE]", answer.text[-300:]
    for event in events:
        for one in json.loads(event.removeprefix("data: "))["choices"]:
            texts[one["index"]] = texts.get(one["index"], "") + _text(one)
            ends[one["index"]] = one["finish_reason"] or ends.get(one["index"])
    return tuple((texts[index], ends[index]) for index in sorted(texts))


def _again(http: httpx.Client, bodies: list[tuple[str, Body]], which: int) -> Answer:
    return ask(http, *bodies[which])


def _text(choice: Body) -> str:
    said = choice.get("message") or choice.get("delta")
    found = said.get("content") if isinstance(said, dict) else choice.get("text")
    return str(found or "")


def differ(address: str, requests: int, distinct: int, seed: int = 0) -> list[str]:
    """What was answered otherwise among others than alone.

    Args:
        address: of a server, without ``/v1``.
        requests: that are asked at once, as many as may be.
        distinct: how many of them are different ones.
        seed: of what is asked.
    """
    random = Random(f"load:{seed}")
    bodies = [body_of(random) for _ in range(distinct)]
    order = [random.randrange(distinct) for _ in range(requests)]
    with httpx.Client(base_url=address, timeout=SECONDS) as http:
        alone = [ask(http, *body) for body in bodies]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            under = list(pool.map(partial(_again, http, bodies), order))
    return [
        f"{bodies[which]}: {given} under load, {alone[which]} alone"
        for which, given in zip(order, under, strict=True)
        if given != alone[which]
    ]


def main() -> int:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.under_load", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, metavar="N")
    parser.add_argument("--distinct", type=int, default=250, metavar="N")
    options, began = parser.parse_args(), time.perf_counter()
    with served() as address:
        found = differ(address, options.requests, options.distinct)
    seconds = time.perf_counter() - began
    print(
        f"{options.requests} requests, {AT_ONCE} at once, in {seconds:.0f} s: {len(found)} differ"
    )
    print(*found[:10], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
