"""The tools that come with the agent: right about numbers, and nothing beyond their folder."""

from itertools import count

import pytest

from solution.agent import JsonConstraint, Toolbox
from solution.agent.arithmetic import DEEPEST, LONGEST, calculate
from solution.agent.tools import MOST_FILES, MOST_LINES, calculator, folder_tools
from spec import InvalidArgument, ToolFailure
from spec.agent import Clock, Status, ToolCall

BYTES = [bytes([byte]) for byte in range(256)]
AT_ONCE = Clock(
    lambda: 0.0, lambda seconds: None, lambda call, arguments, context, timeout: call(arguments, context)
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("-2 ** 2", "-4"),
        ("2 ** -1", "0.5"),
        ("2 ** 3 ** 2", "512"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("8 - 4 - 2", "2"),
        ("(17 + 23) * 2.5 ** 2", "250"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3 * 3", "1"),
        ("10 ** 20 + 1", "100000000000000000001"),
        ("1.5e3 + .5", "1500.5"),
        ("sqrt(16 / 25) + abs(-3)", "3.8"),
        ("sqrt(2) ** 2", "2.0000000000000004"),
        ("round(2.5) + round(3.5)", "6"),
        ("-" * (DEEPEST - 2) + "1", "1"),
    ],
)
def test_it_works_out(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *("", "(", "1 2", "1)", "2 +", "1,5", "01x", "١", "sqrt 2", "sqrt", "__import__('os')", "import os"),
        *("1 / 0", "0 ** -1", "5 % 0", "sqrt(-1)", "(-1) ** 0.5", "1e308 * 10.5 ** .5 * 1e300"),
        *("9 ** 9 ** 9", "2 ** 5000", "1e999 * 1e999", "1e9999"),
        *("1" * (LONGEST + 1), "(" * 60 + "1" + ")" * 60, "-" * 60 + "1", "2 ** " * 60 + "1"),
    ],
    ids=lambda expression: expression[:20],
)
def test_what_has_no_value_is_a_failure(expression):
    with pytest.raises(ToolFailure, match="expression: expected"):
        calculate(expression)


@pytest.fixture
def ask(tmp_path):
    """What a tool of the folder says, and how its call ended."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "folder2").mkdir()
    (tmp_path / "folder2" / "secret.txt").write_text("secret")
    (folder / ".env").write_text("secret")
    (folder / "lines.txt").write_text("\n".join(f"line {i}" for i in range(1, 2 * MOST_LINES + 2)))
    (folder / "sub" / "ü.txt").write_bytes(b"\xff\xc3\xbc")
    (folder / "sub" / "same").symlink_to(folder / "lines.txt")
    (folder / "out").symlink_to(tmp_path / "folder2")
    (folder / "out.txt").symlink_to(tmp_path / "folder2" / "secret.txt")
    (folder / "circle").symlink_to(folder / "circle")
    toolbox, numbers = Toolbox(folder_tools(folder), clock=AT_ONCE, uniform=lambda: 0.5), count()

    def call(name, arguments):
        result = toolbox.call(ToolCall(str(next(numbers)), name, arguments), run_id="r")
        return result.status, result.content

    return call


def test_files_are_listed(ask):
    assert ask("list_files", "{}") == (Status.OK, "lines.txt\nsub/same\nsub/ü.txt")


def test_a_long_list_is_cut(tmp_path):
    for i in range(MOST_FILES + 2):
        (tmp_path / f"{i:03d}").touch()
    names = folder_tools(tmp_path)[0].function({}, None).split("\n")
    assert (len(names), names[-1]) == (MOST_FILES + 1, "[and 2 more]")


def test_files_are_read_from_a_line_on(ask):
    status, text = ask("read_file", '{"path": "lines.txt", "line": 1}')
    lines = text.split("\n")
    more = f"[more from line {MOST_LINES + 1} on]"
    assert (status, lines[0], lines[MOST_LINES - 1 :]) == (Status.OK, "line 1", [f"line {MOST_LINES}", more])
    assert ask("read_file", f'{{"path": "sub/same", "line": {2 * MOST_LINES}}}')[1] == "line 400\nline 401"
    assert ask("read_file", '{"path": "sub/ü.txt", "line": 1}') == (Status.OK, "\ufffdü")
    for line in (0, -1, 2 * MOST_LINES + 2, 10**30):
        status, text = ask("read_file", f'{{"path": "lines.txt", "line": {line}}}')
        assert status is Status.ERROR and text.startswith("line: expected")


@pytest.mark.parametrize(
    "path",
    [
        *("../folder2/secret.txt", "sub/../../folder2/secret.txt", "out/secret.txt", "out.txt", ".env"),
        *("/etc/passwd", "~/.bashrc", "nothing", "sub", "", ".", "circle", "\\u0000", "\\ud800", "x" * 5000),
    ],
    ids=lambda path: path[:20],
)
def test_nothing_else_can_be_read(ask, path):
    status, text = ask("read_file", f'{{"path": "{path}", "line": 1}}')
    assert status in (Status.ERROR, Status.BAD_ARGUMENTS) and "secret" not in text.replace(path, "")


def test_a_folder_must_be_there(tmp_path):
    with pytest.raises(InvalidArgument, match="folder"):
        folder_tools(tmp_path / "nothing")


def test_a_constraint_takes_their_schemas(tmp_path):
    for tool in [calculator(), *folder_tools(tmp_path)]:
        JsonConstraint(tool.parameters, BYTES, [0])
