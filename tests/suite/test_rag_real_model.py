"""The pipeline with real models, on fifty facts that were made up."""

import json
import os
import subprocess
import sys
import warnings

import pytest

from grading.clone import ROOT
from tests.suite.real_models import fetched

pytestmark = pytest.mark.xdist_group("real models")


def test_invented_facts_are_found_and_told():
    fetched("all-minilm-l6-v2")
    fetched("smollm2-135m-instruct")
    done = subprocess.run(
        [sys.executable, "-B", "-m", "tests.suite.invented_facts"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    warnings.warn(f"SmolLM2-135M with one passage: {report}", stacklevel=1)
    assert (report["asked"], report["declines without a passage"]) == (50, True)
    assert report["found"] >= 48 and report["told alone"] >= 35, report
