"""The causal chain: from the first output token that differs back to the state it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skipstone.diff.tensor_search import Provenance, TensorDivergence
from skipstone.digits import told_apart
from skipstone.report.facts.spot import Spot, commit_spots, spot_of
from skipstone.report.runs import Run, Study
from skipstone.report.words import Phrase, Say, say
from skipstone.sentence import Code


@dataclass(frozen=True)
class Link:
    """One link of the causal chain, from the output back to the source."""

    title: Say
    lines: tuple[Phrase, ...]
    spot: Spot | None = None


def chain(study: Study) -> list[Link]:
    """From the first output token that differs back to the state it comes from."""
    return [
        *_output_link(study),
        *_decision_link(study),
        *_state_link(study),
        *_cause_link(study),
    ]


def _output_link(study: Study) -> Iterator[Link]:
    found = study.difference
    if not found.differing_positions:
        yield Link(say("chain.output"), (say("chain.no_token"),))
        return
    position = found.differing_positions[0]
    lines = list[Phrase]()
    spot = None
    for run in study.pair:
        at = position - run.record.prompt_length
        token = run.record.tokens[at] if at < len(run.record.tokens) else None
        where = commit_spots(run.record).get(position)
        spot = where or spot
        shown = "–" if token is None else study.token(token)
        place = say("chain.never") if where is None else where.said
        lines.append(say("chain.token", run=run.letter, token=shown, place=place))
    title = say("chain.output_token", position=position, new=position - study.prompt_length)
    yield Link(title, tuple(lines), spot)


def _decision_link(study: Study) -> Iterator[Link]:
    first, close = study.difference.decision, study.difference.closeness
    if first is None:
        return
    lines = list[Phrase]()
    sides = (first.a, first.b)
    confidences = told_apart([side.confidence if side else None for side in sides])
    margins = told_apart([side.margin if side else None for side in sides], 2)
    for i, (run, known) in enumerate(zip(study.pair, sides, strict=True)):
        if known is None:
            lines.append(say("chain.no_score", run=run.letter))
            continue
        lines.append(
            say(
                "chain.commits" if known.committed else "chain.holds",
                run=run.letter,
                token=study.token(known.token),
                confidence=confidences[i],
                other=study.token(known.runner_up),
                margin=margins[i],
                age=known.age,
            )
        )
    if close is not None and close.decisive is not None:
        key = "chain.within" if close.within_noise else "chain.beyond"
        lines.append(say(key, times=f"{close.decisive:.3g}"))
    spot = Spot(first.block, first.step, None, first.position)
    title = say("chain.decision", place=spot.said, position=first.position)
    yield Link(title, tuple(lines), spot)


def _state_link(study: Study) -> Iterator[Link]:
    found = study.difference.tensors
    state = found.state
    if state is None:
        line = say("chain.no_state" if found.tensors else "chain.no_tensors")
        yield Link(say("chain.state"), (line,))
        return
    spot = Spot(state.block, state.step, state.layer, state.position)
    error = "∞" if state.relative_l2 is None else f"{state.relative_l2:.2g}"
    title = say(
        "chain.state_at",
        tap=say(f"tap.{state.tap.value}"),
        layer=state.layer,
        position=state.position,
        place=spot.said,
    )
    lines: list[Phrase] = [say("chain.error", error=error, floor=f"{state.floor:.2g}")]
    sides = zip(study.pair, (state.a, state.b), (state.forward_a, state.forward_b), strict=True)
    lines += [_source(run, row, forward) for run, row, forward in sides]
    yield Link(title, tuple(lines), spot)
    yield from _origin_link(study, state)


def _source(run: Run, row: Provenance, forward: int) -> Say:
    score = "" if row.score is None else f"{row.score:.6f}"
    source = "never_computed" if row.source == "never" else row.source
    key = f"chain.{source}_by" if score else f"chain.{source}"
    return say(key, run=run.letter, age=row.age, score=score, threshold=row.threshold)


def _origin_link(study: Study, state: TensorDivergence) -> Iterator[Link]:
    """The step in which an old row was computed."""
    if not state.b.age:
        return
    record = study.b.record
    step = next((s for s in record.steps if s.forward == state.forward_b - state.b.age), None)
    if step is None:
        return
    spot = Spot(step.block, step.step, state.layer, state.position)
    title = say("chain.origin", place=spot.said, run=study.b.letter)
    yield Link(title, (say("chain.origin_age", age=state.b.age),), spot)


def _cause_link(study: Study) -> Iterator[Link]:
    cause = None if study.diagnosis is None else study.diagnosis.cause
    if cause is not None:
        proof = say(f"proof.{cause.proof.name}")
        yield Link(
            say("chain.cause", rule=Code(cause.rule)),
            (cause.what, cause.evidence, proof),
            spot_of(cause.where),
        )
