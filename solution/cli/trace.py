"""week3 trace: a run of an agent, as it was written down."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import output

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

LINES, WIDTH = 6, 200  # of a text that is shown, and characters of each

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def trace(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What week3 agent --trace has written.")],
) -> None:
    """Show what an agent did, and when, as a tree; also of a run that was cut off."""
    from rich.console import Console

    from solution.agent.trace import BadTrace, read_trace

    try:
        runs = read_trace(path)
    except BadTrace as error:
        output.end(str(error), output.USAGE)
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        for run in runs:
            console.print(_tree(run))
    except BrokenPipeError:
        output.let_go()
        raise typer.Exit(output.NOBODY_READS) from None


def _tree(lines: list[dict[str, Any]]) -> "Tree":
    """Of one run. What has a beginning and no end was under way when the run was cut off."""
    from rich.tree import Tree

    tree = Tree(_heading(lines))
    reply = tree  # where calls go
    begun: dict[str, tuple[Any, float]] = {}  # by call: its node, and the time of its first attempt
    asked = 0.0
    for line in lines:
        for message in line["messages"]:
            if message["role"] in ("system", "user"):
                _add_text(tree.add(_label(message["role"], "bold")), message.get("content"))
        kind, at = line["kind"], line["at"]
        if kind == "model call":
            asked = at
            reply = tree.add(_label("model", "bold cyan", at))
        elif kind == "model reply":
            reply.label = _label("model", "bold cyan", asked, at - asked, f"{line['tokens']} tokens")
            for message in line["messages"]:
                _add_text(reply, message.get("content"))
        elif kind == "attempt":
            node, since = begun.get(line["call_id"], (None, at))
            if node is None:
                node = reply.add(_label(_call(line), "yellow", at))
            begun[line["call_id"]] = node, since
        elif kind == "result":
            node, since = begun.pop(line["call_id"], (None, at))
            if node is None:
                node = reply.add("")
            attempts = f", {line['attempts']} attempts" if line["attempts"] > 1 else ""
            node.label = _label(_call(line), "yellow", since, at - since, line["status"] + attempts)
            _add_text(node, line["content"])
    return tree


def _heading(lines: list[dict[str, Any]]) -> "Text":
    first, last = lines[0], lines[-1]
    if last["kind"] == "stop":
        ended, style = last["reason"], "green" if last["reason"] == "done" else "yellow"
        counts = f", model calls: {last['model_calls']}, tokens: {last['tokens']}"
    else:
        ended, style, counts = f"cut off after: {last['kind']}", "red", ""
    facts = f"  {first['time']}  {last['at'] - first['at']:.2f} s{counts}  "
    return _line(("run ", "bold"), (first["run"], "bold"), (facts, "dim"), (ended, style))


def _label(what: str, style: str, at: float | None = None, took: float | None = None, *facts: str) -> "Text":
    """at: when it began. took: seconds; None where its end is not known."""
    times = [f"at {at:.2f} s"] if at is not None else []
    times += [f"{took:.2f} s"] if took is not None else []
    return _line((what, style), ("".join(f"  {each}" for each in [*times, *facts]), "dim"))


def _call(line: dict[str, Any]) -> str:
    return f"{line['name']} {line['arguments']}"


def _add_text(tree: "Tree", content: Any) -> None:
    """Its first lines."""
    lines = str(content or "").strip().splitlines()
    shown = [each if len(each) <= WIDTH else f"{each[:WIDTH]}…" for each in lines[:LINES]]
    if len(lines) > LINES:
        shown.append(f"… {len(lines) - LINES} more lines")
    if shown:
        tree.add(_line(("\n".join(shown), "")))


def _line(*parts: tuple[str, str]) -> "Text":
    from rich.text import Text

    return Text.assemble(*((output.shown(text), style) for text, style in parts))
