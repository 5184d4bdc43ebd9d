"""What the token skip costs and saves on the embedded model, from a sweep that is done.

    python -m benchmarks.pebble_sweep FOLDER -o out.json

docs/sweeps.md has the command of the sweep. It holds everything against the exact run, which has no
cache; here each skip is held against the run that differs from it in the skip alone.
"""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import pyarrow.parquet as pq
import torch

from skipstone.diff.agreement import interval
from skipstone.outputs import write_whole

Row = dict[str, object]


@dataclass(frozen=True)
class Effect:
    """One skip against no skip, everything else the same."""

    setting: str
    prompts: int
    differing: int
    """Prompts whose answer is another one."""
    differing_95: tuple[float, float]
    right: int
    right_without: int
    skip_share: float
    flops: float
    """Of all operations, as a share of those without skip."""
    seconds: float
    """Median time of a prompt, as a share of the time without skip."""
    seconds_quartiles: tuple[float, float]


def effect(found: list[Row], without: list[Row]) -> Effect:
    """Pair the rows of two settings by prompt."""
    pairs = list(zip(found, without, strict=True))
    differing = sum(a["text"] != b["text"] for a, b in pairs)
    ratios = [float(str(a["seconds"])) / float(str(b["seconds"])) for a, b in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    total = [sum(float(str(row["flops"])) for row in rows) for rows in (found, without)]
    return Effect(
        setting=str(found[0]["setting"]),
        prompts=len(pairs),
        differing=differing,
        differing_95=interval(differing, len(pairs), 0.95),
        right=sum(row["right"] is True for row in found),
        right_without=sum(row["right"] is True for row in without),
        skip_share=statistics.fmean(float(str(row["skip_share"])) for row in found),
        flops=total[0] / total[1],
        seconds=middle,
        seconds_quartiles=(low, high),
    )


def effects(rows: list[Row]) -> list[Effect]:
    """Every setting with a skip, in the order of the grid."""
    by_name = dict[str, list[Row]]()
    for row in rows:
        by_name.setdefault(str(row["setting"]), []).append(row)
    without = {name.split()[-1]: r for name, r in by_name.items() if name.startswith("skip=none")}
    skips = {name: r for name, r in by_name.items() if name.startswith("skip_threshold")}
    return [effect(found, without[name.split()[-1]]) for name, found in skips.items()]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(folder: Path, out: Path | None) -> None:
    """Print, and write, what the skip does in a finished sweep."""
    found = effects(pq.read_table(folder / "results.parquet").to_pylist())
    for e in found:
        print(
            f"{e.setting:58} differ {e.differing:2}/{e.prompts}  right {e.right} "
            f"({e.right_without})  skipped {e.skip_share:4.0%}  FLOPs {e.flops:4.0%}  "
            f"time {e.seconds:4.0%} ({e.seconds_quartiles[0]:.0%} to {e.seconds_quartiles[1]:.0%})"
        )
    if out is not None:
        facts = {
            "command": "python -m benchmarks.pebble_sweep FOLDER",
            "machine": f"{platform.processor() or platform.machine()}, one core, float32",
            "torch": torch.__version__,
            "sweep": json.loads((folder / "summary.json").read_text(encoding="utf-8")),
            "skip": [asdict(e) for e in found],
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
