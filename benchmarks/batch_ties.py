"""Does a prompt of a batch give the tokens that it has alone? What differs, beside the noise.

    python -m benchmarks.batch_ties --device cuda --dtype bfloat16 -o out.json

Held-out prompts are decoded alone and in batches whose places are taken as they become free. In
another batch other kernels sum in another order, so a near-tie may turn. Each prompt that decides
differently is put beside its noise floor: how far its decision was from turning, in units of what
the order of sums does to a confidence.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from skipstone import CosineSkip, Engine, Fixed, Model, Settings, Threshold, load
from skipstone.cli.prompts import read_questions
from skipstone.diff import compare
from skipstone.diff.margins import closeness
from skipstone.outputs import write_whole
from skipstone.record import RunRecord, StepRecord
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import noise_floor

SETTINGS = (
    Settings(unmask=Fixed(), gen_length=96),
    Settings(unmask=Threshold(0.9), gen_length=96),
    Settings(unmask=Fixed(), gen_length=96, skip=CosineSkip(skip_threshold=0.999)),
)


@dataclass(frozen=True)
class Tie:
    """A prompt that decided differently in a batch."""

    prompt: int
    kind: str
    block: int
    step: int
    decisive: float | None
    """Noise units that its decision was away from turning; 1 or less is a tie."""
    explained: bool
    same_tokens: bool


@dataclass(frozen=True)
class Found:
    """All prompts under one setting."""

    spec: str
    prompts: int
    same_decisions: int
    same_tokens: int
    ties: int
    """Prompts that decide differently where noise explains it."""
    unexplained: int
    differing: list[Tie]


def step_of(record: RunRecord, forward: int) -> StepRecord | None:
    """A step by its forward."""
    return next((step for step in record.steps if step.forward == forward), None)


def tie(model: Model, prompt: int, alone: Recorder, among: RunRecord) -> Tie | None:
    """What a prompt decides differently among others, if anything."""
    record = alone.records[0]
    compared = compare(record, among)
    first = compared.first
    if first is None:
        return None
    floor = noise_floor(alone.trace, model=model, around=max(0, first.forward_a))
    a, b = step_of(record, first.forward_a), step_of(among, first.forward_b)
    near = closeness(first, a, b, floor)
    return Tie(
        prompt=prompt,
        kind=first.kind,
        block=first.block,
        step=first.step,
        decisive=near.decisive,
        explained=near.within_noise,
        same_tokens=not compared.differing_positions,
    )


def found(model: Model, settings: Settings, prompts: list[str], batch_size: int) -> Found:
    """Decode alone and in batches."""
    engine, together = Engine(model, settings), Recorder()
    engine.generate_batch(prompts, batch_size=batch_size, observer=together)
    ties = list[Tie]()
    for i, prompt in enumerate(prompts):
        alone = Recorder()
        engine.generate(prompt, observer=alone)
        one = tie(model, i, alone, together.records[i])
        ties += [] if one is None else [one]
    texts = settings.as_text()
    return Found(
        spec=" ".join(f"{name}={texts[name]}" for name in ("cache", "unmask", "skip")),
        prompts=len(prompts),
        same_decisions=len(prompts) - len(ties),
        same_tokens=len(prompts) - sum(not one.same_tokens for one in ties),
        ties=sum(one.explained for one in ties),
        unexplained=sum(not one.explained for one in ties),
        differing=ties,
    )


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option("--limit", default=24, show_default=True, help="Held-out prompts.")
@click.option("--batch-size", default=8, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(device: str, dtype: str, limit: int, batch_size: int, out: Path | None) -> None:
    """Count the prompts that decide differently in a batch, and say what noise explains."""
    model = load("pebble", device=device, dtype=dtype)
    questions = read_questions(Path("pebble"), "--prompts")[:limit]
    prompts = [question.prompt for question in questions]
    results = [found(model, settings, prompts, batch_size) for settings in SETTINGS]
    for one in results:
        print(
            f"{one.spec}: {one.same_decisions} of {one.prompts} decide alike, {one.same_tokens} "
            f"have the same tokens; {one.ties} ties within the noise, {one.unexplained} beyond it"
        )
    if out is not None:
        network = model.network
        place = network.device
        facts = {
            "command": f"python -m benchmarks.batch_ties --dtype {dtype} --limit {limit}",
            "machine": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "dtype": dtype,
            "batch_size": batch_size,
        }
        table = {"settings": [asdict(one) for one in results]}
        write_whole(out, json.dumps({**facts, **table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
