"""Why an answer changed: a diagnosis of its run beside the baseline's, both decoded alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diagnosis.finding import Proof
from skipstone.engine import Engine
from skipstone.errors import NoRoomError, SkipstoneError
from skipstone.models.load import Model
from skipstone.record import MemoryTrace, Trace
from skipstone.sweep.measure import NOT_FINISHED, Measurement
from skipstone.sweep.together import DecodedRun, decode_alone
from skipstone.sweep.units import CauseUnit, WorkerSetup
from skipstone.tracing.diagnose import examined
from skipstone.tracing.experiments.known import KnownAnswers
from skipstone.tracing.experiments.runner import Side


@dataclass(frozen=True)
class Examined:
    """All that a report of a changed answer shows."""

    baseline: Trace
    trace: MemoryTrace
    diagnosis: Diagnosis


@dataclass(frozen=True)
class Explained:
    """A changed answer whose cause was looked for."""

    prompt: int
    setting: str
    cause: str
    proof: str
    evidence: str
    time_limit: float
    """Seconds that its experiments might take."""
    shown: Examined | None
    """None where nobody asked for reports."""

    @property
    def then(self) -> tuple[CauseUnit, ...]:
        """Units that follow from it: none."""
        return ()

    def told(self, m: Measurement) -> Measurement:
        """The measurement with the cause of its other answer, and how well it is proven."""
        return replace(
            m,
            cause=self.cause,
            proof=self.proof,
            evidence=self.evidence,
            time_limit=self.time_limit,
        )


def explain(model: Model, plan: WorkerSetup, unit: CauseUnit, trusted: Side) -> Explained:
    """Look for the cause of an answer that changed.

    What is proven about a run is proven of one that can be repeated, so it is decoded again, alone.

    Args:
        model: that decoded it.
        plan: of the sweep.
        unit: the answer.
        trusted: the baseline's run of the same prompt, alone.

    Raises:
        NoRoomError: there is too little memory.
    """
    settings = next(s.settings for s in plan.all if s.name == unit.setting)
    try:
        run = decode_alone(model, settings, unit.text)
        found = examined(trusted, side_of(model, run), None, time_limit=plan.explain)
    except NoRoomError:
        raise
    except SkipstoneError as error:
        told, shown = (NOT_FINISHED, "", str(error)), None
    else:
        told = _told(found)
        shown = Examined(trusted.trace, run.trace, found) if plan.reports else None
    return Explained(unit.prompt, unit.setting, *told, plan.explain, shown)


def side_of(model: Model, run: DecodedRun, known: KnownAnswers | None = None) -> Side:
    """A side of diagnoses, which may run it again; what is ``known`` of it alone is asked once."""
    return Side(run.trace, 0, Engine(model, run.settings), known=known)


def _told(found: Diagnosis) -> tuple[str, str, str]:
    """The cause, how well it is proven, and what shows it."""
    if found.cause is None:
        return found.verdict if found.finished else NOT_FINISHED, "", str(found.known)
    proof, evidence = found.cause.proof, str(found.cause.evidence)
    if proof < Proof.SUFFICIENT and not found.finished:
        # Another rule may have the proof for which there was no time.
        return NOT_FINISHED, "", f"so far {found.verdict} ({proof}): {evidence}"
    return found.verdict, str(proof), evidence
