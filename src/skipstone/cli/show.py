"""``skipstone show``: what is in a trace. Runs without torch."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import click

from skipstone.cli.escape import printable
from skipstone.cli.terminal import print_table, size, spans, strict_json
from skipstone.diff.compare import SimilaritySummary, similarity_by_block
from skipstone.errors import ConfigError
from skipstone.record import Candidate, Judgements, RunRecord, StepRecord, StoredTrace, open_trace
from skipstone.record.summary import BlockSummary, summarise_blocks, summarise_taps, trace_bytes
from skipstone.record.verify import verify

_SHOWN_EVENTS = 5


@click.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--sample", type=int, default=0, metavar="N", help="Which prompt of a batch.")
@click.option("--steps", "all_steps", is_flag=True, help="One line for each forward.")
@click.option(
    "--step", "where", metavar="BLOCK.STEP", help="Candidates and similarities of one step."
)
@click.option("--events", "all_events", is_flag=True, help="All events, and where they happened.")
@click.option("--verify", "check", is_flag=True, help="Whether all is still as it was recorded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def show(
    trace: Path,
    sample: int,
    where: str | None,
    *,
    all_steps: bool,
    all_events: bool,
    check: bool,
    as_json: bool,
) -> int:
    """Show what is in TRACE: settings, outcome, blocks, events, experiments, tensors.

    With --verify, read all of it instead, and exit with 1 if anything is not as it was recorded.
    """
    if check and (sample or where is not None or all_steps or all_events):
        raise ConfigError("--verify reads everything and shows nothing else; leave the rest out")
    with open_trace(trace) as opened:
        if check:
            return _verify(opened, as_json=as_json)
        _show(opened, sample, where, all_steps=all_steps, all_events=all_events, as_json=as_json)
        return 0


def _show(
    opened: StoredTrace,
    sample: int,
    where: str | None,
    *,
    all_steps: bool,
    all_events: bool,
    as_json: bool,
) -> None:
    count = len(opened.headers)
    if not 0 <= sample < count:
        raise ConfigError(f"--sample is {sample}, must be from 0 to {count - 1} in {opened.path}")
    record = opened.records[sample]
    chosen = None if where is None else _find(record, where)
    if as_json:
        print(strict_json(_as_json(opened, sample, chosen, all_steps=all_steps)))
    elif chosen is not None:
        for step in chosen:
            _print_step(step, record)
    else:
        _print_run(opened, sample)
        if all_steps:
            _print_steps(record)
        _print_events(record, everything=all_events)
        _print_kept(opened, sample)


def _verify(trace: StoredTrace, *, as_json: bool) -> int:
    """Say whether everything is as it was recorded. Returns the exit code."""
    found = verify(trace)
    if as_json:
        print(strict_json({"checksums": trace.has_checksums, **asdict(found)}))
        return 1 if found.faults else 0
    for fault in found.faults:
        print(f"fault: {printable(fault)}")
    whole = f"{found.steps} steps, {found.tensors} tensors, {found.events} events and "
    whole += f"{found.experiments} experiments"
    if found.faults:
        print(f"NOT as recorded: {len(found.faults)} faults; {whole} are")
    elif trace.has_checksums:
        end = "" if trace.closed else "; unfinished: what may have followed cannot be known"
        print(f"as recorded: {whole}{end}")
    else:
        print(f"readable: {whole}; without checksums (schema 1) a change would not be seen")
    return 1 if found.faults else 0


def _find(record: RunRecord, where: str) -> list[StepRecord]:
    """The forwards of one step: one, or two if it was repeated.

    Raises:
        ConfigError: ``where`` is no step, or the run has none there.
    """
    found = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", where, re.ASCII)
    if found is None:
        raise ConfigError(f"--step is {where!r}, must be BLOCK.STEP, like 1.2")
    place = (int(found[1]), int(found[2]))
    steps = [step for step in record.steps if (step.block, step.step) == place]
    if not steps:
        last = f"; the last is {_place(record.steps[-1])}" if record.steps else ""
        raise ConfigError(f"the run has no step {where}{last}; --steps lists them all")
    return steps


def _place(step: StepRecord) -> str:
    return f"{step.block}.{step.step}"


# --- for people


def _print_run(trace: StoredTrace, sample: int) -> None:
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
        "prompt": f"{len(header.prompt_ids)} tokens, {header.gen_length} new{batch}",
        "settings": settings or "not known",
        "stated": " ".join(f"{name}={value}" for name, value in header.stated.items()),
    }
    if not trace.has_checksums:
        lines["checksums"] = f"none in schema {manifest.schema}: a change would not be seen"
    if outcome is not None:
        lines["outcome"] = (
            f"{outcome.num_forwards} forwards, {outcome.masks_left} masks left, "
            f"{outcome.skip_share:.1%} of row-layers skipped, {outcome.seconds:.2f} s"
        )
        lines["text"] = outcome.text
    for name, value in lines.items():
        if value:
            _line(name, value)
    for hole in trace.holes(sample):
        _line("hole", f"{hole}; copy the trace again")
    _print_blocks(trace.records[sample])


def _line(name: str, value: str) -> None:
    print(f"{name:12}{printable(value)}")


def _print_blocks(record: RunRecord) -> None:
    similarity = {row.block: row for row in similarity_by_block(record)}
    columns = ("block", "steps", "forwards", "refreshes", "committed", "masks left", "rows")
    seen = ("skipped", "smallest similarity", "median", "largest", "seconds")
    print()
    print_table(
        (*columns, *seen),
        (_block_row(block, similarity.get(block.block)) for block in summarise_blocks(record)),
    )


def _block_row(block: BlockSummary, seen: SimilaritySummary | None) -> tuple[object, ...]:
    similarity = (seen.smallest, seen.median_mean, seen.largest_mean) if seen else (None,) * 3
    return (
        block.block,
        block.steps,
        block.forwards,
        block.refreshes,
        block.committed,
        block.masks_left,
        block.rows,
        block.skipped,
        *similarity,
        round(block.seconds, 3),
    )


def _print_steps(record: RunRecord) -> None:
    columns = (
        "forward",
        "step",
        "rows",
        "skipped",
        "committed",
        "masks left",
        "smallest similarity",
        "mean",
    )
    print()
    print_table(
        (*columns, "refresh", "recovery", "seconds"),
        (
            (
                step.forward,
                _place(step),
                step.rows.size,
                len(step.skipped),
                len(step.committed),
                step.masks_after,
                *_similarity(step.judgements),
                step.refresh,
                step.recovery,
                round(step.seconds, 4),
            )
            for step in record.steps
        ),
    )


def _similarity(judgements: Judgements | None) -> tuple[float | None, float | None]:
    """The smallest similarity of any row, and the mean over rows."""
    if judgements is None or not len(judgements):
        return None, None
    return float(judgements.smallest.min()), float(judgements.mean.mean())


def _print_step(step: StepRecord, record: RunRecord) -> None:
    kinds = [name for name in ("refresh", "recovery") if getattr(step, name)]
    print(f"block {step.block}, step {step.step}, forward {step.forward} {' '.join(kinds)}".strip())
    _line("rows", spans(step.rows.tolist()))
    _line("skipped", spans(step.skipped))
    _line("committed", spans(step.committed))
    _line("positions", f"known from {step.positions_from}")
    print()
    start = record.prompt_length
    columns = ("position", "new", "rank", "token", "confidence", "bound", "runner-up", "margin")
    print_table(
        (*columns, "age", "eligible", "committed"),
        (_candidate_row(candidate, start) for candidate in step.candidates),
    )
    if step.judgements is not None:
        print()
        _print_judgements(step.judgements, start)


def _candidate_row(candidate: Candidate, start: int) -> tuple[object, ...]:
    return (
        candidate.position,
        candidate.position - start,
        candidate.rank,
        candidate.token,
        candidate.confidence,
        candidate.bound,
        candidate.runner_up,
        candidate.margin,
        candidate.age,
        candidate.eligible,
        candidate.committed,
    )


def _print_judgements(judged: Judgements, start: int) -> None:
    columns = ("position", "new", "smallest", "mean", "stable", "forced", "skipped")
    names = ("position", "smallest", "mean", "stable", "forced", "skipped")
    arrays = (judged.reference_position, judged.reference_forward)
    print_table(
        (*columns, "compared with position", "of forward"),
        (
            (position, position - start, *values)
            for position, *values in zip(
                *(getattr(judged, name).tolist() for name in names),
                *(array.tolist() for array in arrays),
                strict=True,
            )
        ),
    )


def _print_events(record: RunRecord, *, everything: bool) -> None:
    if not record.events:
        return
    shown = record.events if everything else record.events[:_SHOWN_EVENTS]
    print()
    for event in shown:
        times = f" ({event.count} times)" if event.count > 1 else ""
        _line("event", f"{event.kind}: {event.message}{times}")
        if everything:
            _line("", f"at {event.source or '-'}, forward {event.forward}, layer {event.layer}")
    if len(shown) < len(record.events):
        _line("", f"and {len(record.events) - len(shown)} more; --events shows them all")


def _print_kept(trace: StoredTrace, sample: int) -> None:
    print()
    for experiment in trace.experiments:
        _line("experiment", f"{experiment.key}: {experiment.outcome}")
    for tap in summarise_taps(trace.entries(sample)):
        layers = f"layer {tap.first_layer}"
        if tap.last_layer > tap.first_layer:
            layers = f"layers {tap.first_layer} to {tap.last_layer}"
        dtypes = " and ".join(tap.dtypes)
        amount = size(tap.nbytes)
        _line("tensors", f"{tap.tap}: {layers}, {tap.forwards} forwards, {dtypes}, {amount}")
    _line("size", size(trace_bytes(trace)))


# --- for programs


def _as_json(
    trace: StoredTrace, sample: int, chosen: list[StepRecord] | None, *, all_steps: bool
) -> dict[str, object]:
    record, outcome = trace.records[sample], trace.outcomes[sample]
    found: dict[str, object] = {
        "trace": str(trace.path),
        "manifest": asdict(trace.manifest),
        "closed": trace.closed,
        "checksums": trace.has_checksums,
        "holes": [asdict(hole) | {"text": str(hole)} for hole in trace.holes(sample)],
        "sample": sample,
        "header": asdict(trace.headers[sample]),
        "outcome": None if outcome is None else asdict(outcome),
        "blocks": [asdict(block) for block in summarise_blocks(record)],
        "similarity": [asdict(row) for row in similarity_by_block(record)],
        "events": [asdict(event) for event in record.events],
        "experiments": [asdict(experiment) for experiment in trace.experiments],
        "tensors": [asdict(tap) for tap in summarise_taps(trace.entries(sample))],
        "bytes": trace_bytes(trace),
    }
    if all_steps:
        found["steps"] = [_step_json(step) for step in record.steps]
    if chosen is not None:
        found["step"] = [_step_json(step) | _decisions_json(step) for step in chosen]
    return found


def _step_json(step: StepRecord) -> dict[str, object]:
    return {
        "forward": step.forward,
        "block": step.block,
        "step": step.step,
        "refresh": step.refresh,
        "recovery": step.recovery,
        "rows": step.rows.tolist(),
        "skipped": list(step.skipped),
        "committed": list(step.committed),
        "masks_left": step.masks_after,
        "seconds": step.seconds,
    }


def _decisions_json(step: StepRecord) -> dict[str, object]:
    judged = step.judgements
    return {
        "candidates": [asdict(candidate) for candidate in step.candidates],
        "judgements": None
        if judged is None
        else {name: array.tolist() for name, array in vars(judged).items()},
    }
