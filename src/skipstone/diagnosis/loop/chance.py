"""Is it chance? What tells tokens and orders that were drawn from those that another rule gave.

An unknown rule looks like chance as long as nobody asks whether chance would have given this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from skipstone.diagnosis.loop.choice import places, within
from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.rule import Confidence, Draw, LoopRule
from skipstone.diagnosis.loop.sheet import confidences

# Fewer choices than these show nothing.
_ENOUGH = 6
_ENOUGH_TO_ORDER = 10
# Tokens may come from rows so many further, of those of the call.
_NEAR = (-2, -1, 1, 2)
# Standard errors by which chance may miss its mean.
_ERRORS = 3.0


def drawn_from_scores(evidence: Evidence, draw: Draw) -> bool:
    """Whether the tokens of a run are as probable as tokens that are drawn by probability.

    Those of a lower temperature are more probable, and so are those that a loop then picks, so that
    only the lower side is a sign.

    Where torch's own generator was left alone, ends that were filled in are no sign of another
    one, nor are tokens of other rows.
    """
    if not _passed_over_by_chance(evidence, draw) or not _misses_as_drawn(evidence, draw):
        return False
    # What is never drawn has no part in what is, though a confidence may count it.
    draw = replace(draw, still_summed=())
    excess = list[float]()
    for i, decision in enumerate(evidence.decisions):
        proposals = evidence.proposals(i, draw)
        done_C = decision.committed
        log_p_C = proposals.log_p_C
        expected_C = proposals.mean_C - proposals.best_C + log_p_C
        excess += (log_p_C - expected_C)[done_C].tolist()
    values = np.array(excess)
    values = values[np.isfinite(values)]
    if values.size < _ENOUGH:
        return False
    error = max(float(values.std()) / values.size**0.5, 1e-3)
    every = range(len(evidence.decisions))
    odd = {token for i in every for _, token in odd_tokens(evidence, i, draw)}
    ends = {evidence.record.header.eos_id}
    if evidence.drew_nothing and (odd <= ends or from_neighbours(evidence, every, draw)):
        return False
    return bool(values.mean() > -_ERRORS * error)


def _misses_as_drawn(evidence: Evidence, draw: Draw) -> bool:
    """Whether no more surer positions are passed over than drawing makes.

    One that draws its best token, which it does by the probability of that, is not passed over.
    """
    best = replace(draw, greedy=True, still_summed=())
    apart, variance = 0.0, 0.0
    for i, decision in enumerate(evidence.decisions):
        start, stop = decision.step.block_start, decision.step.block_stop
        inside_C = (decision.position_C >= start) & (decision.position_C < stop)
        p_C, done_C = np.exp(evidence.proposals(i, best).log_p_C), decision.committed
        taken_C = np.exp(evidence.proposals(i, draw).log_p_C)
        least = np.min(taken_C[done_C], initial=np.inf)
        hit_C = done_C & (evidence.proposals(i, best).token_C == decision.written_C)
        asked_C = (done_C | (inside_C & decision.open_C & (p_C > least))) & np.isfinite(p_C)
        apart += float((hit_C[asked_C] - p_C[asked_C]).sum())
        variance += float((p_C[asked_C] * (1 - p_C[asked_C])).sum())
    return apart > -_ERRORS * variance**0.5


def odd_tokens(evidence: Evidence, number: int, draw: Draw) -> list[tuple[int, int]]:
    """Position and token of what a decision wrote where another token was the best."""
    decision = evidence.decisions[number]
    best_C = evidence.proposals(number, replace(draw, greedy=True)).token_C
    odd_C = decision.committed & (best_C != decision.written_C)
    at, token = decision.position_C[odd_C].tolist(), decision.written_C[odd_C].tolist()
    return list(zip(at, token, strict=True))


def from_neighbours(evidence: Evidence, numbers: Iterable[int], draw: Draw) -> bool:
    """Whether all tokens that are not the best of their rows are those of rows so many further."""
    near = set(_NEAR)
    for number in numbers:
        odd = odd_tokens(evidence, number, draw)
        rows = dict(evidence.best_of_rows(number, draw)) if odd else {}
        at = {position: row for row, position in enumerate(rows)}
        best = list(rows.values())
        for position, token in odd:
            row = at.get(position, -len(best))
            near &= {k for k in _NEAR if 0 <= row + k < len(best) and best[row + k] == token}
    return bool(near)


def _passed_over_by_chance(evidence: Evidence, draw: Draw) -> bool:
    """Whether better tokens were passed over, and not for what they are.

    Ids beyond all that were written may be cut off, and those of the canvas may be penalised.
    """
    written, passed, known = set[int](), set[int](), list[bool]()
    ranks = set[int]()
    for i, decision in enumerate(evidence.decisions):
        step, sheet = decision.step, evidence.sheet(i, draw)
        canvas = {*evidence.record.header.prompt_ids, *step.ids_before.tolist()}
        for c in np.flatnonzero(decision.committed).tolist():
            written.add(int(decision.written_C[c]))
            ranks.add(int(sheet.above_C[c]))
            above = set(sheet.above_ids[c]) - set(draw.without)
            passed |= above
            if above or (not sheet.above_ids[c] and sheet.above_C[c]):
                # Of many that were better, the ids were not kept.
                known.append(bool(above) and above <= canvas)
    if passed and min(passed) > max(written):
        return False
    if len(ranks) == 1 and 0 not in ranks and len(known) >= _ENOUGH:
        # Always the second best is no chance either.
        return False
    # Few tokens stand in the canvas by chance, too.
    return len(known) < _ENOUGH or not all(known)


def ordered_by_chance(evidence: Evidence, rule: LoopRule) -> bool:
    """Whether the ranks of what was committed, by probability, are those of chance."""
    score, variance, choices = 0.0, 0.0, 0
    where = places(evidence.decisions, rule.region)
    for i, (decision, place) in enumerate(zip(evidence.decisions, where, strict=True)):
        proposals = evidence.proposals(i, rule.draw)
        value_C = confidences(proposals, Confidence(), decision.position_C)
        inside_C = within(decision, place, rule.region) & ~np.isnan(value_C)
        count, done = int(inside_C.sum()), decision.committed[inside_C]
        taken = int(done.sum())
        if not 0 < taken < count:
            continue
        rank = value_C[inside_C].argsort().argsort()
        score += float(rank[done].sum()) - taken * (count - 1) / 2
        variance += taken * (count - taken) * (count + 1) / 12
        choices += 1
    # An order by other confidences, as at another temperature, leans towards the best; few choices
    # do not show it.
    return choices >= _ENOUGH_TO_ORDER and abs(score) <= _ERRORS * variance**0.5
