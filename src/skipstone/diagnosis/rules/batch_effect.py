"""17 and 18: nothing but the batch, the padding, the threads or the backend differs."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import VARIATIONS, Follow, Variation
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, place
from skipstone.record import LOOP_WAS_GIVEN, WITHIN, StepRecord
from skipstone.sentence import Code, Sentence, listed

_BATCH: tuple[Variation, ...] = ("batch", "padding")


def examine(case: Case) -> Answer:
    """B keeps to its settings, decides otherwise, and was run in other surroundings."""
    step = None if case.divergence.forward is None else case.step_b(case.divergence.forward)
    first = case.divergence.first
    if (
        step is None
        or first is None
        or first.kind == "stop"
        or case.runs.settings_differ
        or not case.expected.conforms
    ):
        return None
    around = _surroundings(case)
    batch = any(entry.values["name"] == "batch" for entry in around)
    if not around:
        return None
    variation = _reproduces(case, step, batch=batch)
    return Finding(
        rule="batch-effect" if batch else "backend-noise",
        number=17 if batch else 18,
        what=Sentence(
            "rounding alone decides here: the runs differ in their batch"
            if batch
            else "rounding alone decides here: the runs differ in threads, backend or library"
        ),
        where=place(step, None, first.position),
        evidence=listed(
            [
                *around,
                Sentence(
                    "B's scores are within noise of what A's code gives ({noise})",
                    noise=case.noise.floor.said,
                ),
            ]
        ),
        experiment=Sentence(
            "A, with nothing but the {variation} changed, decides as B does",
            variation=Code(variation),
        )
        if variation
        else Sentence("run on B's canvases, A's code gives B's scores within noise"),
        proof=Proof.SUFFICIENT if variation else Proof.CONSISTENT,
        remedy=Sentence("not a fault of B; compare over many prompts with skipstone audit"),
    )


def _surroundings(case: Case) -> list[Sentence]:
    """What may change the last bits and is not the same: its name, A's and B's value."""
    a, b = case.record_a.header, case.record_b.header
    pairs = {"batch": (str(a.batch), str(b.batch)), "device": (a.device, b.device)}
    pairs |= {n: (a.versions[n], b.versions[n]) for n in a.versions if n in b.versions}
    around = (n for n in a.environment if n in b.environment and _surrounds(n))
    pairs |= {n: (a.environment[n], b.environment[n]) for n in around}
    return [
        Sentence("{name} {a} against {b}", name=Code(name), a=Code(x), b=Code(y))
        for name, (x, y) in pairs.items()
        if x != y
    ]


def _surrounds(name: str) -> bool:
    """Whether an entry of the environment says where a run was made, not what was run."""
    of_the_run = ("config.", "random ", WITHIN)
    return name not in ("keys", "called at", LOOP_WAS_GIVEN) and not name.startswith(of_the_run)


def _reproduces(case: Case, step: StepRecord, *, batch: bool) -> Variation:
    """The change of surroundings with which A decides as B does; empty if none does."""
    window = (step.forward, step.forward)
    for variation in VARIATIONS:
        if (variation in _BATCH) != batch:
            continue
        trace = case.ask(Follow("a", "a", window, variation=variation, tensors=False))
        if trace is not None and _committed(trace.records[0].steps[-1]) == _committed(step):
            return variation
    return ""


def _committed(step: StepRecord) -> dict[int, int]:
    """Tokens by position."""
    chosen = step.candidates.committed
    positions, tokens = step.candidates.position[chosen], step.candidates.token[chosen]
    return dict(zip(positions.tolist(), tokens.tolist(), strict=True))


RULE = Rule(17, "batch-effect", "batch, padding or backend noise", examine)
