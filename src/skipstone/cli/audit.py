"""``skipstone audit``: a gate that passes if two settings agree often enough."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.escape import shortened
from skipstone.cli.idle import say_idle_settings
from skipstone.cli.junit import junit_xml
from skipstone.cli.numbers import check_some, decimal, whole
from skipstone.cli.options import (
    RunSpec,
    given,
    loaded_pair,
    memory_option,
    parse_rate,
    run_options,
    run_spec,
)
from skipstone.cli.progress import progress
from skipstone.cli.prompts import judge_option, read_questions
from skipstone.cli.sarif import sarif_log
from skipstone.cli.terminal import note, say, say_json
from skipstone.diff.agreement import (
    AnswerCounts,
    Judgement,
    Level,
    Question,
    Row,
    check_budget,
    judge,
    known_answers,
)
from skipstone.engine import parse_spec
from skipstone.errors import PromptError, SkipstoneError
from skipstone.outputs import check_apart, check_output, write_whole

if TYPE_CHECKING:
    from skipstone.engine import Engine

_LEVELS: tuple[Level, ...] = ("answer", "token", "decision")
_SHOWN = 5


@click.command("audit")
@click.option("--baseline", metavar="SPEC", required=True, help='Trusted: "cache=none skip=none"')
@click.option("--candidate", metavar="SPEC", required=True, help="The run that would replace it.")
@click.option(
    "--prompts",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help='One a line, or .jsonl with {"prompt": ..., "answer": ...}; "answer" may be left out.',
)
@click.option("--max-disagreement", "allowed", metavar="RATE", required=True, help="Like 0.5%.")
@click.option(
    "--level",
    type=click.Choice(_LEVELS),
    default="answer",
    help="What has to agree.  [default: answer]",
)
@click.option(
    "--confidence",
    type=decimal,
    default=0.95,
    metavar="P",
    help="Of the interval.  [default: 0.95]",
)
@click.option("--batch", type=whole, default=1, metavar="N", help="Prompts together.  [default: 1]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Log of finished prompts (JSON lines); with the same log, an audit goes on.",
)
@judge_option
@click.option("--junit", type=click.Path(path_type=Path), help="Also write JUnit XML.")
@click.option("--sarif", type=click.Path(path_type=Path), help="Also write SARIF 2.1.0.")
@run_options
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit_command(
    baseline: str,
    candidate: str,
    path: Path,
    allowed: str,
    level: Level,
    confidence: float,
    batch: int,
    output: Path | None,
    rule: str,
    junit: Path | None,
    sarif: Path | None,
    *,
    as_json: bool,
    **options: object,
) -> int:
    """Decode every prompt under both specs and judge how often they disagree.

    PASS: the whole confidence interval of the rate is within the budget. FAIL: the rate is over it.
    INCONCLUSIVE: too few prompts to tell. Exits with 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE,
    2 on an error.
    """
    rate = parse_rate(allowed, "--max-disagreement")
    check_budget(rate, confidence)
    check_some("--batch", batch)
    _check_outputs(path, output, junit, sarif)
    questions = _unrepeated(read_questions(path, "--prompts", rule))
    specs = _run_specs(baseline, candidate, given(options))
    from skipstone.audit.run import describe

    engines = _engines(*specs)
    _check_prompts(engines, questions, path)
    rows = _run(engines, questions, batch, output)
    count = sum(row.disagrees(level) for row in rows)
    report = AuditReport(path, level, questions, rows, judge(count, len(rows), rate, confidence))
    report.write(junit, sarif)
    if as_json:
        say_json(report.as_json() | describe(*engines))
    else:
        for line in report.lines((baseline, candidate)):
            say(line)
    return report.judgement.exit_code


@dataclass(frozen=True)
class AuditReport:
    """An audit that is done."""

    path: Path
    level: Level
    questions: Sequence[Question]
    rows: Sequence[Row]
    judgement: Judgement

    @property
    def known(self) -> AnswerCounts | None:
        """Right and wrong answers, where the right ones are known."""
        return known_answers(self.questions, self.rows)

    def write(self, junit: Path | None, sarif: Path | None) -> None:
        """Write the files that were asked for.

        Raises:
            OutputError: one cannot be written.
        """
        if junit is not None:
            write_whole(junit, junit_xml(self.questions, self.rows, self.level, self.judgement))
        if sarif is not None:
            log = sarif_log(self.path, self.questions, self.rows, self.level, self.judgement)
            write_whole(sarif, json.dumps(log, indent=1))

    def as_json(self) -> dict[str, object]:
        """Plain data."""
        found, known = self.judgement, self.known
        return {
            "schema": 1,
            "verdict": found.verdict,
            "level": self.level,
            "disagreements": found.disagreements,
            "total": found.total,
            "rate": found.rate,
            "low": found.low,
            "high": found.high,
            "confidence": found.confidence,
            "budget": found.budget,
            "proven": found.proven,
            "needed": found.needed() if found.verdict == "INCONCLUSIVE" else None,
            "by_level": {lv: sum(row.disagrees(lv) for row in self.rows) for lv in _LEVELS},
            "known": None if known is None else known.as_json(),
            "rows": [
                {"line": question.line, "disagrees": row.disagrees(self.level)} | asdict(row)
                for question, row in zip(self.questions, self.rows, strict=True)
            ],
        }

    def lines(self, specs: tuple[str, str]) -> Iterator[str]:
        """The report for people."""
        found = self.judgement
        yield f"audit of {found.total} prompts in {self.path}"
        yield f"baseline   {specs[0]}"
        yield f"candidate  {specs[1]}"
        yield (
            f"disagree   {found.disagreements} of {found.total} ({_percent(found.rate)}) in the "
            f"{self.level}; {_percent(found.confidence)} interval {_percent(found.low)} to "
            f"{_percent(found.high)}"
        )
        others = ", ".join(
            f"{level} {sum(row.disagrees(level) for row in self.rows)}" for level in _LEVELS
        )
        yield f"by level   {others}"
        yield from self._disagreeing()
        if self.known is not None:
            yield _known(self.known)
        yield f"{found.verdict}: {_why(found)}"

    def _disagreeing(self) -> Iterator[str]:
        both = zip(self.questions, self.rows, strict=True)
        found = [(question, row) for question, row in both if row.disagrees(self.level)]
        for question, row in found[:_SHOWN]:
            yield f"   line {question.line}: {row.where}: {shortened(row.prompt, 48)}"
        if len(found) > _SHOWN:
            yield f"   and {len(found) - _SHOWN} more; --json has all"


def _known(known: AnswerCounts) -> str:
    return (
        f"answers    right of {known.total} known: baseline {known.both + known.only_a}, candidate "
        f"{known.both + known.only_b}; only one of them: {known.only_a} and {known.only_b}, "
        f"McNemar p = {known.p_value:.3g}"
    )


def _why(found: Judgement) -> str:
    """The verdict in words."""
    budget, high = f"the budget of {_percent(found.budget)}", _percent(found.high)
    if found.verdict == "PASS":
        return f"at {_percent(found.confidence)} confidence at most {high}, within {budget}"
    if found.verdict == "FAIL":
        doubt = "" if found.proven else "; with so few prompts this may be chance"
        return f"the rate {_percent(found.rate)} is over {budget}{doubt}"
    shared = f"the rate may be up to {high}, over {budget}"
    needed = found.needed()
    if needed is None:
        return f"{shared}; at this rate no number of prompts would pass"
    return f"{shared}; at this rate about {needed} prompts would pass"


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _unrepeated(questions: Sequence[Question]) -> list[Question]:
    """Each prompt once: a repeated one is no independent draw."""
    first = dict[str, Question]()
    for question in questions:
        first.setdefault(question.prompt, question)
    repeats = len(questions) - len(first)
    if repeats:
        note(f"{repeats} repeated prompts are counted once")
    return list(first.values())


def _run_specs(baseline: str, candidate: str, shared: dict[str, str]) -> tuple[RunSpec, RunSpec]:
    """Both runs, over what they share."""
    a, b = (run_spec({**shared, **parse_spec(spec)}) for spec in (baseline, candidate))
    return a, b


def _engines(a: RunSpec, b: RunSpec) -> tuple[Engine, Engine]:
    """Both engines; they share a model if they can."""
    from skipstone.audit.run import describe

    (a, mine), (b, theirs) = loaded_pair(a, b)
    say_idle_settings(a.settings, b.settings)
    first, second = a.engine(mine), b.engine(theirs)
    specs = describe(first, second)
    if specs["baseline"] == specs["candidate"]:
        note("baseline and candidate are the same run")
    return first, second


def _check_outputs(
    prompts: Path, output: Path | None, junit: Path | None, sarif: Path | None
) -> None:
    """Refuse now a path that could not be written after an hour."""
    check_apart({"--prompts": prompts, "-o": output, "--junit": junit, "--sarif": sarif})
    for path in (junit, sarif):
        if path is not None:
            check_output(path)


def _check_prompts(
    engines: tuple[Engine, Engine], questions: Sequence[Question], path: Path
) -> None:
    """Refuse a prompt now rather than after an hour."""
    for question in questions:
        try:
            for engine in engines:
                engine.model.text.encode(question.prompt)
        except SkipstoneError as error:
            raise PromptError(f"{path}, line {question.line}: {error}") from None


def _run(
    engines: tuple[Engine, Engine], questions: Sequence[Question], batch: int, output: Path | None
) -> list[Row]:
    """Every row, from the log where it is there."""
    from skipstone.audit.run import Log, audit, describe

    log = Log(output, describe(*engines))
    left = [question.prompt for question in questions if question.prompt not in log]
    done = len(questions) - len(left)
    with progress() as moved:
        moved(done, len(questions))
        for rows in audit(*engines, left, batch=batch):
            log.add(rows)
            done += len(rows)
            moved(done, len(questions))
    return [log[question.prompt] for question in questions]
