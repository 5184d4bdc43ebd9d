"""``skipstone show``: what is in a trace. Runs without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from skipstone.cli import show_json
from skipstone.cli.changes import Changes, changes_of, changes_told
from skipstone.cli.kept import experiment_line
from skipstone.cli.numbers import size, spans, whole
from skipstone.cli.tables import say_labelled, say_table
from skipstone.cli.terminal import say, say_json
from skipstone.cli.tokens import (
    Tokens,
    answer_ids,
    ids_option,
    prompt_text,
    text_of_trace,
    tokenizer_option,
    tokens_of_trace,
)
from skipstone.diff.compare import SimilaritySummary, similarity_by_block
from skipstone.errors import ConfigError
from skipstone.quoting import shown
from skipstone.record import (
    Candidate,
    Judgements,
    RunRecord,
    StepRecord,
    StoredTrace,
    open_trace,
)
from skipstone.record.summary import BlockSummary, summarise_blocks, summarise_taps, trace_bytes
from skipstone.record.verify import verify
from skipstone.sentence import after_end, counted

_SHOWN_EVENTS = 5


@click.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--sample", type=whole, default=0, metavar="N", help="Which prompt of a batch.")
@click.option("--steps", "all_steps", is_flag=True, help="One line for each forward.")
@click.option(
    "--step", "where", metavar="BLOCK.STEP", help="Candidates and similarities of one step."
)
@click.option("--events", "all_events", is_flag=True, help="All events, and where they happened.")
@click.option("--verify", "check", is_flag=True, help="Whether all is still as it was recorded.")
@tokenizer_option
@ids_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def show(
    trace: Path,
    sample: int,
    where: str | None,
    model: str | None,
    *,
    ids: bool,
    all_steps: bool,
    all_events: bool,
    check: bool,
    as_json: bool,
) -> int:
    """Show what is in TRACE: settings, outcome, blocks, events, experiments, tensors.

    With --verify, read all of it instead, and exit with 1 if anything is not as it was recorded.
    """
    if check and (sample or where or model or ids or all_steps or all_events):
        raise ConfigError("--verify reads everything and shows nothing else; leave the rest out")
    with open_trace(trace) as opened:
        if check:
            return _verify(opened, as_json=as_json)
        record = _sample(opened, sample)
        chosen = None if where is None else _find(record, where)
        text = text_of_trace(record.header, model)
        tokens = tokens_of_trace(record.header, text, ids=ids)
        if as_json:
            say_json(show_json.as_json(opened, sample, chosen, tokens, all_steps=all_steps))
        elif chosen is not None:
            for step in chosen:
                _print_step(step, record, tokens)
        else:
            _print_run(opened, sample, prompt_text(record.header, text))
            if ids:
                _print_ids(record)
            if all_steps:
                _print_steps(record)
            _print_events(record, everything=all_events)
            _print_kept(opened, sample)
        return 0


def _sample(trace: StoredTrace, number: int) -> RunRecord:
    """The run of one prompt.

    Raises:
        ConfigError: the trace has none of this number.
    """
    count = len(trace.headers)
    if not 0 <= number < count:
        raise ConfigError(f"--sample is {number}, must be from 0 to {count - 1} in {trace.path}")
    return trace.records[number]


def _verify(trace: StoredTrace, *, as_json: bool) -> int:
    """Say whether everything is as it was recorded. Returns the exit code."""
    found = verify(trace)
    if as_json:
        say_json({"checksums": trace.has_checksums, **asdict(found)})
        return 1 if found.faults else 0
    for fault in found.faults:
        say(("fault: ", "bad"), fault)
    whole = f"{found.steps} steps, {found.tensors} tensors, {found.events} events and "
    whole += f"{found.experiments} experiments"
    if found.faults:
        say(("NOT as recorded", "bad"), f": {len(found.faults)} faults; {whole} are")
    elif trace.has_checksums:
        end = "" if trace.closed else "; unfinished: what may have followed cannot be known"
        say(("as recorded", "good"), f": {whole}{end}")
    else:
        say(
            ("readable", "doubt"),
            f": {whole}; without checksums (schema 1) a change would not be seen",
        )
    return 1 if found.faults else 0


def _find(record: RunRecord, where: str) -> list[StepRecord]:
    """The forwards of one step: one, or two if it was repeated.

    Raises:
        ConfigError: ``where`` is no step, or the run has none there.
    """
    found = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", where, re.ASCII)
    if found is None:
        raise ConfigError(f"--step is {shown(where)}, must be BLOCK.STEP, like 1.2")
    place = (int(found[1]), int(found[2]))
    steps = [step for step in record.steps if (step.block, step.step) == place]
    if not steps:
        last = f"; the last is {_place(record.steps[-1])}" if record.steps else ""
        raise ConfigError(f"the run has no step {where}{last}; --steps lists them all")
    return steps


def _place(step: StepRecord) -> str:
    return f"{step.block}.{step.step}"


def _print_run(trace: StoredTrace, sample: int, prompt: str) -> None:
    manifest, header, outcome = trace.manifest, trace.headers[sample], trace.outcomes[sample]
    state = "finished" if trace.closed else "unfinished: stopped, killed, or still running"
    weights = f", weights {header.weights}" if header.weights else ""
    batch = f", sample {sample} of {header.batch}" if header.batch > 1 else ""
    settings = " ".join(f"{name}={value}" for name, value in header.settings.items())
    lines = {
        "trace": f"{trace.path}, {state}",
        "written": f"{manifest.created} by skipstone {manifest.skipstone}, level {manifest.level}",
        "model": f"{header.model}, {header.num_layers} layers of width {header.width}, "
        f"{header.dtype} on {header.device}{weights}",
        "loop": header.source,
        "prompt": f"{counted(len(header.prompt_ids), 'token')}, {header.gen_length} new{batch}",
        "asked": prompt,
        "settings": settings or "not known",
        "stated": " ".join(f"{name}={value}" for name, value in header.stated.items()),
    }
    if not trace.has_checksums:
        lines["checksums"] = f"none in schema {manifest.schema}: a change would not be seen"
    if outcome is not None:
        left = counted(outcome.masks_left, "mask")
        lines["outcome"] = (
            f"{counted(outcome.num_forwards, 'forward')}, {left} left, "
            f"{outcome.skip_share:.1%} of row-layers skipped, {outcome.seconds:.2f} s"
        )
        lines["text"] = outcome.text
    for name, value in lines.items():
        if value:
            say_labelled(name, value)
    for hole in trace.holes(sample):
        say_labelled("hole", f"{hole}; copy the trace again")
    _print_blocks(trace.records[sample])


def _print_ids(record: RunRecord) -> None:
    header = record.header
    say_labelled("prompt ids", _listed(header.prompt_ids))
    answer = answer_ids(header, record.tokens)
    end = after_end(record.tokens[len(answer) :])
    say_labelled("new ids", f"{_listed(answer)} {end}".rstrip())


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids)) or "none"


def _print_blocks(record: RunRecord) -> None:
    similarity = {row.block: row for row in similarity_by_block(record)}
    blocks = summarise_blocks(record)
    changes = Changes(any(b.edited for b in blocks), any(b.revoked for b in blocks))
    counts = ("block", "steps", "forwards", "refreshes", "committed", *changes.names)
    columns = (*counts, "masks left", "rows")
    seen = ("skipped", "smallest similarity", "median", "largest", "seconds")
    say()
    say_table(
        (*columns, *seen),
        (_block_row(block, similarity.get(block.block), changes) for block in blocks),
    )


def _block_row(
    block: BlockSummary, seen: SimilaritySummary | None, changes: Changes
) -> tuple[object, ...]:
    similarity = (seen.smallest, seen.median_mean, seen.largest_mean) if seen else (None,) * 3
    return (
        block.block,
        block.steps,
        block.forwards,
        block.refreshes,
        block.committed,
        *changes.cells(block.edited, block.revoked),
        block.masks_left,
        block.rows,
        block.skipped,
        *similarity,
        round(block.seconds, 3),
    )


def _print_steps(record: RunRecord) -> None:
    changes = changes_of(record.steps)
    columns = ("forward", "step", "rows", "skipped", "committed", *changes.names)
    seen = ("masks left", "smallest similarity", "mean", "refresh", "recovery", "seconds")
    say()
    say_table(
        (*columns, *seen),
        (
            (
                step.forward,
                _place(step),
                step.rows.size,
                len(step.skipped),
                len(step.committed) - len(step.edited),
                *changes.cells(len(step.edited) - len(step.revoked), len(step.revoked)),
                step.masks_after,
                *_similarity(step.judgements),
                step.refresh,
                step.recovery,
                round(step.seconds, 4),
            )
            for step in record.steps
        ),
        keys=2,
    )


def _similarity(judgements: Judgements | None) -> tuple[float | None, float | None]:
    """The smallest similarity of any row, and the mean over rows."""
    if judgements is None or not len(judgements):
        return None, None
    return float(judgements.smallest.min()), float(judgements.mean.mean())


def _print_step(step: StepRecord, record: RunRecord, tokens: Tokens) -> None:
    kinds = [name for name in ("refresh", "recovery") if getattr(step, name)]
    head = f"block {step.block}, step {step.step}, forward {step.forward} {' '.join(kinds)}"
    say((head.strip(), "head"))
    say_labelled("rows", spans(step.rows.tolist()))
    say_labelled("skipped", spans(step.skipped))
    say_labelled("committed", spans(sorted(set(step.committed) - set(step.edited))))
    for label, said in changes_told(step, tokens):
        say_labelled(label, said)
    say_labelled("positions", f"known from {step.positions_from}")
    say()
    start = record.prompt_length
    columns = ("position", "new", "rank", "token", "confidence", "bound", "runner-up", "margin")
    say_table(
        (*columns, "age", "eligible", "committed"),
        (_candidate_row(candidate, start, tokens) for candidate in step.candidates),
        keys=2,
        alike=("confidence", "bound"),
    )
    if step.judgements is not None:
        say()
        _print_judgements(step.judgements, start)


def _candidate_row(candidate: Candidate, start: int, tokens: Tokens) -> tuple[object, ...]:
    return (
        candidate.position,
        candidate.position - start,
        candidate.rank,
        tokens(candidate.token),
        candidate.confidence,
        candidate.bound,
        tokens(candidate.runner_up),
        candidate.margin,
        candidate.age,
        candidate.eligible,
        candidate.committed,
    )


def _print_judgements(judged: Judgements, start: int) -> None:
    columns = ("position", "new", "smallest", "mean", "stable", "forced", "skipped")
    names = ("position", "smallest", "mean", "stable", "forced", "skipped")
    arrays = (judged.reference_position, judged.reference_forward)
    say_table(
        (*columns, "compared with position", "of forward"),
        (
            (position, position - start, *values)
            for position, *values in zip(
                *(getattr(judged, name).tolist() for name in names),
                *(array.tolist() for array in arrays),
                strict=True,
            )
        ),
        keys=2,
    )


def _print_events(record: RunRecord, *, everything: bool) -> None:
    if not record.events:
        return
    # What calls were given is for diagnose, and long.
    worth = tuple(e for e in record.events if everything or e.kind != "given")
    shown = worth if everything else worth[:_SHOWN_EVENTS]
    say()
    for event in shown:
        times = f" ({event.count} times)" if event.count > 1 else ""
        say_labelled("event", f"{event.kind}: {event.message}{times}")
        if everything:
            say_labelled(
                "", f"at {event.source or '-'}, forward {event.forward}, layer {event.layer}"
            )
    if len(shown) < len(record.events):
        say_labelled("", f"and {len(record.events) - len(shown)} more; --events shows them all")


def _print_kept(trace: StoredTrace, sample: int) -> None:
    say()
    for experiment in trace.experiments:
        say_labelled("experiment", experiment_line(experiment))
    for tap in summarise_taps(trace.entries(sample)):
        layers = f"layer {tap.first_layer}"
        if tap.last_layer > tap.first_layer:
            layers = f"layers {tap.first_layer} to {tap.last_layer}"
        dtypes = " and ".join(tap.dtypes)
        runs, amount = counted(tap.forwards, "forward"), size(tap.nbytes)
        say_labelled("tensors", f"{tap.tap}: {layers}, {runs}, {dtypes}, {amount}")
    say_labelled("size", size(trace_bytes(trace)))
