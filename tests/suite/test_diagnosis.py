"""A bug is named in code of another structure than the reference: the PyTorch alternative, edited."""

from dataclasses import replace

import pytest

from grading.audit.runs import verdicts
from grading.candidates import in_process
from grading.clone import ROOT

ALTERNATIVE = ROOT / "tests" / "alternatives"

# requirement, title of the known bug, then pairs: a line of the alternative, what it became
PAGED_ATTENTION = [
    (
        "PA-01",
        "takes the logical block for the physical one",
        "slots.append(block_table[page] * block_size + offset)",
        "slots.append(position)",
    ),
    (
        "PA-03",
        "stops at the first padding row",
        "torch.where(slots < 0, spare, slots)",
        "torch.where((slots < 0).cumsum(0) > 0, spare, slots)",
    ),
    (
        "PA-04",
        "calls a full last page empty",
        "last_page_len=torch.tensor([(n - 1) % block_size + 1 for n in lengths]",
        "last_page_len=torch.tensor([n % block_size for n in lengths]",
    ),
    (
        "PA-06",
        "aligns the causal mask to the top left",
        "own, position = torch.arange(n - m, n)[:, None]",
        "own, position = torch.arange(m)[:, None]",
    ),
    (
        "PA-09",
        "spreads query heads over key heads in turn",
        "k = keys.float().repeat_interleave(heads // kv_heads, dim=1).transpose(0, 1)"
        "  # (heads, n, head_dim)\n"
        "    v = values.float().repeat_interleave(heads // kv_heads, dim=1).transpose(0, 1)",
        "k = keys.float().repeat(1, heads // kv_heads, 1).transpose(0, 1)\n"
        "    v = values.float().repeat(1, heads // kv_heads, 1).transpose(0, 1)",
    ),
    (
        "PA-10",
        "ignores the scale it is given",
        "scale = head_dim**-0.5 if scale is None else scale",
        "scale = head_dim**-0.5",
    ),
    (
        "PA-12",
        "does not multiply by the cap again",
        "scores = softcap * torch.tanh(scores / softcap)",
        "scores = torch.tanh(scores / softcap)",
    ),
    ("PA-13", "scales the sink logits", "top = sink_logits.float()[", "top = (scale * sink_logits.float())["),
    (
        "PA-19",
        "hands out fewer blocks than asked for",
        "        blocks = [self._free.pop() for _ in range(n)]\n",
        "        blocks = [self._free.pop() for _ in range(min(n, len(self._free)))]\n",
        "if n > len(self._free):",
        "if not self._free:",
    ),
    (
        "PA-30",
        "gives back the block in which the cut lies",
        "kept = -(-length // self._block_size)\n        first",
        "kept = length // self._block_size\n        first",
    ),
    (
        "PA-31",
        "does not count the child as a reader",
        "        self._blocks.hold([block for block in source.table if block is not None])\n        copies",
        "        copies",
    ),
    (
        "PA-37",
        "lets a whole prompt come from the cache",
        "for index in range((len(tokens) - 1) // self._block_size):",
        "for index in range(len(tokens) // self._block_size):",
    ),
    (
        "PA-43",
        "evicts parents before their children",
        "for block in reversed(blocks):",
        "for block in blocks:",
    ),
    (
        "PA-47",
        "does not count swapped-out sequences as users",
        "any(sequence.length for sequence in self._sequences.values())",
        "any(sequence.length for sequence in self._sequences.values() if sequence.gang is None)",
    ),
    (
        "PA-49",
        "swaps the keys but not the values",
        "self._slots_of(place[block]).copy_(sequences[0].gang.content[block])",
        "self._slots_of(place[block])[:, :, 0].copy_(sequences[0].gang.content[block][:, :, 0])",
    ),
]


MOE_END = "    return MoEOutput(y.to(x.dtype), routing, logits.float())\n\n\n"
MOE = [
    (
        "MOE-03",
        "forgets to renormalise the top-k weights",
        "weights = weights / (weights.sum(dim=1, keepdim=True) + TINY)\n    weights = weights * config.scale",
        "pass\n    weights = weights * config.scale",
    ),
    (
        "MOE-05",
        "takes the softmax over all experts and then the largest",
        'return sigmoid(logits) if scoring == "sigmoid" else logits',
        'return sigmoid(logits) if scoring == "sigmoid" else logits.softmax(dim=-1)',
        '    if config.scoring == "softmax_of_topk":\n        weights = weights.softmax(dim=1)\n    elif',
        "    if",
    ),
    (
        "MOE-07",
        "weights experts by their biased scores",
        "weights = scores.gather(1, experts)  # (T, k)",
        'weights = (scores if config.scoring == "softmax_of_topk" else choice).gather(1, experts)',
    ),
    (
        "MOE-10",
        "fills closed groups with zero",
        "masked_fill(closed[..., None], -torch.inf)",
        "masked_fill(closed[..., None], 0)",
    ),
    (
        "MOE-12",
        "scales twice",
        "    weights = weights * config.scale\n",
        "    weights = weights * config.scale**2\n",
    ),
    (
        "MOE-16",
        "swaps gate and up",
        'hidden = silu(gate) if experts.activation == "silu" else gate.relu()\n'
        "        hidden = hidden if experts.gate is None else hidden * up",
        'hidden = silu(up) if experts.activation == "silu" else gate.relu()\n'
        "        hidden = hidden if experts.gate is None else hidden * gate",
    ),
    (
        "MOE-18",
        "clamps the gate from below",
        "gate.clamp(max=experts.limit)",
        "gate.clamp(-experts.limit, experts.limit)",
    ),
    (
        "MOE-19",
        "adds the first expert's bias to all",
        "out + bias[used, None].float()",
        "out + bias[0].float()",
    ),
    (
        "MOE-20",
        "scales the shared expert",
        f"        y[live] += shared_output(x[live], shared)\n{MOE_END}def router",
        f"        y[live] += config.scale * shared_output(x[live], shared)\n{MOE_END}def router",
    ),
    (
        "MOE-27",
        "unpacks words from the most significant bits",
        "torch.arange(0, 32, bits)",
        "torch.arange(32 - bits, -1, -bits)",
    ),
    (
        "MOE-30",
        "counts only up to the last expert in use",
        "    return Dispatch(slots[their_experts.argsort(stable=True)], offsets, kept.view(tokens, k))",
        "    offsets = offsets[: int(ids.max()) + 2] if ids.numel() else offsets[:1]\n"
        "    return Dispatch(slots[their_experts.argsort(stable=True)], offsets, kept.view(tokens, k))",
    ),
    ("MOE-31", "lets one slot too many in", ".view(places.shape) < rooms", ".view(places.shape) <= rooms"),
    (
        "MOE-38",
        "loses the scale when it renormalises after a drop",
        "+ TINY) * config.scale\n",
        "+ TINY)\n",
    ),
    (
        "MOE-40",
        "lets requests share the places of an expert",
        "rooms, mask=live, segments=request, priority",
        "rooms and rooms[0], mask=live, priority",
    ),
    (
        "MOE-45",
        "sums the groups' losses",
        "    return losses.sum() / (tokens > 0).sum().clamp(min=1)",
        "    return losses.sum()",
    ),
    (
        "MOE-46",
        "forgets the factor E in the gradient",
        "    return torch.autograd.grad(loss, variable)[0]",
        "    return torch.autograd.grad(loss, variable)[0] / n_experts",
    ),
    (
        "MOE-53",
        "adds the shared expert once for each rank",
        f"        y[live] += shared_output(x[live], shared)\n{MOE_END}# Checkpoints",
        f"        y[live] += ranks * shared_output(x[live], shared)\n{MOE_END}# Checkpoints",
    ),
    ("MOE-57", "takes Mixtral's w3 for the gate", '{"gate": "w1", "up": "w3"', '{"gate": "w3", "up": "w1"'),
    (
        "MOE-58",
        "takes the first half of a fused matrix for up",
        'gate, up = tensor("experts.gate_up_proj").chunk(2, dim=1)',
        'up, gate = tensor("experts.gate_up_proj").chunk(2, dim=1)',
    ),
]

DELIBERATE = [
    pytest.param(topic, *case[:2], case[2:], id=case[0])
    for topic, cases in (("paged_attention", PAGED_ATTENTION), ("moe", MOE))
    for case in cases
]


def changed(folder, topic, *edits):
    """The alternative with these edits, as a submission in `folder`."""
    source = (ALTERNATIVE / f"{topic}.py").read_text(encoding="utf-8")
    for old, new in edits:
        assert source.count(old) == 1, f"{source.count(old)} matches, expected 1: {old!r}"
        source = source.replace(old, new)
    (folder / f"{topic}.py").write_text(source, encoding="utf-8")
    (folder / "week3.toml").write_text(
        (ALTERNATIVE / "week3.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    return in_process(folder)


def failures(candidate, topic, requirement):
    (found,) = verdicts([replace(candidate, only=frozenset({requirement}))], topic).values()
    return [verdict.result for verdict in found if verdict.failed]


@pytest.mark.parametrize(("topic", "requirement", "title", "lines"), DELIBERATE)
def test_a_deliberate_bug_is_named(tmp_path, topic, requirement, title, lines):
    wrong = changed(tmp_path, topic, *zip(lines[::2], lines[1::2], strict=True))
    failed = failures(wrong, topic, requirement)
    assert failed, "no test saw it"
    assert any(title in result.diagnosis for result in failed), [result.diagnosis for result in failed]


def test_an_unknown_bug_gets_no_name_but_the_first_difference(tmp_path):
    strange = changed(
        tmp_path,
        "paged_attention",
        (
            "return out.transpose(0, 1).to(queries.dtype)",
            "return 1.01 * out.transpose(0, 1).to(queries.dtype)",
        ),
    )
    failed = failures(strange, "paged_attention", "PA-05")
    assert failed and not any(result.diagnosis for result in failed)
    assert "result[0, 0, 0]: expected " in failed[0].message
    assert "smallest input: case=Batch(context_lens=[" in failed[0].message


def test_a_message_names_the_smallest_input(tmp_path):
    wrong = changed(tmp_path, "paged_attention", PAGED_ATTENTION[0][2:])
    (result, *_) = failures(wrong, "paged_attention", "PA-01")
    assert "smallest input: case=(" in result.message
    assert "or any other" not in result.message
