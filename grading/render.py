"""The scorecard: what an implementation reached, what to mend first, what to type next."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from grading.report import Report, RequirementResult
from grading.requirements import by_id, topics
from grading.roots import Root, roots
from grading.terminal import printable, pytest_command

_IN_FULL = 3  # broken roots told with all that is known; more than that nobody reads at once
_IN_BRIEF = 8  # and these with a line each
_PRINTED = 3  # lines
_BAR = 24


def _failing_alike(report: Report) -> dict[str, str]:
    """{topic: message} where one cause fails everything, as when a module cannot be imported."""
    found = {}
    for topic in report.topics:
        results = [r for r in report.requirements.values() if r.topic == topic and not r.unwritten]
        messages = {test.message for r in results for test in r.tests}
        unnamed = all(r.status == "broken" and not r.diagnosis for r in results)
        if len(messages) == 1 and len(results) > 1 and unnamed:
            found[topic] = messages.pop()
    return found


def _with_different_bugs(wrong: list[Root]) -> list[Root]:
    """Of roots that one and the same known bug explains only the first."""
    by_bug = {tuple(root.requirement.diagnosis) or root.requirement.id: root for root in reversed(wrong)}
    return [root for root in wrong if root in by_bug.values()]


def scorecard(
    report: Report,
    console: Console,
    *,
    lacks: Iterable[str] = (),
    note: str = "",
    hints: Mapping[str, str] | None = None,
    json_file: Path | None = None,
) -> None:
    """lacks: what the isolation leaves open. note: on the machine. hints: of known bugs, by title."""
    _heading(report, console, list(lacks))
    if note:
        _indented(note, console, "yellow")
    found = roots(report)
    wrong = [root for root in found if not root.requirement.unwritten]
    unwritten = [root for root in found if root.requirement.unwritten]
    declined = [result for result in report.requirements.values() if result.status == "declined"]
    if report.score == 0 and not wrong and not declined:
        _nothing_yet(report, console)
    else:
        _scores(report, console)
    _declined(declined, console)
    if report.passed:
        console.print("\nEvery requirement is met.", style="bold green")
    elif report.nothing_wrong and report.score:
        what = "is done, and not declined," if declined else "is written so far"
        console.print(f"\nEverything that {what} is right.", style="bold green")
    alike = _failing_alike(report)
    for topic, message in alike.items():
        _topic_in_full(topic, message, console)
    single = [root for root in wrong if root.requirement.topic not in alike]
    told = _with_different_bugs(single)[:_IN_FULL]
    for root in told:
        _in_full(root, console, hints or {})
        _printed(root.requirement, console)
    _in_brief([root for root in single if root not in told], told, console)
    if unwritten:
        _next_function(unwritten[0], console)
    if found:
        _commands(report, (wrong or unwritten)[0].requirement, console, json_file)


def one_requirement(result: RequirementResult, console: Console, hints: Mapping[str, str]) -> None:
    """What a replay found."""
    if result.status == "met":
        console.print(f"{result.id} is met on these inputs.", style="bold green")
    elif result.status == "declined":
        console.print(f"{result.id} is declined: {', '.join(result.declined)}.", style="yellow")
    else:
        _in_full(Root(result, (), 0.0), console, hints)
    if printed := next((test.output for test in result.tests if test.output), ""):
        console.print("\nWhat the submission printed ends:", style="dim")
        _indented(printed, console)


def _heading(report: Report, console: Console, lacks: list[str]) -> None:
    console.print(Text(printable(report.implementation), "bold"), soft_wrap=True)
    seconds = f"{report.seconds:.1f} s"
    facts = (report.framework, f"suite {report.suite_version}", f"seed {report.seed}", seconds)
    console.print(Text(" · ".join(printable(fact) for fact in facts), "dim"))
    console.print(Text(f"isolation: {report.isolation}" + (", which leaves open:" if lacks else ""), "dim"))
    for lack in lacks:
        _indented(lack, console, "yellow")


def _nothing_yet(report: Report, console: Console) -> None:
    """For a fresh starter, or a folder without any module: no row of zeros, but where to begin."""
    if any(topic.status != "not attempted" for topic in report.topics.values()):
        ahead = [r for r in report.requirements.values() if r.topic == next(iter(report.topics))]
        core = sum(r.level == "core" for r in ahead)
        console.print(f"\nNothing is written yet. {ahead[0].topic} begins with {core} core requirements.")
    else:
        modules = ", ".join(f"{topic}.py" for topic in report.topics)
        console.print(f"\nNothing to grade: none of {modules} is there. A starter: week3 new DIR")


def _scores(report: Report, console: Console) -> None:
    console.print()
    width = max(map(len, [*report.topics, "all"]))
    for topic in report.topics.values():
        mine = [r for r in report.requirements.values() if r.topic == topic.name]
        note = topic.status if topic.status == "not attempted" else _way(mine)
        console.print(_score(topic.name, width, topic.score, topic.max_score, note), soft_wrap=True)
        if topic.note:
            _indented(topic.note, console, "yellow")
    if len(report.topics) > 1:
        console.print(_score("all", width, report.score, report.max_score, ""), soft_wrap=True)


def _declined(results: list[RequirementResult], console: Console) -> None:
    """What `week3.toml` says that it does not do, and which requirements ask for it."""
    if results:
        names = dict.fromkeys(name for result in results for name in result.declined)
        ask, earn = ("asks", "earns") if len(results) == 1 else ("ask", "earn")
        console.print(
            f"\n{len(results)} {ask} for what week3.toml declines, and {earn} nothing:", style="yellow"
        )
        _indented(", ".join(result.id for result in results), console)
        if besides := [result.id for result in results if result.met_besides]:
            _indented(f"All else that is asked is met in {', '.join(besides)}.", console)
        _indented(f"They ask for {', '.join(names)}.", console, "dim")


def _way(results: list[RequirementResult]) -> str:
    """How far along the way: first the core, which is a version that works, then the rest."""
    if all(r.unwritten for r in results):
        return "not written yet"
    core = [r.status == "met" for r in results if r.level == "core"]
    rest = [r.status == "met" for r in results if r.level != "core"]
    declined = sum(r.status == "declined" for r in results)
    besides = f", {declined} declined" if declined else ""
    if all(core) and all(rest) or not core:
        return f"{sum(core + rest)} of {len(results)} requirements{besides}"
    after = f", then {sum(rest)} of {len(rest)}" if rest else ""
    return f"core {sum(core)} of {len(core)}{after}{besides}"


def _score(name: str, width: int, score: float, most: float, note: str) -> Text:
    full = int(_BAR * score / most)  # rounded down: only a full score fills the bar
    colour = "green" if score == most else "yellow" if score else "red"
    bar = ("█" * full, colour), ("░" * (_BAR - full), "dim")
    return Text.assemble(
        (f"  {name:<{width}}  ", "bold"), *bar, f"  {score:5.1f}", (f"  {note}" if note else "", "dim")
    )


def _topic_in_full(topic: str, message: str, console: Console) -> None:
    console.print(Text(f"\n{topic} · every requirement", "bold red"))
    _indented(_shortened(message), console)


def _in_full(root: Root, console: Console, hints: Mapping[str, str]) -> None:
    result = root.requirement
    if not_imported := _not_imported(result):
        console.print(Text(f"\n{not_imported[:-2]}", "bold red"))
    else:
        console.print(
            Text.assemble((f"\n{result.id} · {result.title}", "bold red"), (f" · {result.level}", "dim"))
        )
    _indented(_shortened(result.message.removeprefix(not_imported)), console)
    verb = "is" if len(result.diagnosis) == 1 else "may be"
    for title in result.diagnosis[:_IN_FULL]:
        _indented(f"This {verb} what happens when an implementation {title}.", console, "yellow")
        if hints.get(title):
            _indented(f"Hint: {hints[title]}", console, "cyan")
    if root.waiting:
        _indented(
            f"{_waiting(root)} for this. Mended, it brings up to {root.marks:.1f} marks.", console, "dim"
        )


def _not_imported(result: RequirementResult) -> str:
    """How the message begins where its cause is that the topic's module cannot be imported; else ""."""
    begins = f"{result.topic} cannot be imported: "
    return begins if result.message.startswith(begins) else ""


def _printed(result: RequirementResult, console: Console) -> None:
    """The last lines that the submission printed in the test that failed, none of which looks like ours."""
    if lines := next((test.output for test in result.tests if test.output), "").splitlines():
        _indented("It printed:" + " …" * (len(lines) > _PRINTED), console, "dim")
        for line in lines[-_PRINTED:]:
            _indented(_shortened(f"| {line}"), console, "dim")


def _waiting(root: Root) -> str:
    return "1 more waits" if len(root.waiting) == 1 else f"{len(root.waiting)} more wait"


def _in_brief(rest: list[Root], told: list[Root], console: Console) -> None:
    if rest:
        console.print("\nBroken as well, and waiting for none of these:")
    for root in rest[:_IN_BRIEF]:
        line = Text.assemble((f"  {root.requirement.id}", "red"), f" · {root.requirement.title}")
        bug = root.requirement.diagnosis
        same = [each.requirement.id for each in told if bug and each.requirement.diagnosis == bug]
        console.print(line.append(f" (the same bug as {same[0]})" if same else ""))
    if len(rest) > _IN_BRIEF:
        console.print(Text(f"  and {len(rest) - _IN_BRIEF} more", "dim"))


def _next_function(root: Root, console: Console) -> None:
    result = root.requirement
    missing = next(test.missing for test in result.tests if test.missing)
    console.print(Text.assemble("\nNext to write: ", (missing, "bold cyan")))
    waiting = f" · {_waiting(root)} for this" if root.waiting else ""
    _indented(f"{result.id} · {result.title}{waiting}", console, "dim")


def _commands(report: Report, result: RequirementResult, console: Console, json_file: Path | None) -> None:
    path = shlex.quote(printable(report.implementation))
    specified = by_id().get(result.id)
    more = "--hint, --spoil" if specified and specified.hint else "--spoil"
    lines = [] if _not_imported(result) else [(f"week3 explain {result.id}", f"what must hold; {more}")]
    if json_file and not result.unwritten:
        lines.append((f"week3 replay {shlex.quote(str(json_file))} {result.id}", "its failing inputs again"))
    lines.append((pytest_command(printable(report.implementation), result.id), "its tests in a debugger"))
    if in_work := _in_work(report, result):
        lines.append((f"week3 grade {path}{_only(in_work)}", "what you are at, and quicker"))
    part = "" if len(report.topics) == len(topics()) else _only(report.topics)
    how = " --in-process" if report.isolation == "in-process" else ""
    lines.append((f"week3 grade {path}{part}{how} --seed {report.seed}", "this run again"))
    width = max(len(command) for command, _ in lines)
    console.print()
    for command, purpose in lines:
        line = Text.assemble((f"  {command:<{width}}", "bold"), (f"  {purpose}", "dim"))
        console.print(line, soft_wrap=True)


def _only(chosen: Iterable[str]) -> str:
    return "".join(f" --topic {topic}" for topic in chosen)


def _in_work(report: Report, first: RequirementResult) -> list[str]:
    """The topics that something is written of, or the first; none if that is all that was graded."""
    written = {r.topic for r in report.requirements.values() if not r.unwritten} or {first.topic}
    return [topic for topic in report.topics if topic in written] if len(written) < len(report.topics) else []


def _indented(text: str, console: Console, style: str = "") -> None:
    for line in printable(text).splitlines():
        for part in Text(line, style).wrap(console, max(console.width - 2, 20)):
            console.print(Text.assemble("  ", part))


def _shortened(message: str, most_lines: int = 12, most_characters: int = 240) -> str:
    """An array in a message may take pages."""
    lines = message.splitlines()
    kept = [
        line if len(line) <= most_characters else f"{line[:most_characters]} …" for line in lines[:most_lines]
    ]
    return "\n".join(kept if kept == lines else [*kept, "(more of it: --json FILE)"])
