"""What each side was given: compared before anything else, and named where it can matter.

A difference in what was given is a cause of its own. It is only a remark where the first thing that
differs cannot follow from it: a threshold changes no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.decide import Rule as CommitRule
from skipstone.diagnosis.decide import commits, draws
from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.diagnosis.meanings import COMMIT, INPUTS, MEANINGS, Meaning
from skipstone.diagnosis.rule import place, proof_of
from skipstone.record import ASSIGNED, RunRecord, StepRecord
from skipstone.record.weights import same_weights
from skipstone.sentence import NOTHING, Code, Sentence, listed

# Of no run's arithmetic.
_IDLE = ("path", "name", "version", "verbose", "log", "use_cache", "device", "output_", "return_")
_DECIDES = frozenset(("commit", "end"))
_COMMITTED = frozenset(("committed_set", "stop"))


@dataclass(frozen=True)
class Difference:
    """One thing that the sides were given, and not alike."""

    name: str
    a: str
    b: str
    source: str = ""
    """The line of B's call."""
    visible: tuple[float, float] | None = None
    """Of a mask of B: how much can be seen, and of how much."""
    plain: bool = False
    """Whether it is a plain argument of some function, and may be of a user's own harness."""

    @property
    def meaning(self) -> Meaning:
        """What it does."""
        return MEANINGS.get(self.name.removesuffix(ASSIGNED), INPUTS)

    @property
    def known(self) -> bool:
        """Whether it is known what it does."""
        return self.name.removesuffix(ASSIGNED) in MEANINGS

    @property
    def derived(self) -> bool:
        """Whether the function itself has set the value, so that others may have decided it."""
        return self.name.endswith(ASSIGNED)


_NUMBERS = ("dtype", "weights")
# What our engine and other people's loops call by one name, and mean alike.
_SHARED = frozenset(("block_length", "gen_length", "temperature"))


@dataclass(frozen=True)
class Given:
    """What the sides were given, and not alike."""

    numbers: list[Finding]
    """Dtype and weights: no number of one side is then one of the other's."""
    known: list[Finding]
    """Arguments whose meaning is known."""
    unknown: list[Finding]
    """Others: they explain a difference only if nothing else does."""


def examine(case: Case) -> Given:
    """Compare what both sides were given."""
    told = {e.message.partition(" ")[0] for e in case.events if e.kind == "stated_differs"}
    found = [d for d in differences(case) if d.name not in told]
    found.sort(key=lambda d: d.derived)
    passed = any(d.known and d.plain and not d.derived for d in found)
    numbers, known, unknown = list[Finding](), list[Finding](), list[Finding]()
    for d in found:
        kind = numbers if d.name in _NUMBERS else known if d.known else unknown
        finding = _found(case, d)
        # What a function has computed from its arguments follows from them.
        kind.append(replace(finding, proof=Proof.OBSERVED) if d.derived and passed else finding)
    return Given(numbers, known, unknown)


def joined(seen: Finding, known: Sequence[Finding]) -> Finding:
    """What a rule has seen, with the argument that the sides were given otherwise and that says it.

    The argument tells where to mend it; what the rule has measured tells that it acts.
    """
    same = (f for f in known if f.rule == seen.rule and f.proof >= Proof.CONSISTENT)
    handed = next(same, None)
    if handed is None or seen.given:
        return seen
    evidence = listed([handed.evidence, seen.evidence])
    return replace(seen, evidence=evidence, remedy=handed.remedy)


def other_mask(case: Case) -> Finding | None:
    """B's canvas is filled with another id than that of the mask, which then counts as prompt."""
    a, b = case.record_a.header, case.record_b.header
    start = len(a.prompt_ids)
    tail = set(b.prompt_ids[start:])
    if b.prompt_ids[:start] != a.prompt_ids:
        return None
    # After the first commits the canvas that was recorded last holds tokens, too, and no mask.
    full = not b.gen_length and len(b.prompt_ids) == case.record_a.length
    if not tail or b.mask_id in tail or (len(tail) != 1 and not full):
        return None
    return Finding(
        rule=COMMIT.rule,
        number=COMMIT.number,
        what=Sentence("B fills its canvas with another id than that of the mask"),
        where=Place(0, 0, None, start),
        evidence=Sentence(
            "from position {position} on B has the id {other}, the model's mask is {mask}",
            position=start,
            other=tail.pop(),
            mask=b.mask_id,
        )
        if len(tail) == 1
        else Sentence(
            "from position {position} on B's canvas has no mask ({mask}), where A's has {count}",
            position=start,
            mask=b.mask_id,
            count=a.gen_length,
        ),
        experiment=NOTHING,
        proof=Proof.CONSISTENT,
        remedy=Sentence("pass the loop's mask id to attach, and to both runs"),
        given=True,
    )


def differences(case: Case) -> list[Difference]:
    """What the sides were given, and not alike."""
    return [*_dtype(case), *_plain(case), *_tensors(case)]


def _dtype(case: Case) -> Iterator[Difference]:
    a, b = case.record_a.header, case.record_b.header
    if a.dtype == b.dtype:
        return
    yield Difference("dtype", a.dtype, b.dtype, _called_at(case.record_b))
    # Rounded to another dtype, the same weights have another fingerprint.
    led = case.expected.led is not None
    if led and not case.expected.conforms and same_weights(a.weights, b.weights) is False:
        yield Difference("weights", a.weights, b.weights)


def _plain(case: Case) -> Iterator[Difference]:
    """Configuration, and arguments that both sides have by the same name."""
    a, b = case.record_a.header, case.record_b.header
    source = _called_at(case.record_b)
    for name in a.environment:
        x, y = a.environment[name], b.environment.get(name)
        if name.startswith("config.") and y is not None and _differ(name, x, y):
            yield Difference(name, x, y, source)
    if not case.foreign:
        return
    ours = a.source == "skipstone"
    for name, y in b.settings.items():
        x = a.settings.get(name)
        if x is not None and (name in _SHARED or not ours) and _differ(name, x, y):
            yield Difference(name, x, y, source, plain=True)
    x, y = _threshold(a.settings), _threshold(b.settings)
    if ours and x is not None and y is not None and x != y:
        yield Difference("threshold", f"{x:g}", f"{y:g}", source)


def _threshold(settings: dict[str, str]) -> float | None:
    """The confidence that a side asks for; None if it says none."""
    rule = CommitRule.of(settings)
    if rule is not None:
        return rule.value if rule.name == "threshold" else None
    for name in ("threshold", "confidence_threshold"):
        try:
            return float(settings[name])
        except (KeyError, ValueError):
            continue
    return None


def _differ(name: str, a: str, b: str) -> bool:
    if a == b or any(word in name.lower() for word in _IDLE):
        return False
    try:
        return float(a) != float(b)
    except ValueError:
        return a.lower() != b.lower()


def _tensors(case: Case) -> Iterator[Difference]:
    """Tensor arguments of the first step that differs, beside those of the same step of A."""
    step = case.tensors.step
    if not case.foreign or step is None:
        return
    mine = _given(case.record_b, step.forward)
    if case.record_a.header.source == "skipstone":
        # Our engine sees every position of a request, whatever a mask says.
        for name, found in mine.items():
            if name == "attention_mask" and found.visible and found.visible[0] < found.visible[1]:
                yield found
        return
    other = case.divergence.same_step(step)
    # A call of other rows is given other tensors.
    if other is None or other.rows.size != step.rows.size:
        return
    theirs = _given(case.record_a, other.forward)
    for name in sorted(mine.keys() | theirs.keys()):
        x, y = theirs.get(name), mine.get(name)
        a, b = "not given" if x is None else x.b, "not given" if y is None else y.b
        if a != b and not _sees_all(x) | _sees_all(y):
            source = _called_at(case.record_b) if y is None else y.source
            yield Difference(name, a, b, source, None if y is None else y.visible)


def _sees_all(given: Difference | None) -> bool:
    """Whether nothing was given, or a mask that hides nothing: the same by another name."""
    if given is None:
        return False
    return given.visible is not None and given.visible[0] == given.visible[1]


def _given(record: RunRecord, forward: int) -> dict[str, Difference]:
    """Tensor arguments of a forward, by name."""
    found = dict[str, Difference]()
    for event in record.events:
        if event.kind != "given" or event.forward > forward:
            continue
        name, _, text = event.message.partition(" is ")
        numbers = event.numbers
        seen = (numbers["visible"], numbers["total"]) if "visible" in numbers else None
        found[name] = Difference(name, "every position", text, event.source, seen)
    return {name: d for name, d in found.items() if d.b != "not given"}


def _called_at(record: RunRecord) -> str:
    return record.header.environment.get("called at", "")


def _found(case: Case, d: Difference) -> Finding:
    proof, experiment = _proved(case, d)
    step = _step(case)
    position = case.divergence.first.position if case.divergence.first is not None else None
    return Finding(
        rule=d.meaning.rule,
        number=d.meaning.number,
        what=Sentence("the runs were given different {name}", name=Code(d.name)),
        where=place(step, None, position) if step is not None else Place(position=position),
        evidence=Sentence("{name}: {a} against {b}", name=Code(d.name), a=Code(d.a), b=Code(d.b)),
        experiment=experiment,
        proof=proof,
        remedy=Sentence(
            "give both runs the same {name}, at {source}", name=Code(d.name), source=Code(d.source)
        )
        if d.source
        else Sentence("give both runs the same {name}", name=Code(d.name)),
        given=True,
    )


def _step(case: Case) -> StepRecord | None:
    first = case.expected.first
    if first is not None:
        return first.step
    return None if case.divergence.forward is None else case.step_b(case.divergence.forward)


def _proved(case: Case, d: Difference) -> tuple[Proof, Sentence]:
    """As far as an experiment, or a replay of the decision, goes."""
    if d.name == "dtype":
        return _proved_dtype(case, d)
    if not _can_matter(case, d):
        return Proof.OBSERVED, NOTHING
    if d.name in ("threshold", "confidence_threshold"):
        return _proved_threshold(case, d)
    return Proof.CONSISTENT, NOTHING


def _can_matter(case: Case, d: Difference) -> bool:
    """Whether the first thing that differs can follow from this."""
    if d.plain and not d.known:
        return False
    first = case.expected.first
    acts = d.meaning.acts
    if acts == "decision" and case.divergence.first is None:
        return False
    if first is None:
        parted = case.divergence.first
        return parted is not None and (acts != "decision" or parted.kind in _COMMITTED)
    if acts == "decision":
        kinds = {x.kind for x in case.expected.deviations if x.step.forward == first.step.forward}
        return kinds <= (_DECIDES | {"token", "confidence"})
    return acts == "anything" or first.kind not in _DECIDES


def _proved_dtype(case: Case, d: Difference) -> tuple[Proof, Sentence]:
    """Each side does what its own dtype gives, where the model is here to say so."""
    if case.expected.led is None:
        return Proof.CONSISTENT, NOTHING
    if not case.expected.conforms:
        return Proof.OBSERVED, NOTHING
    how = Sentence("led along B's canvases in {b}: B's scores and commits", b=d.b)
    return Proof.SUFFICIENT, how


def _proved_threshold(case: Case, d: Difference) -> tuple[Proof, Sentence]:
    """The parting decision replayed from B's own confidences with either value."""
    step = None if case.divergence.forward is None else case.step_b(case.divergence.forward)
    other = None if step is None else case.divergence.same_step(step)
    if step is None or other is None:
        return Proof.CONSISTENT, NOTHING
    a, b = (CommitRule.of({"unmask": f"threshold:value={value}"}) for value in (d.a, d.b))
    assert a is not None
    assert b is not None
    removed = commits(a, step) == other.committed
    added = commits(b, step) == step.committed
    drawn = case.record_a.header.settings, case.record_b.header.settings
    if not added and all(map(draws, drawn)) and case.loops.same_scores:
        # What the drawn tokens are worth that were not committed is not recorded.
        more, fewer = (step, other) if float(d.b) < float(d.a) else (other, step)
        within = set(fewer.committed) < set(more.committed)
        return Proof.CONSISTENT if within else Proof.OBSERVED, NOTHING
    if not (removed and added):
        return Proof.OBSERVED, NOTHING
    how = Sentence(
        "replayed the decision from B's confidences: with {b} B's commits, with {a} A's",
        a=d.a,
        b=d.b,
    )
    return proof_of(removed=removed, added=added), how
