"""``python -m tests.kill``: kill every command that writes, and check what is left of it.

What is done is kept in ``build/kill``: the same command goes on where it was stopped, as long as
neither the product nor the harness changes. Exits with 1 if the law was broken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from skipstone.outputs import is_part
from skipstone.testing.checkpoint import write_checkpoint
from tests.conftest import ROOT
from tests.fuzz import sound as fuzz_sound
from tests.fuzz.known import Known
from tests.kill.process import Ended, Moment, cold, warm
from tests.kill.writers import WRITERS, Broken, Writer, demand

STORE = ROOT / "build" / "kill"
_COLD = 0.05
_ATTEMPTS = 8


@dataclass
class Killed:
    """One kill, and what came of it."""

    number: int
    writer: str
    cold: bool
    landed: bool = False
    """Whether the process was still there to be killed."""
    told: int = 0
    """Steps or prompts that were finished by then."""
    left: bool = False
    """Whether something was being written."""
    broken: str = ""
    """How the law was broken; empty if it holds."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Ground:
    """Where kills happen: sound inputs, and what an undisturbed run makes of them."""

    folder: Path
    runs: dict[tuple[str, bool], Ended] = field(default_factory=dict)
    """Undisturbed ones, by command and whether it started cold."""

    @property
    def sound(self) -> Path:
        """The inputs."""
        return self.folder / "sound"

    def undisturbed(self, writer: Writer) -> Path:
        """What the command leaves that nobody kills."""
        return self.folder / "undisturbed" / writer.name

    def build(self) -> None:
        """Make the inputs; in a process of its own, so that this one stays fit to be forked."""
        self.sound.mkdir(parents=True)
        made = warm(partial(_inputs, self.sound), self.sound)
        if made.code != 0:
            raise RuntimeError((self.folder / "sound.err").read_text())

    def measure_for(self, numbers: Sequence[int]) -> None:
        """Run what these kills are for undisturbed, before there are several workers."""
        plans = [plan(number) for number in numbers]
        for name, start_cold in sorted({*plans, *((name, False) for name, _ in plans)}):
            self._measure(name, start_cold=start_cold)

    def _measure(self, name: str, *, start_cold: bool) -> None:
        """Run a command undisturbed; what a warm one leaves is what every other one has to."""
        writer = WRITERS[name]
        here = self.folder / "cold" / name if start_cold else self.undisturbed(writer)
        here.mkdir(parents=True)
        writer.prepare(self.sound, here)
        ended = _run(writer, self.sound, here, start_cold=start_cold)
        demand(ended.code in writer.codes, f"undisturbed: {_errors(here)}")
        self.runs[name, start_cold] = ended


def _inputs(sound: Path, tell: object) -> int:
    fuzz_sound.build(sound)
    write_checkpoint(sound / "long", config={"max_sequence_length": 512})
    (sound / "many.txt").write_text("".join(f"prompt {i}\n" for i in range(12)))
    from tests.helpers import synthetic_trace

    synthetic_trace.write(sound / "long.trace", forwards=200, samples=2, level="decisions")
    return 0


def _run(
    writer: Writer, sound: Path, here: Path, *, start_cold: bool, moment: Moment | None = None
) -> Ended:
    if start_cold:
        return cold(writer.arguments(sound), here, moment)
    act = writer.act
    if act is None:
        from skipstone.cli.main import run

        return warm(lambda tell: run(writer.arguments(sound)), here, moment)
    return warm(lambda tell: act(sound, tell), here, moment)


def _errors(here: Path) -> str:
    return (here.parent / f"{here.name}.err").read_text()[-1500:]


def plan(number: int) -> tuple[str, bool]:
    """Which command this kill is for, and whether it starts cold."""
    random = Random(number)
    (name,) = random.choices(list(WRITERS), [writer.weight for writer in WRITERS.values()])
    return name, random.random() < _COLD


def kill(number: int, ground: Ground) -> Killed:
    """Carry out one kill: number says which command, and when."""
    began, random = time.monotonic(), Random(f"moment {number}")
    name, start_cold = plan(number)
    writer, killed = WRITERS[name], Killed(number, name, start_cold)
    here = ground.folder / f"{os.getpid()}" / "here"
    try:
        ended = _killed(writer, ground, here, killed, random)
        killed.landed, killed.told = ended.killed, len(ended.told)
        if ended.killed:
            killed.left = any(is_part(path) for path in here.rglob("*"))
            _check(writer.law, here, ground.undisturbed(writer), ended.told)
            _again(writer, ground, here)
    except Broken as broken:
        killed.broken = str(broken)
    finally:
        shutil.rmtree(here.parent, ignore_errors=True)
    killed.seconds = time.monotonic() - began
    return killed


def _killed(writer: Writer, ground: Ground, here: Path, killed: Killed, random: Random) -> Ended:
    """Kill the command at a random moment; earlier, if it was over by then."""
    whole = ground.runs[writer.name, killed.cold]
    # Most kills are meant for the time in which something is written, which may be short.
    aimed, share = random.random() < 0.7, random.random()
    for attempt in range(_ATTEMPTS):
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir(parents=True)
        writer.prepare(ground.sound, here)
        seconds = whole.seconds * share * 0.6**attempt
        moment = Moment(seconds)
        if aimed and whole.told:
            moment = Moment(random.random() * 0.02, words=random.randrange(len(whole.told)))
        elif aimed:
            moment = Moment(seconds * share / 2, here)
        ended = _run(writer, ground.sound, here, start_cold=killed.cold, moment=moment)
        if ended.killed:
            return ended
        demand(ended.code in writer.codes, f"not killed yet, but: {_errors(here)}")
    return ended


def _check(law: Any, here: Path, *arguments: object) -> None:
    """Apply a law in a process of its own; what it says it says as an error."""

    def act(tell: object) -> int:
        law(here, *arguments)
        return 0

    if warm(act, here).code != 0:
        raise Broken(_errors(here))


def _again(writer: Writer, ground: Ground, here: Path) -> None:
    """The same command succeeds now, as if nothing had happened."""
    if writer.once and (here / writer.once).exists():
        (here / writer.once).rename(here.parent / "moved")
    ended = _run(writer, ground.sound, here, start_cold=False)
    demand(ended.code in writer.codes, f"again: exit code {ended.code}: {_errors(here)}")
    _check(writer.same, here, ground.undisturbed(writer))
    parts = [path.name for path in here.rglob("*") if is_part(path)]
    demand(not parts, f"a rerun leaves {parts}")


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each command."""
    by_writer = defaultdict[str, list[Mapping[str, Any]]](list)
    for row in rows:
        by_writer[row["writer"]].append(row)
    yield f"{'command':24} {'kills':>6} {'cold':>6} {'at work':>8} {'writing':>8} {'broken':>7}"
    for name in [*WRITERS, "all"]:
        ours = [row for row in (rows if name == "all" else by_writer[name]) if row["landed"]]
        at_work = sum(row["told"] > 0 or row["left"] for row in ours)
        yield (
            f"{name:24} {len(ours):6} {sum(row['cold'] for row in ours):6} {at_work:8} "
            f"{sum(row['left'] for row in ours):8} {sum(bool(row['broken']) for row in ours):7}"
        )


def main() -> int:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--of", action="append", choices=WRITERS, help="only those of a command")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one kill, by its number")
    parser.add_argument("--fresh", action="store_true", help="forget what was done")
    parser.add_argument("--store", type=Path, default=STORE, help="where results are kept")
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="skipstone-kill-") as folder:
        ground = Ground(Path(folder))
        ground.build()
        if options.only is not None:
            ground.measure_for([options.only])
            killed = kill(options.only, ground)
            print(killed)
            return 1 if killed.broken else 0
        known = Known(options.store / "killed.jsonl", fresh=options.fresh)
        done = {row["number"] for row in known.rows}
        wanted = options.of or WRITERS
        left = [n for n in range(options.kills) if n not in done and plan(n)[0] in wanted]
        ground.measure_for(left)
        _carry_out(left, options.jobs, ground, known)
    rows = [row for row in known.rows if row["number"] < options.kills]
    print(*table(rows), sep="\n")
    for row in rows:
        if row["broken"]:
            again = f"python -m tests.kill --only {row['number']}"
            print(f"broken: {again}: {row['writer']}: {row['broken'].strip().splitlines()[-1]}")
    print(f"{len(left)} kills in {time.monotonic() - began:.0f} s")
    return 1 if any(row["broken"] for row in rows) else 0


def _carry_out(numbers: Sequence[int], jobs: int, ground: Ground, known: Known) -> None:
    """Kill on several workers. They are forked from here, where everything is imported."""
    with get_context("fork").Pool(jobs) as pool:
        for count, killed in enumerate(pool.imap_unordered(partial(kill, ground=ground), numbers)):
            known.add(asdict(killed))
            if (count + 1) % 100 == 0:
                broken = sum(bool(row["broken"]) for row in known.rows)
                print(f"{count + 1} of {len(numbers)} done, {broken} broken", flush=True)


if __name__ == "__main__":
    sys.exit(main())
