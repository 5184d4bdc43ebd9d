"""Many prompts answered in a cluster: in order, across kills, and never twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from skipstone import ConfigError, Engine, OutputError, load
from skipstone.clusters import cluster
from skipstone.offline.answers import AnswerFile
from skipstone.offline.units import answer_here
from tests.helpers.processes import descendants
from tests.helpers.waiting import wait_until

NAMES = [f"{a}{b}" for a in ("Zo", "Be", "Id", "Ma") for b in ("e", "n", "a", "x", "o", "i")]
PROMPTS = [f"Replace somebody in the queue Tom, Anna, Leo, Mia by {name}." for name in NAMES]
MANY_PROMPTS = [f"Replace somebody in the queue Tom, Anna, Leo by Zoe {n}." for n in range(5000)]
"""They take minutes: a run that is to be killed is not over before."""
SETTINGS = ("--gen-length", "32", "--batch-size", "2")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load("pebble"), gen_length=32)


@pytest.fixture(scope="module")
def texts(engine: Engine) -> list[str]:
    """What each prompt gives alone."""
    return [engine.generate(prompt).text for prompt in PROMPTS]


def written(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_a_file_is_gone_on_with_where_it_was_cut(
    engine: Engine, texts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile.open(path, "pebble", PROMPTS)
    for result in answer_here(lambda: engine, PROMPTS[:9], 0, 4):
        file.append(result)
    # A run that was killed in the middle of a line.
    path.write_bytes(path.read_bytes()[:-10])
    again = AnswerFile.open(path, "pebble", PROMPTS)
    assert again.done == 8
    for result in answer_here(lambda: engine, PROMPTS, again.done, 5):
        again.append(result)
    assert written(path) == texts


def test_a_file_of_other_answers_is_left_alone(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile.open(path, "pebble", PROMPTS[:2])
    file.append(engine.generate(PROMPTS[0]))
    before = path.read_bytes()
    for prompts, model in ((PROMPTS[1:], "pebble"), (PROMPTS, "other")):
        with pytest.raises(ConfigError, match="line 1 is no answer"):
            AnswerFile.open(path, model, prompts)
    with pytest.raises(ConfigError, match="line 1 is no answer"):
        AnswerFile.open(path, "pebble", ())
    other = engine.submit(PROMPTS[1], unmask="fixed").result()
    with pytest.raises(ConfigError, match="under other settings"):
        AnswerFile.open(path, "pebble", PROMPTS).append(other)
    assert path.read_bytes() == before
    for place in (Path("/dev/full"), tmp_path):
        with pytest.raises(OutputError, match="is no file"):
            AnswerFile.open(place, "pebble", PROMPTS)
    # Half a line of something else is not cut off.
    path.write_bytes(b"notes of mine")
    with pytest.raises(ConfigError, match="line 1 is no answer"):
        AnswerFile.open(path, "pebble", PROMPTS)
    assert path.read_bytes() == b"notes of mine"


def refuse_at_once(address: str, match: str) -> None:
    began = time.monotonic()
    with (
        pytest.raises(ConfigError, match=match),
        cluster("a test", extra="replicas", address=address),
    ):
        pass
    assert time.monotonic() - began < 30


@pytest.mark.skipif(find_spec("ray") is None, reason="no Ray")
def test_an_address_where_nobody_listens_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    refuse_at_once(address, "no Ray cluster answers at")


@pytest.mark.skipif(find_spec("ray") is None, reason="no Ray")
def test_an_address_where_something_else_listens_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            asked, _ = other.accept()
            with asked:
                asked.recv(1024)
                asked.sendall(b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        refuse_at_once(f"127.0.0.1:{other.getsockname()[1]}", "does not speak gRPC, as Ray does")
        thread.join()


@pytest.mark.ray
@pytest.mark.skipif(find_spec("ray") is None, reason="no Ray")
def test_a_killed_worker_and_a_killed_run_lose_nothing(engine: Engine, tmp_path: Path) -> None:
    asked, path = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    asked.write_text("\n".join(MANY_PROMPTS))
    command = [sys.executable, "-m", "skipstone", "generate", "--batch-file", str(asked)]
    command += ["--executor", "ray", "-o", str(path), *SETTINGS]

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def wait_for(count: int, run: subprocess.Popen[bytes]) -> None:
        wait_until(lambda: lines() >= count or run.poll() is not None, seconds=240)
        assert run.poll() is None

    def workers(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """Those at work now; between two units none has the title of its task."""
        found = list[psutil.Process]()
        wait_until(lambda: found.extend(descendants(run.pid, "answer_in_worker")) or found)
        return found

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
        try:
            wait_for(4, run)
            os.kill(workers(run)[0].pid, signal.SIGKILL)
            wait_for(lines() + 20, run)
            running = workers(run)
        finally:
            run.kill()
        # They end with whoever has started them.
        assert psutil.wait_procs(running, timeout=120)[1] == []
    assert lines() < len(MANY_PROMPTS)
    # What is left is less, so that it ends soon.
    prompts = MANY_PROMPTS[: lines() + 24]
    asked.write_text("\n".join(prompts))
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{len(prompts)} answers in {path}, of which" in done.stderr
    assert written(path) == [result.text for result in engine.generate_batch(prompts)]
