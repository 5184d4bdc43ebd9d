"""The outcome of an audit as JUnit XML: one test case a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from skipstone.cli.escape import printable, shortened
from skipstone.diff.agreement import Judgement, Level, Question, Row


def junit_xml(
    questions: Sequence[Question], rows: Sequence[Row], level: Level, judgement: Judgement
) -> bytes:
    r"""A JUnit file; a prompt that disagrees is a failure, and the verdict is the last test case.

    That one passes with PASS, fails with FAIL, and is an error with INCONCLUSIVE.

    Control characters, which XML cannot hold, are written as escapes such as ``\x1b``.
    """
    verdict = judgement.verdict
    failures = sum(row.disagrees(level) for row in rows) + (verdict == "FAIL")
    counts = {
        "tests": str(len(rows) + 1),
        "failures": str(failures),
        "errors": str(int(verdict == "INCONCLUSIVE")),
    }
    suites = Element("testsuites", {"name": "skipstone", **counts})
    suite = SubElement(suites, "testsuite", {"name": "skipstone audit", **counts})
    properties = SubElement(suite, "properties")
    for name, value in (
        ("verdict", judgement.verdict),
        ("level", level),
        ("rate", f"{judgement.rate:g}"),
        ("interval", f"{judgement.low:g} to {judgement.high:g}"),
        ("budget", f"{judgement.budget:g}"),
    ):
        SubElement(properties, "property", name=name, value=value)
    for question, row in zip(questions, rows, strict=True):
        name = f"line {question.line}: {shortened(row.prompt)}"
        case = SubElement(suite, "testcase", name=name, classname="skipstone.audit")
        if row.disagrees(level):
            message = f"the {level} differs; first at {row.where}"
            failure = SubElement(case, "failure", message=message, type="disagreement")
            failure.text = f"baseline: {printable(row.text_a)}\ncandidate: {printable(row.text_b)}"
    case = SubElement(suite, "testcase", name="verdict", classname="skipstone.audit")
    if verdict != "PASS":
        message = f"rate {judgement.rate:g}, interval up to {judgement.high:g}, budget "
        message += f"{judgement.budget:g}"
        kind = "failure" if verdict == "FAIL" else "error"
        SubElement(case, kind, message=message, type=verdict)
    return tostring(suites, encoding="utf-8", xml_declaration=True)
