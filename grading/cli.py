"""The command line. Each command imports what it needs when it runs, so that `week3 --help` is instant."""

import json
import random
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from grading import terminal
from grading.asked import (
    ids_of,
    known_topics,
    must_be_writable,
    must_decline_what_there_is,
    must_exist,
    nearest,
    place_of,
    recorded_in,
    requirement_of,
)
from grading.clone import ROOT, UsageError, check_clone

if TYPE_CHECKING:
    from rich.console import Console

    from grading.report import Report
    from grading.requirements import Requirement

MODEL_BENCH, BENCHED_MODEL = "model", "smollm2-135m-instruct"
SOME_NOT_MET, USAGE, GRADER_FAILED = 1, 2, 3
LEVELS = {
    "core": "First, a version that works:",
    "edge": "Then what serving needs: odd input, half precision, refusals:",
    "scale": "Last what refines it: how cost and memory grow:",
}

JOINED = "week3.commands"


class Commands(TyperGroup):
    """The commands of this file, and those that join by an entry point, which are loaded when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_joined()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in _joined():
            return typer.main.get_command(_joined()[cmd_name].load())
        return found


@cache
def _joined() -> dict[str, EntryPoint]:
    """By name; without those whose package is not here: a hand-out has no solution."""
    return {
        entry.name: entry for entry in entry_points(group=JOINED) if find_spec(entry.module.partition(".")[0])
    }


app = typer.Typer(
    cls=Commands,
    help="Grades implementations of LLM serving, and says what is wrong with them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help through rich would take a third of the 0.3 s
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Exit codes: 0 all met, 1 some not, 2 usage, 3 the grader itself failed, 130 interrupted."""
    terminal.write_any_text(sys.stdout, sys.stderr)
    try:
        check_clone()
        app()
    except UsageError as error:
        print(f"week3: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except Exception:  # shown in full, and told apart from a verdict
        traceback.print_exc()
        print("week3: the grader itself failed; this says nothing about the submission", file=sys.stderr)
        sys.exit(GRADER_FAILED)


# ---- The commands. ----

TopicNames = Annotated[list[str] | None, typer.Argument(metavar="TOPIC")]
RequirementId = Annotated[str, typer.Argument(metavar="ID", help="For example PA-07.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write JSON here too.")]


@app.command()
def new(folder: Annotated[Path, typer.Argument(metavar="DIR")] = Path("code/week3")) -> None:
    """Write a starter: a stub of every function, ready to be graded."""
    from grading.requirements import requirements, topics
    from grading.starter import write_starter
    from grading.terminal import pytest_command

    written = write_starter(folder)
    first = requirements(topics()[0])[0]
    print(f"{folder}: {', '.join(path.name for path in written)}\n\nStart with {first.id} · {first.title}\n")
    print(f"  week3 explain {first.id}")
    print(f"  week3 grade {folder}")
    print(f"  {pytest_command(str(folder), first.id)}")


@app.command()
def grade(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Folders with a module per topic.")],
    json_file: JsonFile = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML here too.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=2**32 - 1, help="Decides all inputs; random by default."),
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option(metavar="TOPIC", help="Only this topic; repeatable.")
    ] = None,
    isolation: Annotated[
        str | None, typer.Option(metavar="TIER", help="This tier or none; the best by default.")
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option("--in-process", help="No isolation: for code you trust; breakpoint() works."),
    ] = False,
    no_diagnosis: Annotated[bool, typer.Option("--no-diagnosis", help="Do not look for known bugs.")] = False,
    allow_unwritten: Annotated[
        bool, typer.Option("--allow-unwritten", help="Exit with 0 if nothing that is written is wrong.")
    ] = False,
) -> None:
    """Run the suite on submissions and show a scorecard for each."""
    if in_process and isolation:
        raise UsageError("--in-process and --isolation exclude each other: in process nothing is isolated")
    for path in paths:
        must_exist(path)
        must_decline_what_there_is(path)
    topics = known_topics(topic)
    must_be_writable(json_file)
    must_be_writable(junit_file)

    from grading.files import to_json, to_junit, write_whole
    from grading.render import scorecard
    from runtime.environment import gpu_in_grade

    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    tier = "in-process" if in_process else isolation
    console = terminal.console()
    reports = []
    for path in paths:
        report = _graded(path, topics=topics, seed=seed, isolation=tier, diagnosis=not no_diagnosis)
        scorecard(
            report,
            console,
            lacks=_lacks(report.isolation),
            note=gpu_in_grade(report.isolation),
            hints=_hints(report),
            json_file=json_file,
        )
        console.print()
        reports.append(report)
    if json_file:
        data = [to_json(report) for report in reports]
        write_whole(json_file, json.dumps(data if len(data) > 1 else data[0], indent=2) + "\n")
    if junit_file:
        write_whole(junit_file, to_junit(reports))
    good = [report.nothing_wrong if allow_unwritten else report.passed for report in reports]
    raise typer.Exit(0 if all(good) else SOME_NOT_MET)


@app.command()
def replay(
    report_file: Annotated[Path, typer.Argument(metavar="REPORT", help="A file of week3 grade --json.")],
    id: RequirementId,
) -> None:
    """Run exactly the failing inputs of a report again."""
    requirement = requirement_of(id)
    recorded = recorded_in(report_file, requirement.id)
    path = place_of(recorded)

    from grading.render import one_requirement

    report = _graded(
        path,
        topics=[requirement.topic],
        seed=recorded["seed"],
        isolation="in-process" if recorded["isolation"] == "in-process" else None,
        replay=recorded,
        only={requirement.id},
    )
    if report.suite_version != recorded["suite_version"]:
        versions = f"recorded by suite {recorded['suite_version']}, replayed by {report.suite_version}"
        print(f"week3: {versions}: the inputs may differ", file=sys.stderr)
    one_requirement(report.requirements[requirement.id], terminal.console(), _hints(report))
    raise typer.Exit(0 if report.passed else SOME_NOT_MET)


@app.command("list")
def list_requirements(
    topic: TopicNames = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    capabilities: Annotated[
        bool, typer.Option("--capabilities", help="What a week3.toml may decline instead.")
    ] = False,
) -> None:
    """List topics and requirements."""
    from rich.text import Text

    from grading.requirements import requirements, topics

    if capabilities:
        _list_capabilities(known_topics(topic) or list(topics()), as_json)
        return
    chosen = {name: requirements(name) for name in known_topics(topic) or topics()}
    if as_json:
        fields = ("id", "title", "level", "needs")
        rows = {name: [{f: getattr(r, f) for f in fields} for r in found] for name, found in chosen.items()}
        print(json.dumps(rows, indent=2))
        return
    console = terminal.console()
    for name, found in chosen.items():
        console.print(Text.assemble((name, "bold"), (f"  {len(found)} requirements", "dim")))
        width = max(len(each.id) for each in found)
        for level, meaning in LEVELS.items():
            here = [each for each in found if each.level == level]
            if here:
                console.print(Text.assemble(f"\n  {meaning}", (f"  {level}, {len(here)}", "dim")))
            for each in here:
                line = Text.assemble((f"    {each.id:<{width}}", "cyan"), f"  {each.title}")
                console.print(line, soft_wrap=True)
        console.print()


@app.command()
def explain(
    id: RequirementId,
    hint: Annotated[bool, typer.Option("--hint", help="How to go about it.")] = False,
    spoil: Annotated[bool, typer.Option("--spoil", help="Its known bugs, as edits.")] = False,
) -> None:
    """Show what a requirement asks for."""
    from rich.markdown import Markdown
    from rich.text import Text

    requirement = requirement_of(id)
    console = terminal.console()
    facts = f"{requirement.topic} · {requirement.level}"
    facts += f" · needs {', '.join(requirement.needs)}" if requirement.needs else ""
    console.print(Text(f"{requirement.id} · {requirement.title}", "bold"))
    console.print(Text(f"{facts}\n", "dim"))
    if console.is_terminal:
        console.print(Markdown(requirement.body))
    else:
        print(requirement.body)
    if hint:
        none = "There is no hint for this one; its known bugs have some: --spoil"
        console.print(Text(f"\nHint: {requirement.hint}" if requirement.hint else f"\n{none}", "cyan"))
    elif requirement.hint:
        console.print(Text("\nHow to go about it: --hint", "dim"))
    if spoil:
        _show_known_bugs(requirement, console)


@app.command()
def bench(
    topic: TopicNames = None,
    json_file: JsonFile = None,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality",
            help="What long context costs a model in quality; an hour, goes on where it was interrupted.",
        ),
    ] = False,
) -> None:
    """Measure the solution against its bars; takes minutes."""
    import importlib
    from dataclasses import asdict

    from grading.files import write_whole
    from grading.requirements import topics
    from runtime import blas, environment

    files = {name: ROOT / "tests" / "week3" / f"bench_{name}.py" for name in [*topics(), MODEL_BENCH]}
    benches = [name for name, file in files.items() if file.exists()]
    if not benches:
        raise UsageError("no benchmarks here: they measure the solution, which this clone does not have")
    chosen = [nearest("benchmark", name, benches) for name in topic or benches]
    missing = _missing_model() if MODEL_BENCH in chosen else ""
    if missing and topic:
        raise UsageError(missing)
    must_be_writable(json_file)
    if quality and (topic != ["long_context"] or json_file):
        raise UsageError("--quality: expected week3 bench long_context --quality, and nothing else")

    sys.path.insert(0, str(ROOT))  # `tests` is no installed package
    blas.preload()
    console = terminal.console()
    if quality:
        _bench_quality(console)
        return
    for line in environment.bench_device():
        console.print(line, style="dim", soft_wrap=True)
    measured = {}
    if missing:
        chosen.remove(MODEL_BENCH)
        console.print(missing, style="yellow", soft_wrap=True)
    for name in chosen:
        rows = importlib.import_module(f"tests.week3.bench_{name}").report()
        _show_bench(name, rows, console)
        measured[name] = [asdict(row) for row in rows]
    if json_file:
        write_whole(json_file, json.dumps(measured, indent=2) + "\n")
    missed = any(not row["met"] for rows in measured.values() for row in rows)
    raise typer.Exit(SOME_NOT_MET if missed else 0)


@app.command()
def audit(
    topic: TopicNames = None,
    seeds: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="How many seeds right code and known bugs are judged with."),
    ] = 3,
) -> None:
    """Prove what the suite catches and accuses; minutes a topic, goes on where it was interrupted."""
    if not (ROOT / "tests" / "alternatives").is_dir():
        raise UsageError("no audit here: it needs right implementations, which this clone does not have")
    from grading.audit.command import audit as examine
    from grading.requirements import topics

    console = terminal.console()
    missed = False
    for card in examine(known_topics(topic) or list(topics()), seeds, console):
        for sentence in card.missed():
            missed = True
            console.print(f"{card.topic}: {sentence}", soft_wrap=True)
    console.print("docs/audit.md shows the figures.")
    raise typer.Exit(SOME_NOT_MET if missed else 0)


@app.command()
def release(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT", help="A topic, a level or an id; repeatable. Nothing else is graded there."
        ),
    ] = None,
) -> None:
    """Write the hand-out for learners: everything but the solution."""
    from grading.release import write_release

    files = write_release(folder, ids_of(only or []))
    print(f"{folder}: {files} files. Learners begin there: pip install -e . && week3 new")


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and what mends it."""
    from grading.doctor import doctor as examine

    raise typer.Exit(examine(terminal.console()))


# ---- What the commands share. ----


def _graded(path: Path, **how: Any) -> "Report":
    from grading.grade import grade as grade_one
    from grading.requirements import by_id

    topic_of = {id: requirement.topic for id, requirement in by_id().items()}
    with terminal.progress(str(path), topic_of, debugger=how["isolation"] == "in-process") as listener:
        return grade_one(path, listener=listener, **how)


def _lacks(isolation: str) -> tuple[str, ...]:
    """What a tier other than the full one does not protect against."""
    if isolation == "in-process":
        return ("everything: the submission shares the grader's process and could write its own verdict",)
    from runtime.sandbox import demand
    from runtime.sandbox.values import TIER_NAMES

    return () if isolation == TIER_NAMES[0] else demand(isolation).lacks


def _hints(report: "Report") -> dict[str, str]:
    from grading.bugs import known_bugs

    return {bug.title: bug.hint for topic in report.topics for bug in known_bugs(topic)}


def _list_capabilities(chosen: Sequence[str], as_json: bool) -> None:
    from rich.text import Text

    from grading.capabilities import of_topic

    found = {topic: {each.name: each.says for each in of_topic(topic)} for topic in chosen}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = terminal.console()
    width = max((len(name) for names in found.values() for name in names), default=0)
    for topic, says in found.items():
        console.print(Text.assemble((topic, "bold"), (f"  {len(says)} capabilities", "dim")))
        for name, sentence in says.items():
            console.print(Text.assemble(f"  {name:<{width}}", (f"  {sentence}", "dim")), soft_wrap=True)


def _show_known_bugs(requirement: "Requirement", console: "Console") -> None:
    from rich.syntax import Syntax
    from rich.text import Text

    from grading.bugs import known_bugs
    from grading.edited import difference

    bugs = [bug for bug in known_bugs(requirement.topic) if bug.requirement == requirement.id]
    if not bugs:
        console.print("\nNo known bug is listed for it.")
    for bug in bugs:
        console.print(Text(f"\nAn implementation {bug.title}.", "yellow"))
        diff = difference(requirement.topic, bug)
        shown = Syntax(diff, "diff", theme="ansi_dark") if console.is_terminal else Text(diff)
        console.print(shown, soft_wrap=True)
        if bug.hint:
            console.print(Text(f"Hint: {bug.hint}", "cyan"))


def _bench_quality(console: "Console") -> None:
    import importlib.util

    from runtime import downloads

    quality = importlib.import_module("tests.week3.bench_long_context_quality")
    path = downloads.installed(quality.MODEL)
    if path is None:
        raise UsageError(f"{quality.MODEL} is not here: week3 model fetch {quality.MODEL}")
    for needed in ("matplotlib", "tokenizers"):  # at once: in an hour would be a bad time to miss one
        if importlib.util.find_spec(needed) is None:
            raise UsageError(f"{needed} is not here: pip install -e '.[models,plots]'")
    kept = ROOT / ".benchmarks" / f"{quality.NAME}.json"
    quality.report(path, kept, ROOT / "docs", lambda line: console.print(line, soft_wrap=True, markup=False))


def _missing_model() -> str:
    """What to say where the model that a benchmark takes is not here."""
    from runtime import downloads

    here = downloads.installed(BENCHED_MODEL)
    return (
        "" if here else f"no benchmark model: {BENCHED_MODEL} is not here: week3 model fetch {BENCHED_MODEL}"
    )


def _show_bench(name: str, rows: Sequence[Any], console: "Console") -> None:
    from rich.text import Text

    console.print(Text(name, "bold"))
    width = max(len(row.name) for row in rows)
    for row in rows:
        verdict = ("met", "green") if row.met else ("missed", "red")
        bar = (f"  {row.bar}: ", verdict) if row.bar else ()
        floor = f"  floor {row.floor}" if row.floor else ""
        facts = f"  {row.seconds * 1e3:9.3f} ms  {row.ratio:6.2f}", (floor, "dim")
        console.print(Text.assemble(f"  {row.name:<{width}}", *facts, *bar), soft_wrap=True)
