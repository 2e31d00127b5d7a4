"""Known bugs of mixture of experts: each an edit of reference/moe.py, killed by its requirement's tests.

A title completes the sentence "This is what happens when an implementation …".
"""

from dataclasses import replace

import numpy as np

from grading.bugs import Bug
from grading.ranks import FreshGroups
from grading.trees import mapped
from spec.moe import MoEOutput


def bug(requirement, title, *, old, new, hint, also=()):
    BUGS.append(Bug(requirement, title, old, new, hint, tuple(also)))


BUGS = []


class FreeChoices:
    """Integer dtypes, the routing of padding, and how ranks talk to each other, are the implementation's."""

    def __init__(self):
        self.arguments = FreshGroups().arguments

    def answer(self, call, answer):
        if isinstance(answer, MoEOutput):
            return self.output(answer, call.kwargs.get("mask"))
        return alike(answer)

    def output(self, answer, mask):
        if mask is None:
            return alike(answer)
        parts = answer.logits, answer.routing.experts, answer.routing.weights
        if not all(isinstance(each, np.ndarray) and len(each) == len(mask) for each in parts):
            return answer
        logits, experts, weights = (each[mask] for each in parts)
        return alike(MoEOutput(answer.y, replace(answer.routing, experts=experts, weights=weights), logits))


def alike(value):
    """The value with all integers of one dtype."""
    return mapped(lambda leaf: leaf.astype(np.int64) if is_integer_array(leaf) else leaf, value)


def is_integer_array(value):
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu"


# Routing

bug(
    "MOE-01",
    "takes the softmax over the chosen experts only",
    old='        if config.scoring == "softmax_of_topk":\n            weight = softmax(weight)\n',
    new='        if config.scoring != "sigmoid":\n            weight = softmax(row[experts[t]])\n',
    hint="The probabilities of all E experts sum to 1; those of the chosen k to less.",
)
bug(
    "MOE-01",
    "normalises the weights though the model does not",
    old="        elif config.normalize:\n",
    new="        else:\n",
    hint="Qwen2-MoE and DeepSeek-V2 leave the probabilities as they are: `normalize` decides.",
)
bug(
    "MOE-01",
    "takes the logits for the weights",
    old='        if config.scoring == "softmax_of_topk":\n            weight',
    new='        if config.scoring == "softmax":\n            weight = row[experts[t]]\n'
    '        if config.scoring == "softmax_of_topk":\n            weight',
    hint="Weights are scores: exponentials divided by their sum.",
)
bug(
    "MOE-01",
    "chooses the worst experts",
    old='return np.argsort(-values, kind="stable")[:count]',
    new='return np.argsort(values, kind="stable")[:count]',
    hint="argsort is ascending: negate, or read it from its end.",
)
bug(
    "MOE-02",
    "gives equal experts from the highest id down",
    old='return np.argsort(-values, kind="stable")[:count]',
    new='return np.argsort(values, kind="stable")[::-1][:count]',
    hint="A stable sort of the negated scores leaves the lower id first.",
)
bug(
    "MOE-02",
    "lists the chosen experts by id",
    old="experts[t] = best(within_best_groups(choice, config), config.top_k)",
    new="experts[t] = np.sort(best(within_best_groups(choice, config), config.top_k))",
    hint="The best comes first: with capacity, a first choice goes before a second.",
)
bug(
    "MOE-02",
    "lists the best expert last",
    old="experts[t] = best(within_best_groups(choice, config), config.top_k)",
    new="experts[t] = best(within_best_groups(choice, config), config.top_k)[::-1]",
    hint="The best comes first: argpartition and an ascending sort need one more step.",
)
bug(
    "MOE-03",
    "forgets to renormalise the top-k weights",
    old="weight = weight / (weight.sum() + WORK(TINY))",
    new="weight = weight * 1",
    hint="Mixtral's weights over the chosen experts sum to 1.",
)
bug(
    "MOE-03",
    "takes a softmax of the probabilities to normalise them",
    old="weight = weight / (weight.sum() + WORK(TINY))",
    new="weight = softmax(weight)",
    hint="Divide by the sum. A second softmax flattens the weights.",
)
bug(
    "MOE-03",
    "divides the weights by the largest of them",
    old="weight = weight / (weight.sum() + WORK(TINY))",
    new="weight = weight / weight.max()",
    hint="Divide by the sum of the k weights.",
)
bug(
    "MOE-04",
    "gives a single expert the weight 1",
    old="        elif config.normalize:\n",
    new="        elif config.normalize or config.top_k == 1:\n",
    hint="Switch multiplies by the probability: it is the only way for the router to learn.",
)
bug(
    "MOE-05",
    "takes the softmax over all experts and then the largest",
    old='scores = row if config.scoring == "softmax_of_topk" else score(row, config.scoring)',
    new='scores = score(row, "sigmoid" if config.scoring == "sigmoid" else "softmax")',
    also=(
        (
            '        if config.scoring == "softmax_of_topk":\n            weight = softmax(weight)\n        elif',
            "        if",
        ),
    ),
    hint="gpt-oss chooses by logits and takes the softmax over the k chosen ones.",
)
bug(
    "MOE-05",
    "takes the softmax twice",
    old="            weight = softmax(weight)\n",
    new="            weight = softmax(softmax(weight))\n",
    hint="The k chosen logits go into one softmax.",
)
bug(
    "MOE-06",
    "scores a sigmoid router by softmax",
    old='return softmax(row) if scoring == "softmax" else sigmoid(row)',
    new="return softmax(row)",
    hint="DeepSeek-V3 scores each expert by itself: 1 / (1 + exp(−logit)).",
)
bug(
    "MOE-06",
    "divides by a sum that may vanish",
    old="weight = weight / (weight.sum() + WORK(TINY))",
    new="weight = np.float32(weight) / np.float32(weight).sum()",
    hint="Add 1e-20 to the sum: with all scores 0 the weights are 0, not NaN.",
)
bug(
    "MOE-06",
    "takes the softmax of the sigmoid scores",
    old='return softmax(row) if scoring == "softmax" else sigmoid(row)',
    new='return softmax(row) if scoring == "softmax" else softmax(sigmoid(row))',
    hint="The sigmoid is the score; only the chosen k are divided by their sum.",
)
bug(
    "MOE-07",
    "weights experts by their biased scores",
    old="        weight = scores[experts[t]]\n",
    new='        weight = (scores if config.scoring == "softmax_of_topk" else choice)[experts[t]]\n',
    hint="The bias balances the load. The weights come from the scores without it.",
)
bug(
    "MOE-07",
    "ignores the selection bias",
    old="choice = scores if selection_bias is None else scores + selection_bias.astype(WORK)",
    new="choice = scores",
    hint="Choose by score + bias.",
)
bug(
    "MOE-07",
    "adds the selection bias to the logits",
    old="    for t, row in enumerate(logits.astype(WORK)):\n        scores",
    new="    for t, row in enumerate(logits.astype(WORK)):\n"
    "        row = row if selection_bias is None else row + selection_bias.astype(WORK)\n"
    "        scores",
    also=(
        (
            "choice = scores if selection_bias is None else scores + selection_bias.astype(WORK)",
            "choice = scores",
        ),
    ),
    hint="The bias is added to the scores, after the sigmoid, and only for the choice.",
)
bug(
    "MOE-07",
    "subtracts the selection bias",
    old="else scores + selection_bias.astype(WORK)",
    new="else scores - selection_bias.astype(WORK)",
    hint="A positive bias brings an expert more tokens.",
)
bug(
    "MOE-08",
    "chooses from all groups",
    old="    result = np.full_like(groups, -np.inf)\n",
    new="    result = groups.copy()\n",
    hint="Only experts of the best top_groups groups can be chosen.",
)
bug(
    "MOE-08",
    "deals experts out to the groups in turn",
    old="groups = choice.reshape(config.n_groups, -1)",
    new="groups = choice.reshape(-1, config.n_groups).T",
    also=(("return result.reshape(-1)", "return result.T.reshape(-1)"),),
    hint="A group is a run of neighbouring ids: expert e is in group e // (E / n_groups).",
)
bug(
    "MOE-08",
    "scores a group by its mean",
    old="group_scores = groups.max(axis=1)",
    new="group_scores = groups.mean(axis=1)",
    hint="DeepSeek-V2 takes a group's best expert.",
)
bug(
    "MOE-08",
    "sums a group's best two whatever the config says",
    old='    if config.group_score == "max":',
    new="    if config.n_groups == 1:",
    hint="DeepSeek-V2 takes the maximum, DeepSeek-V3 the sum of two.",
)
bug(
    "MOE-08",
    "opens as many groups as it needs experts",
    old="for group in best(group_scores, config.top_groups):",
    new="for group in best(group_scores, config.top_k if config.n_groups > 1 else 1):",
    hint="top_groups groups are open, then top_k experts are taken from them.",
)
bug(
    "MOE-09",
    "scores a group by its maximum whatever the config says",
    old='    if config.group_score == "max":',
    new="    if True:",
    hint="DeepSeek-V3 adds the two best scores of a group.",
)
bug(
    "MOE-09",
    "sums all scores of a group",
    old="np.sort(group)[-2:].sum()",
    new="group.sum()",
    hint="Only the two best count.",
)
bug(
    "MOE-09",
    "gives a group of one expert no score",
    old="np.sort(group)[-2:].sum()",
    new="(np.sort(group)[-2:].sum() if len(group) > 1 else 0)",
    hint="A group of one has the score of that one.",
)
bug(
    "MOE-10",
    "fills closed groups with zero",
    old="result = np.full_like(groups, -np.inf)",
    new="result = np.zeros_like(groups)",
    hint="Biased scores may all be negative, and zero would win: fill with −inf.",
)
bug(
    "MOE-10",
    "fills closed groups with -1",
    old="result = np.full_like(groups, -np.inf)",
    new="result = np.full_like(groups, -1)",
    hint="Biased scores may be below any number: fill with −inf.",
)
bug(
    "MOE-10",
    "ranks the groups by scores without the bias",
    old="best(within_best_groups(choice, config), config.top_k)",
    new="best(within_best_groups(choice, config, scores), config.top_k)",
    also=(
        ("def within_best_groups(choice, config):", "def within_best_groups(choice, config, plain):"),
        (
            "group_scores = groups.max(axis=1)",
            "group_scores = plain.reshape(config.n_groups, -1).max(axis=1)",
        ),
        ("for group in groups])", "for group in plain.reshape(config.n_groups, -1)])"),
    ),
    hint="Groups are chosen by the same biased scores as experts.",
)
bug(
    "MOE-11",
    "opens equal groups from the highest id down",
    old="for group in best(group_scores, config.top_groups):",
    new='for group in np.argsort(group_scores, kind="stable")[::-1][: config.top_groups]:',
    hint="The rule for ties holds for groups as for experts: the lower id.",
)
bug(
    "MOE-12",
    "scales before it normalises",
    old="        weights[t] = weight * WORK(config.scale)\n",
    new='        scaled = config.normalize and config.scoring != "softmax_of_topk"\n'
    "        weights[t] = weight * WORK(1 if scaled else config.scale)\n",
    hint="Normalising takes a scale away again: scale last.",
)
bug(
    "MOE-12",
    "scales twice",
    old="weights[t] = weight * WORK(config.scale)",
    new="weights[t] = weight * WORK(config.scale) ** 2",
    hint="Whoever applies the scale, router or combine, does it once.",
)
bug(
    "MOE-12",
    "ignores the scale",
    old="weights[t] = weight * WORK(config.scale)",
    new="weights[t] = weight",
    hint="DeepSeek-V3 multiplies the weights by 2.5.",
)
bug(
    "MOE-12",
    "scales only weights that it normalised",
    old="weights[t] = weight * WORK(config.scale)",
    new="weights[t] = weight * WORK(config.scale if config.normalize else 1)",
    hint="The scale applies to every kind of weights.",
)
bug(
    "MOE-13",
    "scores in the dtype of the logits",
    old="    for t, row in enumerate(logits.astype(WORK)):\n        scores",
    new="    for t, row in enumerate(logits):\n        scores",
    hint="Cast the logits to float32 before the softmax.",
)
bug(
    "MOE-13",
    "returns weights in the dtype of the logits",
    old="return Routing(experts, in_float32(weights, logits))",
    new="return Routing(experts, weights.astype(logits.dtype))",
    hint="Weights are float32.",
)
bug(
    "MOE-13",
    "takes exponentials of large logits",
    old="powers = np.exp(row - row.max())",
    new="powers = np.exp(row)",
    hint="Subtract the maximum first: the softmax stays the same, and nothing overflows.",
)
bug(
    "MOE-13",
    "divides infinity by infinity for a large sigmoid",
    old="return np.where(row >= 0, 1, small) / (1 + small)",
    new="return np.exp(row) / (1 + np.exp(row))",
    hint="Use exp(−|logit|), which never overflows.",
)
bug(
    "MOE-15",
    "limits groups only where scores are sigmoids",
    old="    groups = choice.reshape(config.n_groups, -1)\n",
    new='    if config.scoring != "sigmoid":\n        return choice\n    groups = choice.reshape(config.n_groups, -1)\n',
    hint="DeepSeek-V2 has groups and a softmax.",
)
bug(
    "MOE-15",
    "treats every router as Mixtral's",
    old="    for t, row in enumerate(logits.astype(WORK)):\n        scores",
    new='    config = RouterConfig(config.top_k, "softmax", True)\n'
    "    for t, row in enumerate(logits.astype(WORK)):\n        scores",
    hint="Scoring, normalising, groups and scale differ: read the config.",
)
bug(
    "MOE-15",
    "treats every router as Qwen2's",
    old="    for t, row in enumerate(logits.astype(WORK)):\n        scores",
    new="    config = RouterConfig(config.top_k)\n    for t, row in enumerate(logits.astype(WORK)):\n        scores",
    hint="Scoring, normalising, groups and scale differ: read the config.",
)
bug(
    "MOE-15",
    "stores expert ids in eight bits",
    old="experts = np.zeros((len(logits), config.top_k), np.int32)",
    new="experts = np.zeros((len(logits), config.top_k), np.int8)",
    hint="DeepSeek-V3 has 256 experts: int8 ends at 127.",
)

# The layer

bug(
    "MOE-16",
    "swaps gate and up",
    old="        hidden = gated(gate, up, weights)\n",
    new="        hidden = gated(up, gate, weights)\n",
    hint="silu(gate · x) · (up · x): Mixtral's w1 is the gate, w3 is up.",
)
bug(
    "MOE-16",
    "multiplies an expert's input by its weight",
    old="y[t] += weights[t, j] * expert(x[t], experts, e)",
    new="y[t] += expert((weights[t, j] * x[t].astype(WORK)).astype(x.dtype), experts, e)",
    hint="Experts are not linear: weight their output.",
)
bug(
    "MOE-16",
    "adds the experts without their weights",
    old="y[t] += weights[t, j] * expert(x[t], experts, e)",
    new="y[t] += expert(x[t], experts, e)",
    hint="y = Σ weight · expert(x).",
)
bug(
    "MOE-16",
    "uses the best expert only",
    old="            if kept[t, j]:\n",
    new="            if kept[t, j] and j == 0:\n",
    hint="All k experts contribute.",
)
bug(
    "MOE-16",
    "pairs experts with each other's weights",
    old="y[t] += weights[t, j] * expert(x[t], experts, e)",
    new="y[t] += weights[t, -1 - j] * expert(x[t], experts, e)",
    hint="After sorting slots by expert, bring outputs back in the order of the weights.",
)
bug(
    "MOE-16",
    "takes another function for silu",
    old="return values * sigmoid(values) if",
    new="return values * sigmoid(WORK(1.702) * values) if",
    hint="silu(v) = v · sigmoid(v).",
)
bug(
    "MOE-16",
    "adds the residual itself",
    old="    y = np.zeros(x.shape, WORK)\n    for t in range(len(x)):\n        for j",
    new="    y = x.astype(WORK)\n    for t in range(len(x)):\n        for j",
    hint="The block around the layer adds x.",
)
bug(
    "MOE-16",
    "activates the product of gate and up",
    old="    return activated(gate, weights.activation) * up\n",
    new="    return activated(gate * up, weights.activation)\n",
    hint="Only the gate is activated.",
)
bug(
    "MOE-17",
    "lets an expert without a gate gate itself",
    old="        hidden = activated(up, weights.activation)\n",
    new="        hidden = activated(up, weights.activation) * up\n",
    hint="Without a gate: down · act(up · x).",
)
bug(
    "MOE-17",
    "uses silu whatever the activation",
    old='return values * sigmoid(values) if activation == "silu" else np.maximum(values, 0)',
    new="return values * sigmoid(values)",
    hint="Switch's experts use relu.",
)
bug(
    "MOE-17",
    "uses relu whatever the activation",
    old='return values * sigmoid(values) if activation == "silu" else np.maximum(values, 0)',
    new="return np.maximum(values, 0)",
    hint="`activation` says which: silu is v · sigmoid(v).",
)
bug(
    "MOE-17",
    "leaves the gate out where the activation is relu",
    old="    return activated(gate, weights.activation) * up\n",
    new='    if weights.activation == "relu":\n        return activated(up, "relu")\n'
    "    return activated(gate, weights.activation) * up\n",
    hint="Whether there is a gate does not depend on the activation.",
)
bug(
    "MOE-18",
    "forgets to add 1 to the clamped up",
    old="return (up + 1) * gate",
    new="return up * gate",
    hint="gpt-oss multiplies by up + 1.",
)
bug(
    "MOE-18",
    "clamps the gate from below",
    old="gate, up = np.minimum(gate, weights.limit),",
    new="gate, up = np.clip(gate, -weights.limit, weights.limit),",
    hint="The gate has an upper limit only.",
)
bug(
    "MOE-18",
    "does not clamp the gate",
    old="gate, up = np.minimum(gate, weights.limit),",
    new="gate, up = gate,",
    hint="The gate is at most `limit`.",
)
bug(
    "MOE-18",
    "does not clamp up",
    old="np.clip(up, -weights.limit, weights.limit)",
    new="up",
    hint="up stays between −limit and limit.",
)
bug(
    "MOE-18",
    "clamps up from above only",
    old="np.clip(up, -weights.limit, weights.limit)",
    new="np.minimum(up, weights.limit)",
    hint="up stays between −limit and limit.",
)
bug(
    "MOE-18",
    "forgets alpha",
    old="sigmoid(WORK(weights.alpha) * gate)",
    new="sigmoid(gate)",
    hint="gpt-oss has sigmoid(1.702 · gate).",
)
bug(
    "MOE-18",
    "clamps at 7 whatever the limit",
    old="gate, up = np.minimum(gate, weights.limit), np.clip(up, -weights.limit, weights.limit)",
    new="gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)",
    hint="The limit is a number of the config.",
)
bug(
    "MOE-18",
    "uses an alpha of 1.702 whatever the config",
    old="sigmoid(WORK(weights.alpha) * gate)",
    new="sigmoid(WORK(1.702) * gate)",
    hint="alpha is a number of the config.",
)
bug(
    "MOE-18",
    "treats a clamped expert as a plain one",
    old='    if weights.activation == "swigluoai":\n',
    new='    if weights.activation == "swigluoai":\n        return activated(gate, "silu") * up\n'
    '    if weights.activation == "swigluoai":\n',
    hint="gpt-oss: (u + 1) · g · sigmoid(alpha · g), clamped.",
)
bug(
    "MOE-19",
    "adds the down bias after weighting",
    old="            if kept[t, j]:\n                y[t] += weights[t, j] * expert(x[t], experts, e)\n",
    new="            if kept[t, j]:\n                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "                if experts.down_bias is not None:\n"
    "                    y[t] += (1 - weights[t, j]) * experts.down_bias[e].astype(WORK)\n",
    hint="The bias is part of the expert's output, which is weighted.",
)
bug(
    "MOE-19",
    "forgets the biases",
    old="return w @ x if bias is None else w @ x + bias[e].astype(WORK)",
    new="return w @ x",
    hint="gpt-oss's experts have biases on gate, up and down.",
)
bug(
    "MOE-19",
    "forgets the down bias",
    old="return w @ x if bias is None else w @ x + bias[e].astype(WORK)",
    new='return w @ x if bias is None or name == "down" else w @ x + bias[e].astype(WORK)',
    hint="gpt-oss's experts have biases on gate, up and down.",
)
bug(
    "MOE-19",
    "forgets the gate bias",
    old="return w @ x if bias is None else w @ x + bias[e].astype(WORK)",
    new='return w @ x if bias is None or name == "gate" else w @ x + bias[e].astype(WORK)',
    hint="gpt-oss's experts have biases on gate, up and down.",
)
bug(
    "MOE-19",
    "adds the first expert's bias to all",
    old="w @ x + bias[e].astype(WORK)",
    new="w @ x + bias[0].astype(WORK)",
    hint="Each expert has its own row of biases.",
)
bug(
    "MOE-20",
    "scales the shared expert",
    old="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += shared_expert(x[t], shared)\n",
    new="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += WORK(config.scale) * shared_expert(x[t], shared)\n",
    hint="The scale belongs to the routed experts.",
)
bug(
    "MOE-20",
    "feeds the shared expert with the routed sum",
    old="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += shared_expert(x[t], shared)\n",
    new="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += shared_expert(y[t].astype(x.dtype), shared)\n",
    hint="The shared expert sees the layer's input.",
)
bug(
    "MOE-20",
    "forgets the shared expert",
    old="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += shared_expert(x[t], shared)\n",
    new="                y[t] += weights[t, j] * expert(x[t], experts, e)\n",
    hint="y = routed(x) + shared(x).",
)
bug(
    "MOE-20",
    "adds the shared expert once for each choice",
    old="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += shared_expert(x[t], shared)\n",
    new="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += config.top_k * shared_expert(x[t], shared)\n",
    hint="The shared expert contributes once, with weight 1.",
)
bug(
    "MOE-21",
    "ignores the shared expert's gate",
    old="    if shared.gate_weight is not None:\n",
    new="    if False:\n",
    hint="Qwen2-MoE multiplies by sigmoid(gate_weight · x).",
)
bug(
    "MOE-21",
    "multiplies by the shared gate without a sigmoid",
    old="out = out * sigmoid(shared.gate_weight.astype(WORK) @ x.astype(WORK))",
    new="out = out * (shared.gate_weight.astype(WORK) @ x.astype(WORK))",
    hint="The gate is a sigmoid.",
)
bug(
    "MOE-21",
    "gates the routed experts as well",
    old="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n",
    new="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and shared.gate_weight is not None:\n"
    "            y[t] *= sigmoid(shared.gate_weight.astype(WORK) @ x[t].astype(WORK))\n"
    "        if shared is not None and (mask is None or mask[t]):\n",
    hint="The gate belongs to the shared expert.",
)
bug(
    "MOE-22",
    "hands out probabilities for logits",
    old="    return logits, choose(logits, config, selection_bias)\n",
    new="    shown = [softmax(row.astype(WORK)) for row in logits]\n"
    "    shown = np.array(shown, logits.dtype).reshape(logits.shape)\n"
    "    return shown, choose(logits, config, selection_bias)\n",
    hint="The losses take logits; a softmax of probabilities is almost flat.",
)
bug(
    "MOE-22",
    "hands out logits without the router's bias",
    old="        logits = logits + router_bias.astype(WORK)\n    logits = in_float32(logits, x)\n    return logits,",
    new="        logits = logits + router_bias.astype(WORK)\n    logits = in_float32(logits, x)\n"
    "    return logits if router_bias is None else logits - router_bias.astype(logits.dtype),",
    hint="The bias is part of the logits.",
)
bug(
    "MOE-22",
    "ignores the router's bias",
    old="    if router_bias is not None:\n        logits",
    new="    if False:\n        logits",
    hint="gpt-oss's router has a bias.",
)
bug(
    "MOE-22",
    "hands out logits with the selection bias",
    old="    return logits, choose(logits, config, selection_bias)\n",
    new="    biased = logits if selection_bias is None else logits + selection_bias.astype(logits.dtype)\n"
    "    return biased, choose(logits, config, selection_bias)\n",
    hint="The selection bias is for the choice alone.",
)
bug(
    "MOE-23",
    "rounds the logits to the dtype of x",
    old="    logits = in_float32(logits, x)\n    return",
    new="    logits = in_float32(logits.astype(x.dtype), x)\n    return",
    hint="Cast x and the router to float32 before their product.",
)
bug(
    "MOE-23",
    "hands out logits in the dtype of x",
    old="    return logits, choose(logits, config, selection_bias)\n",
    new="    return logits.astype(x.dtype), choose(logits, config, selection_bias)\n",
    hint="Logits are float32.",
)
bug(
    "MOE-24",
    "returns float32 for half-precision input",
    old="    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
    new="    return MoEOutput(in_float32(y, x), routing, logits)\n\n\ndef routed(",
    hint="y has the dtype of x.",
)
bug(
    "MOE-24",
    "accumulates matrix products in half precision",
    old="        w = matrix[e].astype(WORK)\n",
    new="        w = matrix[e].astype(WORK)\n"
    "        if matrix.dtype.itemsize == 2:\n"
    "            total = (w * x).astype(matrix.dtype).cumsum(axis=1)[:, -1].astype(WORK)\n"
    "            return total if bias is None else total + bias[e].astype(WORK)\n",
    hint="Products of half-precision matrices accumulate in float32.",
)
bug(
    "MOE-25",
    "drops slots beyond twice the fair share though no capacity is set",
    old="        return None\n    segments = np.zeros(tokens, int)",
    new="        return [max(1, 2 * tokens * config.top_k // n_experts)]\n    segments = np.zeros(tokens, int)",
    hint="Without a capacity every slot is computed, however many tokens agree.",
)
bug(
    "MOE-25",
    "adds the experts in another order at each call",
    old="    y = np.zeros(x.shape, WORK)\n    for t in range(len(x)):\n        for j, e in enumerate(routing.experts[t]):\n",
    new="    global CALLS\n"
    "    CALLS = globals().get('CALLS', 0) + 1\n"
    "    y = np.zeros(x.shape, np.float32)\n"
    "    for t in range(len(x)):\n"
    "        for j, e in list(enumerate(routing.experts[t]))[:: -1 if CALLS % 2 else 1]:\n",
    hint="Fix the order of summation: a scatter-add with atomics has none.",
)
bug(
    "MOE-26",
    "multiplies every token by every other's combine weight",
    old="y[t] += weights[t, j] * expert(x[t], experts, e)",
    new="y += np.eye(len(x))[t][:, None] * (weights[t, j] * expert(x[t], experts, e))",
    hint="0 · NaN is NaN: gather rows instead of multiplying by a one-hot matrix.",
)
bug(
    "MOE-26",
    "refuses a batch for one bad row",
    old="    return logits, choose(logits, config, selection_bias)\n",
    new="    return logits, route(logits, config, selection_bias=selection_bias)\n",
    hint="One request's NaN must not fail its neighbours. Only `route` looks.",
)
bug(
    "MOE-26",
    "hides NaN",
    old="    logits = x.astype(WORK) @ router_weight.T.astype(WORK)\n",
    new="    x[...] = np.nan_to_num(x.astype(np.float32))\n    logits = x.astype(WORK) @ router_weight.T.astype(WORK)\n",
    hint="A row that was NaN comes out as NaN.",
)
bug(
    "MOE-26",
    "routes a row of NaN to one expert k times",
    old="        weight = scores[experts[t]]\n",
    new="        if np.isnan(row).any():\n            experts[t] = 0\n        weight = scores[experts[t]]\n",
    hint="The ids of a row are distinct, whatever its logits.",
)
bug(
    "MOE-27",
    "unpacks words from the most significant bits",
    old="code = (matrix.codes[e, :, word] >> np.uint32(shift)) & np.uint32(2**bits - 1)",
    new="code = (matrix.codes[e, :, word] >> np.uint32(32 - bits - shift)) & np.uint32(2**bits - 1)",
    hint="The first element of a word is in its lowest bits.",
)
bug(
    "MOE-27",
    "takes codes for signed numbers",
    old="result[:, column] = code.astype(WORK) * scale + bias",
    new="result[:, column] = (code.astype(WORK) - 2 ** (bits - 1)) * scale + bias",
    hint="MLX's affine codes count from 0; the bias carries the offset.",
)
bug(
    "MOE-27",
    "adds the bias before it scales",
    old="result[:, column] = code.astype(WORK) * scale + bias",
    new="result[:, column] = (code.astype(WORK) + bias) * scale",
    hint="code · scale + bias.",
)
bug(
    "MOE-27",
    "forgets the biases of the groups",
    old="result[:, column] = code.astype(WORK) * scale + bias",
    new="result[:, column] = code.astype(WORK) * scale",
    hint="code · scale + bias.",
)
bug(
    "MOE-27",
    "assumes groups of 64",
    old="        group = column // group_size\n",
    new="        group = min(column // 64, groups - 1)\n",
    hint="group_size says how many columns share a scale.",
)
bug(
    "MOE-27",
    "uses the first row's scales for all rows",
    old="matrix.scales[e, :, group].astype(WORK), matrix",
    new="matrix.scales[e, :1, group].astype(WORK), matrix",
    hint="Each row has scales and biases of its own.",
)
bug(
    "MOE-28",
    "runs every expert and multiplies by zero",
    old="        for j, e in enumerate(routing.experts[t]):\n            if kept[t, j]:\n",
    new="        for e in np.setdiff1d(np.arange(n_experts), routing.experts[t]):\n"
    "            y[t] += 0 * expert(x[t], experts, e)\n"
    "        for j, e in enumerate(routing.experts[t]):\n            if kept[t, j]:\n",
    hint="Reading all experts is what a sparse model saves: run only those that have a slot.",
)
bug(
    "MOE-41",
    "cannot take a batch without tokens",
    old="    check_tokens(len(x), mask, segments)\n    logits, routing",
    new="    check_tokens(len(x), mask, segments)\n    x.max()\n    logits, routing",
    hint="A step of a server may have nothing to do: T = 0 gives a (0, D) result.",
)
bug(
    "MOE-41",
    "asks a partition for one more than there is",
    old="        experts[t] = best(",
    new="        np.argpartition(row, config.top_k)\n        experts[t] = best(",
    hint="With k = E all experts are chosen; argpartition's kth must stay below E.",
)

# Dispatch and capacity

bug(
    "MOE-29",
    "keeps no order among the slots of an expert",
    old="for t in range(tokens) for j in range(k) if kept[t, j] and experts[t, j] == e]",
    new="for t in reversed(range(tokens)) for j in range(k) if kept[t, j] and experts[t, j] == e]",
    hint="Sort stably: slots ascend within an expert.",
)
bug(
    "MOE-29",
    "lists tokens instead of slots",
    old="order += [t * k + j for t",
    new="order += [t for t",
    hint="A slot is t · k + j; its token is slot // k.",
)
bug(
    "MOE-29",
    "numbers slots choice by choice",
    old="order += [t * k + j for t",
    new="order += [j * tokens + t for t",
    hint="A slot is t · k + j: the (T, k) array read row by row.",
)
bug(
    "MOE-29",
    "leaves out the first offset",
    old="    order, offsets = [], [0]\n    for e",
    new="    order, offsets = [], []\n    for e",
    hint="E + 1 offsets, the first is 0.",
)
bug(
    "MOE-30",
    "counts only up to the last expert in use",
    old="    order, offsets = [], [0]\n    for e in range(n_experts):\n",
    new="    order, offsets = [], [0]\n    for e in range(experts[mask].max(initial=0) + 1):\n",
    hint="bincount needs minlength=E.",
)
bug(
    "MOE-30",
    "gives no offset to an expert without slots",
    old="        offsets.append(len(order))\n",
    new="        if len(order) > offsets[-1]:\n            offsets.append(len(order))\n",
    hint="An empty run has two equal offsets.",
)
bug(
    "MOE-31",
    "lets one slot too many in",
    old="taken[place] < room",
    new="taken[place] <= room",
    hint="The slots before this one must be fewer than the capacity.",
)
bug(
    "MOE-31",
    "keeps the last instead of the first",
    old="    turns = [(t, j) for t in range(tokens) for j in range(k)]\n",
    new="    turns = [(t, j) for t in reversed(range(tokens)) for j in range(k)]\n",
    hint="First come, first served.",
)
bug(
    "MOE-31",
    "fills one capacity with the slots of all experts",
    old="place = segments[t], experts[t, j]",
    new="place = segments[t], 0",
    hint="Each expert has its own places.",
)
bug(
    "MOE-31",
    "takes a capacity of zero for no limit",
    old="kept[t, j] = room is None or taken[place] < room",
    new="kept[t, j] = not room or taken[place] < room",
    hint="None is no limit; 0 is no place.",
)
bug(
    "MOE-31",
    "sorts the dropped slots in with the others",
    old="if kept[t, j] and experts[t, j] == e]",
    new="if experts[t, j] == e]",
    hint="`order` lists what was kept.",
)
bug(
    "MOE-31",
    "drops a token altogether when one of its slots is dropped",
    old="    order, offsets = [], [0]\n    for e",
    new="    kept &= kept.all(axis=1, keepdims=True)\n    order, offsets = [], [0]\n    for e",
    hint="Slots are kept or dropped one by one.",
)
bug(
    "MOE-32",
    "serves tokens in order whatever the priority",
    old='    if priority == "choice_then_position":\n',
    new="    if False:\n",
    hint="GShard places all first choices before any second choice.",
)
bug(
    "MOE-32",
    "serves the last choices first",
    old="turns = [(t, j) for j in range(k) for t in range(tokens)]",
    new="turns = [(t, j) for j in reversed(range(k)) for t in range(tokens)]",
    hint="GShard places all first choices before any second choice.",
)
bug(
    "MOE-33",
    "always rounds up",
    old='rounded = floor(share) if config.capacity_rounding == "floor" else ceil(share)',
    new="rounded = ceil(share)",
    hint="`capacity_rounding` says which way.",
)
bug(
    "MOE-33",
    "always rounds down",
    old='rounded = floor(share) if config.capacity_rounding == "floor" else ceil(share)',
    new="rounded = floor(share)",
    hint="`capacity_rounding` says which way.",
)
bug(
    "MOE-33",
    "counts tokens instead of slots",
    old="share = Fraction(config.capacity_factor) * tokens * config.top_k / n_experts",
    new="share = Fraction(config.capacity_factor) * tokens / n_experts",
    hint="Each token asks for k places.",
)
bug(
    "MOE-33",
    "forgets the minimum",
    old="return max(rounded, config.min_capacity)",
    new="return rounded",
    hint="A small batch would otherwise leave an expert without any place.",
)
bug(
    "MOE-33",
    "adds the minimum",
    old="return max(rounded, config.min_capacity)",
    new="return rounded + config.min_capacity",
    hint="The capacity is at least the minimum.",
)
bug(
    "MOE-33",
    "rounds the fair share before it applies the factor",
    old="share = Fraction(config.capacity_factor) * tokens * config.top_k / n_experts",
    new="share = Fraction(config.capacity_factor) * (tokens * config.top_k // n_experts)",
    hint="Round once, at the end.",
)
bug(
    "MOE-34",
    "lets padding take places",
    old="        if mask[t]:\n            place",
    new="        if True:\n            place",
    also=(
        (
            "kept[t, j] = room is None or taken[place] < room",
            "kept[t, j] = bool(mask[t]) and (room is None or taken[place] < room)",
        ),
    ),
    hint="Count only tokens that count.",
)
bug(
    "MOE-34",
    "keeps the slots of padding",
    old="        if mask[t]:\n            place",
    new="        if not mask[t]:\n            kept[t, j] = True\n        else:\n            place",
    hint="kept is False for padding.",
)
bug(
    "MOE-34",
    "checks the ids of padding",
    old="    check_ids(experts[mask], n_experts)\n    last",
    new="    check_ids(experts, n_experts)\n    last",
    hint="Ids of padding may hold anything; they are not looked at.",
)
bug(
    "MOE-35",
    "ignores the segments",
    old="segments = np.zeros(tokens, int) if segments is None else segments\n    check_ids",
    new="segments = np.zeros(tokens, int)\n    check_ids",
    hint="Places are counted for each request by itself.",
)
bug(
    "MOE-35",
    "gives every request the places of the first",
    old="            room = rooms[segments[t]]\n",
    new="            room = rooms[0]\n",
    hint="A list of capacities has one for each segment.",
)
bug(
    "MOE-37",
    "hands the input on for a token without experts",
    old="        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += shared_expert(x[t], shared)\n"
    "    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
    new="        if not kept[t].any():\n            y[t] = x[t]\n"
    "        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += shared_expert(x[t], shared)\n"
    "    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
    hint="The residual stream carries x already; the layer's own output is 0.",
)
bug(
    "MOE-37",
    "computes dropped slots all the same",
    old="            if kept[t, j]:\n                y[t]",
    new="            if True:\n                y[t]",
    also=(("    weights = np.where(kept, weights, 0)\n", ""),),
    hint="A dropped slot contributes nothing.",
)
bug(
    "MOE-37",
    "serves tokens in order whatever the router's priority",
    old="        priority=config.priority,\n",
    new='        priority="position",\n',
    hint="The priority is part of the router's config.",
)
bug(
    "MOE-37",
    "drops the shared expert with the slots",
    old="        if shared is not None and (mask is None or mask[t]):\n"
    "            y[t] += shared_expert(x[t], shared)\n"
    "    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
    new="        if shared is not None and kept[t].all():\n"
    "            y[t] += shared_expert(x[t], shared)\n"
    "    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
    hint="A shared expert takes every token.",
)
bug(
    "MOE-37",
    "ignores the capacity",
    old="        capacities(len(x), n_experts, config, mask, segments),\n",
    new="        None,\n",
    hint="With a capacity_factor, an expert takes no more than its capacity.",
)
bug(
    "MOE-38",
    "always renormalises after a drop",
    old="    if config.renormalize_after_drop:\n",
    new="    if config.capacity_factor is not None:\n",
    hint="Without `renormalize_after_drop` the weights that remain stay as they were.",
)
bug(
    "MOE-38",
    "never renormalises after a drop",
    old="    if config.renormalize_after_drop:\n",
    new="    if False:\n",
    hint="With `renormalize_after_drop` the remaining weights are divided by their sum.",
)
bug(
    "MOE-38",
    "loses the scale when it renormalises after a drop",
    old="+ WORK(TINY)) * WORK(config.scale)\n",
    new="+ WORK(TINY))\n",
    hint="Divide by the sum, then scale, as before the drop.",
)
bug(
    "MOE-39",
    "counts padding when it computes the capacity",
    old="np.bincount(segments if mask is None else segments[mask], minlength=1)",
    new="np.bincount(segments, minlength=1)",
    hint="A batch that is padded to a fixed size must not drop other tokens.",
)
bug(
    "MOE-39",
    "lets padding take places in a layer",
    old="        mask=mask,\n        segments=segments,\n        priority",
    new="        segments=segments,\n        priority",
    also=(
        (
            "    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
            "    y = y if mask is None else np.where(mask[:, None], y, 0)\n"
            "    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
        ),
    ),
    hint="Hand the mask to the dispatch.",
)
bug(
    "MOE-39",
    "adds the shared expert to padding",
    old="                y[t] += weights[t, j] * expert(x[t], experts, e)\n"
    "        if shared is not None and (mask is None or mask[t]):\n",
    new="                y[t] += weights[t, j] * expert(x[t], experts, e)\n        if shared is not None:\n",
    hint="A row of padding is zero.",
)
bug(
    "MOE-39",
    "multiplies padding by zero",
    old="    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
    new="    for t in range(len(x)):\n"
    "        if mask is not None and not mask[t]:\n"
    "            y[t] = 0 * x[t].astype(WORK)\n"
    "    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\ndef routed(",
    hint="0 · NaN is NaN: leave padding out, or select zeros.",
)
bug(
    "MOE-40",
    "lets requests share the places of an expert",
    old="        mask=mask,\n        segments=segments,\n        priority",
    new="        mask=mask,\n        priority",
    hint="Whether a token is dropped must not depend on who else is in the batch.",
)
bug(
    "MOE-40",
    "gives every request the places of the longest",
    old="for count in counts]\n\n\ndef after_drop",
    new="for count in np.full_like(counts, counts.max())]\n\n\ndef after_drop",
    hint="A request's capacity comes from its own tokens.",
)
bug(
    "MOE-40",
    "gives every request the places of the whole batch",
    old="for count in counts]\n\n\ndef after_drop",
    new="for count in np.full_like(counts, counts.sum())]\n\n\ndef after_drop",
    hint="A request's capacity comes from its own tokens.",
)
bug(
    "MOE-40",
    "takes every token for a request of its own",
    old="segments = np.zeros(tokens, int) if segments is None else segments\n    check_ids",
    new="segments = np.arange(tokens) if segments is None else segments\n    check_ids",
    also=(
        (
            "segments = np.zeros(tokens, int) if segments is None else segments\n    counts",
            "segments = np.arange(tokens) if segments is None else segments\n    counts",
        ),
    ),
    hint="Without segments the whole batch shares the places.",
)

# Losses and balance

bug(
    "MOE-43",
    "forgets the factor E",
    old="        n_experts * (frequency(chosen, n_experts, divide_by_k) @ mean_score(rows, scoring))\n",
    new="        (frequency(chosen, n_experts, divide_by_k) @ mean_score(rows, scoring))\n",
    hint="E makes the loss of a uniform router independent of the number of experts.",
)
bug(
    "MOE-43",
    "counts first choices only",
    old="counts = np.bincount(experts.reshape(-1), minlength=n_experts).astype(WORK)",
    new="counts = np.bincount(experts[:, 0], minlength=n_experts).astype(WORK)",
    hint="f counts all k slots of a token.",
)
bug(
    "MOE-43",
    "always divides f by k",
    old="return counts / tokens / k if divide_by_k else counts / tokens",
    new="return counts / tokens / k",
    hint="Without `divide_by_k` a uniform router has the loss k.",
)
bug(
    "MOE-43",
    "never divides f by k",
    old="return counts / tokens / k if divide_by_k else counts / tokens",
    new="return counts / tokens",
    hint="With `divide_by_k` a uniform router has the loss 1.",
)
bug(
    "MOE-43",
    "multiplies f by itself",
    old="@ mean_score(rows, scoring))\n        for",
    new="@ frequency(chosen, n_experts, divide_by_k))\n        for",
    hint="f has no gradient: P, the mean score, must be the other factor.",
)
bug(
    "MOE-43",
    "averages the logits instead of the scores",
    old="return sum(shares(row, scoring) for row in rows) / len(rows)",
    new="return shares(sum(rows) / len(rows), scoring)",
    hint="P is the mean of the scores, not the score of the mean.",
)
bug(
    "MOE-43",
    "does not let the loss fall below 1",
    old="    return in_float32(np.asarray(sum(losses, WORK(0)) / max(1, len(losses))), logits)\n",
    new="    losses = [max(loss, WORK(1)) for loss in losses]\n"
    "    return in_float32(np.asarray(sum(losses, WORK(0)) / max(1, len(losses))), logits)\n",
    hint="f and P differ, and their product may be below the uniform one.",
)
bug(
    "MOE-43",
    "returns the loss in the dtype of the logits",
    old="    return in_float32(np.asarray(sum(losses, WORK(0)) / max(1, len(losses))), logits)\n",
    new="    return np.asarray(sum(losses, WORK(0)) / max(1, len(losses)), logits.dtype)\n",
    hint="Losses are float32.",
)
bug(
    "MOE-43",
    "multiplies by a coefficient",
    old="np.asarray(sum(losses, WORK(0)) / max(1, len(losses)))",
    new="np.asarray(0.01 * sum(losses, WORK(0)) / max(1, len(losses)))",
    hint="The coefficient is the trainer's.",
)
bug(
    "MOE-44",
    "averages sigmoids without dividing by their sum",
    old='return scores if scoring == "softmax" else scores / (scores.sum() + WORK(TINY))',
    new="return scores",
    hint="A token's sigmoid scores are divided by their sum, so that P sums to 1.",
)
bug(
    "MOE-44",
    "averages softmax scores for a sigmoid router",
    old='    scores = score(row, scoring)\n    return scores if scoring == "softmax"',
    new='    scores = softmax(row)\n    return scores if scoring == "softmax"',
    hint="`scoring` says what the scores are.",
)
bug(
    "MOE-44",
    "divides by a sum of sigmoids that may vanish",
    old='return scores if scoring == "softmax" else scores / (scores.sum() + WORK(TINY))',
    new='return scores if scoring == "softmax" else np.float32(scores) / np.float32(scores).sum()',
    hint="Add 1e-20 to the sum.",
)
bug(
    "MOE-45",
    "pools the groups whatever it is asked",
    old='    if pooling == "each":\n',
    new="    if False:\n",
    hint="Two groups that collapsed to different experts look balanced when pooled.",
)
bug(
    "MOE-45",
    "averages over the groups whatever it is asked",
    old='    if pooling == "each":\n',
    new="    if True:\n",
    hint="transformers pools the tokens of all layers before it multiplies f by P.",
)
bug(
    "MOE-45",
    "sums the groups' losses",
    old="sum(losses, WORK(0)) / max(1, len(losses))",
    new="sum(losses, WORK(0))",
    hint="With pooling «each» the loss is the mean.",
)
bug(
    "MOE-46",
    "leaves out what one logit does to the other scores",
    old="        return np.diag(share) - np.outer(share, share)\n",
    new="        return np.diag(share * (1 - share))\n",
    hint="d P_i / d l_m = P_i (δ − P_m): raising one logit lowers all other probabilities.",
)
bug(
    "MOE-46",
    "forgets to divide the gradient by the number of tokens",
    old="divide_by_k) / len(rows) / len(parts)",
    new="divide_by_k) / len(parts)",
    hint="P is a mean over tokens.",
)
bug(
    "MOE-46",
    "forgets to divide the gradient by the number of groups",
    old="divide_by_k) / len(rows) / len(parts)",
    new="divide_by_k) / len(rows)",
    hint="With pooling «each» the loss is a mean over groups.",
)
bug(
    "MOE-46",
    "differentiates with respect to the scores",
    old="gradient[where] = [by_score @ jacobian(row, scoring) for row in rows]",
    new="gradient[where] = [by_score for row in rows]",
    hint="The gradient goes on through the softmax to the logits.",
)
bug(
    "MOE-46",
    "takes the gradient of a softmax for a sigmoid router",
    old='    share = shares(row, scoring)\n    if scoring == "softmax":\n',
    new="    share = shares(row, scoring)\n    if True:\n",
    hint="d sigmoid = s (1 − s), then the division by the sum.",
)
bug(
    "MOE-46",
    "takes the sum of the sigmoids for a constant",
    old="    return np.diag(slope) - np.outer(share, slope)\n",
    new="    return np.diag(slope)\n",
    hint="The sum depends on every logit too.",
)
bug(
    "MOE-46",
    "forgets the factor E in the gradient",
    old="by_score = n_experts * frequency",
    new="by_score = frequency",
    hint="dL / dP_i = E · f_i.",
)
bug(
    "MOE-47",
    "does not square the log-sum-exp",
    old="        total += (top + np.log(np.exp(row - top).sum())) ** 2\n",
    new="        total += top + np.log(np.exp(row - top).sum())\n",
    hint="The mean of logsumexp².",
)
bug(
    "MOE-47",
    "squares the mean",
    old="in_float32(np.asarray(total / max(1, len(rows))), logits)",
    new="in_float32(np.asarray(total**2 / max(1, len(rows)) ** 2), logits)",
    also=(("np.log(np.exp(row - top).sum())) ** 2", "np.log(np.exp(row - top).sum()))"),),
    hint="Square first, then average.",
)
bug(
    "MOE-47",
    "sums the z-loss over the tokens",
    old="in_float32(np.asarray(total / max(1, len(rows))), logits)",
    new="in_float32(np.asarray(total), logits)",
    hint="The mean over tokens.",
)
bug(
    "MOE-47",
    "takes exponentials of large logits in the z-loss",
    old="        top = row.max()\n",
    new="        top = WORK(0)\n",
    hint="Take the maximum out of the sum.",
)
bug(
    "MOE-47",
    "averages the exponentials",
    old="np.log(np.exp(row - top).sum())",
    new="np.log(np.exp(row - top).mean())",
    hint="log-sum-exp is a sum: uniform logits of 0 give ln E.",
)
bug(
    "MOE-48",
    "does not subtract 1 from the violation",
    old="violation = load.max() / WORK(load.mean()) - 1",
    new="violation = load.max() / WORK(load.mean())",
    hint="A balanced load has the violation 0.",
)
bug(
    "MOE-48",
    "measures the violation of the least loaded expert",
    old="violation = load.max() / WORK(load.mean()) - 1",
    new="violation = 1 - load.min() / WORK(load.mean())",
    hint="The fullest expert decides how long the others wait.",
)
bug(
    "MOE-48",
    "averages over the experts in use",
    old="violation = load.max() / WORK(load.mean()) - 1",
    new="violation = load.max() / WORK(load[load > 0].mean()) - 1",
    hint="An idle expert is part of the mean.",
)
bug(
    "MOE-48",
    "takes the entropy in bits",
    old="p * np.log(p) for p in shares_ if p > 0",
    new="p * np.log2(p) for p in shares_ if p > 0",
    hint="Logarithms are natural.",
)
bug(
    "MOE-48",
    "takes the logarithm of 0",
    old="p * np.log(p) for p in shares_ if p > 0",
    new="p * np.log(p) for p in shares_",
    hint="0 ln 0 counts as 0.",
)
bug(
    "MOE-48",
    "measures the load up to the last expert in use",
    old="load = np.bincount(experts.reshape(-1), minlength=n_experts)",
    new="load = np.bincount(experts.reshape(-1), minlength=1)",
    hint="bincount needs minlength=E.",
)
bug(
    "MOE-48",
    "divides by a load of 0",
    old="    if load.sum() > 0:\n",
    new="    if True:\n",
    hint="Without any slot both measures are 0.",
)
bug(
    "MOE-49",
    "raises the bias of busy experts",
    old="result[e] += WORK(rate) * np.sign",
    new="result[e] -= WORK(rate) * np.sign",
    hint="An expert below the mean load gets a higher bias.",
)
bug(
    "MOE-49",
    "moves the bias in proportion to the load",
    old="result[e] += WORK(rate) * np.sign(int(load.sum()) - int(load[e]) * len(load))",
    new="result[e] += WORK(rate) * (WORK(load.mean()) - int(load[e]))",
    hint="Only the sign counts: every step has the size `rate`.",
)
bug(
    "MOE-49",
    "moves the bias of an expert with just the mean load",
    old="result[e] += WORK(rate) * np.sign(int(load.sum()) - int(load[e]) * len(load))",
    new="result[e] += WORK(rate) * (1 if int(load.sum()) >= int(load[e]) * len(load) else -1)",
    hint="At the mean the bias stays.",
)
bug(
    "MOE-49",
    "compares with the mean rounded down",
    old="np.sign(int(load.sum()) - int(load[e]) * len(load))",
    new="np.sign(int(load.sum()) // len(load) - int(load[e]))",
    hint="The mean load need not be whole.",
)

# Expert choice

bug(
    "MOE-50",
    "takes the softmax over tokens",
    old="    chosen = [best(column, capacity) for column in scores.T]\n",
    new="    scores = np.array([softmax(logits[candidates, e].astype(WORK)) for e in range(logits.shape[1])]).T\n"
    "    chosen = [best(column, capacity) for column in scores.T]\n",
    hint="Scores are a softmax over experts; the choice is over tokens.",
)
bug(
    "MOE-50",
    "takes padding",
    old="candidates = np.arange(len(logits)) if mask is None else np.flatnonzero(mask)",
    new="candidates = np.arange(len(logits))",
    hint="Only tokens that count can be taken.",
)
bug(
    "MOE-50",
    "counts tokens without the padding",
    old="    tokens = np.array([candidates[rows] for rows in chosen], np.int32)\n",
    new="    tokens = np.array(chosen, np.int32)\n",
    hint="Ids are those of the whole batch.",
)
bug(
    "MOE-50",
    "takes the later of equal tokens",
    old="    chosen = [best(column, capacity) for column in scores.T]\n",
    new='    chosen = [np.argsort(column, kind="stable")[::-1][:capacity] for column in scores.T]\n',
    hint="Value descending, then index ascending.",
)
bug(
    "MOE-50",
    "lists an expert's tokens in the order of the text",
    old="    chosen = [best(column, capacity) for column in scores.T]\n",
    new="    chosen = [np.sort(best(column, capacity)) for column in scores.T]\n",
    hint="Best first.",
)
bug(
    "MOE-50",
    "normalises an expert's weights",
    old="weights = np.array([column[rows] for column, rows in zip(scores.T, chosen, strict=True)], WORK)",
    new="weights = np.array([column[rows] / column[rows].sum() for column, rows in zip(scores.T, chosen, strict=True)], WORK)",
    hint="The weights are the scores themselves.",
)

# Several ranks

bug(
    "MOE-52",
    "deals experts out to the ranks in turn",
    old="send_counts = expert_counts.reshape(ranks, ranks, -1).sum(axis=2, dtype=np.int32)",
    new="send_counts = expert_counts.reshape(ranks, -1, ranks).sum(axis=1, dtype=np.int32)",
    hint="Expert e lives on rank e // (E / R): runs of neighbours.",
)
bug(
    "MOE-52",
    "swaps source and destination",
    old="send_counts = expert_counts.reshape(ranks, ranks, -1).sum(axis=2, dtype=np.int32)",
    new="send_counts = expert_counts.reshape(ranks, ranks, -1).sum(axis=2, dtype=np.int32).T",
    hint="Rows are sources, columns destinations.",
)
bug(
    "MOE-52",
    "numbers slots within their rank",
    old="order += [first * k + slot for slot in sorted_slots.order]",
    new="order += list(sorted_slots.order)",
    hint="Slots count through the whole batch.",
)
bug(
    "MOE-52",
    "sorts the slots of all ranks together",
    old="    send_counts = expert_counts.reshape",
    new="    order = list(dispatch(experts, n_experts).order)\n    send_counts = expert_counts.reshape",
    hint="Source rank after source rank: each sorts its own.",
)
bug(
    "MOE-53",
    "keeps only what the rank's own experts give",
    old="        back = arrived[r]\n        if r != here:\n",
    new="        back = arrived[r]\n        if r != here:\n            back = np.zeros_like(rows_for[r])\n        if False:\n",
    hint="Results come back from every rank that got rows.",
)
bug(
    "MOE-53",
    "adds the shared expert once for each rank",
    old="    for t in range(len(x)):\n        if shared is not None and (mask is None or mask[t]):\n            y[t] += shared_expert(x[t], shared)\n    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\n# Checkpoints",
    new="    for t in range(len(x)):\n        if shared is not None and (mask is None or mask[t]):\n            y[t] += ranks * shared_expert(x[t], shared)\n    return MoEOutput(y.astype(x.dtype), routing, logits)\n\n\n# Checkpoints",
    hint="A token's own rank adds the shared expert, once.",
)
bug(
    "MOE-53",
    "believes that all ranks send what it sends itself",
    old="ids = np.repeat(np.arange(local), counts[r, mine])",
    new="ids = np.resize(np.repeat(np.arange(local), counts[here, mine]), len(arrived[r]))",
    hint="The counts of rank r say for which expert each of its rows is.",
)
bug(
    "MOE-53",
    "adds results to the wrong tokens",
    old="            t, j = divmod(slot, config.top_k)\n            y[t] += routing.weights[t, j].astype(WORK) * row.astype(WORK)\n",
    new="            j, t = divmod(slot, len(x))\n            y[t] += routing.weights[t, j].astype(WORK) * row.astype(WORK)\n",
    hint="Slot t · k + j belongs to token t.",
)
bug(
    "MOE-53",
    "weights results on both sides",
    old="            y[t] += routing.weights[t, j].astype(WORK) * row.astype(WORK)\n",
    new="            y[t] += routing.weights[t, j].astype(WORK) ** 2 * row.astype(WORK)\n",
    hint="The weight is applied once, at the source or at the expert.",
)
bug(
    "MOE-53",
    "spreads padding over the ranks",
    old="    slots = dispatch(routing.experts, n_experts, mask=mask)\n",
    new="    slots = dispatch(routing.experts, n_experts)\n",
    hint="Padding has no slots.",
)
bug(
    "MOE-54",
    "leaves at once when a rank has no tokens",
    old="    # Which of my slots go where",
    new="    if len(x) == 0:\n"
    "        return MoEOutput(x.copy(), *routed(x, router_weight, router_bias, selection_bias, config)[::-1])\n"
    "    # Which of my slots go where",
    hint="The others wait for it in all_gather, and its experts have work.",
)
bug(
    "MOE-54",
    "cannot take a rank without tokens",
    old="    # Which of my slots go where",
    new="    x.max()\n    # Which of my slots go where",
    hint="A rank may have nothing to do, and its experts all the more.",
)
bug(
    "MOE-55",
    "gathers the tokens of all ranks",
    old="    counts = collective.all_gather(np.diff(slots.offsets).astype(np.int32))  # (R, E)\n",
    new="    counts = collective.all_gather(np.diff(slots.offsets).astype(np.int32))  # (R, E)\n    collective.all_gather(x)\n",
    hint="Send a row only to a rank that has one of its experts.",
)
bug(
    "MOE-55",
    "sends every token to every rank",
    old="    others = [r for r in range(ranks) if r != here]\n",
    new="    others = [r for r in range(ranks) if r != here]\n"
    "    for r in others:\n        collective.send(x, r)\n"
    "    for r in others:\n        collective.recv(x.shape, dtype, r)\n",
    hint="Send a row only to a rank that has one of its experts.",
)

# Checkpoints

bug(
    "MOE-56",
    "normalises Qwen's weights whatever the config says",
    old='        return RouterConfig(top_k, normalize=config["norm_topk_prob"])\n',
    new="        return RouterConfig(top_k, normalize=True)\n",
    hint="Qwen1.5-MoE has norm_topk_prob false, Qwen3 true: read it.",
)
bug(
    "MOE-56",
    "never normalises Qwen's weights",
    old='        return RouterConfig(top_k, normalize=config["norm_topk_prob"])\n',
    new="        return RouterConfig(top_k)\n",
    hint="Qwen3's config.json has norm_topk_prob true.",
)
bug(
    "MOE-56",
    "never normalises DeepSeek-V3's weights",
    old='            "sigmoid",\n            config["norm_topk_prob"],\n',
    new='            "sigmoid",\n            False,\n',
    hint="V3's config.json has norm_topk_prob true.",
)
bug(
    "MOE-56",
    "asks for groups where the config names no method",
    old='        "topk_method": "greedy",\n',
    new='        "topk_method": "group_limited_greedy",\n',
    hint="The default of topk_method is greedy, without groups.",
)
bug(
    "MOE-56",
    "assumes that Qwen3 normalises where the config is silent",
    old='        "num_experts_per_tok": 8,\n        "norm_topk_prob": False,\n',
    new='        "num_experts_per_tok": 8,\n        "norm_topk_prob": True,\n',
    hint="The default of transformers' configuration class is False.",
)
bug(
    "MOE-56",
    "leaves Mixtral's weights unnormalised",
    old='    if kind == "mixtral":\n        return RouterConfig(top_k, normalize=True)\n',
    new='    if kind == "mixtral":\n        return RouterConfig(top_k)\n',
    hint="Mixtral has no flag for it, and always normalises.",
)
bug(
    "MOE-56",
    "takes gpt-oss for a softmax over all experts",
    old='        return RouterConfig(top_k, "softmax_of_topk")\n',
    new="        return RouterConfig(top_k, normalize=True)\n",
    hint="gpt-oss: the largest logits first, then a softmax over these.",
)
bug(
    "MOE-56",
    "scores DeepSeek-V3's groups as V2's",
    old='            "top2_sum",\n            scale,\n',
    new='            "max",\n            scale,\n',
    hint="V3 sums the best two, V2 takes the maximum.",
)
bug(
    "MOE-56",
    "normalises DeepSeek-V3 whatever the config says",
    old='            "sigmoid",\n            config["norm_topk_prob"],\n',
    new='            "sigmoid",\n            True,\n',
    hint="Read norm_topk_prob.",
)
bug(
    "MOE-56",
    "forgets DeepSeek's scaling factor",
    old='    scale = config["routed_scaling_factor"]\n',
    new="    scale = 1.0\n",
    hint="routed_scaling_factor: 16 in V2, 2.5 in V3.",
)
bug(
    "MOE-56",
    "normalises DeepSeek-V2 where its config has norm_topk_prob",
    old='top_k, n_groups=setting(config, "n_group"), top_groups=setting(config, "topk_group"), scale=scale\n',
    new='top_k, normalize=config.get("norm_topk_prob", False), n_groups=setting(config, "n_group"), top_groups=setting(config, "topk_group"), scale=scale\n',
    hint="V2's router in transformers does not look at it.",
)
bug(
    "MOE-56",
    "opens all groups of DeepSeek-V2",
    old='    if method == "greedy":\n',
    new="    if True:\n",
    hint="topk_method group_limited_greedy limits the groups.",
)
bug(
    "MOE-57",
    "takes Mixtral's w3 for the gate",
    old='        names = ("w1", "w3", "w2")\n',
    new='        names = ("w3", "w1", "w2")\n',
    hint="w1 is the gate, w3 is up, w2 is down.",
)
bug(
    "MOE-57",
    "takes experts in the order of the alphabet",
    old="for e in range(count)])\n            for name in names\n",
    new="for e in sorted(range(count), key=str)])\n            for name in names\n",
    hint="«10» comes before «2» among strings.",
)
bug(
    "MOE-57",
    "takes experts in the order of the file",
    old="for e in range(count)])\n            for name in names\n",
    new='for e in sorted(range(count), key=lambda e: list(tensors).index(f"{block}.experts.{e}.{name}.weight"))])\n            for name in names\n',
    hint="A safetensors file has no order: ask for each expert by its name.",
)
bug(
    "MOE-57",
    "reads the layer after the one it was asked for",
    old='    block = f"model.layers.{layer}.mlp"\n    names',
    new='    layer += 1\n    block = f"model.layers.{layer}.mlp"\n    names',
    hint="Layers count from 0, as in the names.",
)
bug(
    "MOE-57",
    "turns half-precision weights into float32",
    old="            np.stack([tensor(tensors,",
    new="            np.float32([tensor(tensors,",
    hint="Weights keep their dtype: casting doubles the memory.",
)
bug(
    "MOE-58",
    "takes the first half of a fused matrix for up",
    old="        gate, up = fused[:, : fused.shape[1] // 2], fused[:, fused.shape[1] // 2 :]\n",
    new="        up, gate = fused[:, : fused.shape[1] // 2], fused[:, fused.shape[1] // 2 :]\n",
    hint="gate first, then up.",
)
bug(
    "MOE-58",
    "takes a fused matrix for an interleaved one",
    old="        gate, up = fused[:, : fused.shape[1] // 2], fused[:, fused.shape[1] // 2 :]\n",
    new="        gate, up = fused[:, 0::2], fused[:, 1::2]\n",
    hint="Halves; only gpt-oss interleaves.",
)
bug(
    "MOE-59",
    "takes halves where gpt-oss interleaves",
    old="        gate=fused[:, 0::2],\n        up=fused[:, 1::2],\n",
    new="        gate=fused[:, : fused.shape[1] // 2],\n        up=fused[:, fused.shape[1] // 2 :],\n",
    hint="Even columns are the gate, odd ones up.",
)
bug(
    "MOE-59",
    "takes the odd columns for the gate",
    old="        gate=fused[:, 0::2],\n        up=fused[:, 1::2],\n",
    new="        gate=fused[:, 1::2],\n        up=fused[:, 0::2],\n",
    hint="Even columns are the gate, odd ones up.",
)
bug(
    "MOE-59",
    "takes halves of gpt-oss's biases",
    old="        gate_bias=fused_bias[:, 0::2],\n        up_bias=fused_bias[:, 1::2],\n",
    new="        gate_bias=fused_bias[:, : fused_bias.shape[1] // 2],\n        up_bias=fused_bias[:, fused_bias.shape[1] // 2 :],\n",
    hint="The biases are interleaved as the matrices are.",
)
bug(
    "MOE-59",
    "leaves gpt-oss's down matrix as it lies",
    old='down=tensor(tensors, f"{block}.experts.down_proj").swapaxes(1, 2),',
    new='down=tensor(tensors, f"{block}.experts.down_proj"),',
    hint="gpt-oss stores (in, out); the contract has (out, in).",
)
bug(
    "MOE-59",
    "does not read gpt-oss's limit",
    old='        limit=config["swiglu_limit"],\n',
    new="        limit=7.0,\n",
    hint="swiglu_limit is in the config.",
)
bug(
    "MOE-59",
    "does not read gpt-oss's alpha",
    old='        alpha=config["swiglu_alpha"],\n',
    new="        alpha=1.702,\n",
    hint="swiglu_alpha is in the config, or 1.702.",
)
bug(
    "MOE-59",
    "forgets the bias of gpt-oss's router",
    old="    return MoEWeights(router[0], experts, router[1])\n",
    new="    return MoEWeights(router[0], experts)\n",
    hint="mlp.router.bias",
)
bug(
    "MOE-60",
    "takes DeepSeek's correction bias for a bias of the logits",
    old="return MoEWeights(router_weight, ExpertWeights(gate, up, down), None, selection_bias, shared)",
    new="return MoEWeights(router_weight, ExpertWeights(gate, up, down), selection_bias, None, shared)",
    hint="It moves the choice only: selection_bias.",
)
bug(
    "MOE-60",
    "forgets DeepSeek's correction bias",
    old="return MoEWeights(router_weight, ExpertWeights(gate, up, down), None, selection_bias, shared)",
    new="return MoEWeights(router_weight, ExpertWeights(gate, up, down), None, None, shared)",
    hint="mlp.gate.e_score_correction_bias",
)
bug(
    "MOE-60",
    "forgets the shared experts",
    old="return MoEWeights(router_weight, ExpertWeights(gate, up, down), None, selection_bias, shared)",
    new="return MoEWeights(router_weight, ExpertWeights(gate, up, down), None, selection_bias)",
    hint="mlp.shared_experts, or mlp.shared_expert in Qwen2-MoE",
)
bug(
    "MOE-60",
    "forgets the gate of Qwen2's shared expert",
    old='shared = load_shared(tensors, f"{block}.shared_expert", gate_weight)',
    new='shared = load_shared(tensors, f"{block}.shared_expert")',
    hint="mlp.shared_expert_gate.weight",
)
bug(
    "MOE-60",
    "leaves the shared gate a matrix",
    old='gate_weight = tensor(tensors, f"{block}.shared_expert_gate.weight")[0]',
    new='gate_weight = tensor(tensors, f"{block}.shared_expert_gate.weight")',
    hint="(1, D) in the checkpoint, (D,) here.",
)
bug(
    "MOE-60",
    "looks for shared experts that the model does not have",
    old='and config["n_shared_experts"]:',
    new="and True:",
    hint="n_shared_experts may be 0 or null.",
)
bug(
    "MOE-61",
    "averages the scores of padding",
    old="    return [(logits[where].astype(WORK), experts[where], where) for where in places if where.any()]\n",
    new="    logits = np.nan_to_num(logits.astype(np.float32))\n"
    "    every = [np.ones_like(where) if pooling == 'all' else (np.arange(groups) == g)[:, None] & np.ones((groups, tokens), bool) for g, where in enumerate(places)]\n"
    "    return [(logits[all_].astype(WORK), experts[where], where) for where, all_ in zip(places, every) if where.any()]\n",
    also=(
        (
            "        gradient[where] = [by_score @ jacobian(row, scoring) for row in rows]\n",
            "        gradient[where] = np.resize([by_score @ jacobian(row, scoring) for row in rows], (where.sum(), n_experts))\n",
        ),
    ),
    hint="P is a mean over the tokens that count.",
)
bug(
    "MOE-61",
    "counts the slots of padding",
    old="    places = [mask]\n",
    new="    experts = np.where(experts < 0, 0, experts)\n    mask = np.ones_like(mask)\n    logits = np.nan_to_num(logits.astype(np.float32))\n    places = [mask]\n",
    hint="f counts the slots of tokens that count.",
)
bug(
    "MOE-61",
    "averages over groups that hold only padding",
    old="sum(losses, WORK(0)) / max(1, len(losses))",
    new='sum(losses, WORK(0)) / (len(logits) if pooling == "each" else 1)',
    hint="A group without tokens has no loss, and is left out of the mean.",
)
bug(
    "MOE-61",
    "multiplies the losses of padding by zero",
    old="    rows = logits.astype(WORK) if mask is None else logits[mask].astype(WORK)\n",
    new="    rows = logits.astype(WORK) if mask is None else logits.astype(WORK) * mask[:, None]\n",
    hint="0 · NaN is NaN, and the mean is over the tokens that count.",
)
bug(
    "MOE-61",
    "divides the z-loss by all tokens",
    old="np.asarray(total / max(1, len(rows)))",
    new="np.asarray(total / max(1, len(logits)))",
    hint="The mean over the tokens that count.",
)
bug(
    "MOE-64",
    "counts layers from 1 for the sparse step",
    old='(layer + 1) % config["decoder_sparse_step"] != 0',
    new='layer % config["decoder_sparse_step"] != 0',
    hint="Layer i is sparse if (i + 1) is a multiple of decoder_sparse_step.",
)
bug(
    "MOE-64",
    "ignores mlp_only_layers",
    old='listed = layer in (config["mlp_only_layers"] or [])',
    new="listed = False",
    hint="Layers listed there are dense.",
)
bug(
    "MOE-64",
    "takes one dense layer too many",
    old='return layer < config.get("first_k_dense_replace", 0)',
    new='return layer <= config.get("first_k_dense_replace", 0)',
    hint="The first first_k_dense_replace layers, counted from 0.",
)
