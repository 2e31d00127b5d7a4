"""The ground truth of caches, quantisation and selection against the outside world.

Where a library has the algorithm, it is asked; where only a paper does, its rule is written down in PyTorch.
What computes in float32 outside is judged as a submission is, by the allowance of its input.
"""

from dataclasses import replace

import numpy as np
import pytest

from grading.matching import assert_equal, assert_identical, assert_integers, assert_matches
from grading.truth import GroundTruth
from reference import long_context as reference
from spec.long_context import Quantized, RopeConfig
from tests.suite.outside import normal, outside

truth = GroundTruth("long_context")

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8


@pytest.fixture(scope="module")
def torch():
    return outside("torch")


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


def sequence(n, heads=HEADS, kv_heads=KV_HEADS):
    """Queries (n, heads, HEAD_DIM), keys and values (n, kv_heads, HEAD_DIM)."""
    return (
        normal([n, 0], n, heads, HEAD_DIM),
        normal([n, 1], n, kv_heads, HEAD_DIM),
        normal([n, 2], n, kv_heads, HEAD_DIM),
    )


def batched(to_array, *token_major):
    """As libraries take one sequence, a batch of one: (1, heads, tokens, head_dim)."""
    return [to_array(np.ascontiguousarray(array.swapaxes(0, 1)[None])) for array in token_major]


def token_major(batch):
    """The way back: (tokens, heads, head_dim)."""
    return np.asarray(batch)[0].swapaxes(0, 1)


# Windows and sinks ----------------------------------------------------------------------------------------

INV_FREQ = reference.rope_frequencies(RopeConfig(HEAD_DIM, 500.0, 0.75)).inv_freq


def rolled(sizes, window, sinks, rotation):
    """(queries, keys, values, end, cache's answer, what it must be) of each piece of a sequence."""
    inv_freq, attention_factor, interleaved, positions = rotation
    cache = reference.RollingKVCache(
        window,
        sinks,
        KV_HEADS,
        HEAD_DIM,
        inv_freq=inv_freq,
        attention_factor=attention_factor,
        interleaved=interleaved,
        positions=positions,
    )
    queries, keys, values = sequence(sum(sizes))
    end = 0
    for size in sizes:
        piece, end = slice(end, end + size), end + size
        cache.append(keys[piece], values[piece])
        expected = truth.rolling_attention(queries[piece], keys[:end], values[:end], window, sinks, rotation)
        yield queries[piece], keys[piece], values[piece], cache.attend(queries[piece]), expected


# mlx-lm moves the window over the sinks, too, when several tokens come at once: with sinks, one at a time.
ONE_BY_ONE = [3, *[1] * 12]
IN_PIECES = [6, 1, 2, 5, 1]


@pytest.mark.parametrize(
    ("window", "sinks", "sizes"),
    [(4, 0, IN_PIECES), (1, 0, IN_PIECES), (7, 0, IN_PIECES), (4, 2, ONE_BY_ONE), (1, 3, ONE_BY_ONE)],
)
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_window_with_sinks_is_that_of_the_rotating_cache_of_mlx_lm(mx, window, sinks, sizes, interleaved):
    """Its size is that of sinks and window together."""
    theirs = outside("mlx_lm.models.cache").RotatingKVCache(max_size=window + sinks, keep=sinks)

    def turned(x):
        how = {"traditional": interleaved, "base": None, "freqs": mx.array(1 / INV_FREQ)}
        return mx.fast.rope(x, 2 * len(INV_FREQ), scale=1.0, offset=theirs.offset, **how)

    rotation = INV_FREQ, 1.0, interleaved, "absolute"
    for queries, keys, values, actual, expected in rolled(sizes, window, sinks, rotation):
        q, k, v = batched(mx.array, queries, keys, values)
        q, k, mask = turned(q), turned(k), theirs.make_mask(len(queries))
        output = mx.fast.scaled_dot_product_attention(
            q, *theirs.update_and_fetch(k, v), scale=HEAD_DIM**-0.5, mask=mask
        )
        assert_matches(token_major(output), expected, "mlx-lm")
        assert_matches(actual, expected, "the reference's cache")


@pytest.mark.parametrize(("window", "sinks"), [(4, 2), (1, 3), (5, 0), (20, 4)])
@pytest.mark.parametrize("sizes", [[1] * 15, IN_PIECES])
def test_positions_in_the_cache_are_those_of_streaming_llm(torch, window, sinks, sizes):
    """Section 3.2: the first tokens and the latest, at positions in the cache, not in the text."""
    inv_freq = reference.rope_frequencies(RopeConfig(HEAD_DIM, 500.0)).inv_freq
    attention_factor = 1.25
    past_keys, past_values = (np.zeros((0, KV_HEADS, HEAD_DIM), np.float32) for _ in range(2))
    rotation = inv_freq, attention_factor, False, "cache"
    for queries, keys, values, actual, expected in rolled(sizes, window, sinks, rotation):
        rows = []
        for row in range(len(queries)):
            past_keys = np.concatenate([past_keys, keys[row : row + 1]])
            past_values = np.concatenate([past_values, values[row : row + 1]])
            if len(past_keys) > sinks + window:  # the oldest that is no sink
                past_keys, past_values = (np.delete(past, sinks, axis=0) for past in (past_keys, past_values))
            q, k, v = batched(torch.from_numpy, queries[row : row + 1], past_keys, past_values)
            rows.append(streamed(torch, q, k, v, torch.from_numpy(inv_freq), attention_factor))
        assert_matches(np.concatenate(rows), expected, "StreamingLLM")
        assert_matches(actual, expected, "the reference's cache")


def streamed(torch, q, k, v, inv_freq, attention_factor):
    """The newest token attends to the whole cache: (1, heads, head_dim)."""
    llama = outside("transformers.models.llama.modeling_llama")
    angles = torch.arange(k.shape[2])[None, :, None] * inv_freq  # (1, keys, head_dim / 2)
    angles = torch.cat([angles, angles], dim=-1)
    cos, sin = angles.cos() * attention_factor, angles.sin() * attention_factor
    _, k = llama.apply_rotary_pos_emb(k, k, cos, sin)
    q, _ = llama.apply_rotary_pos_emb(q, q, cos[:, -1:], sin[:, -1:])
    return token_major(torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True))


# Quantisation ---------------------------------------------------------------------------------------------

# Not compared: transformers' QuantizedCache, which is not KIVI. It quantises a whole prompt, the newest
# tokens too, and what it has quantised already once more whenever its residual is full.

each_bits = pytest.mark.parametrize("bits", [2, 4, 8])


def in_groups(x, group, axis):
    """(groups, group)"""
    return np.moveaxis(x, axis, -1).reshape(-1, group)


def grouped(expected, group, axis):
    return replace(expected, value=in_groups(expected.value, group, axis))


@each_bits
@pytest.mark.parametrize("axis", [0, 2])
def test_quantisation_is_that_of_pytorch(torch, bits, axis):
    x = normal([bits, axis], 8, 3, 12) + np.float32(0.5)
    groups, largest_code = torch.from_numpy(in_groups(x, 4, axis)), 2**bits - 1
    least, largest = groups.aminmax(dim=1, keepdim=True)
    scale = (largest - least) / largest_code
    quantized = truth.quantize_kv(x, bits=bits, group=4, axis=axis)
    assert_matches(scale.numpy(), grouped(quantized.scale, 1, axis), "scale")
    assert_matches(least.numpy(), grouped(quantized.zero, 1, axis), "zero")
    codes = ((groups - least) / scale).round().to(torch.uint8)
    assert_identical(codes.numpy(), in_groups(quantized.codes, 4, axis), "codes")
    back = torch.fake_quantize_per_channel_affine(
        groups, scale[:, 0], (-least / scale)[:, 0], axis=0, quant_min=0, quant_max=largest_code
    )
    ours = truth.dequantize_kv(reference.quantize_kv(x, bits=bits, group=4, axis=axis))
    assert_matches(back.numpy(), grouped(ours, 4, axis), "values")


def through_mlx(mx, x, bits):
    """What MLX makes of x in groups of 32 channels, in our form, and what it makes of that again."""
    packed = mx.quantize(mx.array(x), group_size=32, bits=bits)
    words, scale, zero = map(np.array, packed)
    in_bytes = Quantized(words.reshape(-1).view(np.uint8), scale, zero, bits, 32, 2)
    back = mx.dequantize(*packed, group_size=32, bits=bits)
    return reference.unpacked(in_bytes, x.shape[2]), np.array(back)


@each_bits
def test_what_mlx_quantises_is_dequantised_as_mlx_does(mx, bits):
    quantized, back = through_mlx(mx, normal(bits, 5, 3, 64), bits)
    assert_matches(back, truth.dequantize_kv(quantized))


@each_bits
@pytest.mark.parametrize("sign", [-1, 1])
def test_groups_that_end_at_zero_are_quantised_as_in_mlx(mx, bits, sign):
    """MLX counts from the end that is farther from 0, and bends the scale until 0 has a code of its own."""
    x = sign * np.abs(normal(bits, 5, 3, 64))
    x[..., ::32] = 0
    theirs, back = through_mlx(mx, x, bits)
    ours = truth.quantize_kv(x, bits=bits, group=32, axis=2)
    assert_identical(theirs.codes if sign < 0 else 2**bits - 1 - theirs.codes, ours.codes, "codes")
    assert_matches(np.abs(theirs.scale), ours.scale, "scale")
    ours = reference.quantize_kv(x, bits=bits, group=32, axis=2)
    assert_matches(back, truth.dequantize_kv(ours), "values")


@each_bits
def test_no_value_moves_by_more_than_half_a_step_where_mlx_may_move_it_by_a_whole_one(mx, bits):
    x = normal(bits, 50, 3, 64)
    quantized, back = through_mlx(mx, x, bits)
    assert (np.abs(back - x) <= np.repeat(np.abs(quantized.scale), 32, axis=2)).all()
    ours = reference.quantize_kv(x.astype(np.float64), bits=bits, group=32, axis=2)
    half = np.repeat(ours.scale, 32, axis=2) / 2
    assert (np.abs(reference.dequantize_kv(ours) - x) <= half).all()
    assert not (np.abs(back - x) <= half).all(), "so the two conventions differ"


# Selection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize(("window", "kernel", "budget"), [(1, 1, 4), (4, 5, 9), (3, 7, 16), (6, 3, 7)])
def test_snapkv_selects_what_its_algorithm_selects(torch, window, kernel, budget, pooling):
    """Section 4: the last queries vote for earlier keys, neighbours are pooled, the best keys stay."""
    n = 24
    queries, keys, _ = sequence(n, heads=3, kv_heads=3)
    q, k = (torch.from_numpy(array).transpose(0, 1) for array in (2 * queries, keys))  # (heads, n, head_dim)
    scores = q[:, -window:] @ k.mT / HEAD_DIM**0.5  # (heads, window, n)
    hidden = torch.ones(window, n).triu(n - window + 1).bool()
    votes = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)[..., : n - window].sum(dim=1)
    pool = getattr(torch.nn.functional, f"{pooling}_pool1d")
    pooled = pool(votes, kernel, stride=1, padding=kernel // 2)  # (heads, n − window)
    order = pooled.sort(dim=1, descending=True, stable=True).indices  # as topk, but of equals the earlier
    newest = torch.arange(n - window, n).expand(3, window)
    theirs = torch.cat([order[:, : budget - window], newest], dim=1).sort(dim=1).values
    options = {"window": window, "kernel": kernel, "pooling": pooling}
    assert_integers(theirs.numpy(), reference.select_snapkv(2 * queries, keys, budget, **options))


@pytest.mark.parametrize(("budget", "recent"), [(5, 1), (6, 3), (4, 4), (30, 2)])
def test_heavy_hitters_are_those_of_h2o(torch, budget, recent):
    """Token by token: of the keys before the recent ones, the one that got the least attention goes."""
    queries, keys, values = sequence(16, heads=1, kv_heads=1)
    pieces = [tuple(array[t : t + 1] for array in (queries, keys, values)) for t in range(16)]
    expected = truth.heavy_hitter_outputs(pieces, budget, recent, 1)
    cache = reference.HeavyHitterCache(budget, recent, 1, HEAD_DIM)
    q, k, v = (torch.from_numpy(array[:, 0]) for array in (queries, keys, values))  # (16, head_dim)
    received, kept = torch.zeros(16), []
    for t in range(16):
        kept.append(t)
        weights = (q[t] @ k[kept].T / HEAD_DIM**0.5).softmax(dim=0)
        received[kept] += weights
        assert_matches((weights @ v[kept])[None, None].numpy(), expected[t], f"output {t}")
        if len(kept) > budget:
            kept.remove(min(kept[:-recent], key=lambda token: received[token]))
        assert_matches(cache.step(*pieces[t]), expected[t], f"the reference's output {t}")
        assert_equal(cache.positions(), [kept], f"positions after token {t}")


@pytest.mark.parametrize("page_size", [1, 4, 7])
def test_no_product_exceeds_the_bound_of_its_page(torch, page_size):
    """Of whole numbers, which no order of summation rounds."""
    rng = np.random.default_rng(page_size)
    for n in (1, 6, 7, 8, 21):
        queries = rng.integers(-9, 10, (HEADS, HEAD_DIM)).astype(np.float32)
        keys = rng.integers(-9, 10, (n, KV_HEADS, HEAD_DIM)).astype(np.float32)
        selector = reference.PageSelector(page_size, KV_HEADS, HEAD_DIM)
        selector.add(keys)
        bounds = torch.from_numpy(selector.bounds(queries))  # (HEADS, pages)
        of_head = torch.from_numpy(keys).repeat_interleave(HEADS // KV_HEADS, dim=1)  # (n, HEADS, HEAD_DIM)
        q = torch.from_numpy(queries)
        products = torch.einsum("hd,nhd->hn", q, of_head)
        for page, part in enumerate(of_head.split(page_size)):
            least, largest = part.aminmax(dim=0)
            assert torch.equal(bounds[:, page], torch.maximum(q * least, q * largest).sum(dim=1))
            assert (products[:, page * page_size :][:, :page_size] <= bounds[:, page, None]).all()
        if page_size == 1:
            assert torch.equal(bounds, products)
