"""A submission that changes its arguments, or what it returned earlier, is told so; one that only shares
memory is not.

The submissions of the first part offer `fragmentation` of the topic paged_attention, made to do it.
"""

import gc
from textwrap import dedent

import ml_dtypes
import numpy as np
import pytest

from grading import bugs, edited
from grading.audit.runs import verdicts
from grading.boundary import watch
from grading.boundary.failures import SubmissionError
from grading.boundary.session import InProcess, Isolated, Limits, best_tier
from grading.candidates import Candidate, edited_reference
from grading.contract import contract

IMPORTS = {"numpy": "import numpy as lib", "torch": "import torch as lib", "mlx": "import mlx.core as lib"}
SUBMISSION = """
    from spec import InvalidArgument

    KEPT = []
    BUFFER = lib.zeros((6, 2))

    def fragmentation(what, given, more):
        return globals()[what](given)

    def look(given):
        return lib.ones((1,))

    def give_back(array):
        return array

    def give_rows(array):
        return array[1:]

    def overwrite(array):
        array[1] = 9

    def overwrite_and_refuse(array):
        array[1] = 9
        raise InvalidArgument("given: expected another")

    def overwrite_within(lists):
        lists[1][0][1] = 9

    def sort(numbers):
        numbers.sort()

    def put(table):
        table["new"] = 1

    def keep(array):
        KEPT[:] = [array]

    def overwrite_kept(given):
        KEPT[0][1] = 9

    def write_anew(given):
        return KEPT[0] * 2

    def fill(number):
        BUFFER[:] = number
        return BUFFER

    def fill_and_give_rows(number):
        BUFFER[:] = number
        return BUFFER[1:]

    def fill_and_forget(number):
        global BUFFER
        BUFFER[:] = number
        BUFFER = None
        return number

    def look_into(given):
        return BUFFER

    def grow(number):
        KEPT.append(number)
        return KEPT
"""


@pytest.fixture
def opened(tmp_path):
    """Opens a session whose calls are a test's."""
    sessions = []

    def opened(framework, isolated=False):
        folder = tmp_path / framework
        folder.mkdir(mode=0o755)
        (folder / "paged_attention.py").write_text(IMPORTS[framework] + dedent(SUBMISSION))
        (folder / "week3.toml").write_text(f'framework = "{framework}"')
        if isolated:
            session = Isolated(folder, "paged_attention", best_tier(), Limits())
        else:
            session = InProcess.from_folder(folder, "paged_attention")
        sessions.append(session)
        session.start_recording()
        return lambda what, given=None: session.namespace.fragmentation(what, given, None)

    opened.sessions = sessions
    yield opened
    for session in sessions:
        session.close()


@pytest.fixture(params=list(IMPORTS))
def call(request, opened):
    return opened(request.param)


def rows(dtype=np.float32, count=3):
    return np.arange(2 * count).reshape(count, 2).astype(dtype)


CHANGED = r"^fragmentation changed its argument `block_size`: "


@pytest.mark.parametrize(
    "dtype", [np.float32, np.int64, ml_dtypes.bfloat16], ids=lambda dtype: dtype.__name__
)
def test_an_argument_that_was_changed_is_named(call, dtype):
    with pytest.raises(SubmissionError, match=CHANGED + r"\[1, 0\] was 2(\.0)?, is 9(\.0)? \(2 of 6 values"):
        call("overwrite", rows(dtype))
    call("look", rows(dtype))


def test_a_large_argument_is_watched_too(call):
    with pytest.raises(SubmissionError, match=r"\[1, 0\] was 2.0, is 9.0 \(2 of 60000 values"):
        call("overwrite", rows(count=30_000))


def test_an_argument_that_was_changed_before_a_refusal_is_named(call):
    with pytest.raises(SubmissionError, match=CHANGED):
        call("overwrite_and_refuse", rows())


@pytest.mark.parametrize(
    ("what", "given", "told"),
    [
        ("sort", [3, 1, 2], r"was \[3, 1, 2\], is \[1, 2, 3\]"),
        ("put", {"old": 0}, r"was .*old.*, is \{'old': 0, 'new': 1\}"),
        ("overwrite_within", [0, [rows()]], "was "),
        ("overwrite_within", (0, [rows()]), "was "),
    ],
    ids=["list", "dict", "array in lists", "array in a tuple"],
)
def test_lists_and_dicts_are_arguments_as_well(call, what, given, told):
    with pytest.raises(SubmissionError, match=CHANGED + told):
        call(what, given)


def test_an_argument_that_is_kept_and_changed_later_is_named(call):
    call("keep", rows())
    call("look")
    told = "^fragmentation changed the argument `block_size` of fragmentation 2 calls before: "
    with pytest.raises(SubmissionError, match=told):
        call("overwrite_kept")


@pytest.mark.parametrize("how", ["fill", "fill_and_forget"])
def test_a_result_that_changes_later_is_named(call, how):
    assert call("fill", 1).tolist() == [[1, 1]] * 6
    told = "^fragmentation changed what fragmentation returned the call before: "
    with pytest.raises(SubmissionError, match=told + r"\[0, 0\] was 1.0, is 2.0 \(12 of 12 values differ\)"):
        call(how, 2)


@pytest.mark.parametrize("framework", ["numpy", "torch"])  # in MLX a part is a copy
def test_a_view_that_was_returned_and_changes_later_is_named(opened, framework):
    call = opened(framework)
    call("fill_and_give_rows", 1)
    call("look_into")
    with pytest.raises(SubmissionError, match=r"returned 2 calls before: \[0, 0\] was 1.0, is 3.0"):
        call("fill_and_give_rows", 3)


def test_a_list_that_was_returned_and_grows_later_is_named(call):
    assert call("grow", 1) == [1]
    with pytest.raises(SubmissionError, match=r"was \[1\], is \[1, 2\]"):
        call("grow", 2)


def test_memory_that_is_shared_and_not_changed_accuses_nobody(call):
    for number in range(5):
        array = rows() + number
        call("keep", array)
        assert call("give_back", array).tolist() == array.tolist()
        assert call("give_rows", array).tolist() == array[1:].tolist()
        assert call("write_anew").tolist() == (2 * array).tolist()
        call("look_into")


def test_a_submission_in_a_process_of_its_own_is_watched_there(opened):
    call = opened("mlx", isolated=True)
    with pytest.raises(SubmissionError, match=CHANGED):
        call("overwrite", rows())
    call("fill", 1)
    with pytest.raises(SubmissionError, match="changed what fragmentation returned the call before"):
        call("fill", 2)


def test_another_test_begins_anew(opened):
    call = opened("numpy")
    call("fill", 1)
    opened.sessions[0].start_recording()
    call("fill", 2)


def test_what_nobody_else_holds_is_not_kept_and_of_the_rest_not_more_than_a_bound(opened, monkeypatch):
    monkeypatch.setattr(watch, "MOST_KEPT", 3)
    call = opened("numpy")
    before = crossed()
    for _ in range(5):
        call("look", rows())
    assert crossed() - before == 2  # an argument and a result of the last call
    for _ in range(9):
        call("look_into")
    assert crossed() - before == 3
    monkeypatch.setattr(watch, "MOST_BYTES", 200)
    call("look_into")
    assert crossed() - before == 2  # 96 bytes each


def crossed():
    gc.collect()
    return sum(type(each) is watch.Crossed for each in gc.get_objects())


# ---- The suite says so, whoever does it. ----


def failing(candidate, topic):
    """{requirement: message of a failing test or ""}."""
    (results,) = verdicts([candidate], topic).values()
    messages = {each.requirement: "" for each in results}
    return messages | {each.requirement: each.result.message for each in results if each.failed}


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("writes into the pools that it was given", "write_slots changed its argument `key_blocks`: ["),
        (
            "gathers into one buffer that it uses again",
            "PagedKVCache.gather changed what PagedKVCache.gather returned ",
        ),
    ],
    ids=["argument", "result"],
)
def test_a_known_bug_that_does_it_is_told_so(title, told):
    (bug,) = [bug for bug in bugs.known_bugs("paged_attention") if bug.title == title]
    found = failing(edited_reference("", bug, frozenset({bug.requirement})), "paged_attention")
    assert found[bug.requirement].startswith(told)


def overwriting(topic):
    """The reference, and each function and method then fills the arrays that it was given with ones."""
    module = edited.reference.__wrapped__(topic)  # not the one that is cached, which tells the truth

    def overwrites(function):
        def both(*args, **kwargs):
            result = function(*args, **kwargs)
            for array in (*args, *kwargs.values()):
                if isinstance(array, np.ndarray):
                    array.flags.writeable = True
                    array[...] = 1
            return result

        both.__wrapped__ = function
        return both

    wanted = contract(topic)
    for each in wanted.functions:
        setattr(module, each.name, overwrites(getattr(module, each.name)))
    for cls in wanted.classes:
        for method in cls.methods:
            name = method.name.partition(".")[2]
            made = getattr(module, cls.name)
            setattr(made, name, overwrites(getattr(made, name)))
    return module


SOME = {
    "paged_attention": {"PA-02", "PA-05", "PA-22"},
    "moe": {"MOE-01", "MOE-16", "MOE-31"},
    "long_context": {"LC-01", "LC-26", "LC-56"},
}


@pytest.mark.parametrize("topic", SOME)
def test_a_reference_that_overwrites_all_its_inputs_meets_nothing(topic):
    def opened(topic):
        return InProcess(lambda: overwriting(topic), topic, "numpy")

    found = failing(Candidate("", opened, only=frozenset(SOME[topic])), topic)
    assert set(found) == SOME[topic]
    assert all("changed its argument" in message for message in found.values()), found
