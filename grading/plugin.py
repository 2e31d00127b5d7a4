"""The pytest plugin: options, and which files are collected.

`pytest -k week3` judges `solution/`; `--impl=PATH` judges another, in process, so that a debugger works.
`grading.grade` brings its own `Judge`, with the submission in a sandbox.
"""

import random
from pathlib import Path

import pytest

from grading.candidates import in_process
from grading.clone import ROOT
from grading.judging.judge import Judge
from grading.requirements import handed_out


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("week3", "judging an implementation")
    group.addoption("--impl", action="append", metavar="PATH", help="the implementation to judge; repeatable")
    group.addoption("--topic", action="append", metavar="TOPIC", help="only tests of this topic; repeatable")
    group.addoption("--requirement", action="append", metavar="ID", help="only its tests; repeatable")
    group.addoption("--seed", type=int, metavar="N", help="replays the inputs of the run that printed it")
    group.addoption("--thorough", action="store_true", help="eight times as many inputs")
    group.addoption(
        "--no-diagnosis", action="store_true", help="do not look for a known bug behind a failure"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requirement(id): the requirement that a test checks")
    if config.pluginmanager.is_blocked("terminal"):
        config.option.tbstyle = "value"  # the others read sources to show them, and nobody looks
    if not any(isinstance(plugin, Judge) for plugin in config.pluginmanager.get_plugins()):
        options = config.option
        paths = [Path(path) for path in options.impl or [ROOT / "solution"]]
        for path in paths:
            if not path.is_dir():
                raise pytest.UsageError(f"--impl: expected a folder with an implementation, got {path}")
        if options.seed is None:
            options.seed = random.randrange(2**32)  # kept in the options: the processes of xdist share it
        judge = Judge(
            [in_process(path.resolve(), debugged=config.option.usepdb) for path in paths],
            seed=options.seed,
            topics=options.topic,
            only=frozenset(options.requirement) if options.requirement else handed_out(),
            thorough=options.thorough,
            diagnosis=not options.no_diagnosis,
        )
        config.pluginmanager.register(judge, "week3-judge")


def only_benchmarks(config: pytest.Config) -> bool:
    return bool(config.getoption("benchmark_only", False))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if only_benchmarks(config) and collection_path.match("test_*.py") else None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Benches are collected where they are asked for, and nowhere else."""
    asked = only_benchmarks(parent.config) and not parent.session.isinitpath(file_path)
    if asked and file_path.match("bench_*.py"):
        return pytest.Module.from_parent(parent, path=file_path)
    return None
