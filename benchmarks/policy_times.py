"""What does each policy of the leaderboard cost at LLaDA-8B's shape, at its own rate of commits?

    python -m benchmarks.policy_times record -o schedules.json                  # on a CPU
    python -m benchmarks.policy_times time schedules.json -o out.json           # on a GPU
    python -m benchmarks.policy_times decide -o out.json                        # on a GPU

``record`` decodes prompts with the embedded model under every setting of the leaderboard, and keeps
what each policy answered in each step. ``time`` decodes with random weights of LLaDA-8B's shape by
the real engine and the real policies, whose own work is done and paid for; then they answer as
recorded. So quality is that of one model, and the cost that of another at the same rates.
``decide`` times the choice alone: scores of a block, and what the policy makes of them.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.replayed.deciding import Choice, beyond, chosen
from benchmarks.replayed.record import (
    answered_with_text,
    by_family,
    listened,
    settings_of,
)
from benchmarks.replayed.schedule import Recording, Schedule
from benchmarks.replayed.timing import Rehearsal, Shape, Timed, in_rounds
from skipstone import Model, Settings, load, policies
from skipstone.bench.random_model import random_model
from skipstone.cli.prompts import read_questions
from skipstone.errors import ConfigError, SkipstoneError, nearest
from skipstone.models.shapes import SHAPES
from skipstone.outputs import check_output, write_whole
from skipstone.quoting import shown
from skipstone.sweep.grid import Setting
from skipstone.testing.tiny import tiny_model

BLOCK = 32
_PLAIN = "cache=dual"


@click.group()
def main() -> None:
    """Time the policies of the leaderboard at the shape of a large model."""


@main.command()
@click.option("--model", "name", default="pebble", show_default=True)
@click.option("--prompts", "path", default="pebble", type=click.Path(path_type=Path))
@click.option("--limit", default=16, show_default=True, help="Prompts, one of each family in turn.")
@click.option("--gen-length", default=96, show_default=True)
@click.option("--knobs", is_flag=True, help="Also other values than the published ones.")
@click.option("--jobs", default=1, show_default=True, help="Processes of one thread each.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def record(
    name: str, path: Path, limit: int, gen_length: int, jobs: int, out: Path, *, knobs: bool
) -> None:
    """Write down what each policy answers in each step."""
    check_output(out)
    model = load(name, device="cpu", dtype=torch.float32)
    questions = read_questions(path, "--prompts")
    known = by_family(questions, model, least=BLOCK // 4, most=gen_length - 1)
    base = Settings(gen_length=gen_length, block_length=BLOCK)
    settings = settings_of(model, base, knobs=knobs)
    texts = (question.prompt for question in known)
    prompts = answered_with_text(model, settings[0].settings, texts, limit)
    schedules = dict[str, Schedule]()
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        listening = partial(_listened, name, prompts)
        for setting, one in zip(settings, pool.map(listening, settings), strict=True):
            if isinstance(one, str):
                click.echo(f"{setting.name}: left out: {one}")
                continue
            schedules[setting.name] = one
            click.echo(
                f"{setting.name:60} {len(one.first):3} + {len(one.later):2} blocks  "
                f"{one.steps_per_block:5.1f} steps each"
            )
    flags = " --knobs" if knobs else ""
    facts: dict[str, Any] = {
        "command": f"python -m benchmarks.policy_times record --model {name} --prompts {path} "
        f"--limit {limit} --gen-length {gen_length}{flags}",
        **_where(torch.device("cpu")),
        "model": name,
        "prompts": prompts,
        "gen_length": gen_length,
    }
    recording = Recording(facts, model.config.num_layers, BLOCK, schedules)
    write_whole(out, recording.as_text())


@main.command("time")
@click.argument("schedules", type=click.Path(path_type=Path))
@click.option("--shape", type=click.Choice([*SHAPES, "tiny"]), default="llada-8b")
@click.option("--device", default="cuda", show_default=True)
@click.option("--batch", default=1, show_default=True, help="Answers decoded together.")
@click.option("--prompt", default=128, show_default=True, help="Tokens of a prompt.")
@click.option("--gen-length", default=256, show_default=True)
@click.option("--calls", default=3, show_default=True, help="Timed calls of each setting.")
@click.option("--minutes", default=8.0, show_default=True, help="No call is begun that ends later.")
@click.option("--only", multiple=True, help="A setting; all if none is named.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def time_all(
    schedules: Path,
    shape: str,
    device: str,
    batch: int,
    prompt: int,
    gen_length: int,
    calls: int,
    minutes: float,
    only: tuple[str, ...],
    out: Path,
) -> None:
    """Time every setting of SCHEDULES with random weights."""
    began = time.perf_counter()
    check_output(out)
    recording = Recording.read(schedules)
    names = only or tuple(recording.schedules)
    for name in names:
        if name not in recording.schedules:
            known = nearest(name, recording.schedules)
            raise ConfigError(f"--only is {shown(name)}, which {schedules} does not have; {known}")
    model = _random(shape, torch.device(device))
    call = Shape(batch, prompt, gen_length // recording.block_length, recording.block_length)
    memory = "4GB" if device == "cuda" else None
    rehearsal = Rehearsal(model, recording, call, memory)
    left = 60 * minutes - (time.perf_counter() - began)
    timed = in_rounds(rehearsal, names, calls=calls, seconds=left, say=click.echo)
    plain = _unscripted(rehearsal, calls) if _PLAIN in timed else None
    settings = {name: one.as_json(call) for name, one in timed.items() if one.calls or one.failed}
    facts = {
        "command": f"python -m benchmarks.policy_times time {schedules.name} --shape {shape} "
        f"--batch {batch} --prompt {prompt} --gen-length {gen_length} --calls {calls}",
        **_where(torch.device(device)),
        "model": f"{shape}, random weights, {str(model.network.dtype).removeprefix('torch.')}",
        "conditions": f"batch {batch}, prompt {prompt}, {gen_length} new tokens in blocks of "
        f"{recording.block_length}, no early stop; commits, skips and rows that follow from states "
        f"as recorded with {recording.facts.get('model')}, in blocks of which a quarter is text "
        f"at least; other rows by each policy's own rule; median, fastest and slowest call",
        f"unscripted {_PLAIN}": None if plain is None else plain.as_json(call),
        "settings": settings,
    }
    write_whole(out, json.dumps(facts, indent=1) + "\n")
    for name, one in settings.items():
        click.echo(_line(name, one))
    if plain is not None:
        click.echo(_line(f"{_PLAIN}, unscripted", plain.as_json(call)))
    missing = [name for name, one in timed.items() if not one.calls]
    click.echo(f"{len(settings)} of {len(names)} settings, {time.perf_counter() - began:.0f} s")
    if missing:
        click.echo("not timed: " + ", ".join(missing))


@main.command()
@click.option("--shape", type=click.Choice([*SHAPES, "tiny"]), default="llada-8b")
@click.option("--device", default="cuda", show_default=True)
@click.option("--batch", "batches", multiple=True, default=(1, 8, 32), show_default=True)
@click.option("--repeats", default=50, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def decide(shape: str, device: str, batches: tuple[int, ...], repeats: int, out: Path) -> None:
    """Time the choice of every unmask policy alone, beside the threshold's."""
    check_output(out)
    model, found = _random(shape, torch.device(device), num_layers=1), list[Choice]()
    for batch in batches:
        prompts = [list(range(5 + i, 15 + i)) for i in range(batch)]
        for name, policy in policies.UNMASK.known().items():
            try:
                found.append(chosen(model, policy(), name, prompts, repeats))
            except (SkipstoneError, RuntimeError) as error:
                click.echo(f"{name}, batch {batch}: {type(error).__name__}: {error}")
    choices = beyond(found, "threshold")
    facts = {
        "command": f"python -m benchmarks.policy_times decide --shape {shape} --repeats {repeats}",
        **_where(torch.device(device)),
        "model": f"the head of {shape}, random weights",
        "choices": [asdict(one) for one in choices],
    }
    write_whole(out, json.dumps(facts, indent=1) + "\n")
    for one in choices:
        own = "" if one.beyond_device_ms is None else f"  device {one.beyond_device_ms:+.3f} ms"
        click.echo(
            f"batch {one.batch:2}  {one.policy:18} {one.ms:7.3f} ms  beyond threshold "
            f"{one.beyond_ms:+.3f} ms{own}"
        )


def _listened(name: str, prompts: list[str], setting: Setting) -> Schedule | str:
    """The schedule of a setting; why there is none, if there is none."""
    torch.set_num_threads(1)
    model = load(name, device="cpu", dtype=torch.float32)
    try:
        return listened(model, setting.settings, prompts)
    except SkipstoneError as error:
        return str(error)


def _unscripted(rehearsal: Rehearsal, calls: int) -> Timed:
    """A schedule that needs no script, without one: the difference is what a script costs."""
    return Timed([rehearsal.run(_PLAIN, index, plain=True) for index in range(calls)])


def _random(shape: str, device: torch.device, num_layers: int | None = None) -> Model:
    if shape == "tiny":
        return tiny_model(7, dtype=torch.float32)
    config, dtype = SHAPES[shape], torch.bfloat16 if device.type == "cuda" else torch.float32
    if num_layers is not None:
        config = replace(config, num_layers=num_layers)
    return random_model(shape, config, device, dtype)


def _where(device: torch.device) -> dict[str, str]:
    """What it was measured on, and when."""
    cuda = device.type == "cuda"
    return {
        "card": torch.cuda.get_device_name(device) if cuda else platform.processor() or "cpu",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _line(name: str, one: Mapping[str, object]) -> str:
    if "failed" in one:
        return f"{name:56} failed: {one['failed']}"
    return (
        f"{name:56} {one['seconds_per_answer']:8.3f} s ({one['low']:.3f} to {one['high']:.3f})  "
        f"{one['ms_per_step']:7.2f} ms a step  {one['steps']:5} steps  {one['tokens_per_s']:7} "
        f"tokens/s"
    )


if __name__ == "__main__":
    main()
