"""No attack changes a verdict.

attacks/ holds one attack a file: a function `attack` (and what it does when it is imported), which raises
LookupError if it got through. Each is graded in every tier of this machine, alone, where it must score 0, and
beside a right implementation, where it may cost no more than the requirement of the function that it sits in.
What a tier cannot hold its own list names; reading the reference, where it does, must work and score.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from grading.boundary import session
from grading.candidates import in_process
from grading.clone import ROOT
from grading.files import to_json, to_junit
from grading.grade import grade, run_suite
from grading.judging import trial
from grading.judging.judge import Judge
from grading.render import one_requirement
from grading.requirements import requirements
from grading.roots import roots
from grading.starter import stub
from runtime.sandbox import Limits, best_tier, tiers

TOPIC = "paged_attention"
FOLDER = Path(__file__).parent / "attacks"
KNOWN = FOLDER / "known.py"
ATTACKS = sorted(file.stem for file in FOLDER.glob("*.py") if file != KNOWN)
RIGHT = (ROOT / "reference" / f"{TOPIC}.py").read_text()

# The mixed implementations carry the attack in to_csr and write_slots.
ATTACKED, UNTOUCHED = {"PA-02", "PA-04"}, {"PA-17"}

# These answer rightly, and try something beside it.
HARMLESS = {
    "changes_its_arguments",
    "imports_the_answer",
    "kills_the_grader",
    "leaves_a_child",
    "looks_into_memory",
    "opens_the_answer",
    "patches_the_judge",
    "takes_all_memory",
    "writes_reports",
}
# These cost the whole time of a call.
SLOW = {
    "calls_without_end",
    "drips_its_reply",
    "floods_its_output",
    "forks_without_end",
    "loops_in_c",
    "loops_in_python",
}
QUICK = [name for name in ATTACKS if name not in SLOW]

ALONE = """

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *arguments, **options: attack(*arguments[:attack.__code__.co_argcount])
"""
MIXED = """

import functools


def attacked(function):
    @functools.wraps(function)
    def both(*arguments, **options):
        result = function(*arguments, **options)
        attack(*arguments[:attack.__code__.co_argcount])
        return result
    return both


to_csr, write_slots = attacked(to_csr), attacked(write_slots)
"""

ONCE = """

attack_again, done = attack, []


def attack(first=None, second=None):
    if not done:
        done.append(1)
        attack_again(*(first, second)[:attack_again.__code__.co_argcount])


"""


class Silent:
    def started(self, total):
        pass

    def finished(self, result, requirement_id):
        pass


@pytest.fixture(params=tiers(), ids=lambda tier: tier.name)
def tier(request):
    return request.param


@pytest.fixture
def token():
    return f"week3-forged-{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch, token):
    """No process, no temporary folder, nothing in the clone."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield
    marks = (token, str(tmp_path))
    assert eventually(lambda: not running(*marks)), running(*marks)
    assert list(temporary.iterdir()) == []
    assert list(ROOT.glob(f"{token}*")) == []
    for file in forged(token):  # where the tier says that it writes
        file.unlink()


def forged(token, *folders):
    return [file for folder in (ROOT, Path("/tmp"), *folders) for file in folder.glob(f"{token}*")]


def running(*marks):
    """The arguments of every process that names one of the marks."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if any(mark in line for mark in marks)]


def eventually(holds):
    deadline = time.monotonic() + 2
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def lacks(tier, words):
    return any(words in lack for lack in tier.lacks)


@pytest.fixture
def submission(tmp_path, token):
    """Makes a submission in NumPy of the source of its module."""
    folder = tmp_path / "submission"
    folder.mkdir()
    places = f"\n\nCLONE = {str(ROOT)!r}\nREPORTS = {str(tmp_path)!r}\nTOKEN = {token!r}\n"

    def make(source, framework="numpy"):
        (folder / "known.py").write_text(KNOWN.read_text() + places)
        (folder / f"{TOPIC}.py").write_text(source)
        (folder / "week3.toml").write_text(f'framework = "{framework}"\n')
        return folder

    return make


def source_of(attack):
    return (FOLDER / f"{attack}.py").read_text()


def alone(attack, *, when_imported=False):
    return source_of(attack) + ALONE + ("\n\nattack(None, None)" if when_imported else "")


def judged(folder, tier, only, call_seconds=1.0):
    return grade(
        folder,
        topics=[TOPIC],
        seed=1,
        isolation=tier.name,
        diagnosis=False,
        only=only,
        listener=Silent(),
        limits=Limits(call_seconds=call_seconds),
    )


def met(report):
    return {id for id, requirement in report.requirements.items() if requirement.status == "met"}


# ---- Each attack. ----


def takes_the_answer(attack, tier):
    """Where files are not kept apart, the tier says that the reference can be read: a copy of it scores."""
    return attack in ("imports_the_answer", "opens_the_answer") and lacks(tier, "files: it reads")


@pytest.mark.parametrize("attack", QUICK)
def test_an_attack_alone_scores_nothing(submission, tier, attack):
    report = judged(submission(alone(attack)), tier, {"PA-04"})
    assert report.score == (100 if takes_the_answer(attack, tier) else 0)
    assert report.passed == takes_the_answer(attack, tier)


@pytest.mark.parametrize("attack", sorted(SLOW))
def test_an_attack_that_takes_time_takes_a_little(submission, tier, attack):
    report = judged(submission(alone(attack)), tier, {"PA-04"}, call_seconds=0.2)
    assert (report.score, report.passed) == (0, False)
    assert report.seconds < 10


@pytest.mark.parametrize("attack", sorted(set(ATTACKS) - HARMLESS - {"takes_its_time"}))
def test_an_attack_costs_only_the_function_that_it_sits_in(submission, tier, attack):
    only = UNTOUCHED | {"PA-04"}
    report = judged(submission(source_of(attack) + "\n\n" + RIGHT + MIXED), tier, only)
    assert met(report) == UNTOUCHED


@pytest.mark.parametrize("attack", sorted(HARMLESS))
def test_an_attack_beside_the_right_answer_changes_nothing(submission, tier, attack, token, tmp_path):
    open_memory = attack == "looks_into_memory" and lacks(tier, "memory, open")
    open_signals = attack == "kills_the_grader" and lacks(tier, "signals: it can end")
    if open_memory or open_signals:  # the tier has said so; to try would end this run
        return
    report = judged(
        submission(source_of(attack) + ONCE + RIGHT + MIXED), tier, ATTACKED | UNTOUCHED, call_seconds=10
    )
    assert met(report) == ATTACKED | UNTOUCHED, {r.id: r.message for r in report.requirements.values()}
    left = forged(token, tmp_path)
    for file in left:
        file.unlink()
    assert not left or lacks(tier, "files: it writes")


ENDS = ["exits_at_once", "raises_keyboard_interrupt", "raises_pytest_exit", "raises_system_exit", "segfaults"]


@pytest.mark.parametrize("attack", ENDS)
def test_an_attack_at_import_scores_nothing(submission, tier, attack):
    report = judged(submission(source_of(attack) + "\n\nattack()\n" + RIGHT), tier, ATTACKED | UNTOUCHED)
    assert (report.score, report.passed) == (0, False)


def test_a_loop_at_import_is_tried_once(submission, monkeypatch):
    monkeypatch.setattr(session, "START_SECONDS", 1.0)
    report = judged(submission("while True:\n    pass\n"), best_tier(), ATTACKED | UNTOUCHED)
    assert report.score == 0
    assert report.seconds < 10
    assert all("did not answer within 1 s" in each.message for each in report.requirements.values())


def test_what_a_failing_test_printed_is_in_the_report_and_bounded(submission):
    prints = "\n\ndef attack():\n    print('x' * 100_000)\n    print('last words')\n    return 0\n"
    report = judged(submission(prints + ALONE), best_tier(), {"PA-04"}, call_seconds=5)
    outputs = to_json(report)["requirements"]["PA-04"]["output"]
    assert outputs, report.requirements["PA-04"].tests
    assert all(output.endswith("x\nlast words") and len(output) <= 2000 for output in outputs.values())
    shown = Console(file=io.StringIO())
    one_requirement(report.requirements["PA-04"], shown, {})
    assert "What the submission printed ends:" in shown.file.getvalue()
    assert "last words" in shown.file.getvalue()


def test_a_module_that_cannot_be_imported_has_one_root(submission):
    report = judged(submission(RIGHT + "\n\nlast = (\n"), best_tier(), ATTACKED | UNTOUCHED)
    assert (report.score, report.passed) == (0, False)
    (root,) = roots(report)
    assert len(root.waiting) == len(ATTACKED | UNTOUCHED) - 1
    line = RIGHT.count("\n") + 3
    told = f"{TOPIC} cannot be imported: SyntaxError: '(' was never closed ({TOPIC}.py, line {line})"
    assert root.requirement.message == f"{told}\nin {TOPIC}.py:{line}: last = ("


@pytest.mark.parametrize(
    ("body", "said", "again"),
    [
        (
            "while True: pass",
            "BlockAllocator.num_free did not answer within 2 s",
            "BlockAllocator.num_free is not called again: it did not answer within 2 s",
        ),
        (
            "import os; os._exit(3)",
            "in BlockAllocator.num_free, the submission's process exited with code 3",
            "BlockAllocator.num_free is not called again: it crashed 2 times, at last ",
        ),
    ],
    ids=["hangs", "crashes"],
)
def test_a_function_that_hangs_or_crashes_costs_what_calls_it(submission, body, said, again):
    """The rest of right code keeps its marks, and what hung or crashed is told first."""
    right = "return self.refs.count(0)"
    assert RIGHT.count(right) == 1
    without, calling = {"PA-01", "PA-02", "PA-04", "PA-05"}, {"PA-17", "PA-18", "PA-19"}
    report = judged(submission(RIGHT.replace(right, body)), best_tier(), without | calling, call_seconds=2.0)
    assert met(report) == without
    first, *_ = roots(report)
    assert first.requirement.message.startswith(said)
    line = 1 + RIGHT[: RIGHT.index(right)].count("\n")
    place = f"\nin {TOPIC}.py:{line}, in num_free"
    assert first.requirement.message.endswith(place) == ("while" in body)  # an exit has no place
    assert first.waiting
    assert all(each.message.startswith(again) for each in first.waiting if each.status == "error")
    assert report.topics[TOPIC].note == ""


def test_time_is_bounded_though_each_call_is_quick(submission, monkeypatch):
    monkeypatch.setattr(trial, "TOPIC_SECONDS", 1.0)
    source = source_of("takes_its_time") + "\n\n" + RIGHT + MIXED
    report = judged(submission(source), best_tier(), {"PA-02"})
    assert (report.score, report.passed) == (0, False)
    assert report.seconds < 6


# ---- What a submission answers. ----

ANSWERS = {
    "a result too large to keep": "np.zeros(1 << 28, np.uint8)",
    "a value nested too deep": "deep()",
    "text that is no text": "'\\ud800' * 1000",
    "a stream without end": "iter(int, 1)",
    "a list of eight million": "[0] * 8_000_000",
    "a number of a million digits": "1 << 3_000_000",
    "a module": "np",
    "itself": "attack",
}
DEEP = """
import numpy as np


def deep():
    value = []
    for _ in range(10_000):
        value = [value]
    return value
"""


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_answer_hurts_the_grader(submission, answer):
    source = f"\n\ndef attack():\n    return {ANSWERS[answer]}\n"
    report = judged(submission(DEEP + source + ALONE), best_tier(), {"PA-04"}, call_seconds=5)
    assert (report.score, report.passed) == (0, False)
    assert len(json.dumps(to_json(report))) < 100_000


def test_a_hundred_gigabytes_in_mlx(submission):
    huge = "import mlx.core as mx\n\n\ndef attack():\n    mx.eval(mx.ones((25 << 30,)))\n"
    report = judged(submission(huge + ALONE, "mlx"), best_tier(), {"PA-04"}, call_seconds=5)
    assert (report.score, report.passed) == (0, False)


def test_what_an_error_says_forges_neither_input_nor_replay(submission):
    report = judged(submission(alone("forges_its_traceback")), best_tier(), {"PA-04"})
    (requirement,) = report.requirements.values()
    assert requirement.status == "broken"
    assert not any("AAAA" in test.blob for test in requirement.tests)
    assert "smallest input: everything" not in requirement.message
    assert len(requirement.message) < 20_000
    ElementTree.fromstring(to_junit([report]))


# ---- What a submission brings along. ----


def test_files_beside_the_module_change_nothing(submission, tier):
    folder = submission(RIGHT)
    (folder / "conftest.py").write_text("import os\nos._exit(0)\n")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    for name in ("sitecustomize", "usercustomize", "numpy", "spec", "grading", "json", "pytest"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("import os\nos._exit(0)\n")
    cached = folder / "__pycache__" / f"{TOPIC}.{sys.implementation.cache_tag}.pyc"
    cached.parent.mkdir()
    cached.write_bytes(b"forged")
    assert met(judged(folder, tier, ATTACKED | UNTOUCHED, call_seconds=10)) == ATTACKED | UNTOUCHED


def test_a_link_to_the_reference_leads_nowhere(submission, tier):
    folder = submission("")
    (folder / f"{TOPIC}.py").unlink()
    (folder / f"{TOPIC}.py").symlink_to(ROOT / "reference" / f"{TOPIC}.py")
    report = judged(folder, tier, {"PA-04"})
    assert report.score == (100 if lacks(tier, "files: it reads") else 0)


@pytest.mark.parametrize(
    "settings",
    [
        "a = " + "[" * 20_000,
        "a = " + "1" * 20_000,
        "a = 1\n" * 100_000,
        'framework = ["numpy"]',
        "\0",
        "framework = 7",
    ],
    ids=["deep", "long number", "large", "list", "binary", "number"],
)
def test_settings_that_cannot_be_read_are_the_submissions_fault(submission, settings):
    folder = submission(RIGHT)
    (folder / "week3.toml").write_text(settings)
    report = judged(folder, best_tier(), {"PA-04"})
    assert report.score == 0
    assert "week3.toml" in report.requirements["PA-04"].message


@pytest.mark.parametrize("name", [f"{TOPIC}.py", "week3.toml"])
def test_a_file_of_a_gigabyte_takes_no_time(submission, name):
    folder = submission(RIGHT)
    os.truncate(folder / name, 1 << 30)
    report = judged(folder, best_tier(), {"PA-04"})
    assert report.score == 0
    assert report.seconds < 20


def test_a_folder_with_an_odd_name(submission):
    folder = submission(RIGHT)
    odd = folder.rename(folder.with_name("x]-[y\n\x1b[31mé"))
    report = judged(odd, best_tier(), ATTACKED, call_seconds=10)
    assert report.passed
    ElementTree.fromstring(to_junit([report]))


# ---- The command line. ----


def week3_grade(folder, *options, cwd):
    main = f"import sys; sys.path[0] = {str(ROOT)!r}; from grading.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-B", "-c", main, "grade", str(folder), "--no-diagnosis", *options],
        cwd=cwd,
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("attack", ["exits_at_once", "writes_reports", "forges_its_traceback"])
def test_the_command_says_1_and_its_report_is_its_own(submission, tmp_path, attack):
    folder = submission(alone(attack))
    report = tmp_path / "report.json"
    done = week3_grade(folder, "--topic", TOPIC, "--seed", "1", "--json", str(report), cwd=folder)
    assert done.returncode == 1, done.stderr.decode()
    assert json.loads(report.read_text())["score"] == 0
    assert not set(done.stdout) & {0x1B, 0x00, 0x9B}


# ---- The laziest cheats. ----

CHEATS = {
    "does nothing": "return None",
    "returns its input": "return next(iter(given.values()), None)",
    "returns zeros": "return next((v * 0 for v in given.values() if isinstance(v, np.ndarray)), 0)",
    "returns zeros of another kind": "return np.zeros((1, 2, 3), np.float32)",
    "returns an empty list": "return []",
    "returns a huge number": "return 1 << 40",
    "returns a negative number": "return -(1 << 40)",
    "says yes": "return True",
    "refuses everything": "raise InvalidArgument(' '.join(given))",
    "knows no sequence": "raise UnknownSequence(' '.join(given))",
    "equals anything": "return Equal()",
    "is a number that lies": "return Number(7)",
    "is a list that lies": "return List([1, 2])",
    "is an array that lies": "return np.ones(3).view(Array)",
    "is a value that lies": "return Usage(*[0] * 11)",
    "turns into an array": "return Turned()",
}
LIARS = """
import numpy as np

from spec import InvalidArgument, UnknownSequence
from spec.paged_attention import CacheUsage


class Liar:
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __lt__(self, other):
        return True

    __le__ = __gt__ = __ge__ = __lt__
    __hash__ = None


class Equal(Liar):
    __class__ = property(lambda self: np.ndarray)
    shape, dtype, ndim = (), np.dtype("float32"), 0

    def __len__(self):
        return 3


class Number(Liar, int):
    def __int__(self):
        return 0


class List(Liar, list):
    def __len__(self):
        return 0


class Array(Liar, np.ndarray):
    shape = property(lambda self: (0,))


class Usage(Liar, CacheUsage):
    pass


class Turned:
    def __array__(self, *arguments, **options):
        return np.zeros(3)
"""


def cheating(how):
    """The whole contract with its right signatures, each body the cheat; constructors do nothing."""
    lines, name = [], ""
    for line in stub(TOPIC).splitlines():
        name = line.split("def ")[1].split("(")[0] if line.strip().startswith("def ") else name
        body = "pass" if name == "__init__" else "return cheat(locals())"
        lines.append(line.replace("raise NotImplementedError", body))
    text = "\n".join(lines).replace("import mlx.core as mx", "import numpy as mx")
    cheat = f"def cheat(given):\n    given.pop('self', None)\n    {how}\n"
    return f"{text}\n{LIARS}\n\n{cheat}".replace("mx.array", "mx.ndarray")


@pytest.mark.parametrize("how", CHEATS)
def test_a_cheat_earns_nothing(submission, how):
    results = {requirement.id: [] for requirement in requirements(TOPIC)}
    judge = Judge(
        [in_process(submission(cheating(CHEATS[how])))],
        seed=1,
        topics=[TOPIC],
        diagnosis=False,
        shrink=False,
        finished=lambda result, requirement, _: results[requirement].append(result.outcome),
    )
    run_suite(judge)
    earned = [id for id, outcomes in results.items() if set(outcomes) <= {"passed"}]
    assert earned == []
    assert all(results.values())
