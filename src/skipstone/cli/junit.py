"""The outcome of an audit as JUnit XML: one test case a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from junitparser import Failure, JUnitXml, TestCase, TestSuite

from skipstone.cli.escape import printable, shortened
from skipstone.diff.agreement import Judgement, Level, Question, Row


def junit_xml(
    questions: Sequence[Question], rows: Sequence[Row], level: Level, judgement: Judgement
) -> bytes:
    r"""A JUnit file; a prompt that disagrees is a failure, the verdict a property of the suite.

    Control characters, which XML cannot hold, are written as escapes such as ``\x1b``.
    """
    suite = TestSuite("skipstone audit")
    suite.add_property("verdict", judgement.verdict)
    suite.add_property("level", level)
    suite.add_property("rate", f"{judgement.rate:g}")
    suite.add_property("interval", f"{judgement.low:g} to {judgement.high:g}")
    suite.add_property("budget", f"{judgement.budget:g}")
    for question, row in zip(questions, rows, strict=True):
        case = TestCase(f"line {question.line}: {shortened(row.prompt)}", "skipstone.audit")
        if row.disagrees(level):
            failure = Failure(f"the {level} differs; first at {row.where}", "disagreement")
            failure.text = f"baseline: {printable(row.text_a)}\ncandidate: {printable(row.text_b)}"
            case.result = [failure]
        suite.add_testcase(case)
    xml = JUnitXml("skipstone")
    xml.add_testsuite(suite)
    return xml.tostring()
