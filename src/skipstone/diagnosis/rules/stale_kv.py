"""11: attention reads keys and values that are older than they should be."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.case.held import Held
from skipstone.diagnosis.case.layer_choice import ChoiceSlip
from skipstone.diagnosis.chosen_rows import chosen_rows
from skipstone.diagnosis.deviation import before_their_commit
from skipstone.diagnosis.experiment import Choice, Follow, Patch
from skipstone.diagnosis.factors import policy_that_differs, swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.hidden_keys import by_setting
from skipstone.diagnosis.joined_rows import joined_rows
from skipstone.diagnosis.patching import decisive
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of, proof_of_patch, tried
from skipstone.policies import CACHE
from skipstone.record import StepRecord, Tap
from skipstone.sentence import NOTHING, Code, Sentence, listed

_OLD: tuple[ChoiceSlip, ...] = ("due", "none", "layer", "fewer", "more", "others")

_WRITE_FIRST = Sentence("write the fresh keys and values of these rows before attention reads them")

_LOST = Sentence("attention reads old keys and values: a write to the cache is lost")
_NOT_RENEWED = Sentence("attention reads keys and values from before they were computed again")
_NEVER_WRITTEN = Sentence("attention reads rows of the cache that were never written")
_TOO_EARLY = Sentence("attention reads keys and values from before their positions were committed")
_STORE_LATER = Sentence("store a block after its last commit")
_GIVES_B = Sentence("put B's old keys and values into the reference run: B's scores")
_GIVES_OTHERS = Sentence("put B's old keys and values into the reference run: not B's scores")
_HIDES = Sentence(
    "with the same rows and no key hidden, B decides neither as it does here nor as A"
)
_HAND_ON = Sentence("hand on the cache that the last forward over these rows has returned")


def examine(case: Case) -> Answer:
    """A refresh or a write that is missing; else a cache setting that explains the difference."""
    return (
        _missing_refresh(case)
        or chosen_rows(case, RULE.name, RULE.number, _OLD)
        or joined_rows(case, RULE.name, RULE.number)
        or _lost_write(case)
        or _too_early(case)
        or _late_write(case)
        or _by_setting(case)
    )


def _missing_refresh(case: Case) -> Finding | None:
    """B recomputed only part of what its cache policy renews."""
    deviation = case.expected.first_of("rows")
    if deviation is None or deviation.expected is None:
        return None
    step, expected = deviation.step, deviation.expected
    missing = np.setdiff1d(expected.rows, step.rows)
    extra = np.setdiff1d(step.rows, expected.rows)
    never = step.entered_age[missing] < 0
    if not missing.size or extra.size or never.any():
        return None
    early = before_their_commit(case.record_b, step, missing)
    if not (expected.refresh or early.size or _goes_on(case, step, expected)):
        return None
    oldest = int(step.entered_age[missing].max())
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=_TOO_EARLY if early.size else Sentence("a refresh of the K/V cache is missing"),
        where=place(step, 1, int((early if early.size else missing)[0])),
        evidence=Sentence(
            "{kept} of {rows} rows kept K/V up to {oldest} forwards old where the cache policy "
            "renews all"
            if expected.refresh
            else "{kept} of {rows} rows kept K/V up to {oldest} forwards old where A, from the "
            "same canvas, computes all of these again",
            kept=missing.size,
            rows=expected.rows.size,
            oldest=oldest,
        ),
        experiment=tried(
            case.proof.fault_removed,
            Sentence("run on B's canvases with the refresh: the decisions are A's"),
            Sentence("run on B's canvases with the refresh: the decisions are not A's"),
        ),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=_STORE_LATER
        if early.size
        else Sentence("refresh all rows at the start of a block")
        if expected.refresh
        else Sentence("compute these rows again as often as A does"),
        positions=tuple(missing.tolist()),
    )


def _goes_on(case: Case, step: StepRecord, expected: StepRecord) -> bool:
    """Whether B computes the rows of its step before, where A began to compute more.

    Up to this step both computed the same: what is cut wrongly would be so in every step.
    """
    before = case.step_b(step.forward - 1)
    return (
        before is not None
        and before.block == step.block
        and np.array_equal(before.rows, step.rows)
        and not np.array_equal(before.rows, expected.rows)
    )


def _lost_write(case: Case) -> Finding | None:
    """Rows were computed, and attention still read their old keys and values."""
    found = case.held
    if found is None or found.kind not in ("old", "zeros"):
        return None
    added = case.proof.with_only(found.wrong, "B's stale keys and values")
    first = found.first
    # Rows that this step has computed were to be written by it; others by the forward before.
    now = np.isin(first.positions, case.tensors.fresh(first.layer or 0)).any()
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=_LOST if now else _NEVER_WRITTEN if found.kind == "zeros" else _NOT_RENEWED,
        where=place(first.step, first.layer, first.position),
        evidence=_what_is_read(found),
        experiment=tried(
            added,
            _GIVES_B,
            _GIVES_OTHERS,
        ),
        proof=proof_of_patch(case, added),
        remedy=_WRITE_FIRST if now else _HAND_ON,
        positions=tuple(first.positions.tolist()),
    )


def _what_is_read(found: Held) -> Sentence:
    first = found.first
    tensors = Sentence(f"{first.kind}s")
    if found.kind == "zeros":
        return Sentence(
            "{tensors} of {positions} positions in {layers} layers are zeros: they were never "
            "written",
            tensors=tensors,
            positions=first.positions.size,
            layers=found.layers,
        )
    return Sentence(
        "{tensors} of {positions} positions in {layers} layers equal those of forward {old}, error "
        "of the right ones {error:.2g} (floor {floor:.1g})",
        tensors=tensors,
        positions=first.positions.size,
        layers=found.layers,
        old=found.other,
        error=first.size,
        floor=first.floor,
    )


def _too_early(case: Case) -> Finding | None:
    """Cached rows that are wrong from the first layer on were computed while they had other ids."""
    wrong = case.tensors.cached_wrong
    first = next((d for d in wrong if d.kind == "value" and d.layer == 1), None)
    if first is None:
        return None
    early = before_their_commit(case.record_b, first.step, first.positions)
    if early.size < first.positions.size:
        return None
    added = case.proof.with_only(wrong, "B's stale keys and values")
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=_TOO_EARLY,
        where=place(first.step, 1, int(early[0])),
        evidence=Sentence(
            "values of layer 1 at {positions} positions are those of other ids (error {error:.2g}, "
            "floor {floor:.1g}): they were computed before their commit, and not since",
            positions=early.size,
            error=first.size,
            floor=first.floor,
        ),
        experiment=tried(added, _GIVES_B, _GIVES_OTHERS),
        proof=proof_of_patch(case, added),
        remedy=_STORE_LATER,
        positions=tuple(early.tolist()),
    )


def _late_write(case: Case) -> Finding | None:
    """What is stored is right, and states come out as if the rows of the step before were read."""
    states = [d for d in case.tensors.born if d.kind == "state" and d.layer]
    step = case.step_b(case.tensors.focus)
    if not states or step is None or any(d.kind in ("key", "value") for d in case.tensors.born):
        return None
    patches = _older_rows(case, step)
    led: frozenset[Choice] = frozenset(("rows", "skip"))
    window = (case.tensors.focus, case.tensors.focus)
    name = "the computed rows' K/V of the step before"
    if not patches or not case.proof.reproduces(
        case.ask(Follow("b", "b", window, led=led, patches=patches, patch_name=name))
    ):
        return None
    first = states[0]
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("attention reads old keys and values: they are written after it has read"),
        where=place(first.step, first.layer, first.position),
        evidence=Sentence(
            "{layers} layers give wrong states (error {error:.2g}, floor {floor:.1g}) although the "
            "stored keys and values are right",
            layers=len(states),
            error=first.size,
            floor=first.floor,
        ),
        experiment=Sentence(
            "put the computed rows' K/V of the step before into the reference run: B's scores"
        ),
        proof=proof_of_patch(case, True),
        remedy=_WRITE_FIRST,
        positions=tuple(first.positions.tolist()),
    )


def _older_rows(case: Case, step: StepRecord) -> tuple[Patch, ...]:
    """Keys and values, one forward old, of the rows that a step computes."""
    before = step.forward - 1
    older = case.tensors.reference(before) if before >= 0 and not step.refresh else None
    if older is None:
        return ()
    tensors = ((k, older.tensor(0, k)) for k in older.keys(0) if k.forward == before)
    return tuple(
        Patch(key.tap, step.forward, key.layer, step.rows, rows.at(step.rows))
        for key, rows in tensors
        if rows is not None and key.tap in (Tap.KEY, Tap.VALUE)
    )


def _by_setting(case: Case) -> Finding | None:
    """The cache policy is the difference: fresh keys and values restore A's decision."""
    found = swap(case) if case.expected.conforms else None
    step = case.step_b(case.divergence.forward or 0)
    if found is None or found.factors[0].setting != "cache" or step is None:
        return None
    hiding = by_setting(case)
    if hiding is not None and hiding.alone:
        return None
    spot = decisive(case, step)
    # Keys and values that are fresh where B hides keys tell what their age does by itself.
    both, cache = hiding is not None and spot is None, policy_that_differs(case, "cache")
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence(
            "{cache} leaves stale K/V and hides keys, which changes the decision", cache=cache
        )
        if both
        else Sentence("{cache} leaves stale K/V that change the decision", cache=cache),
        where=place(step, None if spot is None else spot.layer, _position(case)),
        evidence=listed(
            [
                _drift(step),
                _HIDES if both else NOTHING if spot is None else spot.evidence,
                case.expected.forced,
            ]
        ),
        experiment=listed([found.how, NOTHING if spot is None else spot.experiment]),
        proof=proof_of(removed=found.removed, added=found.added),
        remedy=_refresh_more(case),
        positions=() if spot is None else spot.positions,
    )


def _refresh_more(case: Case) -> Sentence:
    """The same cache with younger K/V, if it knows of one."""
    cache = CACHE.recorded(case.record_b.header.settings)
    fresher = None if cache is None else cache.fresher()
    if fresher is None:
        return Sentence("refresh more often, or use smaller blocks")
    return Sentence(
        "refresh more often, for example cache={setting}, or use smaller blocks",
        setting=Code(CACHE.spell(fresher)),
    )


def _position(case: Case) -> int | None:
    first = case.divergence.first
    return None if first is None else first.position


def _drift(step: StepRecord) -> Sentence:
    left = np.setdiff1d(step.rows, step.finished)
    if left.size and not step.skip_layer:
        return Sentence(
            "{rows} of {all} rows take from some layers what these added to them earlier; they "
            "last went through all layers up to {age} forwards before",
            rows=left.size,
            all=step.rows.size,
            age=int(step.finished_age[left].max()),
        )
    old = step.entered_age[np.setdiff1d(np.arange(step.entered_age.size), step.rows)]
    if not old.size:
        return Sentence("no cached row is read in this step")
    return Sentence(
        "{rows} cached rows are up to {age} forwards old", rows=old.size, age=int(old.max())
    )


RULE = Rule(11, "stale-kv", "stale K/V", examine)
