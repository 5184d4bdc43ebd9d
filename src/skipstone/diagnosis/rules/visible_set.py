"""15: attention sees other keys than it should."""

from __future__ import annotations

from typing import get_args

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Choice, Follow, Hidden
from skipstone.diagnosis.factors import policy_that_differs
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.hidden_keys import by_setting, other_keys
from skipstone.diagnosis.rule import (
    Answer,
    Rule,
    of_attention,
    place,
    proof_of,
    proof_of_patch,
    tried,
)
from skipstone.diagnosis.rules.position_encoding import other_turn
from skipstone.diagnosis.window import seen_window
from skipstone.policies import CACHE
from skipstone.record import Trace
from skipstone.sentence import Code, Sentence, listed

_WORDS: dict[Hidden, Sentence] = {
    "prompt": Sentence("the prompt is hidden"),
    "prompt in its block": Sentence("the end of the prompt that is in the block is hidden"),
    "left": Sentence("what is left of the block is hidden"),
    "suffix": Sentence("what is right of the block is hidden"),
    "outside": Sentence("everything outside the block is hidden"),
    "first": Sentence("the first key is hidden"),
    "last": Sentence("the last key is hidden"),
    "later": Sentence("every key behind its row is hidden, as under a causal mask"),
    "own block": Sentence("the block that a row is in is hidden from it"),
    "next block seen": Sentence("a row sees one block beyond its own"),
    "call seen": Sentence("a row sees all rows of the call, also those behind its block"),
    "padding seen": Sentence("the padding of the batch is seen"),
}


def examine(case: Case) -> Answer:
    """Keys that a cache policy hides; else every layer makes states wrong: try visible sets."""
    return _by_table(case) or _by_setting(case) or _by_states(case)


def _by_table(case: Case) -> Finding | None:
    """B's cache policy hides other keys than it should from the same queries and keys."""
    found, step = other_keys(case), case.tensors.step
    if found is None or step is None:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the cache policy hides other keys than it should"),
        where=place(step, found.layers[0], int(found.positions[0])),
        evidence=Sentence(
            "other keys are visible in {layers} layers; in layer {layer} {mine} are and {right} "
            "should be, and {positions} positions differ",
            layers=len(found.layers),
            layer=found.layers[0],
            mine=found.visible[0],
            right=found.visible[1],
            positions=found.positions.size,
        ),
        experiment=tried(
            found.reproduces,
            Sentence("let the reference run see B's visible keys: B's scores"),
            Sentence("let the reference run see B's visible keys: not B's scores"),
        ),
        proof=proof_of_patch(case, found.reproduces),
        remedy=Sentence(
            "compare with the cache's rule which keys are kept, when, and by what score"
        ),
        positions=tuple(found.positions.tolist()),
    )


def _by_setting(case: Case) -> Finding | None:
    """The keys that the cache setting hides are the difference."""
    hiding = by_setting(case)
    step = case.step_b(case.divergence.forward or 0)
    if hiding is None or not hiding.alone or step is None:
        return None
    found = hiding.found
    cache = CACHE.recorded(case.record_b.header.settings)
    shown = None if cache is None else cache.unhidden()
    first = case.divergence.first
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence(
            "the keys that {cache} hides change the decision",
            cache=policy_that_differs(case, "cache"),
        ),
        where=place(step, None, None if first is None else first.position),
        evidence=listed(
            [
                Sentence("with the same rows and no key hidden, both decide alike"),
                case.expected.forced,
            ]
        ),
        experiment=found.how,
        proof=proof_of(removed=found.removed, added=found.added),
        remedy=Sentence("let both see the same keys")
        if shown is None
        else Sentence(
            "hide fewer keys; cache={setting} hides none", setting=Code(CACHE.spell(shown))
        ),
    )


def _by_states(case: Case) -> Answer:
    """Every layer makes states wrong although keys and values are right: try visible sets."""
    found = hidden_keys(case)
    if found is not None:
        how = Sentence("{keys}: the reference run with it scores as B", keys=_WORDS[found])
        return _found(case, how, True)
    if case.attention.cause is not None:
        return of_attention(case, RULE.name, RULE.number)
    if not _suspected(case) or other_turn(case) is not None:
        return None
    if case.tensors.causal_pattern:
        how = Sentence("later keys are hidden: the error falls to zero at the last row")
        return _found(case, how, None)
    window = None if case.tensors.local is None else seen_window(case)
    if window is None:
        return None
    how = Sentence(
        "only keys {first} to {last} are seen: the reference run with it scores as B",
        first=window[0],
        last=window[1] - 1,
    )
    return _found(case, how, True)


def hidden_keys(case: Case) -> Hidden | None:
    """What is hidden in a reference run that scores as B; None if nothing that was tried."""
    if not _suspected(case) or case.tensors.local is None:
        return None
    tried = (hidden for part in get_args(Hidden) for hidden in get_args(part) if hidden)
    return next((h for h in tried if case.proof.reproduces(_with(case, h))), None)


def _suspected(case: Case) -> bool:
    """Whether states are wrong in most layers although keys and values are right."""
    states = [d for d in case.tensors.born if d.kind == "state" and d.layer]
    wrong_kv = [
        d for d in case.tensors.born if d.kind in ("key", "value")
    ] or case.tensors.cached_wrong
    # Without a model only the first layer that is wrong can be known.
    enough = 1 if case.tensors.local is None else case.record_b.header.num_layers // 2
    # Rows that are given other positions attend otherwise, whatever they may see.
    elsewhere = case.event("positions_disagree") is not None
    return bool(states) and not wrong_kv and len(states) >= enough and not elsewhere


def _with(case: Case, hidden: Hidden) -> Trace | None:
    side = "a" if case.foreign else "b"
    led: frozenset[Choice] = frozenset(("rows", "skip"))
    return case.ask(
        Follow("b", side, (case.tensors.focus, case.tensors.focus), led=led, hidden=hidden)
    )


def _found(case: Case, how: Sentence, added: bool | None) -> Finding:
    states = [d for d in case.tensors.born if d.kind == "state" and d.layer]
    first = states[0]
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("attention sees other keys than it should"),
        where=place(first.step, first.layer, first.position),
        evidence=Sentence(
            "{layers} layers give wrong states from right keys, values and inputs, by {error:.2g} "
            "(floor {floor:.1g}) at {positions} positions",
            layers=len(states),
            error=first.size,
            floor=first.floor,
            positions=first.positions.size,
        ),
        experiment=how,
        proof=proof_of_patch(case, added),
        remedy=Sentence(
            "compare the attention mask with what the decode needs: every position of its own "
            "request, and no padding"
        ),
        positions=tuple(first.positions.tolist()),
    )


RULE = Rule(15, "visible-set", "attention mask or visible set differs", examine)
