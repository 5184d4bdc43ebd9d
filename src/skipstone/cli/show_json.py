"""What ``skipstone show --json`` prints, for programs."""

from __future__ import annotations

from dataclasses import asdict

from skipstone.cli.tokens import Tokens, answer_ids
from skipstone.diff.compare import similarity_by_block
from skipstone.record import Candidate, Header, Outcome, StepRecord, StoredTrace
from skipstone.record.settings import plain_settings
from skipstone.record.summary import summarise_blocks, summarise_taps, trace_bytes


def as_json(
    trace: StoredTrace,
    sample: int,
    chosen: list[StepRecord] | None,
    tokens: Tokens,
    *,
    all_steps: bool,
) -> dict[str, object]:
    """Everything about one sample of a trace as plain data.

    Args:
        trace: the trace.
        sample: which of its samples.
        chosen: the forwards of one step, to be told in full; None for no step.
        tokens: names the tokens.
        all_steps: list every forward, too.
    """
    record, outcome = trace.records[sample], trace.outcomes[sample]
    header = record.header
    found: dict[str, object] = {
        "trace": str(trace.path),
        "manifest": asdict(trace.manifest),
        "closed": trace.closed,
        "checksums": trace.has_checksums,
        "holes": [asdict(hole) | {"text": str(hole)} for hole in trace.holes(sample)],
        "sample": sample,
        "header": asdict(header) | {"settings": plain_settings(header.settings)},
        "outcome": None if outcome is None else _outcome_json(header, outcome),
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
        found["step"] = [_step_json(step) | _decisions_json(step, tokens) for step in chosen]
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
        "edited": list(step.edited),
        "revoked": list(step.revoked),
        "masks_left": step.masks_after,
        "seconds": step.seconds,
    }


def _outcome_json(header: Header, outcome: Outcome) -> dict[str, object]:
    """As recorded, its tokens up to EOS."""
    return {**asdict(outcome), "tokens": answer_ids(header, outcome.tokens)}


def _decisions_json(step: StepRecord, tokens: Tokens) -> dict[str, object]:
    judged = step.judgements
    return {
        "candidates": [_candidate_json(candidate, tokens) for candidate in step.candidates],
        "judgements": None
        if judged is None
        else {name: array.tolist() for name, array in vars(judged).items()},
    }


def _candidate_json(candidate: Candidate, tokens: Tokens) -> dict[str, object]:
    return {
        **asdict(candidate),
        "text": None if tokens.text is None else tokens.text(candidate.token),
        "runner_up_text": None if tokens.text is None else tokens.text(candidate.runner_up),
    }
