"""week3 rag, on files: with the embedder that needs no model, and with the real ones."""

import json
import sys

import pytest

from grading.clone import ROOT
from solution.rag import embedders
from solution.rag.collection import Collection
from tests.suite.real_models import fetched

FACTS = {
    "reactor.md": "# The Larkspur reactor\n\nBuilt in 1931.\n\nThe Larkspur reactor is cooled by neon.\n",
    "ships.txt": "The Halcyon carries tin from Port Amsel.\n",
    "page.html": "<h1>Bridges</h1>\n<p>The Quill bridge is made of glass.</p>\n",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, text in FACTS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def rag(week3, tmp_path):
    def run(command, *arguments):
        keep = () if command == "eval" else ("--store", tmp_path / "store")
        return week3("rag", command, *arguments, *keep, "--embedder", "hashing")

    return run


def report(ran):
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def names(paths):
    return [path.rpartition("/")[2] for path in paths]


def test_ingesting_again_changes_nothing(rag, files):
    assert rag("ingest", files).out == "3 added, 0 changed, 0 unchanged, 0 removed, 0 skipped\n"
    assert rag("ingest", files).out == "0 added, 0 changed, 3 unchanged, 0 removed, 0 skipped\n"


def test_a_file_without_text_is_known_too(rag, files):
    empty = files / "empty.md"
    empty.touch()
    assert len(report(rag("ingest", files, "--json"))["added"]) == 4
    assert len(report(rag("ingest", files, "--json"))["unchanged"]) == 4
    empty.write_text("No more.\n")
    assert names(report(rag("ingest", files, "--json"))["changed"]) == ["empty.md"]
    empty.write_text("")
    assert names(report(rag("ingest", files, "--json"))["changed"]) == ["empty.md"]
    empty.unlink()
    assert names(report(rag("ingest", files, "--json"))["removed"]) == ["empty.md"]
    assert report(rag("ingest", files, "--json"))["removed"] == []


def test_what_changed_and_what_is_gone(rag, files):
    rag("ingest", files)
    (files / "ships.txt").write_text("The Halcyon carries lead.\n")
    (files / "page.html").unlink()
    (files / "new.txt").write_text("New.\n")
    told = report(rag("ingest", files, "--json"))
    assert [names(told[each]) for each in ("added", "changed", "unchanged", "removed")] == [
        ["new.txt"],
        ["ships.txt"],
        ["reactor.md"],
        ["page.html"],
    ]


def test_a_file_that_is_not_below_the_folder_stays(rag, files):
    rag("ingest", files)
    told = report(rag("ingest", files / "ships.txt", "--json"))
    assert (told["removed"], names(told["unchanged"])) == ([], ["ships.txt"])


def test_a_bad_file_is_told_and_the_rest_lands(rag, files):
    (files / "bad.txt").write_bytes(b"caf\xe9")
    (files / "bad.pdf").write_bytes(b"%PDF-")
    ran = rag("ingest", files)
    assert (ran.code, ran.out) == (0, "3 added, 0 changed, 0 unchanged, 0 removed, 2 skipped\n")
    pdf, text = ran.err.splitlines()
    assert "bad.txt: not UTF-8: byte 3" in text and "bad.pdf: no PDF" in pdf


def test_a_file_that_can_no_longer_be_read_keeps_what_it_said(rag, files, tmp_path):
    rag("ingest", files)
    (files / "ships.txt").write_bytes(b"caf\xe9")
    (files / "new.txt").write_bytes(b"caf\xe9")
    ran = rag("ingest", files)
    assert ran.out == "0 added, 0 changed, 2 unchanged, 0 removed, 2 skipped\n"
    new, ships = ran.err.splitlines()
    assert new.endswith("new.txt: not UTF-8: byte 3")
    assert ships.endswith("ships.txt: not UTF-8: byte 3; what it said before stays")
    collection = Collection(tmp_path / "store", embedders.hashing(), "hashing")
    (chunk, *_) = collection.pipeline.retrieve("The Halcyon carries tin").chunks
    assert collection.place(chunk) == "files/ships.txt:1"
    (files / "ships.txt").unlink()
    assert names(report(rag("ingest", files, "--json"))["removed"]) == ["ships.txt"]


def test_ctrl_c_keeps_what_was_done(rag, files, monkeypatch):
    whole = Collection._ingest

    def interrupted(self, some, told):
        if told.added:
            raise KeyboardInterrupt
        whole(self, some[:1], told)

    monkeypatch.setattr("solution.rag.collection.AT_ONCE", 1)
    monkeypatch.setattr(Collection, "_ingest", interrupted)
    assert rag("ingest", files).code == 130
    monkeypatch.undo()
    monkeypatch.chdir(files.parent)
    told = report(rag("ingest", files, "--json"))
    assert (len(told["added"]), len(told["unchanged"])) == (2, 1)


def test_ctrl_c_in_a_changed_file_keeps_the_places_of_the_old_one(files, tmp_path, monkeypatch):
    def opened():
        return Collection(tmp_path / "store", embedders.hashing(), "hashing")

    opened().ingest([files], lambda done, total: None)
    (files / "reactor.md").write_text("All of it is new.\n")
    collection = opened()

    def interrupted(documents):
        raise KeyboardInterrupt

    monkeypatch.setattr(collection.pipeline, "ingest", interrupted)
    assert collection.ingest([files], lambda done, total: None).interrupted
    for each in (collection, opened()):
        (chunk,) = each.pipeline.retrieve(
            "Larkspur reactor", where={"file": str(files / "reactor.md")}
        ).chunks
        assert each.place(chunk) == "files/reactor.md:1"


def test_equal_texts_of_two_files_have_places_of_their_own(rag, files, tmp_path):
    (files / "below.html").write_text("\n\n" + FACTS["page.html"])
    rag("ingest", files)
    collection = Collection(tmp_path / "store", embedders.hashing(), "hashing")
    places = {collection.place(each) for each in collection.pipeline.retrieve("Quill bridge of glass").chunks}
    assert {"files/page.html:1", "files/below.html:3"} <= places


def test_a_library_that_is_missing_is_told(rag, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "bs4", None)
    ran = rag("ingest", files)
    assert (ran.code, ran.out) == (0, "2 added, 0 changed, 0 unchanged, 0 removed, 1 skipped\n")
    assert "bs4 is not installed. .html needs it: pip install -e '.[rag]'" in ran.err


def test_a_folder_without_anything_to_read_is_told(rag, files):
    (files.parent / "empty").mkdir()
    ran = rag("ingest", files.parent / "empty")
    assert (ran.code, ran.out) == (0, "0 added, 0 changed, 0 unchanged, 0 removed, 0 skipped\n")
    assert ran.err.startswith("week3: nothing to read in ")


def test_what_is_hidden_below_a_folder_is_left_out(rag, files):
    (files / ".venv").mkdir()
    (files / ".venv" / "licence.txt").write_text("All of it.\n")
    (files / ".draft.md").write_text("Not yet.\n")
    told = report(rag("ingest", files, "--json"))
    assert names(told["added"]) == ["page.html", "reactor.md", "ships.txt"]
    named = report(rag("ingest", files / ".draft.md", files / ".venv", "--json"))
    assert sorted(names(named["added"])) == [".draft.md", "licence.txt"]


def test_a_place_below_the_working_folder_is_relative_and_others_are_whole(rag, files, tmp_path, monkeypatch):
    rag("ingest", files)
    collection = Collection(tmp_path / "store", embedders.hashing(), "hashing")
    (chunk, *_) = collection.pipeline.retrieve("The Halcyon carries tin").chunks
    assert collection.place(chunk) == "files/ships.txt:1"
    monkeypatch.chdir(tmp_path / "store")
    assert collection.place(chunk) == f"{files / 'ships.txt'}:1"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("notes.txt", b"mine", "expected a collection or an empty folder, got notes.txt"),
        ("collection.json", b"[1]", "expected JSON that names the embedder, got b'[1]'"),
        ("collection.json", b"{}", "expected JSON that names the embedder, got b'{}'"),
        ("collection.json", b"\xff", r"expected JSON that names the embedder, got b'\xff'"),
    ],
)
def test_a_folder_that_is_no_store_is_refused_and_stays(rag, files, tmp_path, name, data, said):
    store = tmp_path / "store"
    store.mkdir()
    (store / name).write_bytes(data)
    ran = rag("ingest", files)
    assert ran.code == 2 and said in ran.err
    assert [(path.name, path.read_bytes()) for path in store.iterdir()] == [(name, data)]


def test_a_file_is_no_store(rag, files, tmp_path):
    (tmp_path / "store").write_text("mine")
    ran = rag("ingest", files)
    assert ran.code == 2 and "store: expected a folder, got a file" in ran.err


def test_a_disk_that_is_full_is_told(rag, files, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Collection, "_save", full)
    ran = rag("ingest", files)
    assert (ran.code, ran.out) == (1, "") and ran.err.endswith("store: No space left on device\n")


def test_a_path_that_is_not_there_is_a_usage_error(rag, tmp_path):
    ran = rag("ingest", tmp_path / "nowhere")
    assert ran.code == 2 and "nowhere" in ran.err
    assert not (tmp_path / "store").exists()


def test_vectors_of_two_embedders_do_not_meet(rag, files, week3, tmp_path):
    rag("ingest", files)
    (tmp_path / "store" / "collection.json").write_text('{"embedder": "another"}')
    ran = rag("ingest", files)
    assert ran.code == 2 and "expected vectors of hashing, got those of another" in ran.err


def test_damage_is_told(rag, files, tmp_path):
    rag("ingest", files)
    store = tmp_path / "store"
    for path in store.iterdir():
        if path.name != "collection.json":
            path.write_bytes(path.read_bytes()[:-1])
    ran = rag("ingest", files)
    assert ran.code == 2 and ran.err.startswith(f"week3: {store}: ")


def test_nothing_to_ask(rag, files):
    assert rag("ask", "Why?").code == 2
    (files.parent / "store").mkdir()
    fetched("smollm2-135m-instruct")
    ran = rag("ask", "Why?")
    assert ran.code == 2 and "nothing is in it" in ran.err


@pytest.mark.xdist_group("real models")
def test_an_answer_names_file_and_line(rag, files):
    fetched("smollm2-135m-instruct")
    rag("ingest", files)
    question = "What is the Larkspur reactor cooled by?"
    ran = rag("ask", question, "-k", "1", "--max-tokens", "16")
    answer, _, passages = ran.out.partition("\n  [")
    assert "neon" in answer.lower()
    assert passages.startswith("1] files/reactor.md:1")
    assert all(stage in ran.err for stage in ("embed", "search", "rerank", "pack", "generate"))


def beir(folder, *, qrels="query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\n"):
    (folder / "qrels").mkdir(parents=True)
    documents = {"d1": "cooled by neon", "d2": "carries tin", "d3": "made of glass"}
    queries = {"q1": "neon", "q2": "tin", "q3": "never judged"}
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = (json.dumps({"_id": id, "title": "", "text": text}) for id, text in texts.items())
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


def test_three_methods_are_measured_side_by_side(rag, tmp_path):
    folder = beir(tmp_path / "tiny")
    told = report(rag("eval", folder, "--json"))
    assert list(told["methods"]) == ["BM25", "dense", "hybrid"]
    for row in told["methods"].values():
        assert list(row) == ["nDCG@10", "Recall@100", "MRR@10", "ms embed", "ms search"]
        assert row["nDCG@10"] == row["Recall@100"] == row["MRR@10"] == 1.0
    shown = rag("eval", folder).out
    assert "3 documents, 2 queries, hashing" in shown and "1.0000" in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "corpus.jsonl").unlink(), "corpus.jsonl: No such file"),
        (lambda folder: (folder / "corpus.jsonl").write_text('{"_id": "d1"}\n'), "corpus.jsonl:1: expected"),
        (lambda folder: (folder / "queries.jsonl").write_text("[]\n"), "queries.jsonl:1: expected"),
        (lambda folder: (folder / "qrels" / "test.tsv").write_text("head\nq1\td1\n"), "test.tsv:2: expected"),
        (lambda folder: (folder / "qrels" / "test.tsv").write_text("a\nq1\td1\t²\n"), "test.tsv:2: expected"),
        (lambda folder: (folder / "qrels" / "test.tsv").write_text("a\tb\tc\nq9\td1\t1\n"), "not there: q9"),
    ],
)
def test_a_folder_that_beir_would_not_have_is_refused(rag, tmp_path, change, said):
    folder = beir(tmp_path / "tiny")
    change(folder)
    ran = rag("eval", folder)
    assert ran.code == 2 and said in ran.err


@pytest.mark.xdist_group("real models")
def test_this_projects_own_docs_are_found_by_meaning(week3, tmp_path):
    fetched("all-minilm-l6-v2")
    store = ("--store", tmp_path / "store", "--json")
    told = report(week3("rag", "ingest", ROOT / "docs" / "ci.md", *store))
    assert names(told["added"]) == ["ci.md"]
    fetched("smollm2-135m-instruct")
    question = "Which exit code does a submission get that declines something?"
    answer = report(week3("rag", "ask", question, *store, "-k", "1", "--max-tokens", "4"))
    (passage,) = answer["passages"]
    assert "docs/ci.md:" in passage["place"] and "declines" in passage["text"]
    assert set(answer["timings"]) == {"embed", "search", "rerank", "pack", "generate"}
