"""Made-up runs in which every value follows from the forward, so that a reader can be checked.

Imports no torch: it is also the process that the tests kill, as
``python -m tests.helpers.synthetic_trace``.

Shape letters: G generation length, L canvas length, C candidates, J judged rows, S compared layers.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from skipstone.errors import TraceError
from skipstone.record import (
    Candidates,
    Event,
    Header,
    Judgements,
    Outcome,
    StepRecord,
    Tap,
    TensorKey,
    TraceWriter,
)
from skipstone.record.sketch import sketch_rows

PROMPT, GENERATED, BLOCK, LAYERS, WIDTH = 3, 16, 8, 4, 32
Tensors = dict[TensorKey, tuple[np.ndarray, np.ndarray]]


def header(sample: int = 0, batch: int = 1, *, gen_length: int = GENERATED) -> Header:
    """A header that uses every field."""
    return Header(
        model="synthetic",
        num_layers=LAYERS,
        width=WIDTH,
        vocab_size=64,
        mask_id=62,
        eos_id=63,
        dtype="bfloat16",
        device="cpu",
        settings={"cache": "dual", "skip": "cosine:skip_layer_k=3,skip_threshold=0.9"},
        prompt_ids=(5, 17, 3),
        gen_length=gen_length,
        versions={"skipstone": "0.1.0"},
        weights="00ff",
        batch=batch,
        sample=sample,
        environment={"threads": "1"},
        stated={"label": "made up"},
    )


def step(forward: int, sample: int = 0, *, gen_length: int = GENERATED) -> StepRecord:
    """The record of one forward; the third of every four was not judged."""
    rng = np.random.default_rng([forward, sample])
    start = PROMPT + BLOCK * (forward // 4 % (gen_length // BLOCK))
    rows = np.arange(start, start + BLOCK, dtype=np.int32)
    status = rng.choice(np.array([2, 3, 4], dtype=np.uint8), size=(2, gen_length))
    ids = rng.integers(64, size=(2, gen_length), dtype=np.int32)
    age = rng.integers(-1, forward + 1, size=(2, PROMPT + gen_length), dtype=np.int32)
    return StepRecord(
        forward=forward,
        block=forward // 4,
        step=forward % 4,
        recovery=forward % 7 == 6,
        refresh=forward % 4 == 0,
        block_start=start,
        block_stop=start + BLOCK,
        ids_before=ids[0],
        ids_after=ids[1],
        status_before=status[0],
        status_after=status[1],
        rows=rows,
        finished=rows[: BLOCK - forward % 3],
        entered_age=age[0],
        finished_age=age[1],
        candidates=_candidates(rng, rows[forward % 4 :]),
        judgements=None if forward % 4 == 2 else _judgements(rng, rows),
        skip_layer=3 if forward % 3 else 0,
        seconds=forward / 64,
        positions_from="engine" if sample == 0 else "replace_position",
    )


def _candidates(rng: np.random.Generator, position: np.ndarray) -> Candidates:
    count = position.size
    return Candidates(
        position=position,
        token=rng.integers(64, size=count, dtype=np.int32),
        confidence=rng.random(count),
        runner_up=rng.integers(64, size=count, dtype=np.int32),
        runner_up_confidence=rng.random(count) / 2,
        rank=rng.permutation(count).astype(np.int32),
        bound=np.where(rng.random(count) < 0.5, np.nan, 0.9),
        entropy=np.full(count, np.nan),
        drift=np.full(count, np.nan),
        age=rng.integers(3, size=count, dtype=np.int32),
        eligible=rng.random(count) < 0.8,
        committed=rng.random(count) < 0.3,
    )


def _judgements(rng: np.random.Generator, position: np.ndarray) -> Judgements:
    similarity = rng.random((position.size, 2))
    return Judgements(
        position=position,
        similarity=similarity,
        smallest=similarity.min(1),
        mean=similarity.mean(1),
        stable=rng.random(position.size) < 0.5,
        forced=rng.random(position.size) < 0.2,
        reference_position=position,
        reference_forward=rng.integers(-1, 5, size=position.size, dtype=np.int32),
    )


def tensors(forward: int, sample: int = 0) -> Tensors:
    """States in bfloat16, keys of all positions, logits and a sketch."""
    rng = np.random.default_rng([forward, sample, 1])
    rows = step(forward, sample).rows
    everywhere = np.arange(PROMPT + GENERATED, dtype=np.int32)
    state = rng.standard_normal((rows.size, WIDTH)).astype(ml_dtypes.bfloat16)
    keys = rng.standard_normal((everywhere.size, 4)).astype(np.float16)
    logits = rng.standard_normal((rows.size - 1, 8)).astype(np.float32)
    return {
        TensorKey(forward, Tap.STATE, 2): (rows[::-1], state[::-1]),
        TensorKey(forward, Tap.KEY, 2): (everywhere, keys),
        TensorKey(forward, Tap.LOGITS, LAYERS): (rows[1:], logits),
        TensorKey(forward, Tap.SKETCH, 2): (rows, sketch_rows(state)),
    }


def outcome(sample: int = 0) -> Outcome:
    """How the run ended."""
    return Outcome(
        text=f"answer {sample}",
        tokens=tuple(range(GENERATED)),
        masks_left=sample,
        num_forwards=8,
        skip_share=0.25,
        seconds=1.5,
    )


def event() -> Event:
    """An event that uses every field."""
    return Event(
        kind="misaligned_rows",
        message="row 0 is position 0 in a and 3 in b",
        source="generate.py:12",
        forward=1,
        layer=2,
        positions_a=(0, 1),
        positions_b=(3, 4),
        numbers={"share": 0.5},
        count=3,
    )


def write(path: Path, *, forwards: int = 8, samples: int = 1, level: str = "full") -> None:
    """A finished trace."""
    with TraceWriter(path) as writer:
        writer.begin([header(s, samples) for s in range(samples)], level)
        for forward in range(forwards):
            for sample in range(samples):
                taken = tensors(forward, sample) if level == "full" else {}
                writer.step(sample, step(forward, sample), taken)
        writer.event(0, event())
        writer.end([outcome(s) for s in range(samples)])


def _write_until_killed(path: Path, out: int, later: bool) -> None:
    """Say the number of each step once it is written, or once it is taken for later."""
    writer = TraceWriter(path)
    writer.begin([header()], "full")
    os.write(out, b"begun\n")
    for forward in range(100_000):
        if later:
            writer.later([(0, step(forward), {})])
        else:
            writer.step(0, step(forward), tensors(forward) if forward % 2 else {})
        os.write(out, f"{forward}\n".encode())


def _killed(path: Path, steps: int, seconds: float, *, later: bool) -> int:
    """Kill a writer soon after some step. Returns the last step that it spoke of."""
    read, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _write_until_killed(path, write_end, later)
    os.close(write_end)
    said = b""
    while said.count(b"\n") <= steps:
        more = os.read(read, 1 << 16)
        assert more, "the writer ended before it was killed"
        said += more
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 1 << 16):
        said += more
    os.close(read)
    return int(said.split()[-1]) if said.count(b"\n") > 1 else -1


def kill_writers(folder: Path, times: int, *, later: bool) -> Iterator[tuple[str, int]]:
    """Kill writers at random moments; forked from this process, so that none costs a start."""
    context = random.Random(0)
    for i in range(times):
        path = folder / f"{i}.trace"
        steps = context.randrange(200 if later else 40)
        yield path.name, _killed(path, steps, context.uniform(0, 0.002), later=later)


def fill_the_disk(path: Path, limit: int, *, later: bool) -> tuple[int, str]:
    """Write under a limit on the size of files. Returns the steps written, and the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    written = 0
    try:
        with TraceWriter(path) as writer:
            writer.begin([header()], "decisions")
            for forward in range(10_000):
                if later:
                    writer.later([(0, step(forward), {})])
                else:
                    writer.step(0, step(forward), {})
                written += 1
    except TraceError as error:
        return written, str(error)
    return written, ""


def main() -> None:
    """Do what the first argument says, and print what became of it as JSON."""
    what, folder, argument = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    assert "torch" not in sys.modules
    what, _, when = what.partition("-")
    if what == "kill":
        print(json.dumps(dict(kill_writers(folder, argument, later=when == "later"))))
    elif what == "forget":
        forgotten = TraceWriter(folder)
        forgotten.begin([header()], "decisions")
        forgotten.later((0, step(forward), {}) for forward in range(argument))
    else:
        print(json.dumps(fill_the_disk(folder, argument, later=when == "later")))


if __name__ == "__main__":
    main()
