"""Why two runs part: asks every rule, and puts the best proved cause first."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce

from skipstone.diagnosis import given, unexplained
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding, Place, Proof, RuledOut
from skipstone.diagnosis.number_of_keys import other_keys
from skipstone.diagnosis.other_region import other_region
from skipstone.diagnosis.overwritten import over_prompt
from skipstone.diagnosis.rules import RULES
from skipstone.diagnosis.stale_ids import other_ids
from skipstone.diagnosis.unjudged import Unjudged
from skipstone.diagnosis.weights import other_weights
from skipstone.diff.compare import tokens_differ
from skipstone.record import StoredTrace
from skipstone.record.weights import same_weights
from skipstone.sentence import NOTHING, Code, Sentence, listed

_LINES = 10
_SHOWN_RULED_OUT = 2
_NO_SIGN = Sentence("its signature is not there")
# Where a run differs from itself, no other cause can be claimed.
_FORBIDDING = frozenset(("nondeterminism", "observer-effect"))
# What is worth a word in any run, and explains a difference only if nothing else does.
_REMARKS = frozenset(("inactive-feature", "budget-exhausted", "low-precision-similarity"))


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    parted: bool
    """Whether the runs decide differently anywhere."""
    summary: Sentence
    """Where they part, in one line."""
    findings: tuple[Finding, ...]
    """Causes, the best first; empty if there is none."""
    remarks: tuple[Finding, ...]
    """What is worth knowing and is not the cause."""
    ruled_out: tuple[RuledOut, ...]
    noise: Sentence
    unavailable: tuple[Sentence, ...]
    """Why experiments could not be made."""
    unjudged: tuple[Sentence, ...] = ()
    """Which rules could not judge, and why: an error of ours in them ends no diagnosis."""
    experiments: tuple[str, ...] = ()
    next_command: Sentence = NOTHING
    known: Sentence = NOTHING
    """What is known where no cause is: the first thing that is wrong, and what is right."""
    finished: bool = True
    """Whether every experiment that was asked for could be made within the budget."""
    departs: bool = False
    """Whether B departs from what its settings give, though it may decide as A in every step."""

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        return f"<Diagnosis {self.verdict}: {self.summary!r}>"

    @property
    def cause(self) -> Finding | None:
        """The best finding; None if there is nothing to explain, or it cannot be explained."""
        return self.findings[0] if self.findings else None

    @property
    def verdict(self) -> str:
        """``same``, ``inconclusive``, or the name of the cause."""
        if self.cause is not None:
            return self.cause.rule
        return "inconclusive" if self.unexplained else "same"

    @property
    def unexplained(self) -> bool:
        """Whether there is something to explain, and no rule does."""
        return self.cause is None and (self.parted or self.departs)

    def as_json(self) -> dict[str, object]:
        """Plain data; the schema is in docs/diagnoses.md."""
        value = asdict(self)
        for finding in (*value["findings"], *value["remarks"]):
            finding["proof"] = str(Proof(finding["proof"]))
        return {"verdict": self.verdict, **value}

    def naming(self, token: Callable[[int], str]) -> Diagnosis:
        """The same diagnosis with tokens as ``token`` shows them; else they are ids."""

        def named(finding: Finding) -> Finding:
            evidence, experiment = finding.evidence, finding.experiment
            return replace(
                finding, evidence=evidence.naming(token), experiment=experiment.naming(token)
            )

        findings, remarks = (tuple(map(named, found)) for found in (self.findings, self.remarks))
        return replace(self, findings=findings, remarks=remarks)

    def lines(self) -> list[str]:
        """At most ten lines for a terminal."""
        shown = [str(self.summary)]
        if self.unexplained and not self.finished:
            shown.append("cause: NOT FINISHED: the budget for experiments ended the search")
        elif self.cause is None:
            shown.append(
                "cause: INCONCLUSIVE: no rule explains it; noise is not called a cause"
                if self.unexplained
                else f"no cause to look for: every difference is within noise ({self.noise})"
            )
        if self.known:
            shown.append(f"known: {self.known}")
        for finding in self.findings[:1]:
            shown += [
                f"cause: {finding.what} [{finding.rule}]",
                f"where: {finding.where}",
                f"evidence: {finding.evidence}",
                f"proof: {finding.proof}"
                + (f"; {finding.experiment}" if finding.experiment else ""),
            ]
        shown += [f"also: {f.what} ({f.where}) [{f.rule}]" for f in (*self.findings[1:2],)]
        shown += [f"note: {f.what}: {f.evidence}" for f in self.remarks[:1]]
        if self.ruled_out:
            shown.append(f"ruled out: {_names(self.ruled_out)}")
        if self.unjudged:
            shown.append(f"could not judge: {'; '.join(self.unjudged)}")
        if self.unavailable:
            shown.append(f"not tried: {'; '.join(self.unavailable[:2])}")
        if self.next_command:
            shown.append(f"next: {self.next_command}")
        return shown[:_LINES]


def _names(ruled_out: Sequence[RuledOut]) -> str:
    """Those that were tested and refuted by name, the others by number."""
    tested = [r for r in ruled_out if r.why != _NO_SIGN]
    words = [f"{r.rule} ({r.why})" for r in tested[:_SHOWN_RULED_OUT]]
    rest = len(ruled_out) - len(words)
    return "; ".join([*words, f"{rest} others show no sign" if rest else ""]).rstrip("; ")


def diagnose(case: Case) -> Diagnosis:
    """Ask every rule about a case."""
    other = _other_inputs(case)
    if other is not None:
        return _closed(case, other)
    unjudged = Unjudged()
    written, elsewhere, known = None, None, None
    with unjudged.within("commit-rule"):
        written = over_prompt(case)
    with unjudged.within("region-boundaries"):
        elsewhere = other_region(case)
    sure = written if written is not None and written.proof >= Proof.CONSISTENT else elsewhere
    if sure is not None:
        # A loop may do so because it was given other blocks, or a quota that does not fit.
        causes = *_given_otherwise(case), sure
        return replace(_closed(case, causes[0]), summary=_summary(case), findings=causes)
    for asked in (other_weights, other_ids, other_keys):
        with unjudged.within("other-inputs"):
            known = known or asked(case)
    if known is not None:
        parted = case.divergence.first is not None
        with unjudged.within("other-inputs"):
            handed = given.examine(case)
            known = given.with_differences(given.joined(known, handed.known), handed.beside)
        return replace(_closed(case, known), parted=parted, summary=_summary(case))
    findings, ruled_out = list[Finding](), list[RuledOut]()
    if written is not None:
        findings.append(written)
    for rule in RULES:
        answer = None
        with unjudged.within(rule.name) as went:
            answer = rule.examine(case)
        if went.wrong:
            continue
        if isinstance(answer, RuledOut):
            ruled_out.append(answer)
        elif isinstance(answer, Finding):
            findings.append(answer)
        elif not case.spent:
            # Without its experiments a rule that says nothing has ruled nothing out.
            ruled_out.append(RuledOut(rule.name, _NO_SIGN))
    handed = given.GivenDifferences([], [], [], [])
    with unjudged.within("other-inputs"):
        handed = given.examine(case)
    return _weighed(case, findings, handed, ruled_out, unjudged)


def _given_otherwise(case: Case) -> tuple[Finding, ...]:
    """Arguments whose meaning is known, and that are not the same."""
    handed = given.examine(case)
    return tuple(f for f in (*handed.numbers, *handed.known) if f.proof >= Proof.CONSISTENT)


def _other_inputs(case: Case) -> Finding | None:
    """28: the two runs did not even have the same input."""
    a, b = case.record_a.header, case.record_b.header
    pairs = {
        "weights": (a.weights, b.weights),
        "prompt ids": (a.prompt_ids, b.prompt_ids),
        "vocabulary": (a.vocab_size, b.vocab_size),
        "mask id": (a.mask_id, b.mask_id),
    }
    differ = {
        name: pair for name, pair in pairs.items() if pair[0] and pair[1] and pair[0] != pair[1]
    }
    if same_weights(a.weights, b.weights) is not False or a.dtype != b.dtype:
        differ.pop("weights", None)
    if not differ:
        return None
    filled = given.other_mask(case) if "prompt ids" in differ else None
    if filled is not None:
        return filled
    name, (x, y) = next(iter(differ.items()))
    position = None
    if name == "prompt ids":
        pair = zip(a.prompt_ids, b.prompt_ids, strict=False)
        position = next(
            (i for i, (s, t) in enumerate(pair) if s != t),
            min(len(a.prompt_ids), len(b.prompt_ids)),
        )
        x, y = (
            Sentence("{count} ids", count=len(a.prompt_ids)),
            Sentence(
                "{count} ids, the first other one at {position}",
                count=len(b.prompt_ids),
                position=position,
            ),
        )
    return Finding(
        rule="other-inputs",
        number=28,
        what=Sentence("the runs have different {inputs}", inputs=_and(differ)),
        where=Place(0, 0, 0, position),
        evidence=Sentence("{name}: {a} against {b}", name=Sentence(name), a=_shown(x), b=_shown(y)),
        experiment=Sentence(
            "compared before anything else: fingerprints of weights, ids of the prompt"
        ),
        proof=Proof.CONSISTENT,
        remedy=Sentence(
            "give both runs the same tokenizer, template and weights, then compare again"
        ),
    )


def _shown(value: object) -> object:
    """A fingerprint is no word of any language."""
    return Code(value) if isinstance(value, str) and not isinstance(value, Sentence) else value


def _closed(case: Case, finding: Finding) -> Diagnosis:
    return Diagnosis(
        parted=case.record_a.tokens != case.record_b.tokens,
        summary=Sentence("the two runs did not start from the same input"),
        findings=(finding,),
        remarks=(),
        ruled_out=(),
        noise=Sentence("not measured"),
        unavailable=tuple(case.unavailable),
    )


def _weighed(
    case: Case,
    seen: list[Finding],
    handed: given.GivenDifferences,
    ruled_out: list[RuledOut],
    unjudged: Unjudged,
) -> Diagnosis:
    """Sort causes from remarks, and the best proved first; rules earlier in the list win ties.

    What a rule says of a cause is more than that the sides were given different values for it.
    """
    parted = case.divergence.first is not None
    unclear = parted or case.expected.departs
    explains = parted or case.expected.first is not None
    seen = [given.joined(f, handed.known) for f in seen]
    known = [f for f in handed.known if f.rule not in {r.rule for r in seen}]
    findings = [*handed.numbers, *seen, *known]
    causes = [f for f in findings if explains and not _is_remark(f, seen)]
    causes.sort(key=lambda f: (f.rule not in _FORBIDDING, -f.proof))
    if explains and not causes:
        causes = [f for f in handed.unknown if f.proof >= Proof.CONSISTENT][:1]
    every = [*handed.numbers, *seen, *handed.known, *handed.unknown]
    remarks = [f for f in every if f not in causes]
    causes[:1] = [given.with_differences(f, handed.beside) for f in causes[:1]]
    known_of_it, next_command = NOTHING, NOTHING
    with unjudged.within("inconclusive"):
        known_of_it = NOTHING if causes or not unclear else unexplained.known(case)
    with unjudged.within("inconclusive"):
        next_command = _next(case, causes)
    return Diagnosis(
        parted=parted,
        summary=_summary(case, explained=bool(causes)),
        findings=tuple(causes),
        remarks=tuple(remarks),
        ruled_out=tuple(ruled_out),
        noise=case.noise.floor.said,
        unavailable=tuple(case.unavailable),
        unjudged=unjudged.said(),
        next_command=next_command,
        known=known_of_it,
        finished=not case.spent,
        departs=case.expected.departs,
    )


def _is_remark(finding: Finding, seen: Sequence[Finding]) -> bool:
    """Whether a finding is about the run as such and something else explains the difference."""
    if finding.proof < Proof.CONSISTENT and (finding.given or finding.rule == "budget-exhausted"):
        return True
    if finding.rule not in _REMARKS or finding.proof >= Proof.SUFFICIENT:
        return False
    return any(f.rule not in _REMARKS for f in seen)


def _and(names: Iterable[str]) -> Sentence:
    """Names of inputs as a list in words."""
    first, *others = (Sentence(name) for name in names)
    return reduce(lambda a, b: Sentence("{first} and {then}", first=a, then=b), others, first)


def _summary(case: Case, *, explained: bool = True) -> Sentence:
    first, start = case.divergence.first, case.record_a.prompt_length
    if first is not None:
        return Sentence(
            "A and B part at block {block}, step {step}, position {position} (new token {new}): "
            "{kind}; {differing}",
            block=first.block,
            step=first.step,
            position=first.position,
            new=first.position - start,
            kind=_KINDS[first.kind],
            differing=tokens_differ(len(case.divergence.comparison.differing_positions)),
        )
    deviation = case.expected.first
    if deviation is not None and (explained or case.expected.departs):
        step = deviation.step
        return Sentence(
            "A and B decide the same, but B departs from its settings at block {block}, step "
            "{step}: {kind}",
            block=step.block,
            step=step.step,
            kind=Sentence(deviation.kind),
        )
    return Sentence("A and B decide the same in every step")


_CALL = Code("skipstone.diagnose(a, b, model=skipstone.load(...))")
_MODEL = Sentence("give a model of ours with the same weights: {call}", call=_CALL)
_KINDS = {
    "committed_set": Sentence("they commit other positions"),
    "token": Sentence("they commit another token"),
    "stop": Sentence("only one goes on"),
}


def _next(case: Case, causes: Sequence[Finding]) -> Sentence:
    if causes:
        return causes[0].remedy
    first = case.expected.first
    step = first.step if first is not None else case.step_b(case.divergence.forward or -1)
    if step is None:
        return NOTHING
    at = f"b{step.block}.s{step.step}"
    if case.foreign and case.tensors.recorded is None:
        place = (step.block, step.step)
        return Sentence(
            "record both runs again with their tensors: {call}",
            call=Code(f"attach(model, level='window', window=({place}, {place}))"),
        )
    if case.tensors.local is None and case.foreign:
        return listed([*unexplained.to_look_at(case), _MODEL])
    if case.tensors.recorded is None:
        return Sentence(
            "record B again with its tensors: add {options} to its skipstone trace",
            options=Code(f"--level window --window {at}"),
        )
    if not isinstance(case.runs.a, StoredTrace):
        return Sentence(
            "record both runs with skipstone trace, and look at {at} under both settings with "
            "skipstone step",
            at=at,
        )
    words = ["skipstone", "step", str(case.runs.a.path), "--at", at, *_specs(case)]
    command = Code(shlex.join(words))
    return Sentence("look at the step under both settings: {command}", command=command)


def _specs(case: Case) -> list[str]:
    """The settings of both sides, where they are not the same, as options of ``skipstone step``."""
    sides = (
        zip(*case.runs.settings_differ.values(), strict=True) if case.runs.settings_differ else ()
    )
    specs = (dict(zip(case.runs.settings_differ, side, strict=True)) for side in sides)
    texts = (" ".join(f"{name}={text}" for name, text in spec.items()) for spec in specs)
    return [word for text in texts for word in ("--with", text)]
