"""`week3 agent` and `week3 trace`: with a model that reads from a script, and with the real one."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from importlib import import_module

import pytest

from grading.clone import ROOT
from runtime.sandbox import TierName, why_not
from solution.agent.sandboxed import ISOLATED
from solution.agent.writing import Writer
from spec.agent import Reply
from tests.suite.real_models import fetched

MAIN = "from grading.cli import main; main()"
QUESTIONS = "What is 17 * 23?", "What is the capital of Japan?"
OWN = """
from spec.agent import Tool

def act(arguments, context):
    print("it runs", flush=True)
    return arguments["what"]

WHAT = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
STRICT = {**WHAT, "additionalProperties": False}
TOOLS = [Tool("act", "Acts.", STRICT, act, needs_approval=True), Tool("look", "Looks.", STRICT, act)]
"""


def call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


@pytest.fixture
def says(monkeypatch, tmp_path):
    """Puts a model in the place of the real one that gives these replies, and remembers what it was given."""

    def make(*replies):
        script, heard = iter(replies), []

        def opened(path, tools, max_tokens, *, constrained, say):
            def model(messages, definitions):
                heard.append(messages)
                reply = next(script)
                if callable(reply):
                    reply = reply()
                for piece in reply:
                    say(piece)
                return Reply(reply, tokens=len(reply))

            return model

        monkeypatch.setattr(Writer, "open", opened)
        monkeypatch.setattr("solution.cli.agent.installed", lambda name: tmp_path)
        return heard

    return make


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# ---- What it does. ----


def test_calls_are_shown_beside_the_text(week3, says):
    heard = says("Let me see. " + call("calculate", expression="17 * 23"), "It is 391.")
    ran = week3("agent", "What is 17 * 23?")
    assert (ran.code, ran.out) == (0, "Let me see. It is 391.\n")
    shown, arrow, counts = ran.err.splitlines()
    assert (shown, arrow) == ('→ calculate {"expression": "17 * 23"}', "← 391")
    assert counts.startswith("model calls: 2, tokens: ") and counts.endswith(" s (done)")
    assert heard[1][-1]["content"] == "391"


@pytest.mark.parametrize(
    "words", [["agent", "Hello"], ["agent", "ask", "Hello"], ["agent", "--max-calls", "3", "Hello"]]
)
def test_a_question_needs_no_command(week3, says, words):
    heard = says("Hi.")
    assert week3(*words).out == "Hi.\n"
    assert heard == [[{"role": "user", "content": "Hello"}]]


def test_a_question_can_come_from_standard_input(week3, says, monkeypatch):
    heard = says("Hi.")
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines"))
    week3("agent", "-")
    assert heard[0][0]["content"] == "two\nlines"


def test_json_is_one_object_and_nothing_else(week3, says):
    says(call("calculate", expression="2 + 2"), "4")
    ran = week3("agent", "What is 2 + 2?", "--json")
    told = json.loads(ran.out)
    assert (told["answer"], told["reason"], told["model_calls"]) == ("4", "done", 2)
    assert [(each["status"], each["content"]) for each in told["results"]] == [("ok", "4")]
    assert [message["role"] for message in told["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert ran.err == ""


def test_files_of_a_folder_can_be_read(week3, says, tmp_path):
    (tmp_path / "plan.txt").write_text("Meet at noon.")
    heard = says(call("read_file", path="plan.txt", line=1), "At noon.")
    assert week3("agent", "When?", "--folder", tmp_path).code == 0
    assert heard[1][-1]["content"] == "Meet at noon."


def test_a_store_can_be_searched(week3, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ships.txt").write_text("The Halcyon carries tin from Port Amsel.\n")
    week3("rag", "ingest", "ships.txt", "--store", "store", "--embedder", "hashing")
    heard = says(call("search", query="What does the Halcyon carry?"), "Tin.")
    assert week3("agent", "What does the Halcyon carry?", "--store", "store").code == 0
    assert heard[1][-1]["content"].startswith("ships.txt:1:\nThe Halcyon carries tin")


@pytest.mark.parametrize("replies", [["a"], [call("calculate", expression="1")] * 2])
def test_how_it_ends_without_an_answer(week3, says, replies):
    says(*replies)
    ran = week3("agent", "Why?", "--max-calls", len(replies))
    wanted = (0, "done") if replies == ["a"] else (1, "model calls")
    assert ran.code == wanted[0] and wanted[1] in ran.err


def test_what_steers_a_terminal_is_not_shown(week3, says):
    says(call("calculate", expression="\x1b[2J"), "ok")
    ran = week3("agent", "Why?")
    assert "\x1b" not in ran.err


# ---- Approval. ----


def test_where_nobody_can_be_asked_nothing_that_needs_approval_runs(week3, says, own, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    says(call("act", what="x") + call("look", what="y"), "Done.")
    ran = week3("agent", "Act!", "--tools", own)
    assert ran.code == 0
    assert 'act {"what": "x"}: needs approval, and standard input is no terminal' in ran.err
    assert "← denied: " in ran.err and "← y" in ran.err
    assert ran.out.count("it runs") == 1


@pytest.mark.parametrize(
    ("typed", "ends"), [("y\n", "← x"), ("\n", "← denied"), ("no\n", "← denied"), ("", "← denied")]
)
def test_who_sits_there_is_asked(week3, says, own, monkeypatch, typed, ends):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    says(call("act", what="x"), "Done.")
    ran = week3("agent", "Act!", "--tools", own)
    assert '? act {"what": "x"}\n  Run it? [y/N] ' in ran.err and ends in ran.err


# ---- Interruptions. ----


def interrupt():
    signal.raise_signal(signal.SIGINT)
    return call("calculate", expression="1")


def test_ctrl_c_leaves_the_messages_whole(week3, says, tmp_path):
    says(call("calculate", expression="2"), interrupt)
    before = signal.getsignal(signal.SIGINT)
    ran = week3("agent", "Why?", "--json", "--trace", tmp_path / "t.jsonl")
    told = json.loads(ran.out)
    assert (ran.code, told["reason"], told["answer"]) == (130, "cancelled", None)
    assert [message["role"] for message in told["messages"]] == ["user", "assistant", "tool"]
    assert lines(tmp_path / "t.jsonl")[-1]["reason"] == "cancelled"
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_what_a_tool_does(week3, says, tmp_path):
    file = tmp_path / "own.py"
    slow = "signal.raise_signal(signal.SIGINT) or time.sleep(60)"
    file.write_text(OWN.replace('return arguments["what"]', f"import signal, time; {slow}"))
    says(call("look", what="x"), "Never.")
    ran = week3("agent", "Why?", "--tools", file, "--json")
    assert ran.code == 130
    assert [each["status"] for each in json.loads(ran.out.removeprefix("it runs\n"))["results"]] == [
        "interrupted"
    ]


def test_the_second_ctrl_c_ends_it_at_once(week3, says):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    says(twice)
    assert week3("agent", "Why?").code == 130


def test_ctrl_c_at_the_question_denies_and_ends(own, tmp_path):
    """In a terminal of its own, with a real signal."""
    script = f"""
import solution.cli.agent
from pathlib import Path
from solution.agent.writing import Writer
from spec.agent import Reply
Writer.open = lambda *_, **__: lambda messages, tools: Reply({call("act", what="x")!r})
solution.cli.agent.installed = Path
{MAIN}"""
    above, below = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-B", "-c", script, "agent", "Act!", "--tools", str(own)],
        cwd=ROOT,
        stdin=below,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
    )
    os.close(below)
    try:
        said = b""
        while not said.endswith(b"[y/N] "):
            piece = os.read(asking.stderr.fileno(), 1000)
            assert piece, said.decode()
            said += piece
        asking.send_signal(signal.SIGINT)
        out, rest = asking.communicate(timeout=60)
    finally:
        asking.kill()
        os.close(above)
    assert asking.returncode == 130, rest.decode()
    assert b"skipped" in rest and b"it runs" not in out


def test_a_reader_who_has_seen_enough_ends_it_quietly(week3, says, monkeypatch):
    def breaks(piece):
        raise BrokenPipeError

    says("abc")
    monkeypatch.setattr("solution.cli.output.say", breaks)
    monkeypatch.setattr("solution.cli.output.let_go", lambda: None)
    assert week3("agent", "Why?").code == 141


# ---- What cannot be done. ----


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "own.py: No such file or directory"),
        ("x = 1\n", "own.py: expected TOOLS, a list of spec.agent.Tool, got none"),
        ("TOOLS = 'act'\n", "own.py: expected TOOLS, a list of spec.agent.Tool, got str"),
        ("TOOLS = [print]\n", "own.py: TOOLS[0]: expected a spec.agent.Tool, got builtin_function_or_method"),
        ("x = 1\nx / 0\n", "own.py:2: ZeroDivisionError: division by zero"),
        ("x = 1\n\nx = (\n", "own.py:3: SyntaxError: '(' was never closed"),
        (f"{OWN}TOOLS = [*TOOLS, *TOOLS]\n", "tools: expected names that differ"),
        (OWN.replace('"string"', '"strin"'), "schema: expected JSON Schema"),
    ],
)
def test_bad_tools_are_told(week3, says, tmp_path, source, said):
    says("Never.")
    file = tmp_path / "own.py"
    if source is not None:
        file.write_text(source)
    ran = week3("agent", "Why?", "--tools", file)
    assert (ran.code, ran.out) == (2, "") and said in ran.err and ran.err.startswith("week3: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--folder", "nowhere"], "folder: expected one that is there"),
        (
            ["--store", "nowhere"],
            "nowhere: nothing is in it. `week3 rag ingest PATH --store nowhere` fills it",
        ),
        (["--trace", "nowhere/trace"], "--trace: nowhere/trace: No such file or directory"),
        (["--max-calls", "0"], "--max-calls"),
    ],
)
def test_an_option_that_leads_nowhere_is_told(week3, says, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    says("Never.")
    ran = week3("agent", "Why?", *options)
    assert ran.code == 2 and said in ran.err


def test_no_question_is_told(week3):
    ran = week3("agent", " ")
    assert (ran.code, ran.err) == (2, "week3: question: expected words, got an empty text\n")


def test_a_model_that_is_not_here_is_fetched_by_name(week3, monkeypatch, tmp_path):
    monkeypatch.setenv("WEEK3_CACHE", str(tmp_path))
    ran = week3("agent", "Why?")
    assert ran.code == 2 and "week3 model fetch smollm2-135m-instruct" in ran.err


def test_a_missing_package_is_named_with_what_brings_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")  # a folder as models are in
    hidden = f"import sys; sys.modules['tokenizers'] = None; {MAIN}"
    command = [sys.executable, "-B", "-c", hidden, "agent", "Why?", "--model", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    sentence = "tokenizers is not installed. Models need it: pip install -e '.[models]'"
    assert (done.returncode, done.stderr) == (2, f"week3: {sentence}\n")


# ---- Python, where nothing of this machine is in reach. ----


def test_python_cannot_read_files_of_this_machine(week3, says, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    tmp_path.chmod(0o755)
    reads = f"print(open({str(tmp_path / 'secret.txt')!r}).read())"
    says(
        call("python", code="print(2 ** 10)"),
        call("python", code=reads),
        call("python", code="1 / 0"),
        "Done.",
    )
    ran = week3("agent", "Why?", "--python", "--json")
    right, refused, failed = json.loads(ran.out)["results"]
    assert (right["status"], right["content"]) == ("ok", "1024\n")
    assert refused["status"] == failed["status"] == "error" and "secret\n" not in refused["content"]
    assert "ZeroDivisionError" in failed["content"]


def test_where_python_cannot_be_isolated_it_is_not_offered(week3, says, monkeypatch):
    def not_here(name: TierName) -> str:
        return f"no {name} here" if name in ISOLATED else why_not(name)

    says("Never.")
    monkeypatch.setattr(import_module("runtime.sandbox.tiers"), "why_not", not_here)
    ran = week3("agent", "Why?", "--python")
    assert ran.code == 2
    assert "--python: expected a machine that can isolate it. namespaces: no namespaces here" in ran.err


# ---- The trace. ----


@pytest.fixture
def traced(week3, says, tmp_path):
    file = tmp_path / "trace.jsonl"
    says(call("calculate", expression="17 * 23"), "It is 391.")
    week3("agent", "What is 17 * 23?", "--trace", file)
    return file


def test_a_trace_has_a_line_for_each_event(traced):
    found = lines(traced)
    kinds = ["model call", "model reply", "attempt", "result", "model call", "model reply", "stop"]
    assert [line["kind"] for line in found] == kinds
    assert len({line["run"] for line in found}) == 1
    assert found[2]["call_id"] == found[3]["call_id"] == found[1]["messages"][0]["tool_calls"][0]["id"]
    assert (found[3]["status"], found[3]["content"], found[3]["attempts"]) == ("ok", "391", 1)
    assert [line["at"] for line in found] == sorted(line["at"] for line in found)
    messages = [message["role"] for line in found for message in line["messages"]]
    assert messages == ["user", "assistant", "tool", "assistant"]
    assert (found[-1]["reason"], found[-1]["model_calls"]) == ("done", 2)


def test_a_trace_is_shown_as_a_tree(week3, traced):
    ran = week3("trace", traced)
    assert ran.code == 0
    order = [
        "run ",
        "user",
        "What is 17 * 23?",
        "model  at 0.00 s",
        "calculate {",
        " ok",
        "391",
        "model  at ",
        "It is 391.",
    ]
    places = [ran.out.index(each, 0) for each in order]
    assert places[:7] == sorted(places[:7]) and "done" in ran.out


@pytest.mark.parametrize("kept", range(1, 7))
def test_a_run_that_was_cut_off_is_shown(week3, traced, kept):
    all_lines = traced.read_text().splitlines(keepends=True)
    traced.write_text("".join(all_lines[:kept]) + all_lines[kept][:20])
    ran = week3("trace", traced)
    last = json.loads(all_lines[kept - 1])["kind"]
    assert ran.code == 0 and f"cut off after: {last}" in " ".join(ran.out.split())


def test_a_second_run_is_appended_and_both_are_shown(week3, says, traced):
    says("Hi.")
    week3("agent", "Hello", "--trace", traced)
    ran = week3("trace", traced)
    assert ran.out.count("run ") == 2 and "Hello" in ran.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory"),
        (b"", "expected lines of a trace, got none"),
        (b"\xff\n", "expected UTF-8"),
        (b"no JSON\n", "trace.jsonl:1: expected JSON"),
        (b"[1]\n", "trace.jsonl:1: expected an object, got list"),
        (b"{}\n", "trace.jsonl:1: expected run, got None"),
        (
            b'{"run": "r", "kind": "x", "at": 0, "time": "", "messages": []}\n',
            "expected a kind of model call",
        ),
        (b'{"run": "r", "kind": "stop", "at": 0, "time": "", "messages": []}\n', ":1: expected reason"),
        (
            b'{"run": "r", "kind": "model call", "at": 0, "time": "", "messages": [1]}\n',
            "messages with a role",
        ),
    ],
)
def test_a_file_that_is_no_trace_is_told(week3, tmp_path, text, said):
    file = tmp_path / "trace.jsonl"
    if text is not None:
        file.write_bytes(text)
    ran = week3("trace", file)
    assert (ran.code, ran.out) == (2, "") and said in ran.err


def test_a_killed_run_leaves_whole_lines(tmp_path):
    """A real process, killed by the model in its second call."""
    file = tmp_path / "trace.jsonl"
    script = f"""
import os, signal, solution.cli.agent
from pathlib import Path
from solution.agent.writing import Writer
from spec.agent import Reply
def model(messages, tools):
    if len(messages) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return Reply({call("calculate", expression="1")!r})
Writer.open = lambda *_, **__: model
solution.cli.agent.installed = Path
{MAIN}"""
    command = [sys.executable, "-B", "-c", script, "agent", "Why?", "--trace", str(file)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert [line["kind"] for line in lines(file)] == [
        "model call",
        "model reply",
        "attempt",
        "result",
        "model call",
    ]


# ---- The real model. ----


@pytest.fixture(scope="module")
def answers():
    """What two questions give, by question. In a process of its own, on the fast BLAS."""
    fetched("smollm2-135m-instruct")
    script = f"""
import functools, sys
from runtime import blas
blas.preload()
from grading.cli import main
from solution.agent import writing
writing.load = functools.cache(writing.load)
for question in {QUESTIONS!r}:
    sys.argv = ["week3", "agent", question, "--json"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended"""
    done = subprocess.run([sys.executable, "-B", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {told["question"]: told for told in map(json.loads, done.stdout.splitlines())}


@pytest.mark.xdist_group("real models")  # read once
def test_smollm2_uses_the_calculator(answers):
    told = answers[QUESTIONS[0]]
    assert told["reason"] == "done"
    assert [(each["name"], each["content"]) for each in told["results"]] == [("calculate", "391")]
    assert "391" in told["answer"]


@pytest.mark.xdist_group("real models")  # read once
def test_smollm2_answers_without_a_tool_where_none_is_asked_for(answers):
    told = answers[QUESTIONS[1]]
    assert told["results"] == [] and "Tokyo" in told["answer"]
