"""`week3 generate` and `week3 model`: text as it comes, what ends it, and sentences instead of tracebacks."""

import io
import json
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading import cli
from grading.clone import ROOT
from runtime import downloads
from solution.models import generate, load
from solution.models.streaming import Stops, tell
from solution.models.tokenizer import Tokenizer
from solution.speculative_decoding import propose_ngram, stream
from spec.model import Model
from spec.speculative_decoding import Sampling
from tests.suite.real_models import fetched
from tests.suite.test_tokenizer import bytewise
from tests.suite.tiny_models import tiny

MAIN = "from grading.cli import main; main()"
END = 256
STREAM = "solution.speculative_decoding.stream"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's files without weights: a token for each byte, and one that ends a turn."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.json").write_text(bytewise(["<|end|>"]).to_str())
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ '>' if add_generation_prompt }}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (folder / "config.json").write_text("{}")
    return folder


class Recites:
    """Stands for a decoder: whatever it reads, it writes this text and ends its turn.

    prompt: its length; None for that of the first call, which has a draft behind it where one is made.
    """

    def __init__(self, tokenizer, text, prompt):
        self.script = [*tokenizer.encode(text), END]
        self.read, self.options, self.max_length, self.calls, self.prompt = [], None, 1000, 0, prompt

    def start(self, **options):
        self.options = options
        return Model(257, self.max_length, self.forward, lambda: len(self.read), self.truncate)

    def forward(self, tokens):
        """The prompt's last token asks for the first one of the script, each token after it for the next."""
        self.calls += 1
        self.prompt = self.prompt or len(tokens)
        self.read += np.asarray(tokens).tolist()
        said = len(self.read) - self.prompt
        places = np.clip(np.arange(said - len(tokens), said) + 1, 0, len(self.script) - 1)
        return mx.array(np.eye(257, dtype=np.float32)[np.array(self.script)[places]])

    def truncate(self, length):
        del self.read[length:]


@pytest.fixture
def recites(folder, monkeypatch):
    """Puts a model in the decoder's place that writes a given text."""

    def make(text, prompt=None):
        decoder = Recites(Tokenizer.open(folder), text, prompt)
        monkeypatch.setattr("solution.models.load", lambda path: decoder)
        return decoder

    return make


# ---- What is written, and what ends it. ----


def test_the_text_goes_out_and_the_speed_beside_it(week3, recites, folder):
    decoder = recites(" Grüße, 👩‍🚀!")
    ran = week3("generate", "Hello", "--model", folder)
    assert (ran.code, ran.out) == (0, " Grüße, 👩‍🚀!\n")
    count = len(" Grüße, 👩‍🚀!".encode())
    assert ran.err.startswith(f"5 tokens read, {count} written, the first after ")
    assert ran.err.endswith(" tokens/s (stop)\n")
    assert decoder.read[:5] == Tokenizer.open(folder).encode("Hello")


def test_pieces_go_out_as_they_come(week3, recites, folder, monkeypatch):
    recites("aé")
    written = []
    monkeypatch.setattr("solution.cli.output.say", written.append)
    week3("generate", "x", "--model", folder)
    assert written == ["a", "é"]


def test_a_message_is_put_into_the_template(week3, recites, folder):
    decoder = recites("Hi")
    week3("generate", "--chat", "A <|end|> b", "--model", folder)
    tokenizer = Tokenizer.open(folder)
    assert tokenizer.decode(decoder.read[:-2]) == "[user]A <|end|> b>"
    assert END not in decoder.read


def test_the_prompt_can_come_from_standard_input(week3, recites, folder, monkeypatch):
    decoder = recites("x")
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines"))
    week3("generate", "-", "--model", folder)
    assert Tokenizer.open(folder).decode(decoder.read).startswith("two\nlines")


def test_it_ends_after_so_many_tokens(week3, recites, folder):
    recites("abcdef")
    ran = week3("generate", "x", "--model", folder, "--max-tokens", 3)
    assert ran.out == "abc\n"
    assert "3 written" in ran.err and "(length)" in ran.err


def test_it_ends_when_the_context_is_full(week3, recites, folder):
    recites("abcdef").max_length = 4
    ran = week3("generate", "xy", "--model", folder)
    assert ran.out == "ab\n"
    assert "(length)" in ran.err


def test_it_ends_before_the_first_stop_string(week3, recites, folder):
    recites("one two three")
    ran = week3("generate", "x", "--model", folder, "--stop", "three", "--stop", " tw")
    assert (ran.code, ran.out) == (0, "one\n")
    assert "6 written" in ran.err and "(stop)" in ran.err


def test_json_is_one_object_and_nothing_else(week3, recites, folder):
    recites("abc")
    ran = week3("generate", "xy", "--model", folder, "--json", "--seed", 7, "--max-tokens", 2)
    told = json.loads(ran.out)
    assert told.pop("first") > 0 and told.pop("per_second") > 0
    expected = {"model": str(folder), "seed": 7, "prompt_tokens": 2, "text": "ab", "tokens": 2}
    assert told == {**expected, "finish": "length"}
    assert ran.err == ""


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ([], {"cache": "contiguous"}),
        (["--cache", "paged"], {"cache": "paged"}),
        (["--cache", "int8"], {"cache": "int8"}),
        (["--cache", "rolling"], {"cache": "rolling", "sinks": 4}),
    ],
)
def test_the_cache_is_the_one_that_was_asked_for(week3, recites, folder, asked, given):
    decoder = recites("x")
    week3("generate", "x", "--model", folder, *asked)
    assert decoder.options == given


def test_how_tokens_are_drawn_reaches_the_generation(week3, recites, folder, monkeypatch):
    recites("x")
    asked = {}
    monkeypatch.setattr(STREAM, lambda model, drafter, ids, **how: asked.update(how) or iter([]))
    options = ["--temperature", "0.5", "--top-p", "0.9", "--seed", "3"]
    assert week3("generate", "x", "--model", folder, *options).code == 0
    assert asked["sampling"] == Sampling(0.5, top_p=0.9, eos_ids=(END,))
    assert asked["seed"] == 3


def test_without_a_seed_each_run_has_its_own(week3, recites, folder):
    seeds = set()
    for _ in range(3):
        recites("x")
        seeds.add(json.loads(week3("generate", "x", "--model", folder, "--json").out)["seed"])
    assert len(seeds) == 3


# ---- Drafts. ----


@pytest.fixture(scope="module")
def tiny_models(folder, tmp_path_factory):
    """Two real models of the tokens of `folder`, with random weights."""
    found = []
    for layers in (5, 2):
        found.append(tmp_path_factory.mktemp("tiny"))
        shutil.copytree(folder, found[-1], dirs_exist_ok=True)
        tiny("llama", num_hidden_layers=layers, vocab_size=257).save_pretrained(found[-1])
    return found


def test_a_draft_that_is_right_saves_passes(week3, recites, folder):
    decoder = recites("abcabcabcabc", prompt=9)
    ran = week3("generate", "abcabcabc", "--model", folder, "--draft", "ngram")
    assert (ran.code, ran.out) == (0, "abcabcabcabc\n")
    assert "12 written" in ran.err and "(stop)" in ran.err
    assert decoder.calls <= 4  # 13 tokens with the end, up to 5 of them drafted in each


@pytest.mark.parametrize("draft", ["ngram", "skip", "another model"])
def test_each_drafter_drafts_and_changes_nothing(week3, tiny_models, monkeypatch, draft):
    """What it drafts is what it would write itself, and the text is that of plain decoding."""
    model, other = tiny_models
    text = "to be or not to be"
    drafters = []

    def spied(context, drafter, ids, **how):
        drafters.append(drafter)
        return stream(context, drafter, ids, **how)

    monkeypatch.setattr(STREAM, spied)
    options = ["generate", text, "--model", model, "--max-tokens", 12, "--seed", 1, "--json"]
    plain = json.loads(week3(*options).out)
    found = json.loads(week3(*options, "--draft", other if draft == "another model" else draft).out)
    assert (found["text"], found["tokens"]) == (plain["text"], 12)

    assert drafters[0] is None
    ids = Tokenizer.open(model).encode(text)
    drafted = list(drafters[1].propose(ids, [], 3, mx.zeros(3)).tokens)
    if draft == "ngram":
        assert drafted == propose_ngram(ids, min_n=1, max_n=3, gamma=3)
    else:
        writer = load(model).only([0, 2, 4]) if draft == "skip" else load(other)
        assert drafted == list(generate(writer.start(), ids, max_tokens=3))


def test_a_drafter_that_is_not_here_is_named(week3, recites, folder):
    recites("x")
    ran = week3("generate", "x", "--model", folder, "--draft", "nobody")
    assert ran.code == 2
    assert ran.err == "week3: --draft: expected ngram, skip or a model that is here, got nobody\n"


# ---- Interruptions. ----


def interrupted_after(tokenizer, text):
    yield from tokenizer.encode(text)
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_text_so_far(week3, recites, folder, monkeypatch):
    recites("")
    tokenizer = Tokenizer.open(folder)
    monkeypatch.setattr(STREAM, lambda *_, **__: interrupted_after(tokenizer, "one two"))
    ran = week3("generate", "x", "--model", folder, "--stop", "two!")
    assert (ran.code, ran.out) == (130, "one two\n")
    assert "7 written" in ran.err and "(interrupted)" in ran.err


def test_ctrl_c_leaves_json_whole(week3, recites, folder, monkeypatch):
    recites("")
    tokenizer = Tokenizer.open(folder)
    monkeypatch.setattr(STREAM, lambda *_, **__: interrupted_after(tokenizer, "one"))
    ran = week3("generate", "x", "--model", folder, "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["text"], told["finish"]) == (130, "one", "interrupted")


def test_ctrl_c_before_the_first_token(week3, recites, folder, monkeypatch):
    recites("")
    tokenizer = Tokenizer.open(folder)
    monkeypatch.setattr(STREAM, lambda *_, **__: interrupted_after(tokenizer, ""))
    ran = week3("generate", "x", "--model", folder)
    assert (ran.code, ran.out, ran.err) == (130, "\n", "1 tokens read, 0 written (interrupted)\n")


def test_a_real_ctrl_c_ends_a_real_generation():
    fetched("smollm2-135m-instruct")
    writing = subprocess.Popen(
        [sys.executable, "-B", "-c", MAIN, "generate", "Once upon a time", "--max-tokens", "8000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
    )
    begun = writing.stdout.read(5)
    writing.send_signal(signal.SIGINT)
    rest, said = writing.communicate(timeout=60)
    assert writing.returncode == 130, said.decode()
    assert (begun + rest).endswith(b"\n")
    assert said.startswith(b"4 tokens read, ") and said.endswith(b"(interrupted)\n")


def test_a_reader_who_has_seen_enough_ends_it_quietly(week3, recites, folder, monkeypatch):
    def breaks(piece):
        raise BrokenPipeError

    recites("abc")
    monkeypatch.setattr("solution.cli.output.say", breaks)
    monkeypatch.setattr("solution.cli.output.let_go", lambda: None)
    ran = week3("generate", "x", "--model", folder)
    assert (ran.code, ran.err) == (141, "")


# ---- What cannot be done. ----


def test_a_model_that_is_not_here_is_fetched_by_name(week3, monkeypatch, tmp_path):
    monkeypatch.setenv("WEEK3_CACHE", str(tmp_path))
    ran = week3("generate", "x")
    assert ran.code == 2
    assert "week3 model fetch smollm2-135m-instruct" in ran.err


def test_an_empty_prompt_is_told(week3, recites, folder):
    recites("x")
    ran = week3("generate", "", "--model", folder)
    assert (ran.code, ran.err) == (2, "week3: prompt: expected at least one token, got an empty text\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--top-p", "2"], "top_p"),
        (["--stop", ""], "stop: expected strings of at least one character"),
        (["--temperature", "-1"], "--temperature"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--cache", "none"], "--cache"),
    ],
)
def test_an_option_out_of_range_is_named(week3, recites, folder, options, said):
    recites("x")
    ran = week3("generate", "x", "--model", folder, *options)
    assert ran.code == 2
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("package", ["tokenizers", "jinja2"])
def test_a_missing_package_is_named_with_what_brings_it(folder, package):
    hidden = f"import sys; sys.modules[{package!r}] = None; {MAIN}"
    done = subprocess.run(
        [sys.executable, "-B", "-c", hidden, "generate", "x", "--model", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"week3: {package} is not installed. Models need it: pip install -e '.[models]'\n"


# ---- Stop strings. ----

SMALL = st.text(alphabet="ab", max_size=12)
STRINGS = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


def cut(text, strings):
    """The text before the first stop string, by trying every length."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in strings if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(text=SMALL, strings=STRINGS, data=st.data())
def test_text_ends_before_the_string_that_is_complete_first_however_it_is_cut(text, strings, data):
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    stops = Stops(strings)
    said = [stops.feed(text[i:j]) for i, j in pairwise([0, *places, len(text)])]
    assert ("".join(said) + stops.close(), stops.found) == cut(text, strings)


@given(text=SMALL, strings=STRINGS)
def test_no_part_of_a_stop_string_is_told_early_and_nothing_waits_without_reason(text, strings):
    stops, told = Stops(strings), ""
    for end in range(1, len(text) + 1):
        told += stops.feed(text[end - 1])
        if stops.found:
            break
        so_far = text[:end]
        held = max((n for s in strings for n in range(len(s)) if so_far.endswith(s[:n])), default=0)
        assert told == so_far[: end - held]


def test_a_token_that_completes_a_stop_string_is_the_last_that_is_asked_for(folder):
    tokenizer = Tokenizer.open(folder)
    tokens = iter(tokenizer.encode("abcd"))
    told = tell(tokens, tokenizer, ["b"], 10, lambda piece: None)
    assert (told.text, told.tokens, told.finish) == ("a", 2, "stop")
    assert tokenizer.decode(tokens) == "cd"


# ---- week3 model. ----


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A cache with one of two models in it."""
    monkeypatch.setenv("WEEK3_CACHE", str(tmp_path))
    here = tmp_path / "models" / "all-minilm-l6-v2"
    here.mkdir(parents=True)
    (here / "config.json").write_bytes(bytes(3_000_000))
    return here


def test_list_says_what_is_here_and_what_brings_the_rest(week3, shelf):
    shown = week3("model", "list").out
    assert f"3 MB in {shelf}" in shown
    assert "not here: week3 model fetch smollm2-135m-instruct" in shown
    assert shown.count("Apache-2.0") == len(downloads.KNOWN)


def test_remove_deletes_and_says_what_is_not_there(week3, shelf):
    assert week3("model", "remove", "all-minilm-l6-v2").code == 0
    assert not shelf.exists()
    ran = week3("model", "remove", "all-minilm-l6-v2")
    assert ran.code == 2
    assert "all-minilm-l6-v2" in ran.err


def test_fetch_brings_all_by_default_and_shows_their_licences(week3, monkeypatch):
    asked = []
    monkeypatch.setattr(
        downloads, "fetch", lambda name, progress: progress(1, 2) or asked.append(name) or "there"
    )
    shown = week3("model", "fetch").out
    assert asked == ["smollm2-135m-instruct", "all-minilm-l6-v2", "bfcl"]
    assert shown.count("there") == shown.count("licence: Apache-2.0") == 3


def test_a_fetch_that_fails_says_why(week3, monkeypatch):
    def fails(name, progress):
        raise downloads.FetchError("no network")

    monkeypatch.setattr(downloads, "fetch", fails)
    ran = week3("model", "fetch", "all-minilm-l6-v2")
    assert (ran.code, ran.err) == (1, "week3: no network\n")


# ---- How the commands join. ----


def test_the_commands_are_listed_and_loaded_only_when_asked_for():
    """`week3 list` does without the solution."""
    source = f"import sys\ntry:\n    {MAIN}\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-B", "-c", source, "list"], cwd=ROOT, capture_output=True, text=True
    )
    assert "solution.cli" not in done.stderr.split()
    assert "grading.requirements" in done.stderr.split()


def test_help_of_the_group_names_them(week3):
    shown = week3("--help").out
    assert "  model " in shown and "  generate " in shown


def test_without_the_solution_they_are_not_there(week3, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    cli._joined.cache_clear()
    try:
        assert "generate" not in week3("--help").out
        assert week3("generate", "x").code == 2
    finally:
        cli._joined.cache_clear()


# ---- A real model. ----


def test_smollm2_knows_the_capital_of_japan(week3):
    fetched("smollm2-135m-instruct")
    ran = week3("generate", "--chat", "What is the capital of Japan?")
    assert (ran.code, ran.out) == (0, "The capital of Japan is Tokyo.\n")
