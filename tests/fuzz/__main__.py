"""``python -m tests.fuzz``: carry out cases, and print a table by kind and every fault.

What is done is kept in ``build/fuzz``: the same command goes on where it was stopped, as long as
neither the product nor the harness changes. Exits with 1 if there is any finding.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from tests.conftest import ROOT
from tests.fuzz import sound
from tests.fuzz.every import KINDS
from tests.fuzz.known import Known
from tests.fuzz.workers import Case, Found, carry_out, perform

STORE = ROOT / "build" / "fuzz"


def choose(count: int) -> list[Case]:
    """The first cases of each kind, by its weight; the kinds take turns."""
    cases = [
        ((number + 1) / kind.weight, Case(name, number))
        for name, kind in KINDS.items()
        for number in range(min(count, kind.most))
    ]
    return [case for _, case in sorted(cases, key=lambda pair: pair[0])][:count]


def table(found: Sequence[Found]) -> Iterator[str]:
    """A line for each kind."""
    by_kind = defaultdict[str, list[Found]](list)
    for one in found:
        by_kind[one.kind].append(one)
    yield f"{'kind':24} {'cases':>6} {'refused':>8} {'slowest':>8} {'most':>8}  findings"
    for name in [*KINDS, "all"]:
        ours = list(found) if name == "all" else by_kind[name]
        if not ours:
            continue
        kinds = Counter(one.finding for one in ours if one.finding)
        told = ", ".join(f"{count} {finding}" for finding, count in kinds.most_common()) or "none"
        refused = sum(one.refused for one in ours)
        slowest, most = (max(getattr(one, n) for one in ours) for n in ("seconds", "megabytes"))
        yield f"{name:24} {len(ours):6} {refused:8} {slowest:6.1f} s {most:5.0f} MB  {told}"


def faults(found: Sequence[Found], shown: int) -> Iterator[str]:
    """How to see each fault again, and what it said last."""
    broken = sorted((one for one in found if one.finding), key=lambda one: (one.kind, one.number))
    for one in broken[:shown]:
        last = one.detail.strip().splitlines()[-1:] or [""]
        again = f"python -m tests.fuzz --case '{one.kind}:{one.number}'"
        yield f"{one.finding}: {again}: {last[0][:200]}"
    if len(broken) > shown:
        yield f"and {len(broken) - shown} more; --show {len(broken)} lists them"


def main() -> int:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--kind", help="only this one")
    parser.add_argument("--case", metavar="KIND:NUMBER", help="run one in this process")
    parser.add_argument("--fresh", action="store_true", help="forget what was done")
    parser.add_argument("--show", type=int, default=40, metavar="N", help="faults to list")
    parser.add_argument("--store", type=Path, default=STORE, help="where results are kept")
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory(prefix="skipstone-fuzz-") as folder:
        inputs, scratch = Path(folder, "sound"), Path(folder, "scratch")
        inputs.mkdir()
        _apart(inputs)
        if options.case:
            kind, _, number = options.case.rpartition(":")
            outcome = perform(Case(kind, int(number)), inputs, scratch)
            print(outcome.finding or ("refused" if outcome.refused else "accepted"), outcome.detail)
            return 1 if outcome.finding else 0
        return _run(options, inputs, scratch)


def _apart(inputs: Path) -> None:
    """Make the sound inputs in another process: this one has to stay fit to be forked."""
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    builder = context.Process(target=sound.build, args=(inputs,))
    builder.start()
    builder.join()
    if builder.exitcode != 0:
        raise SystemExit("the sound inputs cannot be made")


def _run(options: argparse.Namespace, inputs: Path, scratch: Path) -> int:
    wanted = choose(options.cases)
    if options.kind:
        weight = KINDS[options.kind].weight
        wanted = [case for case in wanted if case.kind == options.kind] if weight else []
    known = Known(options.store / "found.jsonl", fresh=options.fresh)
    done = {(row["kind"], row["number"]) for row in known.rows}
    left = [case for case in wanted if (case.kind, case.number) not in done]
    if len(left) < len(wanted):
        print(f"{len(wanted) - len(left)} of {len(wanted)} cases are known already", flush=True)
    for count, one in enumerate(carry_out(left, options.jobs, inputs, scratch), start=1):
        known.add(asdict(one))
        if count % 1000 == 0:
            bad = sum(bool(row["finding"]) for row in known.rows)
            print(f"{count} of {len(left)} done, {bad} findings", flush=True)
    chosen = {(case.kind, case.number) for case in wanted}
    found = [Found(**row) for row in known.rows if (row["kind"], row["number"]) in chosen]
    print(*table(found), *faults(found, options.show), sep="\n")
    return 1 if any(one.finding for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
