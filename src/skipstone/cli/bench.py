"""``skipstone bench``: how fast the engine is on this machine, after a check that it is right."""

from __future__ import annotations

import itertools
import math
import shlex
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape

from skipstone.bench.gate import Check, gate
from skipstone.bench.page import Page
from skipstone.bench.peer import parse_peer
from skipstone.bench.plan import SECTIONS, Plan, Shape, parse_generation
from skipstone.bench.random_model import random_model
from skipstone.bench.run import Cell, measure
from skipstone.bench.timing import Rig, release
from skipstone.cli.bench_tables import print_cells
from skipstone.cli.options import RunSpec, parse_numbers
from skipstone.cli.terminal import strict_json
from skipstone.engine import Settings
from skipstone.engine import roofline as roof
from skipstone.errors import ConfigError, nearest
from skipstone.models import registry
from skipstone.models.config import read_config
from skipstone.models.load import DTYPES, Model
from skipstone.models.shapes import SHAPES

_QUESTIONS = ("Who is Newton, physics?", "Add the numbers 12, 24, 12, 2 one by one.")
_MOST = 1 << 16


@dataclass(frozen=True)
class Defaults:
    """Cells for those who name none."""

    model: str
    dtype: str
    batch: str
    context: str
    generation: str
    refresh: str


_GPU = Defaults(
    model="llada-8b",
    dtype="bfloat16",
    batch="1,8,32",
    context="512",
    generation="19+128/32,1024+256/64,1000+256/256x8@64",
    refresh="1280",
)
_CPU = Defaults(
    model="pebble",
    dtype="float32",
    batch="1,2",
    context="64",
    generation="19+128/32",
    refresh="256",
)
_USED_BY = {
    "batch": ("step", "skip"),
    "context": ("step", "skip"),
    "rows": ("step", "skip"),
    "skip_layer_k": ("skip",),
    "going": ("skip",),
    "refresh": ("refresh",),
    "generation": ("generation", "peer"),
    "peer": ("peer",),
}


@click.command("bench")
@click.option("--only", metavar="PARTS", help=f"Some of {','.join(SECTIONS)}.")
@click.option("--model", help="llada-8b (random weights), pebble, a directory, or a hub name.")
@click.option("--device", default="auto", help="cpu, cuda, ... or auto.  [default: auto]")
@click.option("--dtype", default="auto", help="float32, bfloat16, ... or auto.  [default: auto]")
@click.option("--batch", metavar="N,N", help="Requests together in a step.")
@click.option("--context", metavar="N,N", help="Positions of a request: prompt and new.")
@click.option("--rows", metavar="N,N", default="32", show_default=True, help="Rows of a request.")
@click.option(
    "--skip-layer-k", metavar="N,N", default="18,8,4", show_default=True, help="K of the skips."
)
@click.option(
    "--going", metavar="P,P", default="0.25", show_default=True, help="Share of rows past K."
)
@click.option("--refresh", metavar="N,N", help="Positions of a refresh.")
@click.option(
    "--generation",
    metavar="LIST",
    help="PROMPT+NEW/FORWARDSxBATCH@BLOCK, like 1000+256/256x8@64; ~K:SHARE forces a skip.",
)
@click.option("--peer", metavar="fast-dllm=PATH", help="A checkout of Fast-dLLM, run beside us.")
@click.option("--repeats", default=20, show_default=True, help="Samples of a cell, done twice.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the result as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
@click.pass_context
def bench(
    ctx: click.Context,
    *,
    device: str,
    dtype: str,
    repeats: int,
    output: Path | None,
    as_json: bool,
    **texts: str | None,
) -> int:
    """Check that fast paths give the right tokens, then time them on this machine.

    Steps, skips, refreshes and whole generations run at a forced schedule; floors come from the
    bandwidth and arithmetic measured in the same run. Exits with 1, and tells no speed, if the
    check fails.
    """
    if repeats < 2:
        raise ConfigError(f"--repeats is {repeats}, must be at least 2: quartiles need two samples")
    sections = _sections(ctx, texts["only"], texts["peer"])
    peer = parse_peer(texts["peer"]) if texts["peer"] else None
    subject = Subject.of(texts["model"], device, dtype)
    plan = subject.plan(sections, texts)
    with _status() as tell:
        tell("checking that it is right")
        checks = gate(subject.pebble, _QUESTIONS, DTYPES[subject.dtype])
        if not all(check.passed for check in checks):
            return _refused(checks, as_json=as_json)
        tell("making the model ready, and measuring the device")
        rig, found = subject.rig(repeats), list[Cell]()
        page = Page(_command(ctx), rig, checks, found)
        if output is not None:
            page.save(output, finished=False)
        for cell in measure(rig, plan, peer, tell):
            found.append(cell)
            if output is not None:
                page.save(output, finished=False)
    if output is not None:
        page.save(output, finished=True)
    if as_json:
        print(strict_json(page.as_json(finished=True)))
    else:
        print(_about(page))
        print_cells(found)
    return 0


@dataclass(frozen=True, eq=False)
class Subject:
    """The model to measure, by name, and the embedded one on the same device for the gate."""

    name: str
    dtype: str
    pebble: Model
    defaults: Defaults

    @classmethod
    def of(cls, name: str | None, device: str, dtype: str) -> Subject:
        """Choose by device what was not chosen.

        Raises:
            ConfigError: the device or dtype does not exist here.
        """
        pebble = RunSpec("pebble", device, "float32", Settings()).load()
        defaults = _GPU if pebble.network.device.type == "cuda" else _CPU
        dtype = defaults.dtype if dtype == "auto" else dtype
        if dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is unknown; {nearest(dtype, [*DTYPES, 'auto'])}")
        return cls(name or defaults.model, dtype, pebble, defaults)

    def plan(self, sections: tuple[str, ...], texts: dict[str, str | None]) -> Plan:
        """The cells, checked against the model's shape before its weights are read."""
        config = SHAPES.get(self.name) or read_config(registry.find(self.name))
        plan = _plan(sections, {**asdict(self.defaults), **{k: v for k, v in texts.items() if v}})
        plan.check(config)
        return plan

    def rig(self, repeats: int) -> Rig:
        """Load or make the model, and measure the device in its dtype."""
        device, dtype = self.pebble.network.device, DTYPES[self.dtype]
        if self.name in SHAPES:
            model = random_model(self.name, SHAPES[self.name], device, dtype)
        else:
            model = RunSpec(self.name, str(device), self.dtype, Settings()).load()
        card = roof.measure(device, dtype)
        release()
        return Rig(model, card, repeats)


def _sections(ctx: click.Context, only: str | None, peer: str | None) -> tuple[str, ...]:
    """What is measured; an option that none of it uses is refused."""
    possible = SECTIONS if peer else SECTIONS[:-1]
    chosen = tuple(only.split(",")) if only else possible
    for name in chosen:
        if name not in SECTIONS:
            raise ConfigError(f"--only has {name!r}, which is unknown; {nearest(name, SECTIONS)}")
    if "peer" in chosen and not peer:
        raise ConfigError("--only has peer, but there is none; give --peer fast-dllm=PATH")
    for option, users in _USED_BY.items():
        if _was_given(ctx, option) and not set(users) & set(chosen):
            flag = f"--{option.replace('_', '-')}"
            raise ConfigError(
                f"{flag} has no effect with --only {only}; leave it out, or add {users[0]}"
            )
    return chosen


def _plan(sections: tuple[str, ...], texts: dict[str, str]) -> Plan:
    """Parse the cells."""
    batches = parse_numbers("--batch", texts["batch"], 1, _MOST)
    contexts = parse_numbers("--context", texts["context"], 1, _MOST)
    rows = parse_numbers("--rows", texts["rows"], 1, _MOST)
    shapes = [Shape(*numbers) for numbers in itertools.product(batches, contexts, rows)]
    return Plan(
        sections=sections,
        steps=tuple(shapes),
        generations=tuple(map(parse_generation, texts["generation"].split(","))),
        refreshes=tuple(parse_numbers("--refresh", texts["refresh"], 64, _MOST)),
        layers=tuple(parse_numbers("--skip-layer-k", texts["skip_layer_k"], 2, _MOST)),
        going=tuple(_shares(texts["going"])),
    )


def _shares(text: str) -> Iterator[float]:
    """Parse ``0.25,0.5``."""
    for part in text.split(","):
        try:
            share = float(part)
        except ValueError:
            share = math.nan
        if not 0.0 < share <= 1.0:
            raise ConfigError(
                f"--going has {part!r}, must be a share above 0 and at most 1, like 0.25"
            )
        yield share


def _was_given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE


def _command(ctx: click.Context) -> str:
    """The command line that measures the same again; where the peer lies is left out."""
    words = ["skipstone", "bench"]
    for param in ctx.command.params:
        if param.name in ("output", "as_json", "debug") or not _was_given(ctx, str(param.name)):
            continue
        value = "fast-dllm=PATH" if param.name == "peer" else str(ctx.params[str(param.name)])
        words += [param.opts[-1], value]
    return shlex.join(words)


def _refused(checks: Sequence[Check], *, as_json: bool) -> int:
    """Say which check failed, and no speed."""
    if as_json:
        print(strict_json({"gate": [asdict(check) for check in checks]}))
    for check in checks:
        if not check.passed:
            line = f"gate failed: {check.check}: {check.detail}; nothing was timed"
            print(line, file=sys.stderr)
    return 1


def _about(page: Page) -> str:
    rig, dtype = page.rig, str(page.rig.model.network.dtype).removeprefix("torch.")
    return (
        f"{rig.model.name} ({dtype}) on {rig.card.name}, measured: {rig.card.bandwidth / 1e12:.3g} "
        f"TB/s, {rig.card.flops / 1e12:.3g} TFLOP/s; torch {torch.__version__}; "
        f"{len(page.gate)} checks passed"
    )


@contextmanager
def _status() -> Generator[Callable[[str], None]]:
    """A line that says what is going on, where there is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:
        yield lambda text: status.update(escape(text))
