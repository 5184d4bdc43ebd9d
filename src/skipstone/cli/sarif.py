"""The outcome of an audit as SARIF 2.1.0, which code hosts show beside the prompt file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from skipstone import __version__
from skipstone.cli.escape import printable, shortened
from skipstone.diff.agreement import Judgement, Level, Question, Row

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_RULE = "disagreement"


def sarif_log(
    path: Path,
    questions: Sequence[Question],
    rows: Sequence[Row],
    level: Level,
    judgement: Judgement,
) -> dict[str, object]:
    """One result for each prompt that disagrees, at its line of the prompt file."""
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix())
    severity = {"PASS": "note", "FAIL": "error", "INCONCLUSIVE": "warning"}[judgement.verdict]
    rule = {
        "id": _RULE,
        "shortDescription": {"text": "Candidate and baseline disagree on a prompt."},
    }
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "skipstone", "version": __version__, "rules": [rule]},
                },
                "results": [
                    _result(uri, question, row, level, severity)
                    for question, row in zip(questions, rows, strict=True)
                    if row.disagrees(level)
                ],
                "invocations": [{"executionSuccessful": True, "exitCode": judgement.exit_code}],
                "properties": {"verdict": judgement.verdict, "rate": judgement.rate},
            }
        ],
    }


def _result(
    uri: str, question: Question, row: Row, level: Level, severity: str
) -> dict[str, object]:
    message = (
        f'The {level} differs for "{shortened(row.prompt)}"; first at {row.where}. '
        f"Baseline: {printable(row.text_a)} Candidate: {printable(row.text_b)}"
    )
    return {
        "ruleId": _RULE,
        "level": severity,
        "message": {"text": message},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": uri},
                    "region": {"startLine": question.line},
                }
            }
        ],
    }
