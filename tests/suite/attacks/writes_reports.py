"""Writes the reports that it would like to see, wherever it can."""

import os
from pathlib import Path

from known import CLONE, REPORTS, TOKEN

VERDICT = '{"score": 100.0, "requirements": {}}'
JUNIT = '<testsuites><testsuite name="week3" tests="1" failures="0"/></testsuites>'


def attack():
    here = Path(__file__).parent
    for folder in (Path(), Path(".."), here, here.parent, Path(CLONE), Path(REPORTS), Path("/tmp")):
        for name, text in ((f"{TOKEN}.json", VERDICT), (f"{TOKEN}.xml", JUNIT)):
            try:
                (folder / name).write_text(text)
            except OSError:
                continue
    print(VERDICT, JUNIT, "1 passed in 0.01s", sep="\n")
    os.environ["PYTEST_ADDOPTS"] = "--collect-only"
