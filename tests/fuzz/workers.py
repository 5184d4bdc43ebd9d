"""Worker processes, and the watch over them: what hangs or grows is killed, and told.

A worker is forked when torch and the sound inputs are there, and takes cases one after the other.
It is measured from outside, since a process that hangs cannot say so.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Outcome, Scene
from tests.fuzz.every import KINDS

SECONDS = 5.0
"""Of the processor, for one case. Other work on the machine does not count ..."""
WAITING = 40.0
"""... but one that waits for something that never comes uses no processor."""
GROWTH = 512 * 2**20
"""Bytes, beyond what the worker had before the case."""
_CASES_OF_A_WORKER = 400
_LOOK = 0.02
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Case:
    """One case: kind and number say everything about it."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


@dataclass(frozen=True)
class Found:
    """What came of a case, and what it took."""

    kind: str
    number: int
    refused: bool
    finding: str
    detail: str
    seconds: float
    megabytes: float


def perform(case: Case, sound: Path, scratch: Path) -> Outcome:
    """Carry out one case in this process."""
    here = scratch / f"{os.getpid()}"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    try:
        os.chdir(here)
        return KINDS[case.kind].act(Scene(Random(str(case)), case.number, here, sound))
    finally:
        shutil.rmtree(here, ignore_errors=True)


def carry_out(cases: Sequence[Case], jobs: int, sound: Path, scratch: Path) -> Iterator[Found]:
    """Carry out cases on several workers, in no order.

    Args:
        cases: what to do.
        jobs: workers at once.
        sound: the sound inputs.
        scratch: a folder for what cases write.

    Yields:
        What came of each, as soon as it is known.
    """
    left = list(reversed(cases))
    workers = [_Worker(sound, scratch) for _ in range(min(jobs, len(left)))]
    try:
        while left or any(worker.case for worker in workers):
            for worker in workers:
                if worker.case is None and left:
                    worker.give(left.pop())
            wait([worker.pipe for worker in workers if worker.case], timeout=_LOOK)
            for i, worker in enumerate(workers):
                found = worker.look()
                if found is not None:
                    yield found
                if worker.dead or (worker.spent and worker.case is None):
                    worker.end()
                    workers[i] = _Worker(sound, scratch)
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """One process, the case that it is at, and what it took when it began."""

    def __init__(self, sound: Path, scratch: Path) -> None:
        # macOS cannot fork what has used its frameworks; it pays for a start instead.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, sound, scratch), daemon=True)
        self._process.start()
        theirs.close()
        self._scratch = scratch / f"{self._process.pid}"
        self.case: Case | None = None
        self.dead = False
        self._done = 0
        self._began = self._seconds = 0.0
        self._before = self._most = 0

    @property
    def spent(self) -> bool:
        """Whether it has done enough: what many cases leave behind must not add up."""
        return self._done >= _CASES_OF_A_WORKER

    def give(self, case: Case) -> None:
        """Let it begin a case."""
        self.case, self._began = case, time.monotonic()
        self._seconds, self._before = _use(self._process.pid)
        self._most = self._before
        self._done += 1
        self.pipe.send(case)

    def look(self) -> Found | None:
        """What came of its case, if it is over; kill what goes beyond the bars."""
        if self.case is None:
            return None
        if self.pipe.poll():
            return self._over()
        seconds, memory = _use(self._process.pid)
        self._most = max(self._most, memory)
        waited = time.monotonic() - self._began
        if self._most - self._before > GROWTH:
            return self._kill("memory", f"more than {(self._most - self._before) >> 20} MB")
        if seconds - self._seconds > SECONDS or waited > WAITING:
            spent = seconds - self._seconds
            return self._kill("hang", f"{spent:.1f} s of the processor, {waited:.1f} s in all")
        return None

    def end(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.join()
        self.pipe.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _over(self) -> Found:
        try:
            refused, finding, detail, grown = self.pipe.recv()
        except EOFError:
            self._process.join()
            return self._kill("died", f"exit code {self._process.exitcode}")
        if grown > GROWTH and not finding:
            finding, detail = "memory", f"{grown >> 20} MB"
        return self._found(Outcome(refused, finding, detail), grown)

    def _kill(self, finding: str, detail: str) -> Found:
        found = self._found(Outcome(refused=False, finding=finding, detail=detail), 0)
        self.dead = True
        return found

    def _found(self, outcome: Outcome, grown: int) -> Found:
        case, self.case = self.case, None
        assert case is not None
        grown = max(grown, self._most - self._before)
        seconds = time.monotonic() - self._began
        return Found(**asdict(case), **asdict(outcome), seconds=seconds, megabytes=grown / 2**20)


def _work(pipe: Connection, sound: Path, scratch: Path) -> None:
    """What a worker does until it is killed."""
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    while True:
        case: Case = pipe.recv()
        before = _peak(begin=True)
        outcome = perform(case, sound, scratch)
        pipe.send((outcome.refused, outcome.finding, outcome.detail, _peak() - before))


def _peak(*, begin: bool = False) -> int:
    """The most memory of this process, in bytes; since ``begin``, where the system can say."""
    try:
        if begin:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _use(pid: int | None) -> tuple[float, int]:
    """Processor seconds and bytes of a process and its children, as far as the system says."""
    seconds, memory = 0.0, 0
    for member in (pid, *_children(pid)):
        with suppress(OSError, IndexError, ValueError):
            fields: list[Any] = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:15])) / _TICK
            memory += int(fields[21]) * _PAGE
    return seconds, memory


def _children(pid: int | None) -> list[int]:
    try:
        return [int(i) for i in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
