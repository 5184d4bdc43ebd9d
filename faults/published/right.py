"""Published loops as they are: none may be alarmed, and each must be cut as it really goes.

    SKIPSTONE_PUBLISHED=FOLDER python -m faults.published.right --table scores.md

FOLDER has a checkout of each repository, by its name: Fast-dLLM, LLaDA, dllm, ES-dLLM, dLLM-cache,
Open-dLLM, dKV-Cache, SDAR, dInfer; what is not there is left out. ``transformers`` must be
installed. Every configuration runs three times: alone, where its own variables say how it goes;
recorded; and recorded and sanitized. Tokens must be the same each time.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from faults.published import checkouts, cuts
from skipstone import attach, diagnose
from skipstone.record import Event, MemoryTrace

REMARKS = frozenset(
    {
        "blocks_inferred",
        "end_not_seen",
        "given",
        "guidance",
        "host_reads",
        "host_reads_in_forward",
        "low_precision_similarity",
        "skip_cannot_pay",
    }
)
"""Events that are true of right code, too: what could be faster, or what was assumed."""


@dataclass(frozen=True)
class Job:
    """A loop that is ready to run."""

    model: nn.Module
    run: Callable[[], Tensor]
    """Gives the last canvas [B, L]."""
    function: str
    """Name of the function whose variables say where the loop is."""
    read: cuts.Reader
    mask_id: int
    eos_id: int


@dataclass(frozen=True)
class Right:
    """A configuration of a published loop."""

    repository: str
    name: str
    job: Callable[[], Job]


@dataclass
class Score:
    """What came of a configuration."""

    right: Right
    alarms: list[str] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)
    tokens: str = ""
    same: str = ""
    """What a diagnosis of the run against itself says, if not that they are the same."""
    broke: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.alarms or self.cuts or self.tokens or self.same or self.broke)


def score(right: Right) -> Score:
    """Run one configuration."""
    found, began = Score(right), time.perf_counter()
    try:
        _try(right.job(), found)
    except Exception:
        found.broke = traceback.format_exc(limit=-2).strip().replace("\n", " / ")
    found.seconds = time.perf_counter() - began
    return found


def _try(job: Job, found: Score) -> None:
    moments, last = cuts.truth(job.model, _seeded(job), job.function, job.read)
    plain = _recorded(job, last, found, sanitize=False)
    watched = _recorded(job, last, found, sanitize=True)
    for trace in (plain, watched):
        said = cuts.differences(trace.records, moments, cuts.host(last))
        found.cuts += [one for one in said if one not in found.cuts]
    diagnosis = diagnose(plain, watched, time_limit=20)
    found.same = "" if diagnosis.verdict == "same" else f"{diagnosis.verdict}: {diagnosis}"


def _seeded(job: Job) -> Callable[[], Tensor]:
    def run() -> Tensor:
        torch.manual_seed(7)
        with redirect_stdout(StringIO()):
            return job.run()

    return run


def _recorded(job: Job, last: Tensor, found: Score, *, sanitize: bool) -> MemoryTrace:
    with attach(job.model, mask_id=job.mask_id, eos_id=job.eos_id, sanitize=sanitize) as recorder:
        ids = _seeded(job)()
    if not torch.equal(ids, last):
        found.tokens = "sanitized" if sanitize else "recorded"
    if len(recorder.traces) != 1:
        found.cuts.append(f"{len(recorder.traces)} runs were recorded")
    events = {(e.kind, e.source): e for record in recorder.records for e in record.events}
    found.alarms += [_alarm(event) for event in events.values() if event.kind not in REMARKS]
    return recorder.trace


def _alarm(event: Event) -> str:
    return f"{event.kind} at {event.source} (forward {event.forward}): {event.message}"


def all_of(repositories: Sequence[str]) -> Iterator[Right]:
    """Every configuration of the checkouts that are here."""
    from faults.published import loops

    for repository, configurations in loops.ALL:
        if checkouts.present(repository) and (not repositories or repository in repositories):
            yield from configurations()


def lines(scores: Sequence[Score]) -> Iterator[str]:
    """A table, and what is wrong below it."""
    alarmed = sum(bool(s.alarms) for s in scores)
    cut = sum(not s.cuts and not s.broke for s in scores)
    yield f"false alarms {alarmed} of {len(scores)}, cuts right {cut} of {len(scores)}, "
    yield f"in all right {sum(s.good for s in scores)} of {len(scores)}"
    names = dict.fromkeys(s.right.repository for s in scores)
    yield "checkouts: " + ", ".join(f"{n} {checkouts.commit(n)}".strip() for n in names)
    yield ""
    yield "| configuration | alarm | cut | tokens | same | seconds |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for s in scores:
        marks = [s.alarms, s.cuts or s.broke, s.tokens, s.same]
        shown = " | ".join("WRONG" if mark else "right" for mark in marks)
        yield f"| {s.right.repository}: {s.right.name} | {shown} | {s.seconds:.1f} |"
    for s in scores:
        said = [*dict.fromkeys(s.alarms), *s.cuts, s.broke, s.same]
        if s.tokens:
            said.append(f"other tokens when {s.tokens}")
        if any(said):
            yield f"\n{s.right.repository}: {s.right.name}"
            yield from (f"- {one}" for one in said if one)


def main() -> None:
    """Run all, or those whose name has some text in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only configurations with this text in their name")
    parser.add_argument("--repository", action="append", default=[])
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    chosen = [
        right
        for right in all_of(asked.repository)
        if not asked.names or any(n in f"{right.repository}: {right.name}" for n in asked.names)
    ]
    if not chosen:
        parser.error(f"no checkout in {str(checkouts.FOLDER)!r} has such a configuration")
    scores = list[Score]()
    for right in chosen:
        scores.append(score(right))
        print("." if scores[-1].good else "x", end="", flush=True)
    text = "\n".join(lines(scores))
    print("\n" + text)
    if asked.table:
        asked.table.write_text(text + "\n")


if __name__ == "__main__":
    main()
