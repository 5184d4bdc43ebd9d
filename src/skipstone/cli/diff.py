"""``skipstone diff``: two recorded traces of one prompt, and everything in which they differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.decisions import both_sides, parting
from skipstone.cli.numbers import whole
from skipstone.cli.tables import say_indented
from skipstone.cli.terminal import note, say, say_json
from skipstone.cli.tokens import Tokens, ids_option, text_of_trace, tokens_of_trace
from skipstone.diff.align import align
from skipstone.diff.compare import first_apart
from skipstone.diff.difference import Difference, diff, sample_of
from skipstone.diff.divergence import first_decision
from skipstone.diff.floor import Floor
from skipstone.diff.margins import Closeness
from skipstone.diff.tensor_search import Provenance, TensorDivergence
from skipstone.errors import ConfigError, SkipstoneError
from skipstone.record import StoredTrace, Trace, open_trace
from skipstone.record.schema import RunRecord
from skipstone.sentence import counted

if TYPE_CHECKING:
    from skipstone.models.load import Model

_SHOWN = 12


@click.command("diff")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option(
    "--sample",
    metavar="N",
    type=whole,
    help="Request of a batch.  [default: the first that parts]",
)
@click.option(
    "--floor",
    "how",
    type=click.Choice(["measure", "estimate"]),
    help="Noise: run A again, or guess from its dtype.  [default: measure, if that is possible]",
)
@click.option(
    "--model", help="Where the model is, if it is a folder; measures the noise, names the tokens."
)
@ids_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def diff_command(
    a: Path,
    b: Path,
    sample: int | None,
    how: str | None,
    model: str | None,
    *,
    ids: bool,
    as_json: bool,
) -> int:
    """Compare two recorded traces of one prompt: decisions, states, bits, answers.

    A is the baseline. Exits with 0 if both made the same decisions and tokens, 1 if not, 2 on an
    error.
    """
    with open_trace(a) as trace_a, open_trace(b) as trace_b:
        floor = None
        if sample is None:
            sample = first_apart(trace_a, trace_b)
        if how != "estimate":
            named = None if model is None else _load(model, trace_a)
            floor = measured_floor(trace_a, trace_b, sample, how, named)
        found = diff(trace_a, trace_b, sample=sample, floor=floor)
    if as_json:
        say_json(found.as_json())
    else:
        header = found.a.header
        tokens = tokens_of_trace(header, text_of_trace(header, model), ids=ids)
        _say_head(found, (a, b))
        for line in (*_firsts(found, tokens), *_rest(found)):
            say(line)
    return 0 if found.identical else 1


def measured_floor(
    a: Trace, b: Trace, sample: int, how: str | None, model: Model | None
) -> Floor | None:
    """The floor of A around the first decision; None where it cannot be measured by default."""
    record = sample_of(a, sample, "A")
    first = first_decision(align(record, sample_of(b, sample, "B")).pairs)
    if how is None and model is None and not (a.keys(sample) and b.keys(sample)):
        return None
    around = None if first is None or first.forward_a < 0 else first.forward_a
    try:
        # Needs torch and the model; all else does not.
        from skipstone.tracing.experiments.runner import noise_floor

        return noise_floor(a, sample, model=model, around=around)
    except (SkipstoneError, ImportError) as error:
        if how is not None:
            raise ConfigError(
                f"--floor measure runs A again, which fails: {error}; use --floor estimate"
            ) from error
        note(f"noise is not measured: {error}")
        return None


def _load(name: str, trace: StoredTrace) -> Model:
    from skipstone.models.load import load

    return load(name, dtype=trace.headers[0].dtype)


def _say_head(found: Difference, paths: tuple[Path, Path]) -> None:
    """Which runs these are, with what they do not share, and their answers; whole, folded."""
    for name, path, run, end in zip("AB", paths, (found.a, found.b), found.endings, strict=True):
        settings = " ".join(f"{s.name}={getattr(s, name.lower())}" for s in found.settings)
        say(f"{name}  {path}: {_model(run)}, {counted(end.forwards, 'forward')}")
        say_indented(settings or "the same settings")
        say_indented("(unfinished)" if end.text is None else end.text)


def _model(run: RunRecord) -> str:
    header = run.header
    return f"{header.model}, {header.dtype} on {header.device}"


def _firsts(found: Difference, tokens: Tokens) -> Iterator[str]:
    """The first decision, state and bit."""
    start, first = found.a.prompt_length, found.decision
    if first is None:
        yield "first decision  none: the same commits in the same steps"
    else:
        where = f"block {first.block}, step {first.step}, {_position(first.position, start)}"
        yield f"first decision  {where}: {parting(first, start)}"
        yield from both_sides(first, tokens)
    if found.closeness is not None:
        yield f"   {_closeness(found.closeness)}"
    if not found.tensors.tensors:
        yield "first state     unknown: there are no tensors to compare"
        return
    state, bit = found.state, found.bit
    yield "first state     " + ("none beyond the noise" if state is None else _tensor(state, start))
    if bit is None:
        same = not any("bits" in limit for limit in found.tensors.limits)
        yield "first bit       " + ("none: equal bit for bit" if same else "unknown: see below")
    elif state is not None and _place(bit) == _place(state):
        yield "first bit       the same"
    else:
        yield f"first bit       {_tensor(bit, start)}"


def _place(at: TensorDivergence) -> tuple[int, str, int, int]:
    return at.forward_a, at.tap, at.layer, at.position


def _rest(found: Difference) -> Iterator[str]:
    """What it did to the answer, what was compared, and what was not."""
    differing, total = found.differing_positions, max(len(found.a.tokens), len(found.b.tokens))
    shown = ", ".join(str(p - found.a.prompt_length) for p in differing[:_SHOWN])
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    tokens, verb = ("token", "differs") if len(differing) == 1 else ("tokens", "differ")
    where = f": new {tokens} {shown}{more}" if differing else ""
    yield f"final tokens    {len(differing)} of {total} {verb}{where}"
    a, b = found.endings
    answers = "differs" if found.answer_differs else "is the same"
    yield (
        f"the answer {answers}: {a.length} and {b.length} tokens, EOS at {_or_none(a.eos)} and "
        f"{_or_none(b.eos)}, {a.masks_left} and {b.masks_left} masks left"
    )
    same = found.alignment.count("canvas")
    yield (
        f"compared        {same} steps of {len(found.a.steps)} and {len(found.b.steps)} saw the "
        f"same canvas; {found.tensors.tensors} tensors, {found.tensors.rows} rows"
    )
    yield f"noise           {str(found.floor).removeprefix('noise floor ')}"
    for limit in (*found.alignment.limits, *found.tensors.limits):
        yield f"note: {limit}"


def _or_none(value: int | None) -> str:
    return "none" if value is None else str(value)


def _position(position: int, start: int) -> str:
    """A position for people: prompt and answer are counted apart."""
    return f"prompt token {position}" if position < start else f"new token {position - start}"


def _closeness(close: Closeness) -> str:
    moved = "" if close.moved is None else f"; the confidences are {close.moved:.3g} x noise apart"
    if close.decisive is None:
        return f"noise of a confidence here: {close.noise:.2g}{moved}"
    verdict = "noise can explain it" if close.within_noise else "more than noise"
    return f"A's margin is {close.decisive:.3g} x noise: {verdict}{moved}"


def _tensor(at: TensorDivergence, start: int) -> str:
    error = "not a finite number" if at.relative_l2 is None else f"{at.relative_l2:.2g}"
    return (
        f"block {at.block}, step {at.step}, layer {at.layer}, {at.tap}, "
        f"{_position(at.position, start)}: error {error} (noise {at.floor:.2g}); "
        f"A {_source(at.a)}, B {_source(at.b)}"
    )


def _source(row: Provenance) -> str:
    old = f" {row.age} {'forward' if row.age == 1 else 'forwards'} ago" if row.age else ""
    score = "" if row.score is None else f" at similarity {row.score:.6f}"
    return f"{row.source}{old}{score}"
