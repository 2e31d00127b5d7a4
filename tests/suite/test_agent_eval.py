"""week3 agent eval: by a model that says what it is told, and by the real one."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from grading.clone import ROOT
from solution.agent import evaluating
from solution.agent.evaluating import answers, draw, summary
from solution.cli.agent import app
from spec.agent import Reply
from tests.suite.real_models import fetched

PARAMETERS = {"type": "dict", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"name": "math.double", "description": "Doubles.", "parameters": PARAMETERS}
COUNTS = {"simple_python": 5, "multiple": 4, "irrelevance": 3}


def call(arguments):
    return f'<tool_call>\n{{"name": "math.double", "arguments": {arguments}}}\n</tool_call>'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache with questions as BFCL has them: double i."""
    monkeypatch.setenv("WEEK3_CACHE", str(tmp_path))
    place = tmp_path / "models" / "bfcl"
    (place / "possible_answer").mkdir(parents=True)
    for name, count in COUNTS.items():
        asked = [
            {
                "id": f"{name}_{i}",
                "question": [[{"role": "user", "content": str(i)}]],
                "function": [FUNCTION, {**FUNCTION, "name": "other"}],
            }
            for i in range(count)
        ]
        right = [
            {"id": each["id"], "ground_truth": [{"math.double": {"a": [i]}}]} for i, each in enumerate(asked)
        ]
        write(place / f"BFCL_v4_{name}.json", asked)
        write(place / "possible_answer" / f"BFCL_v4_{name}.json", right)
    return place


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


class Scripted:
    """Right where it is constrained, else text for a number; for 0 no call, for 1 one without end."""

    def __init__(self, stops_before=None):
        self.asked, self.stops_before = [], stops_before

    def __call__(self, question, constrained):
        if len(self.asked) == self.stops_before:
            raise KeyboardInterrupt
        self.asked.append((question.id, constrained))
        number = question.messages[0]["content"]
        if number == "0":
            return Reply("Zero.")
        if number == "1":
            return Reply(call('{"a": 11111111')[:-20], "length")
        return Reply(call(f'{{"a": {number}}}' if constrained else f'{{"a": "{number}"}}'))

    def prompt(self, question):
        return f"Double {question.messages[0]['content']}."


@pytest.fixture
def run(folder, monkeypatch, tmp_path):
    """The command, with a model that is a Scripted."""
    (tmp_path / "model.gguf").touch()

    def run(*arguments, subject=None):
        monkeypatch.setattr(evaluating.Subject, "open", lambda path: subject or Scripted())
        return CliRunner().invoke(app, ["eval", "--model", str(tmp_path / "model.gguf"), *arguments])

    return run


def test_questions_are_drawn_by_a_seed_and_asked_in_turn(folder):
    drawn = draw(folder, 2, seed=1)
    assert [name for name, _ in drawn] == ["simple", "multiple", "irrelevance"] * 2
    assert [each.id for _, each in drawn] == [each.id for _, each in draw(folder, 2, seed=1)]
    others = {tuple(each.id for _, each in draw(folder, 2, seed)) for seed in range(20)}
    assert len(others) > 5
    everything = [each.id for _, each in draw(folder, 0, seed=1)]
    assert sorted(everything) == sorted(f"{name}_{i}" for name, count in COUNTS.items() for i in range(count))
    assert sorted(everything) == sorted(each.id for _, each in draw(folder, 99, seed=2))


def test_without_a_call_nothing_is_asked_twice(folder):
    subject = Scripted()
    questions = draw(folder, 0, seed=0)
    found = list(answers(questions, subject))
    assert len(found) == 2 * len(questions)
    words = {f"{name}_0" for name in COUNTS}
    expected = [
        (each.id, way) for _, each in questions for way in (False, True)[: 1 + (each.id not in words)]
    ]
    assert subject.asked == expected
    assert {(each.id, each.mode) for each in found if not each.calls} == {
        (id, mode) for id in words for mode in ("free", "constrained")
    }


def test_shares_are_those_of_the_answers(folder):
    rows = summary(list(answers(draw(folder, 0, seed=0), Scripted())))
    for row in rows:
        assert row.pop("seconds") < 0.1
    names = "set", "mode", "answers", "calls", "cut", "valid", "right"
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("simple", "free", 5, 4 / 5, 1 / 5, 0, 0),
        ("simple", "constrained", 5, 4 / 5, 1 / 5, 1, 3 / 5),
        ("multiple", "free", 4, 3 / 4, 1 / 4, 0, 0),
        ("multiple", "constrained", 4, 3 / 4, 1 / 4, 1, 2 / 4),
        ("irrelevance", "free", 3, 2 / 3, 1 / 3, 0, 2 / 3),
        ("irrelevance", "constrained", 3, 2 / 3, 1 / 3, 1, 2 / 3),
    ]


def test_a_table(run):
    ran = run("--limit", "0")
    assert ran.exit_code == 0
    head, columns, *rows = ran.stdout.splitlines()
    assert head.endswith("model.gguf, 24 of 24 answers, seed 0")
    assert columns.split() == ["set", "mode", "answers", "calls", "cut", "valid", "right", "s", "each"]
    assert rows[1].split()[:7] == ["simple", "constrained", "5", "80%", "20%", "100%", "60%"]


def test_a_set_without_calls_has_no_valid_ones(run):
    ran = run("--limit", "0", subject=lambda question, constrained: Reply("No."))
    assert ran.stdout.splitlines()[-1].split()[:7] == [
        "irrelevance",
        "constrained",
        "3",
        "0%",
        "0%",
        "–",
        "100%",
    ]


def test_json_has_prompts_and_answers(run):
    told = json.loads(run("--limit", "1", "--seed", "3", "--json").stdout)
    assert (told["seed"], told["limit"], len(told["sets"]), len(told["answers"])) == (3, 1, 6, 6)
    assert {each["id"] for each in told["answers"]} == set(told["prompts"])
    assert all(text.startswith("Double ") for text in told["prompts"].values())
    assert all(set(each["reply"]) == {"text", "finish", "tokens"} for each in told["answers"])


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("before", [0, 3])
def test_ctrl_c_shows_what_was_measured(run, options, before):
    ran = run("--limit", "0", *options, subject=Scripted(before))
    assert ran.exit_code == 130
    if options:
        told = json.loads(ran.stdout)
        assert len(told["answers"]) == before
        assert set(told["prompts"]) == {each["id"] for each in told["answers"]}
    else:
        assert f", {before} of 24 answers" in ran.stdout


def test_without_the_questions_it_says_what_brings_them(run, folder):
    folder.rename(folder.with_name("elsewhere"))
    ran = run()
    assert ran.exit_code == 2 and "week3 model fetch bfcl" in ran.stderr


TWO = """
import json
from pathlib import Path
from runtime import blas
blas.preload()  # before MLX is imported
from solution.agent.evaluating import Subject, draw
from solution.agent.judging import is_valid
from solution.agent.parsing import parse_tool_calls
subject = Subject.open(Path({model!r}))
for name, question in draw(Path({folder!r}), 2, seed=0)[::3]:
    text = subject(question, True).text
    valid = is_valid(question, parse_tool_calls(text, "hermes"))
    told = all(each in subject.prompt(question) for each in (question.messages[0]["content"], question.name))
    print(json.dumps([name, valid, told, text]))
"""


@pytest.mark.xdist_group("real models")
def test_constrained_calls_of_the_real_model_are_valid():
    code = TWO.format(model=str(fetched("smollm2-135m-instruct")), folder=str(fetched("bfcl")))
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each[:3] for each in found] == [["simple", True, True]] * 2, found
