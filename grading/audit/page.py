"""docs/audit.md: the page that a sceptical instructor reads first."""

import json
from typing import Any

from grading.clone import ROOT
from grading.files import write_whole

DATA = ROOT / "docs" / "audit.json"
PAGE = ROOT / "docs" / "audit.md"

HEAD = """\
# What the suite is worth

A verdict is worth what the judge is. So the judge is judged, by `week3 audit`, in real runs; this
page is what it wrote. Nothing on it was typed by hand.

- **Known bugs** are single edits of the ground truth, each a mistake that people make. All must be
  caught by the tests of their own requirement, whatever the seed. Named: a failing test said which bug
  it is. «At first» is stricter: the first test that fails, compared with every known bug of its topic,
  has the right one among its names.
- **Removed checks** leave out one check of arguments each. **Cheats** are modules whose functions
  return nothing, zero or their input, or always raise: they must earn nothing.
- **False alarms**: the ground truth, the MLX solution and a right implementation of another
  structure pass every test, at three seeds in process (`--seeds N`: at N) and in every tier of isolation.
- **Attacks** are hostile submissions, alone and beside right code, in every tier of isolation: they hang,
  crash, forge replies, read files, kill processes. They must change no verdict.
- **Mutants** are generic changes of the solution that nobody chose, 30 a topic: an operator turned, a
  number off by one. Those that nobody could observe do not count; `tests/suite/unobservable.toml` lists
  them with their reasons.

The bars: known bugs, checks and cheats all of them, false alarms none, attacks that gain something none, 95 %
of the mutants, a bug named at first in 90 %.

"""


def record(card: dict[str, Any], run: dict[str, Any]) -> None:
    """Puts the figures of one topic in the place of its older ones, and writes the page anew."""
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    data[card["topic"]] = card | {"run": run}
    write_whole(DATA, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    write_whole(PAGE, page(data))


def page(data: dict[str, Any]) -> str:
    topics = list(data)
    rows = [("", *topics), ("---", *("---:" for _ in topics))]
    rows += [(label, *(show(data[topic]) for topic in topics)) for label, show in ROWS]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return HEAD + table + "\n\n" + "\n".join(_details(data[topic]) for topic in topics)


def _pair(name: str) -> Any:
    return lambda card: f"{card[name][0]} of {card[name][1]}"


def _at_first(card: dict[str, Any]) -> str:
    return f"{card['named_at_first'][0]} of {card['named_at_first'][1]}, {card['alone']} with no other name"


def _attacks(card: dict[str, Any]) -> str:
    held, tried = card["attacks"]
    return f"{held} of {tried}" if tried else ""


ROWS: list[tuple[str, Any]] = [
    ("requirements", lambda card: str(card["requirements"])),
    ("tests", lambda card: str(card["tests"])),
    ("known bugs caught", _pair("killed")),
    ("… at other seeds, each counted", _pair("again")),
    ("… named by a test", _pair("named")),
    ("… named at first", _at_first),
    ("removed checks missed by a test", _pair("checks")),
    ("cheats that earned nothing", _pair("cheats")),
    ("tests never seen to fail", lambda card: str(len(card["idle_tests"]))),
    ("runs of right code, in process", lambda card: str(card["right_runs"])),
    ("runs of right code, isolated", lambda card: str(card["isolated_runs"])),
    ("false alarms", lambda card: str(len(card["accused"]))),
    ("attacks that gained nothing", _attacks),
    ("mutants of the solution killed", _pair("mutants")),
    ("… and not observable", lambda card: str(card["unobservable"])),
    ("minutes of two cores", lambda card: f"{card['run']['minutes']:.1f}"),
]


def _details(card: dict[str, Any]) -> str:
    run = card["run"]
    lines = [
        f"## {card['topic']}",
        "",
        f"{run['date']}, {run['machine']}. `week3 audit {card['topic']}{run['options']}`.",
        "",
    ]
    for name, what in (
        ("survivors", "Lives"),
        ("lucky", "Lives at a seed"),
        ("unnamed", "Caught and named by no test"),
        ("idle_tests", "Never seen to fail"),
        ("undefended", "No defect is caught by the tests of"),
        ("accused", "Right code that was accused"),
        ("earned", "Earned by a cheat"),
        ("gained", "An attack that gained something"),
    ):
        lines += [f"- {what}: {each}" for each in card[name]]
    return "\n".join(lines).rstrip() + "\n"
