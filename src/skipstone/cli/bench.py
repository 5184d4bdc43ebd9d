"""``skipstone bench``: how fast the engine is on this machine, after a check that it is right."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from skipstone.bench.plan import SECTIONS
from skipstone.cli.idle import say_idle
from skipstone.cli.progress import status
from skipstone.cli.terminal import aside, say, say_json
from skipstone.errors import ConfigError, nearest
from skipstone.outputs import check_output
from skipstone.quoting import shown

if TYPE_CHECKING:
    from skipstone.bench.gate import Check
    from skipstone.bench.page import Page
    from skipstone.bench.run import Cell

_QUESTIONS = ("Who is Newton, physics?", "Add the numbers 12, 24, 12, 2 one by one.")

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
@click.option(
    "--model",
    help="llada-8b, dream-7b, sdar-8b, llada-moe, llada2-mini (random weights), pebble, a "
    "directory, a hub name.",
)
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
@click.option(
    "--peer",
    metavar="NAME=PATH",
    help="Published code, run beside us: fast-dllm=, dream= or sdar= and a checkout.",
)
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
    from skipstone.bench.gate import gate
    from skipstone.bench.page import Page
    from skipstone.bench.peers.table import parse_peer
    from skipstone.bench.run import measure
    from skipstone.cli.bench_tables import print_cells
    from skipstone.cli.bench_target import BenchTarget

    if repeats < 2:
        raise ConfigError(f"--repeats is {repeats}, must be at least 2: quartiles need two samples")
    if output is not None:
        check_output(output)
    sections = _sections(ctx, texts["only"], texts["peer"])
    peer = parse_peer(texts["peer"]) if texts["peer"] else None
    target = BenchTarget.of(texts["model"], device, dtype)
    plan = target.plan(sections, texts)
    with status("checking that it is right") as told:
        tell = told or (lambda text: None)
        checks = gate(target.pebble, _QUESTIONS, target.torch_dtype)
        if not all(check.passed for check in checks):
            return _refused(checks, as_json=as_json)
        tell("making the model ready, and measuring the device")
        rig = target.rig(repeats)
        found: list[Cell] = []
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
        say_json(page.as_json(finished=True))
    else:
        say(_about(page))
        print_cells(found)
    return 0


def _sections(ctx: click.Context, only: str | None, peer: str | None) -> tuple[str, ...]:
    """What is measured; an option that none of it uses is said to have no effect."""
    possible = SECTIONS if peer else SECTIONS[:-1]
    chosen = tuple(only.split(",")) if only else possible
    for name in chosen:
        if name not in SECTIONS:
            raise ConfigError(
                f"--only has {shown(name)}, which is unknown; {nearest(name, SECTIONS)}"
            )
    if "peer" in chosen and not peer:
        raise ConfigError("--only has peer, but there is none; give --peer NAME=PATH")
    for option, users in _USED_BY.items():
        if _was_given(ctx, option) and not set(users) & set(chosen):
            flag = f"--{option.replace('_', '-')}"
            say_idle(f"{flag} has no effect with --only {only}; {users[0]} uses it")
    return chosen


def _was_given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE


def _command(ctx: click.Context) -> str:
    """The command line that measures the same again; the path of the peer is left out."""
    words = ["skipstone", "bench"]
    for param in ctx.command.params:
        if param.name in ("output", "as_json", "debug") or not _was_given(ctx, str(param.name)):
            continue
        value = str(ctx.params[str(param.name)])
        if param.name == "peer":
            value = f"{value.partition('=')[0]}=PATH"
        words += [param.opts[-1], value]
    return shlex.join(words)


def _refused(checks: Sequence[Check], *, as_json: bool) -> int:
    """Say which check failed, and no speed."""
    if as_json:
        say_json({"gate": [asdict(check) for check in checks]})
    for check in checks:
        if not check.passed:
            aside(f"gate failed: {check.check}: {check.detail}; nothing was timed")
    return 1


def _about(page: Page) -> str:
    import torch

    rig, dtype = page.rig, str(page.rig.model.network.dtype).removeprefix("torch.")
    return (
        f"{rig.model.name} ({dtype}) on {rig.card.name}, measured: {rig.card.bandwidth / 1e12:.3g} "
        f"TB/s, {rig.card.flops / 1e12:.3g} TFLOP/s; torch {torch.__version__}; "
        f"{len(page.gate)} checks passed"
    )
