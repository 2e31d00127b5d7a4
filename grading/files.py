"""Reports as files: JSON for programs and for `week3 replay`, JUnit for CI servers."""

import os
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grading.report import Report, RequirementResult, TestResult
from grading.roots import roots
from grading.terminal import printable


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "implementation": report.implementation,
        "path": str(Path(report.implementation).resolve()),
        "framework": report.framework,
        "suite_version": report.suite_version,
        "seed": report.seed,
        "isolation": report.isolation,
        "declines": list(report.declines),
        "score": report.score,
        "max_score": report.max_score,
        "topics": {
            name: {"status": topic.status, "score": topic.score, "max_score": topic.max_score}
            for name, topic in report.topics.items()
        },
        "requirements": {id: _requirement(result) for id, result in report.requirements.items()},
        "roots": {root.requirement.id: root.marks for root in roots(report)},
        "seconds": report.seconds,
    }


def _requirement(result: RequirementResult) -> dict[str, Any]:
    return {
        "status": result.status,
        "level": result.level,
        "needs": list(result.needs),
        "waits_for": list(result.waits_for),
        "tests": {test.node: test.outcome for test in result.tests},
        "message": result.message,
        "diagnosis": list(result.diagnosis),
        "declined": result.declined,
        "output": {test.node: test.output for test in result.tests if test.output},
        "replay": {test.node: test.blob for test in result.tests if test.blob},
    }


def to_junit(reports: Iterable[Report]) -> str:
    """One test suite per topic, one test case per test; its time is that of the suite, naming included."""
    top = ElementTree.Element("testsuites", name="week3")
    for report in reports:
        for topic in report.topics.values():
            name = f"{printable(report.implementation)}.{topic.name}"
            suite = ElementTree.SubElement(top, "testsuite", name=name)
            mine = [r for r in report.requirements.values() if r.topic == topic.name]
            outcomes = [_test_case(suite, result, test) for result in mine for test in _verdicts(result)]
            suite.set("tests", str(len(outcomes)))
            suite.set("failures", str(outcomes.count("failed")))
            suite.set("errors", str(outcomes.count("error")))
            suite.set("skipped", str(outcomes.count("declined")))
            suite.set("time", f"{sum(test.seconds for result in mine for test in result.tests):.3f}")
    ElementTree.indent(top)
    text: bytes = ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def _verdicts(result: RequirementResult) -> list[TestResult]:
    """Its tests; a requirement without any is a failure, or a CI server would show an empty green suite."""
    if result.tests or result.status == "met":
        return result.tests
    return [TestResult(result.id, "failed", result.message or result.status)]


def _test_case(suite: ElementTree.Element, result: RequirementResult, test: TestResult) -> str:
    classname = f"{result.topic}.{result.id}"
    case = ElementTree.SubElement(suite, "testcase", classname=classname, name=printable(test.node))
    case.set("time", f"{test.seconds:.3f}")
    if test.outcome == "declined":
        ElementTree.SubElement(case, "skipped", message=printable(test.message))
    elif test.outcome != "passed":
        message = printable(test.message)
        kind = "failure" if test.outcome == "failed" else "error"
        said = ElementTree.SubElement(case, kind, message=f"{result.title}: {message[:200]}")
        said.text = "\n".join([message, *(f"Known bug: it {title}." for title in test.diagnosis)])
    return test.outcome


def write_whole(file: Path, text: str) -> None:
    """Writes the file whole or not at all; what is no file, such as a pipe, is written as it comes."""
    if file.exists() and not file.is_file():
        file.write_text(text, encoding="utf-8")
        return
    target = file.resolve()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        part = Path(folder) / target.name
        part.write_text(text, encoding="utf-8")  # not a NamedTemporaryFile, which only its owner may read
        part.replace(target)


def can_be_written(file: Path) -> bool:
    return not file.is_dir() and os.access(file.parent, os.W_OK)
