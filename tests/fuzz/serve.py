"""Malformed requests against a real server: no answer of 500 and more, and none that does not come.

    python -m tests.fuzz.serve --cases 10000 --examples 200

After broken forms of sound requests come those that schemathesis makes of /openapi.json, whose
answers must be as they are described there. The server is ``skipstone serve`` in a process of its
own. Every case has a number, by which it is made again: ``--first NUMBER --cases 1 --examples 0``.
At the end a sound request must be answered, and nothing may be left in the engine.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import httpx2 as httpx

from tests.fuzz.mutate import broken_bytes, broken_json, json_bytes, odd_text

CHAT, COMPLETIONS, FILL = "/v1/chat/completions", "/v1/completions", "/v1/fill"
DIAGNOSE = "/traces/diagnose"
SOUND: dict[str, dict[str, object]] = {
    CHAT: {
        "model": "pebble",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Who is Newton, physics?"}]},
        ],
        "max_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "n": 2,
        "stop": ["."],
        "stream": False,
        "metadata": {"a": "b"},
        "logprobs": True,
        "top_logprobs": 2,
        "skipstone": {"unmask": "fixed", "block_length": 4},
    },
    COMPLETIONS: {
        "model": "pebble",
        "prompt": ["Newton", "Tom, Anna"],
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True, "canvas": True},
        "logprobs": 2,
    },
    FILL: {
        "model": "pebble",
        "text": ["Newton was ", {"mask": 4}, "."],
        "seed": 3,
        "skipstone": {"unmask": "threshold:value=0.8", "trace": "decisions"},
    },
    DIAGNOSE: {"a": "exact", "b": "trace-0"},
}
KINDS = (
    "application/json",
    "application/json; charset=utf-8",
    "text/plain",
    "",
    "multipart/x",
    "{}",
)
ODD_PATHS = (
    *(
        "/",
        "/v1/models/%00",
        "/v1/models/../x",
        "/metrics",
        "/v1",
        "/traces",
        "/traces/..%2f..%2fx",
    ),
    *("/traces/trace-0/report", "/traces/%00/report?against=%ff&lang=xx", "/openapi.json"),
)
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "unsupported_method", "form_conformance"),
)
"""Of schemathesis, and ours in ``described``: what is answered is what the description says."""
SECONDS = 20.0
"""After which a request hangs."""
EXAMINED_SECONDS = 60.0
"""The same of the requests that schemathesis makes: some are for the report of a real trace."""


@dataclass(frozen=True)
class Case:
    """One request."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


def case_of(number: int) -> Case:
    """The request of a number: a sound one, of which something is broken."""
    random = Random(f"serve:{number}")
    path = random.choice(tuple(SOUND))
    value = copy.deepcopy(SOUND[path])
    method, headers = "POST", {"content-type": KINDS[0]}
    body = json.dumps(value).encode()
    what = random.choice(("value", "value", "field", "field", "bytes", "bytes", "type", "path"))
    if what == "value":
        body = json_bytes(broken_json(value, random), random)
    elif what == "field":
        value[random.choice((*value, "tools", "logprobs", odd_text(random)))] = odd_text(random)
        body = json.dumps(value).encode()
    elif what == "bytes":
        body = broken_bytes(body, random)
    elif what == "type":
        headers["content-type"] = random.choice(KINDS)
    else:
        method = random.choice(("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"))
        path = random.choice((*SOUND, *ODD_PATHS))
    return Case(method, path, body, headers)


@contextmanager
def served(*options: str) -> Iterator[str]:
    """The address of a server in a process of its own, with these options."""
    command = [sys.executable, "-m", "skipstone", "serve", "--port", "0", "--log", "off"]
    with subprocess.Popen(
        [*command, "--gen-length", "8", *options], stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout is not None
            yield run.stdout.readline().split()[-1].removesuffix("/v1")
        finally:
            run.terminate()


def judged(http: httpx.Client, case: Case) -> tuple[str, str]:
    """The class of its status, and what is wrong with that; nothing if nothing is."""
    try:
        answer = http.request(case.method, case.path, content=case.body, headers=case.headers)
    except httpx.TimeoutException:
        return "hang", "no answer"
    except httpx.HTTPError as error:
        return "broken", repr(error)
    status = f"{answer.status_code // 100}xx"
    if answer.status_code >= 500:
        return status, answer.text[:200]
    refused = answer.status_code >= 400 and case.method != "HEAD"
    if refused and not answer.text.startswith('{"error":{"message":'):
        return status, f"not in OpenAI's form: {answer.text[:100]}"
    if '"type":"server_error"' in answer.text:
        return status, f"an error of ours in a stream: {answer.text[-200:]}"
    return status, ""


def tried(address: str, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """How many requests ended how, and what was found."""
    ends, found = Counter[str](), list[str]()
    with httpx.Client(base_url=address, timeout=SECONDS) as http:
        for number in range(first, first + count):
            end, wrong = judged(http, case_of(number))
            ends[end] += 1
            if wrong:
                found.append(f"--first {number} --cases 1: {end}: {wrong}")
        sound = http.post(CHAT, json=SOUND[CHAT])
        if sound.status_code != 200:
            found.append(f"a sound request is refused at the end: {sound.text[:200]}")
        found += left(http)
    return ends, found


def described(address: str, examples: int, seconds: int) -> list[str]:
    """What schemathesis finds by the server's own description; its last lines, if it is anything.

    Args:
        address: of the server.
        examples: of each operation, beside those that cover each rule of the description.
        seconds: at most.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing", "--seed", "1"]
    command += ["--max-examples", str(examples), "--max-time", str(seconds), "--no-color"]
    command += ["--request-timeout", str(EXAMINED_SECONDS), "--continue-on-failure"]
    hooks = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.described"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=hooks)
    print("\n".join(line for line in run.stdout.splitlines() if " generated" in line))
    return [] if run.returncode == 0 else [f"schemathesis: {run.stdout[-4000:]}{run.stderr[-500:]}"]


def left(http: httpx.Client) -> list[str]:
    """What is still in the engine some time after the last answer."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        page = http.get("/metrics").text
        if "skipstone_running 0.0" in page and "skipstone_waiting 0.0" in page:
            return []
        time.sleep(0.05)
    return ["answers that nobody waits for are still in the engine"]


def main() -> int:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.serve", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, metavar="N")
    parser.add_argument("--examples", type=int, default=200, metavar="N", help="0: none")
    parser.add_argument("--seconds", type=int, default=1200, metavar="S", help="for them")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER")
    options = parser.parse_args()
    began = time.perf_counter()
    with served("--diagnosis-limit", "5s") as address:
        ends, found = tried(address, options.first, options.cases)
        if options.examples:
            found += described(address, options.examples, options.seconds)
            with httpx.Client(base_url=address, timeout=SECONDS) as http:
                found += left(http)
    seconds = time.perf_counter() - began
    print(f"{ends.total()} requests in {seconds:.0f} s: {dict(sorted(ends.items()))}")
    print(f"{len(found)} findings", *found[:40], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
