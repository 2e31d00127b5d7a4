"""A context gives the same whatever keeps its keys, and however its tokens came: as transformers computes."""

import numpy as np
import pytest

from reference import long_context as reference
from spec import CannotTruncate, ContextTooLong, InvalidArgument, NotSupported
from tests.suite.outside import outside
from tests.suite.tiny_models import HEAD_DIM, logits_of, tiny, tokens

KINDS = ("contiguous", "paged", "int8", "int4", "rolling")
BITS = {"int8": 8, "int4": 4}
TREE = [-1, 0, 0, -1, 2, 3]  # two roots, three leaves
PATHS = ([0, 1], [0, 2, 4], [3, 5], [0], [])
CONTEXT, NODES = tokens(20), tokens(6, seed=1)


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


@pytest.fixture(scope="module")
def theirs():
    return tiny("llama")


@pytest.fixture(scope="module")
def decoder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    theirs.save_pretrained(folder)
    return outside("solution.models").load(folder)


@pytest.fixture(scope="module")
def expected(theirs):
    """Of a context's logits, those of its last tokens and how far off they may be with a cache of this kind.

    Codes may cost four times what they cost in float64, when transformers keeps its keys and values in them.
    """

    def of(ids, count, kind="contiguous"):
        exact, allowed = logits_of(theirs, ids)
        if kind in BITS:
            coded, _ = logits_of(theirs, ids, cache=coded_cache(BITS[kind]))
            allowed += 4 * np.abs(coded - exact).max()
        return exact[-count:], allowed

    return of


def coded_cache(bits):
    """What transformers asks for keys and values, which keeps those of one call in codes."""
    torch, transformers = outside("torch"), outside("transformers")
    cache = transformers.DynamicCache()

    def update(keys, values, *_, **__):
        """(1, kv_heads, tokens, head_dim) each"""
        held = reference.QuantizedKVCache(bits, HEAD_DIM, 0, keys.shape[1], keys.shape[3])
        held.append(*(x[0].swapaxes(0, 1).numpy().astype(np.float32) for x in (keys, values)))
        return tuple(torch.from_numpy(x).to(keys.dtype).swapaxes(0, 1)[None] for x in held.gather())

    cache.update = update
    return cache


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def assert_close(logits, expected):
    exact, allowed = expected
    assert logits.shape == exact.shape
    assert np.abs(np.asarray(logits) - exact).max() <= allowed


def test_chunks_give_what_one_call_gives(mx, decoder, expected, kind):
    model, ids = decoder.start(cache=kind), mx.array(tokens(50))
    for start, end in ((0, 33), (33, 34), (34, 36), (36, 50)):
        assert_close(model.forward(ids[start:end]), expected(tokens(50)[:end], end - start, kind))
    assert model.length() == 50


def test_only_the_last_logits_are_the_last_of_all(mx, decoder, expected, kind):
    model = decoder.start(cache=kind)
    assert_close(model.forward(mx.array(CONTEXT), last=3), expected(CONTEXT, 3, kind))
    assert_close(model.forward(mx.array(NODES), last=99), expected(CONTEXT + NODES, 6, kind))


def test_a_truncated_context_goes_on_as_if_it_had_never_been_longer(mx, decoder, expected, kind):
    model = decoder.start(cache=kind)
    model.forward(mx.array(CONTEXT + NODES))
    assert model.can_truncate(12)
    model.truncate(12)
    assert model.length() == 12
    assert_close(model.forward(mx.array(NODES)), expected(CONTEXT[:12] + NODES, 6, kind))


def ancestors(node):
    return [] if node < 0 else [*ancestors(TREE[node]), node]


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_node_of_a_tree_sees_the_path_to_it_and_an_accepted_path_is_the_context(
    mx, decoder, expected, kind, path
):
    model = decoder.start(cache=kind)
    model.forward(mx.array(CONTEXT))
    logits = model.forward(mx.array(NODES), parents=TREE)
    for node in range(len(NODES)):
        ids = CONTEXT + [NODES[each] for each in ancestors(node)]
        assert_close(logits[node : node + 1], expected(ids, 1, kind))
    assert model.length() == len(CONTEXT)
    model.accept(path)
    kept = CONTEXT + [NODES[node] for node in path]
    assert model.length() == len(kept)
    assert_close(model.forward(mx.array([3, 4])), expected([*kept, 3, 4], 2, kind))


@pytest.mark.parametrize("accepted", [0, 2, 6])
def test_a_chain_is_a_tree_in_every_cache(mx, decoder, expected, kind, accepted):
    model = decoder.start(cache=kind)
    model.forward(mx.array(CONTEXT))
    logits = model.forward(mx.array(NODES), parents=range(-1, len(NODES) - 1))
    assert_close(logits, expected(CONTEXT + NODES, 6, kind))
    model.accept(range(accepted))
    kept = CONTEXT + NODES[:accepted]
    assert_close(model.forward(mx.array([3, 4])), expected([*kept, 3, 4], 2, kind))


def test_a_rolling_cache_refuses_trees(mx, decoder, expected):
    model = decoder.start(cache="rolling")
    with pytest.raises(NotSupported, match="parents: expected a chain"):
        model.forward(mx.array(NODES), parents=TREE)
    assert_close(model.forward(mx.array(CONTEXT)), expected(CONTEXT, 20))


def test_together_gives_what_one_after_the_other_gives(mx, decoder, expected):
    models = [decoder.start(cache=kind) for kind in KINDS]
    before = [tokens(n, seed=n) for n in (5, 40, 9, 1, 17)]
    for model, ids in zip(models, before, strict=True):
        model.forward(mx.array(ids))
    new = [tokens(n, seed=n) for n in (1, 6, 1, 35, 2)]
    all_logits = models[0].together(models, [mx.array(ids) for ids in new])
    for model, old, ids, kind, logits in zip(models, before, new, KINDS, all_logits, strict=True):
        assert model.length() == len(old + ids)
        assert_close(logits, expected(old + ids, len(ids), kind))
    last = models[0].together(models[:2], [[1, 2], [3]], last=1)
    assert [logits.shape[0] for logits in last] == [1, 1]


def test_a_fresh_context_knows_nothing_of_the_other(mx, decoder, expected, kind):
    model = decoder.start(cache=kind)
    model.forward(mx.array(CONTEXT))
    other = model.fresh()
    assert (other.length(), other.max_length) == (0, model.max_length)
    other.forward(mx.array(NODES))
    assert_close(model.forward(mx.array([3, 4])), expected([*CONTEXT, 3, 4], 2, kind))
    assert_close(other.forward(mx.array([3, 4])), expected([*NODES, 3, 4], 2, kind))


def test_logits_are_snapshots(mx, decoder):
    model = decoder.start()
    logits = model.forward(mx.array(CONTEXT))
    before = np.array(logits)
    model.truncate(0)
    model.forward(mx.array(NODES))
    np.testing.assert_array_equal(np.array(logits), before)


# Windows --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """A Mistral with a window of 7, and the same weights without one."""
    theirs, folders = tiny("mistral"), []
    for name, window in (("with", 7), ("without", None)):
        theirs.config.sliding_window = window
        folders.append(tmp_path_factory.mktemp(name))
        theirs.save_pretrained(folders[-1])
    theirs.config.sliding_window = 7
    return theirs, *map(outside("solution.models").load, folders)


def test_a_rolling_window_is_the_window_of_a_model_that_has_one(mx, windowed):
    theirs, _, without = windowed
    exact, allowed = logits_of(theirs, tokens(50))
    model = without.start(cache="rolling", window=7)
    for start, end in ((0, 20), (20, 21), (21, 50)):
        assert_close(model.forward(mx.array(tokens(50)[start:end])), (exact[start:end], allowed))
    assert model.can_truncate(50)
    assert not model.can_truncate(20)
    with pytest.raises(CannotTruncate, match="length"):
        model.truncate(20)


def test_a_paged_cache_gives_back_what_the_window_has_passed(mx, windowed):
    theirs, windowed, _ = windowed
    exact, allowed = logits_of(theirs, tokens(100))
    model = windowed.start(cache="paged")
    for start, end in ((0, 20), (20, 21), (21, 100)):
        assert_close(model.forward(mx.array(tokens(100)[start:end])), (exact[start:end], allowed))
    assert not model.can_truncate(60)
    with pytest.raises(CannotTruncate, match="length"):
        model.truncate(60)
    assert model.can_truncate(97)
    model.truncate(97)
    assert_close(model.forward(mx.array(tokens(100)[97:])), (exact[97:], allowed))


def test_a_tree_keeps_to_the_window(mx, windowed):
    theirs, windowed, _ = windowed
    model = windowed.start()
    model.forward(mx.array(CONTEXT))
    logits = model.forward(mx.array(NODES), parents=TREE)
    for node in range(len(NODES)):
        exact, allowed = logits_of(theirs, CONTEXT + [NODES[each] for each in ancestors(node)])
        assert_close(logits[node : node + 1], (exact[-1:], allowed))


@pytest.mark.parametrize("kind", ["int8", "int4", "rolling"])
def test_a_model_with_a_window_is_refused_where_it_would_be_another_model(windowed, kind):
    with pytest.raises(NotSupported, match=f"window of 7, got {kind}"):
        windowed[1].start(cache=kind)


# Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "tokens: expected 1 axis, at least 1 token"),
        (([[1]],), {}, "tokens: expected 1 axis"),
        (([37],), {}, "tokens: expected ids from 0 to 36, got .37."),
        (([-1],), {}, "tokens: expected ids"),
        (([1],), {"last": 0}, "last: expected at least 1, got 0"),
        (([1, 2],), {"parents": [-1]}, "parents: expected one for each of 2 tokens, got 1"),
        (([1, 2],), {"parents": [-1, 1]}, "parents: expected −1 or an earlier token"),
        (([1, 2],), {"parents": [-2, 0]}, "parents: expected −1 or an earlier token"),
    ],
)
def test_bad_calls_are_told_and_change_nothing(mx, decoder, expected, arguments, options, message):
    model = decoder.start()
    model.forward(mx.array(CONTEXT))
    with pytest.raises(InvalidArgument, match=message):
        model.forward(*arguments, **options)
    assert_close(model.forward(mx.array([3, 4])), expected([*CONTEXT, 3, 4], 2))


def test_more_tokens_than_fit_are_refused(mx, decoder, kind):
    model = decoder.start(cache=kind, max_length=8)
    with pytest.raises(ContextTooLong, match="tokens: expected at most 8 more, got 9"):
        model.forward(mx.array(CONTEXT[:9]))
    model.forward(mx.array(CONTEXT[:8]))
    assert model.length() == model.max_length == 8


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.forward([1]),
        lambda model: model.truncate(0),
        lambda model: model.together([model], [[1]]),
    ],
)
def test_after_a_tree_accept_comes_next(mx, decoder, call):
    model = decoder.start()
    with pytest.raises(InvalidArgument, match="accept: expected a call of forward with parents before"):
        model.accept([0])
    model.forward(mx.array(NODES), parents=TREE)
    with pytest.raises(InvalidArgument, match="accept: expected a call after forward with parents"):
        call(model)
    for path in ([1], [0, 3], [0, 0], [6], [-1]):
        with pytest.raises(InvalidArgument, match="path: expected a child of node"):
            model.accept(path)
    model.accept([0, 2])
    assert model.length() == 2


def test_together_refuses_what_is_no_context_of_these_weights(decoder, tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    other, model = outside("solution.models").load(tmp_path).start(), decoder.start()
    with pytest.raises(InvalidArgument, match="models: expected contexts of these weights"):
        model.together([model, other], [[1], [1]])
    with pytest.raises(InvalidArgument, match="models: expected each once"):
        model.together([model, model], [[1], [1]])
    with pytest.raises(InvalidArgument, match="tokens: expected one for each of 1 models, got 2"):
        model.together([model], [[1], [1]])
    assert model.length() == other.length() == 0


@pytest.mark.parametrize("parents", [None, range(-1, 5)], ids=["tokens", "chain"])
def test_an_interrupted_pass_leaves_the_context_as_it_was(mx, decoder, expected, kind, parents, monkeypatch):
    model = decoder.start(cache=kind)
    model.forward(mx.array(CONTEXT))
    cache = model.forward.__self__.cache
    attend = cache.attend

    def interrupted(layer, *arguments):
        if layer == 1:
            raise KeyboardInterrupt
        return attend(layer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "attend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.forward(mx.array(NODES), parents=parents)
    assert model.length() == len(CONTEXT)
    assert_close(model.forward(mx.array([3, 4])), expected([*CONTEXT, 3, 4], 2, kind))


def test_options_that_do_not_fit_are_refused(decoder):
    with pytest.raises(InvalidArgument, match="cache: expected contiguous or paged .*, got x"):
        decoder.start(cache="x")
    with pytest.raises(InvalidArgument, match="window: expected None without a rolling cache, got 7"):
        decoder.start(window=7)
    with pytest.raises(InvalidArgument, match="sinks: expected 0 without a rolling cache, got 1"):
        decoder.start(cache="paged", sinks=1)
    with pytest.raises(InvalidArgument, match="max_length: expected at least 1, got 0"):
        decoder.start(max_length=0)
