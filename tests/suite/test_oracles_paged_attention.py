"""The ground truth against the outside world: PyTorch, transformers, MLX and mlx-lm compute the same.

A reference that only its own suite has seen proves nothing: both may rest on one misreading.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from reference import paged_attention as reference
from tests.suite.outside import outside

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 5

LENGTHS = [(1, 1), (9, 1), (9, 4), (9, 9)]  # n keys, m queries at their end
each_length = pytest.mark.parametrize(("n", "m"), LENGTHS)


@pytest.fixture(scope="module")
def torch():
    return outside("torch")


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


def normal(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def sequence(n, m, dtype=np.float64):
    """Queries (m, heads, head_dim), keys and values (n, kv_heads, head_dim)."""
    return (
        normal([n, m, 0], m, HEADS, HEAD_DIM, dtype=dtype),
        normal([n, m, 1], n, KV_HEADS, HEAD_DIM, dtype=dtype),
        normal([n, m, 2], n, KV_HEADS, HEAD_DIM, dtype=dtype),
    )


def batched(to_array, *token_major):
    """As libraries take one sequence, a batch of one: (1, heads, tokens, head_dim)."""
    return [to_array(np.ascontiguousarray(array.swapaxes(0, 1)[None])) for array in token_major]


def token_major(batch):
    """The way back: (tokens, heads, head_dim)."""
    return np.asarray(batch)[0].swapaxes(0, 1)


def assert_close(actual, expected):
    """Equal as PyTorch's own tests mean it, at the precision in which the outside computed."""
    outside("torch").testing.assert_close(actual.astype(expected.dtype), np.ascontiguousarray(expected))


# Attention ------------------------------------------------------------------------------------------------


@each_length
@pytest.mark.parametrize("scale", [None, 0.3])
def test_causal_attention_with_grouped_heads_is_that_of_pytorch(torch, n, m, scale):
    queries, keys, values = sequence(n, m)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *batched(torch.from_numpy, queries, keys, values),
        attn_mask=lower_right(torch, m, n),
        scale=scale,
        enable_gqa=True,
    )
    assert_close(reference.attention(queries, keys, values, scale=scale), token_major(expected))


def lower_right(torch, m, n):
    """True where a query may look, the last query seeing every key."""
    return torch.ones(m, n, dtype=torch.bool).tril(n - m)


@each_length
@pytest.mark.parametrize("window", [1, 3, 4, 20])
def test_a_window_is_that_of_transformers(torch, n, m, window):
    visible = outside("transformers.masking_utils").sliding_window_causal_mask_function(window)
    queries, keys, values = sequence(n, m)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *batched(torch.from_numpy, queries, keys, values),
        attn_mask=visible(0, 0, torch.arange(n - m, n)[:, None], torch.arange(n)),
        enable_gqa=True,
    )
    assert_close(reference.attention(queries, keys, values, window=window), token_major(expected))


@each_length
@pytest.mark.parametrize("softcap", [0.5, 3.0])
def test_a_soft_cap_is_that_of_gemma_2(torch, n, m, softcap):
    gemma2 = outside("transformers.models.gemma2.modeling_gemma2")
    queries, keys, values = sequence(n, m, np.float32)  # its softmax is float32 whatever comes in
    expected, _ = gemma2.eager_attention_forward(
        SimpleNamespace(num_key_value_groups=HEADS // KV_HEADS, training=False),
        *batched(torch.from_numpy, queries, keys, values),
        bias(torch, lower_right(torch, m, n), torch.float32),
        scaling=0.3,
        softcap=softcap,
    )
    actual = reference.attention(queries, keys, values, scale=0.3, softcap=softcap)
    assert_close(actual, expected[0].numpy())


@each_length
def test_sink_logits_are_those_of_gpt_oss(torch, n, m):
    gpt_oss = outside("transformers.models.gpt_oss.modeling_gpt_oss")
    queries, keys, values = sequence(n, m)
    sinks = np.linspace(-2, 3, HEADS)
    module = SimpleNamespace(
        num_key_value_groups=HEADS // KV_HEADS, training=False, sinks=torch.from_numpy(sinks)
    )
    expected, _ = gpt_oss.eager_attention_forward(
        module,
        *batched(torch.from_numpy, queries, keys, values),
        bias(torch, lower_right(torch, m, n), torch.float64),
        scaling=HEAD_DIM**-0.5,
    )
    assert_close(reference.attention(queries, keys, values, sink_logits=sinks), expected[0].numpy())


def bias(torch, visible, dtype):
    """What models add to the scores: 0 where a key is visible, the smallest number elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


@each_length
@pytest.mark.parametrize("window", [None, 1, 4])
def test_sink_logits_and_windows_are_those_of_mlx(mx, n, m, window):
    masks = outside("mlx_lm.models.base")
    queries, keys, values = sequence(n, m, np.float32)
    sinks = np.linspace(-2, 3, HEADS, dtype=np.float32)
    expected = mx.fast.scaled_dot_product_attention(
        *batched(mx.array, queries, keys, values),
        scale=HEAD_DIM**-0.5,
        mask="causal" if window is None else masks.create_causal_mask(m, offset=n - m, window_size=window),
        sinks=mx.array(sinks),
    )
    actual = reference.attention(queries, keys, values, window=window, sink_logits=sinks)
    assert_close(actual, token_major(expected))


def test_a_ragged_batch_in_blocks_is_that_of_pytorch_one_by_one(torch):
    context_lens, query_lens = np.array([9, 0, 5, 8]), np.array([3, 0, 1, 8])
    queries = normal(1, query_lens.sum(), HEADS, HEAD_DIM)
    key_blocks, value_blocks = normal(2, 2, 10, KV_HEADS, 4, HEAD_DIM)
    block_tables = np.array([[7, 2, 5], [0, 0, 0], [9, 1, 0], [3, 8, 0]])
    actual = reference.paged_attention(
        queries, key_blocks, value_blocks, block_tables, context_lens, query_lens
    )
    start = 0
    for table, n, m in zip(block_tables, context_lens, query_lens, strict=True):
        rows = slice(start, start + m)
        start += m
        if m == 0:
            continue
        keys = np.concatenate(list(key_blocks[table]), axis=1)[None, :, :n]  # (1, kv_heads, n, head_dim)
        values = np.concatenate(list(value_blocks[table]), axis=1)[None, :, :n]
        expected = torch.nn.functional.scaled_dot_product_attention(
            *batched(torch.from_numpy, queries[rows]),
            torch.from_numpy(keys),
            torch.from_numpy(values),
            attn_mask=lower_right(torch, m, n),
            enable_gqa=True,
        )
        assert_close(actual[rows], token_major(expected))


# The cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_several_layers_hold_what_they_hold_in_transformers(torch, dtype):
    theirs = outside("transformers").DynamicCache()
    cache = reference.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM, layers=2, dtype=dtype)
    cache.add("s")
    for m in (3, 1, 6):
        cache.reserve(["s"], [m])
        held = []
        for layer in range(2):
            keys, values = normal([m, layer], 2, m, KV_HEADS, HEAD_DIM, dtype=dtype)
            cache.write(layer, keys, values)
            held.append(theirs.update(*batched(torch.from_numpy, keys, values), layer))
        cache.commit(["s"])
        for layer in range(2):
            for actual, expected in zip(cache.gather("s", layer=layer), held[layer], strict=True):
                np.testing.assert_array_equal(actual, token_major(expected))
        assert cache.length("s") == theirs.get_seq_length()


def test_appending_and_truncating_are_those_of_mlx_lm(mx):
    theirs = outside("mlx_lm.models.cache").KVCache()
    cache = reference.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM)
    cache.add("s")
    for m, dropped in ((3, 0), (6, 2), (1, 5), (4, 0)):
        keys, values = normal([m, dropped], 2, m, KV_HEADS, HEAD_DIM, dtype=np.float32)
        cache.append("s", keys, values)
        theirs.update_and_fetch(*batched(mx.array, keys, values))
        cache.truncate("s", cache.length("s") - dropped)
        theirs.trim(dropped)
        held = [array[:, :, : theirs.offset] for array in (theirs.keys, theirs.values)]
        for actual, expected in zip(cache.gather("s"), held, strict=True):
            np.testing.assert_array_equal(actual, token_major(expected))


@pytest.mark.parametrize("window", [1, 3, 4, 6])
def test_decoding_with_a_window_is_that_of_the_rotating_cache_of_mlx_lm(mx, window):
    theirs = outside("mlx_lm.models.cache").RotatingKVCache(max_size=window)
    cache = reference.PagedKVCache(9, 4, KV_HEADS, HEAD_DIM, window=window)
    cache.add("s")
    for position in range(14):
        query = normal([position, 0], 1, HEADS, HEAD_DIM, dtype=np.float32)
        keys, values = normal([position, 1], 2, 1, KV_HEADS, HEAD_DIM, dtype=np.float32)
        cache.append("s", keys, values)
        held = theirs.update_and_fetch(*batched(mx.array, keys, values))  # in a ring's order: no matter here
        expected = mx.fast.scaled_dot_product_attention(
            *batched(mx.array, query), *held, scale=HEAD_DIM**-0.5
        )
        assert_close(cache.attend(["s"], query, [1]), token_major(expected))


def test_a_page_table_is_the_one_in_flashinfers_documentation():
    """Seven requests over 128 pages of 16 tokens, as shown for BatchPrefillWithPagedKVCacheWrapper."""
    indptr = [0, 17, 29, 44, 48, 66, 100, 128]
    last_page_len = [1, 7, 14, 4, 3, 1, 16]
    lengths = [257, 183, 238, 52, 275, 529, 448]  # (pages − 1) · 16 + last_page_len
    tables = [list(range(start, end)) for start, end in zip(indptr[:-1], indptr[1:], strict=True)]
    table = reference.to_csr(tables, lengths, 16)
    assert table.indptr.tolist() == indptr
    assert table.indices.tolist() == list(range(128))
    assert table.last_page_len.tolist() == last_page_len
