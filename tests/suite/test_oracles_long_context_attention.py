"""The ground truth of masks and attention against the outside world: PyTorch, transformers, MLX and mlx-lm.

A reference that only its own suite has seen proves nothing: both may rest on one misreading. What computes in
float32 outside is judged as a submission is, by the allowance of its input.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from grading.matching import assert_identical, assert_matches
from grading.truth import GroundTruth
from reference import long_context as reference
from spec.long_context import AttentionState
from tests.suite.outside import normal, outside

truth = GroundTruth("long_context")

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 5
SCALE = HEAD_DIM**-0.5

LENGTHS = [(1, 1), (9, 1), (9, 4), (9, 9)]  # n keys, m queries at their end
each_length = pytest.mark.parametrize(("n", "m"), LENGTHS)


@pytest.fixture(scope="module")
def torch():
    return outside("torch")


@pytest.fixture(scope="module")
def mx():
    return outside("mlx.core")


def attention_inputs(n, m):
    """q (2, HEADS, m, HEAD_DIM), k and v (2, KV_HEADS, n, HEAD_DIM)."""
    return (
        normal([n, m, 0], 2, HEADS, m, HEAD_DIM),
        normal([n, m, 1], 2, KV_HEADS, n, HEAD_DIM),
        normal([n, m, 2], 2, KV_HEADS, n, HEAD_DIM),
    )


# Masks ----------------------------------------------------------------------------------------------------

# In transformers a window lets the prefix through, in ours it does not: the two together are not here.
MASKS = [{}, {"window": 1}, {"window": 3}, {"window": 20}, {"chunk": 1}, {"chunk": 4}, {"prefix": 7}]
each_mask = pytest.mark.parametrize("options", MASKS, ids=str)
each_mask_but_the_prefix = pytest.mark.parametrize("options", MASKS[:-1], ids=str)


def transformers_mask(torch, options, n, m, padding=0, position_ids=None):
    """(m, n) bool: what a model says that has n − m tokens in its cache."""
    transformers, masks = outside("transformers"), outside("transformers.masking_utils")
    create = masks.create_causal_mask
    if "window" in options:
        create = masks.create_sliding_window_causal_mask
    if "chunk" in options:
        create = masks.create_chunked_causal_mask
    blocks = torch.full((1, n), -1)  # two tokens of the same block see each other
    blocks[:, padding : padding + options.get("prefix", 0)] = 0
    cache = None
    if m < n:
        cache = transformers.DynamicCache()
        cache.update(*torch.zeros(2, 1, 1, n - m, 1), 0)
    config = transformers.LlamaConfig(
        sliding_window=options.get("window"),
        attention_chunk_size=options.get("chunk"),
        attn_implementation="sdpa",
    )
    mask = create(
        config,
        torch.zeros(1, m, 1),
        attention_mask=torch.arange(n)[None] >= padding if padding else None,
        cache=cache,
        position_ids=position_ids,
        block_sequence_ids=blocks,
        allow_is_causal_skip=False,
    )
    return mask[0, 0]


@each_length
@each_mask
def test_a_mask_is_that_of_transformers(torch, options, n, m):
    mask = reference.attention_mask(np.arange(n - m, n), np.arange(n), **options)
    assert_identical(transformers_mask(torch, options, n, m).numpy(), mask, "mask")


@each_mask_but_the_prefix
def test_a_mask_of_packed_documents_is_that_of_transformers(torch, options):
    positions = np.array([0, 1, 2, 3, 4, 0, 0, 1, 2])
    documents = np.array([0, 0, 0, 0, 0, 1, 2, 2, 2])
    theirs = transformers_mask(torch, options, 9, 9, position_ids=torch.from_numpy(positions[None]))
    mask = reference.attention_mask(positions, positions, segments=(documents, documents), **options)
    assert_identical(theirs.numpy(), mask, "mask")


@each_mask
def test_padding_on_the_left_is_that_of_transformers(torch, options):
    """The queries after it: in transformers padding sees padding, in ours it sees nothing."""
    positions = np.arange(-2, 9)
    theirs = transformers_mask(torch, options, 11, 11, padding=2)
    mask = reference.attention_mask(positions, positions, **options)
    assert_identical(theirs.numpy()[2:], mask[2:], "mask")


@each_length
@pytest.mark.parametrize("window", [None, 1, 3, 20])
def test_a_mask_is_that_of_mlx_lm(mx, n, m, window):
    cache = outside("mlx_lm.models.cache").KVCache()
    if m < n:
        cache.update_and_fetch(*mx.zeros((2, 1, 1, n - m, 1)))
    theirs = outside("mlx_lm.models.base").create_attention_mask(
        mx.zeros((1, m, 1)), cache, window_size=window, return_array=True
    )
    mask = reference.attention_mask(np.arange(n - m, n), np.arange(n), window=window)
    assert_identical(np.array(theirs if theirs is not None else mx.ones((m, n), mx.bool_)), mask, "mask")


# Attention ------------------------------------------------------------------------------------------------


def all_scores(torch, q, k, scale=SCALE):
    """(batch, heads, queries, keys)"""
    q, k = torch.from_numpy(q), torch.from_numpy(k)
    return q @ k.repeat_interleave(HEADS // KV_HEADS, dim=1).mT * scale


def assert_same_state(torch, scores, v, state):
    """state: what it must be, if these are the scores, −inf where a key is not seen."""
    values = torch.from_numpy(v).repeat_interleave(HEADS // KV_HEADS, dim=1)
    assert_matches((scores.softmax(dim=-1) @ values).numpy(), state.out, "out")
    assert_matches(scores.logsumexp(dim=-1).numpy(), state.lse, "lse")


@each_length
@each_mask
@pytest.mark.parametrize("block", [1, 4, 16])
def test_attention_is_that_of_pytorch(torch, options, n, m, block):
    q, k, v = attention_inputs(n, m)
    visible = transformers_mask(torch, options, n, m)
    state = truth.blockwise_attention(q, k, v, block=block, **options)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.from_numpy, (q, k, v)), attn_mask=visible, enable_gqa=True
    )
    assert_matches(theirs.numpy(), state.out, "out")
    assert_same_state(torch, all_scores(torch, q, k).masked_fill(~visible, -torch.inf), v, state)


@each_length
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_attention_to_all_keys_with_a_scale_is_that_of_pytorch(torch, n, m, scale):
    q, k, v = attention_inputs(n, m)
    state = truth.blockwise_attention(q, k, v, block=4, causal=False, scale=scale)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.from_numpy, (q, k, v)), scale=scale, enable_gqa=True
    )
    assert_matches(theirs.numpy(), state.out, "out")
    assert_same_state(torch, all_scores(torch, q, k, scale), v, state)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_in_any_order_of_the_tokens_is_that_of_pytorch(torch, causal):
    q, k, v = attention_inputs(9, 9)
    order = np.random.default_rng(1).permutation(9)
    shuffled = [array[:, :, order] for array in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.from_numpy, (q, k, v)), is_causal=causal, enable_gqa=True
    )
    whole = truth.whole_attention(*shuffled, order, causal)
    assert_matches(theirs.numpy()[:, :, order], whole)


def bias(torch, visible):
    """What models add to the scores: 0 where a key is visible, the smallest number elsewhere."""
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)


@each_length
@pytest.mark.parametrize("softcap", [0.5, 3.0])
def test_a_soft_cap_is_that_of_gemma_2(torch, n, m, softcap):
    gemma2 = outside("transformers.models.gemma2.modeling_gemma2")
    q, k, v = attention_inputs(n, m)
    theirs, _ = gemma2.eager_attention_forward(
        SimpleNamespace(num_key_value_groups=HEADS // KV_HEADS, training=False),
        *map(torch.from_numpy, (q, k, v)),
        bias(torch, transformers_mask(torch, {"window": 3}, n, m)),
        scaling=0.3,
        softcap=softcap,
    )
    state = truth.blockwise_attention(q, k, v, block=4, window=3, scale=0.3, softcap=softcap)
    assert_matches(theirs.numpy().swapaxes(1, 2), state.out)


SINKS = np.linspace(-2, 3, HEADS, dtype=np.float32)


@each_length
def test_sink_logits_are_those_of_gpt_oss(torch, n, m):
    gpt_oss = outside("transformers.models.gpt_oss.modeling_gpt_oss")
    q, k, v = attention_inputs(n, m)
    visible = transformers_mask(torch, {"window": 3}, n, m)
    theirs, _ = gpt_oss.eager_attention_forward(
        SimpleNamespace(
            num_key_value_groups=HEADS // KV_HEADS, training=False, sinks=torch.from_numpy(SINKS)
        ),
        *map(torch.from_numpy, (q, k, v)),
        bias(torch, visible),
        scaling=SCALE,
    )
    state = truth.blockwise_attention(q, k, v, block=4, window=3, sink_logits=SINKS)
    assert_matches(theirs.numpy().swapaxes(1, 2), state.out, "out")
    scores = all_scores(torch, q, k).masked_fill(~visible, -torch.inf)
    sinks = torch.from_numpy(SINKS)[:, None, None].expand(2, HEADS, m, 1)
    assert_matches(torch.cat([scores, sinks], dim=-1).logsumexp(dim=-1).numpy(), state.lse, "lse")


@each_length
@pytest.mark.parametrize("window", [None, 1, 3])
def test_sink_logits_and_windows_are_those_of_mlx(mx, n, m, window):
    masks = outside("mlx_lm.models.base")
    q, k, v = attention_inputs(n, m)
    theirs = mx.fast.scaled_dot_product_attention(
        *map(mx.array, (q, k, v)),
        scale=SCALE,
        mask="causal" if window is None else masks.create_causal_mask(m, offset=n - m, window_size=window),
        sinks=mx.array(SINKS),
    )
    state = truth.blockwise_attention(q, k, v, block=4, window=window, sink_logits=SINKS)
    assert_matches(np.array(theirs), state.out)


# ALiBi ----------------------------------------------------------------------------------------------------

each_number_of_heads = pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 20])


@each_number_of_heads
def test_slopes_are_those_of_bloom_mpt_and_mlx(torch, heads):
    slopes = truth.alibi_slopes(heads)
    bloom = outside("transformers.models.bloom.modeling_bloom")
    at_0_and_1 = bloom.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)  # (heads, 1, 2)
    assert_matches(at_0_and_1[:, 0, 1].numpy(), slopes, "Bloom")
    mpt = outside("transformers.models.mpt.modeling_mpt")
    at_minus_1_and_0 = mpt.build_mpt_alibi_tensor(heads, 2)  # (heads, 1, 2)
    assert_matches(-at_minus_1_and_0[:, 0, 0].numpy(), slopes, "MPT")
    mlx = outside("mlx.nn").ALiBi.create_alibi_slope(heads)  # (heads, 1, 1)
    assert_matches(np.array(mlx)[:, 0, 0], slopes, "MLX")


def projected(torch, hidden_size):
    """A layer whose output is its input: what follows attention in a model, made invisible."""
    layer = torch.nn.Linear(hidden_size, hidden_size)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(hidden_size))
        layer.bias.zero_()
    return layer


def by_heads(rows, heads):
    """(1, tokens, heads · HEAD_DIM) as (1, heads, tokens, HEAD_DIM)"""
    return rows.reshape(1, -1, heads, HEAD_DIM).swapaxes(1, 2)


@each_number_of_heads
def test_attention_with_alibi_is_that_of_bloom(torch, heads):
    """Its bias counts from the first key, ours from the query: the same softmax, another log-sum-exp."""
    bloom = outside("transformers.models.bloom.modeling_bloom")
    config = bloom.BloomConfig(hidden_size=heads * HEAD_DIM, n_head=heads)
    torch.manual_seed(0)
    attention = bloom.BloomAttention(config, layer_idx=0).eval()
    attention.dense = projected(torch, config.hidden_size)
    x = torch.from_numpy(normal([heads, 0], 1, 7, config.hidden_size))
    with torch.no_grad():
        q, k, v = (each.numpy() for each in attention._reshape(attention.query_key_value(x)))
        alibi = bloom.build_alibi_tensor(torch.ones(1, 7), heads, torch.float32)
        theirs, _ = attention(x, 0 * x, alibi, bias(torch, transformers_mask(torch, {}, 7, 7)))
    state = truth.blockwise_attention(q, k, v, block=4, alibi_slopes=reference.alibi_slopes(heads))
    assert_matches(by_heads(theirs.numpy(), heads), state.out)


@each_number_of_heads
def test_attention_with_alibi_is_that_of_mpt(torch, heads):
    mpt = outside("transformers.models.mpt.modeling_mpt")
    config = mpt.MptConfig(d_model=heads * HEAD_DIM, n_heads=heads, attn_config={"softmax_scale": 0.3})
    torch.manual_seed(0)
    attention = mpt.MptAttention(config, layer_idx=0).eval()
    attention.out_proj = projected(torch, config.d_model)
    x = torch.from_numpy(normal([heads, 1], 1, 7, config.d_model))
    with torch.no_grad():
        q, k, v = (by_heads(each.numpy(), heads) for each in attention.Wqkv(x).chunk(3, dim=2))
        hidden = ~transformers_mask(torch, {}, 7, 7)
        theirs, _ = attention(x, mpt.build_mpt_alibi_tensor(heads, 7), attention_mask=hidden)
    slopes = reference.alibi_slopes(heads)
    state = truth.blockwise_attention(q, k, v, block=4, scale=0.3, alibi_slopes=slopes)
    assert_matches(by_heads(theirs.numpy(), heads), state.out)


@each_length
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_the_bias_of_alibi_is_that_of_mlx_and_comes_after_scale_and_soft_cap(torch, n, m, causal, softcap):
    alibi = outside("mlx.nn").ALiBi.create_alibi_matrix(n, n, HEADS, offset=n - m)  # (1, HEADS, m, n)
    q, k, v = attention_inputs(n, m)
    scores = all_scores(torch, q, k, 0.3)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + torch.from_numpy(np.array(alibi))
    if causal:
        scores = scores.masked_fill(~transformers_mask(torch, {}, n, m), -torch.inf)
    slopes = reference.alibi_slopes(HEADS)
    options = {"block": 4, "scale": 0.3, "causal": causal, "softcap": softcap, "alibi_slopes": slopes}
    assert_same_state(torch, scores, v, truth.blockwise_attention(q, k, v, **options))


# Merging --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [[9], [2, 9], [1, 5, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
@pytest.mark.parametrize("sinks", [None, SINKS])
def test_parts_of_pytorchs_attention_merge_to_the_whole(torch, ends, sinks):
    q, k, v = attention_inputs(9, 4)
    scores = 3 * all_scores(torch, q, k)  # so that the parts weigh differently
    values = torch.from_numpy(v).repeat_interleave(HEADS // KV_HEADS, dim=1)
    states, start = [], 0
    for end in ends:
        part = scores[..., start:end]
        out = part.softmax(dim=-1) @ values[:, :, start:end]
        states.append(AttentionState(out.numpy(), part.logsumexp(dim=-1).numpy()))
        start = end
    if sinks is not None:  # one more key, whose value is 0
        logits = torch.from_numpy(sinks)[:, None, None].expand(2, HEADS, 4, 1)
        scores = torch.cat([scores, logits], dim=-1)
        v = np.pad(v, [(0, 0), (0, 0), (0, 1), (0, 0)])
    assert_same_state(torch, scores, v, truth.merge_states(states, sink_logits=sinks))
