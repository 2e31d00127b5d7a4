"""Says at the end of a run what each part of it took: `pytest -p tests.suite.seconds`, as CI does.

A conftest.py would not be read by the process that sums up when several run the tests.
"""

from collections import defaultdict
from pathlib import Path


def pytest_terminal_summary(terminalreporter):
    """A line a file, the longest first: seconds of all its tests, whichever process ran them."""
    seconds = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                seconds[Path(report.nodeid.partition("::")[0])] += report.duration
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    terminalreporter.section("seconds each part took")
    for path, taken in parts:
        if taken >= 1:
            terminalreporter.write_line(f"{taken:8.1f}  {path}")
