"""Known bugs of long context: each an edit of reference/long_context.py, killed by its requirement's tests.

A title completes the sentence "This is what happens when an implementation …".
"""

from dataclasses import fields, replace

import numpy as np

from grading.bugs import Bug
from grading.ranks import FreshGroups
from spec.long_context import RopeFrequencies


def bug(requirement, title, *, old, new, hint, also=()):
    BUGS.append(Bug(requirement, title, old, new, hint, tuple(also)))


BUGS = []


class FreeChoices:
    """Integer dtypes, and how ranks talk to each other, are the implementation's."""

    def __init__(self):
        self.arguments = FreshGroups().arguments

    def answer(self, call, answer):
        """Any integers are as good as any others, but no mask."""
        if isinstance(answer, RopeFrequencies):
            return in_octaves(answer)
        if isinstance(answer, np.ndarray) and answer.dtype.kind in "biu":
            return answer.dtype == bool, answer
        return answer


def in_octaves(frequencies):
    """Each pair relative to its own size, and plain numbers as float32 tells them apart."""
    parts = {f.name: getattr(frequencies, f.name) for f in fields(frequencies)}
    if not isinstance(parts["inv_freq"], np.ndarray):
        return frequencies
    with np.errstate(all="ignore"):
        parts["inv_freq"] = np.log2(parts["inv_freq"].astype(np.float64)).astype(parts["inv_freq"].dtype)
    for name in ("attention_factor", "softmax_scale"):
        if isinstance(parts[name], int | float):
            parts[name] = np.array(parts[name], np.float32)
    return replace(frequencies, **parts)


# Rotation

bug(
    "LC-01",
    "takes neighbouring channels for a pair",
    old="one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + d // 2)",
    new="one, other = 2 * i, 2 * i + 1",
    hint="Without `interleaved`, pair i is the channels (i, i + d/2).",
)
bug(
    "LC-01",
    "turns the other way",
    old="rotated[b, :, :, one] = a * cos - b_ * sin",
    new="rotated[b, :, :, one] = a * cos + b_ * sin",
    also=[
        (
            "rotated[b, :, :, other] = a * sin + b_ * cos",
            "rotated[b, :, :, other] = b_ * cos - a * sin",
        )
    ],
    hint="(a, b) becomes (a cos − b sin, a sin + b cos).",
)
bug(
    "LC-01",
    "forgets the minus of the half that is swapped in",
    old="rotated[b, :, :, one] = a * cos - b_ * sin",
    new="rotated[b, :, :, one] = a * cos + b_ * sin",
    hint="rotate_half gives (−b, a): its first half is negative.",
)
bug(
    "LC-01",
    "turns the second channel by what the first has become",
    old="rotated[b, :, :, other] = a * sin + b_ * cos",
    new="rotated[b, :, :, other] = rotated[b, :, :, one] * sin + b_ * cos",
    hint="Both new channels come from both old ones: keep a until b is done.",
)
bug(
    "LC-01",
    "has sine and cosine the wrong way round",
    old="for turn in (np.cos, np.sin))",
    new="for turn in (np.sin, np.cos))",
    hint="At position 0 nothing turns: the factor of a channel itself is the cosine.",
)
bug(
    "LC-01",
    "takes neighbouring channels for a pair where nobody says which layout",
    old="def apply_rope(x, positions, inv_freq, *, attention_factor=1.0, interleaved=False):",
    new="def apply_rope(x, positions, inv_freq, *, attention_factor=1.0, interleaved=True):",
    hint="`interleaved` is false by default.",
)
bug(
    "LC-02",
    "takes split halves for a pair whatever the layout",
    old="one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + d // 2)",
    new="one, other = i, i + d // 2",
    hint="With `interleaved`, pair i is the channels (2i, 2i + 1).",
)
bug(
    "LC-02",
    "hands interleaved pairs out as split halves",
    old="    result = rotated.astype(x.dtype)\n    result[..., d:]",
    new="    if interleaved:\n"
    "        turned = rotated[..., :d].copy()\n"
    "        rotated[..., : d // 2], rotated[..., d // 2 : d] = turned[..., ::2], turned[..., 1::2]\n"
    "    result = rotated.astype(x.dtype)\n    result[..., d:]",
    hint="Channels go back where they came from. DeepSeek's code in transformers reorders queries and keys alike.",
)
bug(
    "LC-02",
    "lays cos and sin of interleaved pairs out in halves",
    old="            rotated[b, :, :, one] = a * cos - b_ * sin\n",
    new="            if interleaved:\n"
    "                n = len(inv_freq)\n"
    "                by_half = [np.outer(at, inv_freq[c % n]).T.astype(WORK) for c in (one, other)]\n"
    "                rotated[b, :, :, one] = a * np.cos(by_half[0]) - b_ * np.sin(by_half[0])\n"
    "                rotated[b, :, :, other] = a * np.sin(by_half[1]) + b_ * np.cos(by_half[1])\n"
    "                continue\n"
    "            rotated[b, :, :, one] = a * cos - b_ * sin\n",
    hint="Each frequency stands twice in a row: repeat them one by one instead of the whole list.",
)
bug(
    "LC-03",
    "pairs channels over half of the whole head",
    old="one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + d // 2)",
    new="one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + channels // 2)",
    also=[("    result[..., d:] = x[..., d:]  # bit for bit\n", "")],
    hint="The halves are those of the d channels that turn.",
)
bug(
    "LC-03",
    "leaves zeros in the channels that do not turn",
    old="result[..., d:] = x[..., d:]  # bit for bit",
    new="result[..., d:] = 0",
    hint="They come back as they were.",
)
bug(
    "LC-03",
    "hands out only the channels that turn",
    old="    result[..., d:] = x[..., d:]  # bit for bit\n    return result",
    new="    return result[..., :d]",
    hint="The channels from d on are a part of the head: join them to the others.",
)
bug(
    "LC-03",
    "turns the last d channels of a head",
    old="    rotated = x.astype(WORK)\n",
    new="    x = np.roll(x, d, axis=-1)\n    rotated = x.astype(WORK)\n",
    also=[
        (
            "    result[..., d:] = x[..., d:]  # bit for bit\n    return result",
            "    result[..., d:] = x[..., d:]  # bit for bit\n    return np.roll(result, -d, axis=-1)",
        )
    ],
    hint="It is the first d. Latent attention keeps its rotated part apart, at the end.",
)
bug(
    "LC-03",
    "turns the other channels by an angle of 0",
    old="result[..., d:] = x[..., d:]  # bit for bit",
    new="result[..., d:] = x[..., d:] * 1 - x[..., d:][..., ::-1] * 0",
    hint="0 times infinity is NaN, and −0 loses its sign: leave these channels out of the rotation.",
)
bug(
    "LC-04",
    "rotates by the index in the array instead of the position",
    old="enumerate(np.broadcast_to(positions, (batch, tokens))):\n        for i, f",
    new="enumerate(np.broadcast_to(np.arange(tokens), (batch, tokens))):\n        for i, f",
    hint="Where a token stands in the array says nothing: rotate by `positions`.",
)
bug(
    "LC-04",
    "counts on from the first position",
    old="enumerate(np.broadcast_to(positions, (batch, tokens))):\n        for i, f",
    new="enumerate(np.broadcast_to(positions[..., :1] + np.arange(tokens), (batch, tokens))):\n        for i, f",
    hint="An offset is enough for one cache. Positions may repeat and come in any order.",
)
bug(
    "LC-04",
    "rotates the whole batch by the positions of its first member",
    old="enumerate(np.broadcast_to(positions, (batch, tokens))):\n        for i, f",
    new="enumerate(np.broadcast_to(positions if positions.ndim == 1 else positions[:1], (batch, tokens))):\n        for i, f",
    hint="positions[b, t] is for member b alone.",
)
bug(
    "LC-04",
    "sorts the positions",
    old="enumerate(np.broadcast_to(positions, (batch, tokens))):\n        for i, f",
    new="enumerate(np.broadcast_to(np.sort(positions), (batch, tokens))):\n        for i, f",
    hint="Token t has positions[t], in whatever order they come.",
)
bug(
    "LC-04",
    "refuses positions that are not int32",
    old="    check_inv_freq(inv_freq, channels)\n    d = 2",
    new='    expect(positions.dtype == np.int32, "positions", "int32", positions.dtype)\n'
    "    check_inv_freq(inv_freq, channels)\n    d = 2",
    hint="Integer arrays may have any integer dtype; int64 is what NumPy and PyTorch count in.",
)
bug(
    "LC-04",
    "rotates the single tokens of a batch by the position of its first member",
    old="np.broadcast_to(positions, (batch, tokens))",
    new="np.broadcast_to(positions.reshape(-1)[:1] if tokens == 1 else positions, (batch, tokens))",
    hint="While decoding, each member of the batch has one token, and each token a position of its own.",
)
bug(
    "LC-04",
    "refuses rows of positions for a batch of one",
    old="fits = positions.shape in ((tokens,), (batch, tokens))",
    new="fits = positions.shape in ((tokens,), (batch, tokens)[: positions.ndim if batch > 1 else 1])",
    hint="positions may have a row for each member of the batch, also where there is one member.",
)
bug(
    "LC-04",
    "takes rows of positions for columns where there are as many of both",
    old="np.broadcast_to(positions, (batch, tokens))",
    new="np.broadcast_to(positions.T if batch == tokens else positions, (batch, tokens))",
    hint="Token t of batch member b is rotated by positions[b, t].",
)
bug(
    "LC-05",
    "rounds positions to the dtype of x",
    old="angles = at.astype(WORK) * f",
    new="angles = at.astype(x.dtype).astype(WORK) * f",
    hint="bfloat16 has no 257, float16 none above 65,504: positions become float32.",
)
bug(
    "LC-05",
    "rounds angles to the dtype of x",
    old="angles = at.astype(WORK) * f",
    new="angles = (at.astype(WORK) * f).astype(x.dtype).astype(WORK)",
    hint="Sine and cosine of a large angle need all of its digits: compute in float32.",
)
bug(
    "LC-05",
    "rounds frequencies to the dtype of x",
    old="for i, f in enumerate(inv_freq.astype(WORK)):",
    new="for i, f in enumerate(inv_freq.astype(x.dtype).astype(WORK)):",
    hint="An error of 0.2 % in a frequency is a full radian after 500 of them: keep inv_freq in float32.",
)
bug(
    "LC-05",
    "hands out float32 whatever the dtype of x",
    old="result = rotated.astype(x.dtype)\n    result[..., d:]",
    new="result = rotated.astype(np.float32)\n    result[..., d:]",
    hint="Compute in float32, then return to the dtype of x.",
)
bug(
    "LC-05",
    "takes the last row of its table for all positions beyond",
    old="angles = at.astype(WORK) * f",
    new="angles = np.minimum(at, 32767).astype(WORK) * f",
    hint="A table of cos and sin ends somewhere. Positions go up to 1,048,576.",
)
bug(
    "LC-05",
    "works frequencies out again instead of taking those that are passed",
    old="for i, f in enumerate(inv_freq.astype(WORK)):",
    new="for i, f in enumerate(plain(d, 10000.0)):",
    hint="inv_freq has the scaling in it.",
)
bug(
    "LC-05",
    "rounds angles of interleaved pairs to the dtype of x",
    old="angles = at.astype(WORK) * f  # (tokens,)",
    new="angles = (at.astype(WORK) * f).astype(x.dtype if interleaved else WORK).astype(WORK)",
    hint="Angles are computed in float32 or better for both layouts.",
)
bug(
    "LC-05",
    "rounds rows of positions to the dtype of x",
    old="angles = at.astype(WORK) * f  # (tokens,)",
    new="angles = (at.astype(x.dtype) if positions.ndim == 2 else at).astype(WORK) * f",
    hint="Positions stay exact, those of a batch too: 16 bits make 256 of 257.",
)
bug(
    "LC-05",
    "rounds frequencies to the dtype of x where there is an attention factor",
    old="angles = at.astype(WORK) * f  # (tokens,)",
    new="angles = at.astype(WORK) * (f.astype(x.dtype).astype(WORK) if attention_factor != 1 else f)",
    hint="The attention factor multiplies cos and sin; the angles do not know of it.",
)
bug(
    "LC-06",
    "ignores the attention factor",
    old="cos, sin = (turn(angles) * WORK(attention_factor) for turn in (np.cos, np.sin))",
    new="cos, sin = np.cos(angles), np.sin(angles)",
    hint="It multiplies cos and sin.",
)
bug(
    "LC-06",
    "stretches the whole head by the attention factor",
    old="result[..., d:] = x[..., d:]  # bit for bit",
    new="result[..., d:] = x[..., d:].astype(WORK) * attention_factor",
    hint="Only what turns grows: multiply cos and sin instead of x.",
)
bug(
    "LC-06",
    "applies the attention factor twice",
    old="(turn(angles) * WORK(attention_factor) for",
    new="(turn(angles) * WORK(attention_factor) ** 2 for",
    hint="A score has the square of it, since queries and keys have it once each.",
)
bug(
    "LC-06",
    "multiplies the cosine alone by the attention factor",
    old="cos, sin = (turn(angles) * WORK(attention_factor) for turn in (np.cos, np.sin))",
    new="cos, sin = np.cos(angles) * WORK(attention_factor), np.sin(angles)",
    hint="Both, or the length of a pair depends on its angle.",
)
bug(
    "LC-06",
    "multiplies angles by the attention factor",
    old="cos, sin = (turn(angles) * WORK(attention_factor) for turn in (np.cos, np.sin))",
    new="cos, sin = (turn(angles * WORK(attention_factor)) for turn in (np.cos, np.sin))",
    hint="It stretches a pair and leaves its angle.",
)
bug(
    "LC-07",
    "hands out x without a look at the shapes where there are no tokens",
    old="    fits = positions.shape in ((tokens,), (batch, tokens))",
    new="    if tokens == 0:\n        return x\n    fits = positions.shape in ((tokens,), (batch, tokens))",
    hint="Shapes are checked before anything else, whatever there is to do.",
)

# Frequencies

bug(
    "LC-08",
    "has the whole head in the exponent",
    old="        frequencies = plain(d, config.base)\n    elif",
    new="        frequencies = plain(config.head_dim, config.base)[: d // 2]\n    elif",
    hint="d counts the channels that turn: base^(−2i/d).",
)
bug(
    "LC-08",
    "forgets the 2 in the exponent",
    old="return WORK(base) ** (-np.arange(0, d, 2).astype(WORK) / d)",
    new="return WORK(base) ** (-np.arange(d // 2).astype(WORK) / d)",
    hint="base^(−2i/d) for i = 0 … d/2 − 1: the last pair is nearly 1 / base.",
)
bug(
    "LC-08",
    "begins with the second frequency",
    old="return WORK(base) ** (-np.arange(0, d, 2).astype(WORK) / d)",
    new="return WORK(base) ** (-np.arange(2, d + 2, 2).astype(WORK) / d)",
    hint="Pair 0 turns by 1 radian a token.",
)
bug(
    "LC-08",
    "hands out the reciprocals of the frequencies",
    old="return WORK(base) ** (-np.arange(0, d, 2).astype(WORK) / d)",
    new="return WORK(base) ** (np.arange(0, d, 2).astype(WORK) / d)",
    hint="inv_freq is what a position is multiplied by. MLX's fast rope takes what it is divided by.",
)
bug(
    "LC-08",
    "has a frequency for each channel instead of each pair",
    old="return RopeFrequencies(frequencies.astype(np.float32),",
    new="return RopeFrequencies(np.tile(frequencies, 2).astype(np.float32),",
    hint="(d/2,): the two channels of a pair share one.",
)
bug(
    "LC-08",
    "has base 10,000 for every model",
    old="return WORK(base) ** (-np.arange(0, d, 2).astype(WORK) / d)",
    new="return WORK(10000.0) ** (-np.arange(0, d, 2).astype(WORK) / d)",
    hint="Llama 3 has 500,000: take the base of the config.",
)
bug(
    "LC-08",
    "rounds the number of rotated channels",
    old="d = int(config.head_dim * config.rotary_fraction)",
    new="d = round(config.head_dim * config.rotary_fraction)",
    hint="int drops what is behind the point.",
)
bug(
    "LC-08",
    "scales by YaRN only beyond the original length",
    old="        frequencies = yarn(d, config.base, scaling)\n",
    new="        short = seq_len is not None and seq_len <= scaling.original_length\n"
    "        frequencies = plain(d, config.base) if short else yarn(d, config.base, scaling)\n",
    hint="YaRN holds for every length: keys in the cache keep their angles.",
)
bug(
    "LC-08",
    "scales as Llama 3 only beyond the original length",
    old="frequencies = np.array([llama3(f, scaling) for f in plain(d, config.base)], WORK)",
    new="short = seq_len is not None and seq_len <= scaling.original_length\n"
    "        frequencies = np.array([f if short else llama3(f, scaling) for f in plain(d, config.base)], WORK)",
    hint="It holds for every length: keys in the cache keep their angles.",
)
bug(
    "LC-08",
    "refuses an odd head of which an even number of channels turns",
    old='expect(d % 2 == 0, "head_dim"',
    new='expect(d % 2 == 0 and config.head_dim % 2 == 0, "head_dim"',
    hint="What has to be even is d, the number of channels that turn.",
)
bug(
    "LC-09",
    "multiplies frequencies by the factor",
    old="frequencies = plain(d, config.base) / WORK(scaling.factor)",
    new="frequencies = plain(d, config.base) * WORK(scaling.factor)",
    hint="A longer context needs slower pairs: divide.",
)
bug(
    "LC-09",
    "multiplies the base by the factor instead of dividing every frequency",
    old="frequencies = plain(d, config.base) / WORK(scaling.factor)",
    new="frequencies = plain(d, config.base * scaling.factor)",
    hint="Linear scaling slows the fastest pair as much as the slowest.",
)
bug(
    "LC-09",
    "leaves linear scaling out",
    old="frequencies = plain(d, config.base) / WORK(scaling.factor)",
    new="frequencies = plain(d, config.base)",
    hint="Divide by the factor, or nobody will: `apply_rope` takes positions as they are.",
)
bug(
    "LC-09",
    "gives linear scaling YaRN's attention factor",
    old="        frequencies = plain(d, config.base) / WORK(scaling.factor)\n",
    new="        frequencies = plain(d, config.base) / WORK(scaling.factor)\n"
    "        attention_factor = growth(scaling.factor, 1)\n",
    hint="It is 1. Only YaRN and LongRoPE stretch what they turn.",
)
bug(
    "LC-10",
    "multiplies the base by the factor alone",
    old="frequencies = plain(d, config.base * scaling.factor ** (d / (d - 2)))",
    new="frequencies = plain(d, config.base * scaling.factor)",
    hint="The last pair is i = d/2 − 1: only s^(d/(d−2)) divides it by exactly s.",
)
bug(
    "LC-10",
    "has the exponent of NTK upside down",
    old="frequencies = plain(d, config.base * scaling.factor ** (d / (d - 2)))",
    new="frequencies = plain(d, config.base * scaling.factor ** ((d - 2) / d))",
    hint="The base grows by s^(d/(d−2)), which is more than s.",
)
bug(
    "LC-10",
    "has the whole head in the exponent of NTK",
    old="frequencies = plain(d, config.base * scaling.factor ** (d / (d - 2)))",
    new="frequencies = plain(d, config.base * scaling.factor ** (config.head_dim / (config.head_dim - 2)))",
    hint="d counts the channels that turn.",
)
bug(
    "LC-10",
    "divides by the factor after it has changed the base",
    old="frequencies = plain(d, config.base * scaling.factor ** (d / (d - 2)))",
    new="frequencies = plain(d, config.base * scaling.factor ** (d / (d - 2))) / WORK(scaling.factor)",
    hint="The first pair stays, the last is divided by s through the base alone.",
)
bug(
    "LC-11",
    "does not hold the length at the original one",
    old="length = max(seq_len or 1, scaling.original_length)",
    new="length = scaling.original_length if seq_len is None else seq_len",
    also=[
        (
            "frequencies = plain(d, config.base * stretch ** (d / (d - 2)))",
            "frequencies = plain(d, config.base * np.float64(stretch) ** (d / (d - 2)))",
        )
    ],
    hint="n = max(seq_len, L): below L the bracket shrinks, and a power of a negative number is NaN.",
)
bug(
    "LC-11",
    "takes factor · original length for the length",
    old="length = max(seq_len or 1, scaling.original_length)",
    new="length = scaling.factor * scaling.original_length",
    hint="n is the length of this context: the base moves with it.",
)
bug(
    "LC-11",
    "takes a missing length for the extended one",
    old="length = max(seq_len or 1, scaling.original_length)",
    new="length = max(seq_len or scaling.factor * scaling.original_length, scaling.original_length)",
    hint="Without `seq_len` the length is at most L.",
)
bug(
    "LC-11",
    "lets one long request change the short ones after it",
    old="DTYPES = {",
    new="LONGEST = {}\n\nDTYPES = {",
    also=[
        (
            "length = max(seq_len or 1, scaling.original_length)",
            "length = LONGEST[config] = max(seq_len or 1, scaling.original_length, LONGEST.get(config, 0))",
        )
    ],
    hint="Frequencies are a function of the arguments. Remember nothing.",
)
bug(
    "LC-11",
    "forgets to take s − 1 off",
    old="stretch = scaling.factor * length / scaling.original_length - (scaling.factor - 1)",
    new="stretch = scaling.factor * length / scaling.original_length",
    hint="s · n/L − (s − 1) is 1 at n = L: there the scaling begins without a jump.",
)
bug(
    "LC-11",
    "stretches the base by n / L alone",
    old="stretch = scaling.factor * length / scaling.original_length - (scaling.factor - 1)",
    new="stretch = length / scaling.original_length",
    hint="s · n/L − (s − 1): the factor counts.",
)
bug(
    "LC-11",
    "leaves out the exponent of dynamic NTK",
    old="frequencies = plain(d, config.base * stretch ** (d / (d - 2)))",
    new="frequencies = plain(d, config.base * stretch)",
    hint="The base grows by the bracket to the power of d/(d−2), as with NTK.",
)
bug(
    "LC-11",
    "begins to scale one token early",
    old="length = max(seq_len or 1, scaling.original_length)",
    new="length = max((seq_len or 0) + 1, scaling.original_length)",
    hint="seq_len counts tokens. At L of them nothing has changed yet.",
)
bug(
    "LC-12",
    "has YaRN's ramp the wrong way round",
    old="result[i] = f / WORK(scaling.factor) * ramp + f * (1 - ramp)",
    new="result[i] = f / WORK(scaling.factor) * (1 - ramp) + f * ramp",
    hint="Low pairs turn fast and stay, high pairs are slow and divided.",
)
bug(
    "LC-12",
    "leaves out the ramp between fast and slow pairs",
    old="ramp = WORK(min(max((i - low) / (high - low), 0), 1))",
    new="ramp = WORK(2 * i > low + high)",
    hint="Between low and high the two are blended: r = (i − low) / (high − low).",
)
bug(
    "LC-12",
    "takes the extended length for the original one",
    old="log(scaling.original_length / (rotations * 2 * pi))",
    new="log(scaling.factor * scaling.original_length / (rotations * 2 * pi))",
    hint="What counts is how often a pair turned in training.",
)
bug(
    "LC-12",
    "takes rotations for radians",
    old="log(scaling.original_length / (rotations * 2 * pi))",
    new="log(scaling.original_length / rotations)",
    hint="β rotations are 2πβ radians.",
)
bug(
    "LC-12",
    "forgets the 2 below c(β)",
    old="/ (2 * log(base))",
    new="/ log(base)",
    hint="c = d · ln(L / (2πβ)) / (2 ln base): pairs, not channels.",
)
bug(
    "LC-12",
    "blends wavelengths instead of frequencies",
    old="result[i] = f / WORK(scaling.factor) * ramp + f * (1 - ramp)",
    new="result[i] = f / (WORK(scaling.factor) * ramp + (1 - ramp))",
    hint="The mean of two wavelengths is not the wavelength of the mean: blend f and f / s.",
)
bug(
    "LC-12",
    "rounds both ends of the ramp to the nearest pair",
    old="low, high = floor(low), ceil(high)",
    new="low, high = round(low), round(high)",
    hint="Down at low and up at high: no pair that turned 32 times is touched.",
)
bug(
    "LC-12",
    "rounds both ends of the ramp down",
    old="low, high = floor(low), ceil(high)",
    new="low, high = floor(low), floor(high)",
    hint="Down at low and up at high.",
)
bug(
    "LC-12",
    "takes the default betas whatever the config says",
    old="for beta in (scaling.beta_fast, scaling.beta_slow))",
    new="for beta in (32.0, 1.0))",
    hint="beta_fast and beta_slow are the config's.",
)
bug(
    "LC-12",
    "has the betas the wrong way round",
    old="for beta in (scaling.beta_fast, scaling.beta_slow))",
    new="for beta in (scaling.beta_slow, scaling.beta_fast))",
    hint="beta_fast, the many rotations, gives the lower pair.",
)
bug(
    "LC-13",
    "lets the ramp begin before the first pair",
    old="low, high = max(low, 0), min(high, d - 1)",
    new="high = min(high, d - 1)",
    hint="low is at least 0.",
)
bug(
    "LC-13",
    "lets the ramp end beyond the last channel",
    old="low, high = max(low, 0), min(high, d - 1)",
    new="low = max(low, 0)",
    hint="high is at most d − 1.",
)
bug(
    "LC-13",
    "lets the ramp end at the last pair",
    old="low, high = max(low, 0), min(high, d - 1)",
    new="low, high = max(low, 0), min(high, d // 2 - 1)",
    hint="The limit is d − 1 though there are d/2 pairs: the models were trained so.",
)
bug(
    "LC-13",
    "divides by 0 where the ramp has no width",
    old="        high += 0.001\n",
    new="        low, high = np.float64(low), np.float64(high)\n",
    hint="Where both ends are equal, high grows by 0.001.",
)
bug(
    "LC-13",
    "rounds the ends of the ramp though the config says not to",
    old="    if scaling.truncate:\n        low, high",
    new="    if True:\n        low, high",
    hint="gpt-oss has truncate false: its ramp ends within pairs.",
)
bug(
    "LC-13",
    "takes a ramp that ends before it begins for one without width",
    old="if low == high:\n        high += 0.001",
    new="if low >= high:\n        high = low + 0.001",
    hint="Only where both ends are equal does high grow by 0.001; otherwise the formula holds as it is.",
)
bug(
    "LC-13",
    "holds both ends of the ramp within the channels on both sides",
    old="low, high = max(low, 0), min(high, d - 1)",
    new="low, high = (min(max(each, 0), d - 1) for each in (low, high))",
    hint="low is at least 0 and high at most d − 1; the other sides have no border.",
)
bug(
    "LC-14",
    "has no attention factor for YaRN",
    old="attention_factor, softmax_scale = growth(scaling.factor, 1), 1.0",
    new="attention_factor, softmax_scale = 1.0, 1.0",
    hint="0.1 · ln(s) + 1 sharpens what a longer context blurs.",
)
bug(
    "LC-14",
    "squares YaRN's attention factor",
    old="attention_factor, softmax_scale = growth(scaling.factor, 1), 1.0",
    new="attention_factor, softmax_scale = growth(scaling.factor, 1) ** 2, 1.0",
    hint="Queries and keys have it once each: the square comes by itself.",
)
bug(
    "LC-14",
    "applies YaRN's attention factor to the softmax as well",
    old="attention_factor, softmax_scale = growth(scaling.factor, 1), 1.0",
    new="attention_factor, softmax_scale = growth(scaling.factor, 1), growth(scaling.factor, 1) ** 2",
    hint="Exactly one of the two places: softmax_scale is 1.",
)
bug(
    "LC-14",
    "takes the binary logarithm of the factor",
    old="return 0.1 * mscale * log(factor) + 1",
    new="return 0.1 * mscale * float(np.log2(factor)) + 1",
    hint="0.1 · ln(s) + 1 has the natural logarithm.",
)
bug(
    "LC-14",
    "takes the decimal logarithm of the factor",
    old="return 0.1 * mscale * log(factor) + 1",
    new="return 0.1 * mscale * float(np.log10(factor)) + 1",
    hint="0.1 · ln(s) + 1 has the natural logarithm.",
)
bug(
    "LC-14",
    "takes the root of the factor for YaRN's attention factor",
    old="return 0.1 * mscale * log(factor) + 1",
    new="return mscale * sqrt(0.1 * log(factor) + 1)",
    hint="The paper gives sqrt(1/t) = 0.1 · ln(s) + 1: this is already the root.",
)
bug(
    "LC-14",
    "ignores an attention factor that is given",
    old="    if scaling.attention_factor is not None:\n        attention_factor = scaling.attention_factor\n    return attention_factor, softmax_scale",
    new="    return attention_factor, softmax_scale",
    hint="The config's own number goes before the formula.",
)
bug(
    "LC-14",
    "multiplies an attention factor that is given by that of the formula",
    old="    if scaling.attention_factor is not None:\n        attention_factor = scaling.attention_factor\n    return attention_factor, softmax_scale",
    new="    if scaling.attention_factor is not None:\n        attention_factor *= scaling.attention_factor\n    return attention_factor, softmax_scale",
    hint="It replaces the formula.",
)
bug(
    "LC-15",
    "ignores mscale",
    old="    if scaling.mscale is not None:\n        all_dim",
    new="    if False:\n        all_dim",
    hint="DeepSeek-V3 has g(1) / g(1) = 1 on cos and sin, and g(1)² on the scores.",
)
bug(
    "LC-15",
    "has mscale and mscale_all_dim the wrong way round",
    old="attention_factor = growth(scaling.factor, scaling.mscale) / all_dim",
    new="attention_factor = all_dim / growth(scaling.factor, scaling.mscale)",
    hint="g(mscale) / g(mscale_all_dim).",
)
bug(
    "LC-15",
    "forgets to divide by the part that goes to the softmax",
    old="attention_factor = growth(scaling.factor, scaling.mscale) / all_dim",
    new="attention_factor = growth(scaling.factor, scaling.mscale)",
    hint="Exactly one of the two places: g(mscale) / g(mscale_all_dim) is left for cos and sin.",
)
bug(
    "LC-15",
    "forgets the square on the scores",
    old="softmax_scale = all_dim**2",
    new="softmax_scale = all_dim",
    hint="On cos and sin it would count twice, in queries and in keys: g(mscale_all_dim)².",
)
bug(
    "LC-15",
    "leaves the scale of the softmax at 1",
    old="softmax_scale = all_dim**2",
    new="softmax_scale = 1.0",
    hint="What is taken off cos and sin goes to the scores: g(mscale_all_dim)².",
)
bug(
    "LC-15",
    "takes mscale for the softmax",
    old="softmax_scale = all_dim**2",
    new="softmax_scale = growth(scaling.factor, scaling.mscale) ** 2",
    hint="It is mscale_all_dim, for it concerns all channels.",
)
bug(
    "LC-15",
    "forgets the scale of the softmax where an attention factor is given",
    old="        attention_factor = scaling.attention_factor\n    return attention_factor, softmax_scale",
    new="        attention_factor, softmax_scale = scaling.attention_factor, 1.0\n    return attention_factor, softmax_scale",
    hint="A given attention_factor replaces g(a) / g(b) alone.",
)
bug(
    "LC-16",
    "has the blend of Llama 3 the wrong way round",
    old="return (1 - smooth) * f / WORK(scaling.factor) + smooth * f",
    new="return smooth * f / WORK(scaling.factor) + (1 - smooth) * f",
    hint="a is 1 at the short end, where f stays: a · f + (1 − a) · f / s.",
)
bug(
    "LC-16",
    "takes the reciprocal of a frequency for its wavelength",
    old="wavelength = 2 * WORK(pi) / f",
    new="wavelength = 1 / f",
    hint="A circle has 2π radians: w = 2π / f.",
)
bug(
    "LC-16",
    "divides the frequencies in the middle instead of blending them",
    old="return (1 - smooth) * f / WORK(scaling.factor) + smooth * f",
    new="return f / WORK(scaling.factor)",
    hint="Between L / high and L / low both are blended.",
)
bug(
    "LC-16",
    "keeps the frequencies in the middle instead of blending them",
    old="return (1 - smooth) * f / WORK(scaling.factor) + smooth * f",
    new="return f",
    hint="Between L / high and L / low both are blended.",
)
bug(
    "LC-16",
    "divides short wavelengths and keeps long ones",
    old="        return f\n    if wavelength > scaling.original_length / low:\n        return f / WORK(scaling.factor)\n",
    new="        return f / WORK(scaling.factor)\n    if wavelength > scaling.original_length / low:\n        return f\n",
    hint="Short ones have been seen whole in training: they stay.",
)
bug(
    "LC-16",
    "blends wavelengths as Llama 3 blends frequencies",
    old="return (1 - smooth) * f / WORK(scaling.factor) + smooth * f",
    new="return f / ((1 - smooth) * WORK(scaling.factor) + smooth)",
    hint="Blend f and f / s.",
)
bug(
    "LC-16",
    "takes the extended length for that of Llama 3's training",
    old="smooth = (scaling.original_length / wavelength - low) / (high - low)",
    new="smooth = (scaling.factor * scaling.original_length / wavelength - low) / (high - low)",
    also=[
        (
            "wavelength < scaling.original_length / high",
            "wavelength < scaling.factor * scaling.original_length / high",
        ),
        (
            "wavelength > scaling.original_length / low",
            "wavelength > scaling.factor * scaling.original_length / low",
        ),
    ],
    hint="L is the length of the training, 8,192 for Llama 3.1.",
)
bug(
    "LC-17",
    "takes LongRoPE's long list at every length",
    old="is_long = seq_len is not None and seq_len > scaling.original_length",
    new="is_long = True",
    hint="Up to L tokens it is the short list.",
)
bug(
    "LC-17",
    "takes LongRoPE's short list at every length",
    old="is_long = seq_len is not None and seq_len > scaling.original_length",
    new="is_long = False",
    hint="Beyond L tokens it is the long list.",
)
bug(
    "LC-17",
    "takes the long list from the original length on",
    old="is_long = seq_len is not None and seq_len > scaling.original_length",
    new="is_long = seq_len is not None and seq_len >= scaling.original_length",
    hint="L tokens are still short: beyond means above.",
)
bug(
    "LC-17",
    "takes the long list where no length is given",
    old="is_long = seq_len is not None and seq_len > scaling.original_length",
    new="is_long = seq_len is None or seq_len > scaling.original_length",
    hint="Without `seq_len` the context is at most L.",
)
bug(
    "LC-17",
    "multiplies by LongRoPE's lists",
    old="frequencies = plain(d, config.base) / divisors",
    new="frequencies = plain(d, config.base) * divisors",
    hint="They are divisors: f / 64 is slower.",
)
bug(
    "LC-17",
    "stays with the long list once it was needed",
    old="DTYPES = {",
    new="WAS_LONG = set()\n\nDTYPES = {",
    also=[
        (
            "is_long = seq_len is not None and seq_len > scaling.original_length\n",
            "is_long = seq_len is not None and seq_len > scaling.original_length or config in WAS_LONG\n"
            "        if is_long:\n"
            "            WAS_LONG.add(config)\n",
        )
    ],
    hint="Frequencies are a function of the arguments. Remember nothing.",
)
bug(
    "LC-17",
    "divides by the factor as well as by the list",
    old="frequencies = plain(d, config.base) / divisors",
    new="frequencies = plain(d, config.base) / divisors / WORK(scaling.factor)",
    hint="The factor is in the lists already. It is needed for attention_factor alone.",
)
bug(
    "LC-18",
    "has LongRoPE's attention factor for the long list only",
    old="attention_factor = longrope_factor(scaling)",
    new="attention_factor = longrope_factor(scaling) if is_long else 1.0",
    hint="It holds whatever the length.",
)
bug(
    "LC-18",
    "ignores LongRoPE's attention factor where it is given",
    old="    if scaling.attention_factor is not None:\n        return scaling.attention_factor\n",
    new="",
    hint="The config's own number goes before the formula.",
)
bug(
    "LC-18",
    "has no attention factor for LongRoPE",
    old="return sqrt(1 + log(scaling.factor) / log(scaling.original_length))",
    new="return 1.0",
    hint="sqrt(1 + ln(s) / ln(L)).",
)
bug(
    "LC-18",
    "gives LongRoPE the attention factor of YaRN",
    old="return sqrt(1 + log(scaling.factor) / log(scaling.original_length))",
    new="return growth(scaling.factor, 1)",
    hint="sqrt(1 + ln(s) / ln(L)).",
)
bug(
    "LC-18",
    "forgets the root of LongRoPE's attention factor",
    old="return sqrt(1 + log(scaling.factor) / log(scaling.original_length))",
    new="return 1 + log(scaling.factor) / log(scaling.original_length)",
    hint="sqrt(1 + ln(s) / ln(L)).",
)
bug(
    "LC-18",
    "has the logarithm of a quotient for the quotient of logarithms",
    old="return sqrt(1 + log(scaling.factor) / log(scaling.original_length))",
    new="return sqrt(1 + abs(log(scaling.factor / scaling.original_length)))",
    hint="ln(s) / ln(L), each by itself.",
)
bug(
    "LC-18",
    "holds LongRoPE's attention factor at 1 or above",
    old="    if scaling.attention_factor is not None:\n        return scaling.attention_factor\n    return sqrt",
    new="    if scaling.attention_factor is not None:\n"
    "        return max(1.0, scaling.attention_factor)\n    return sqrt",
    hint="An attention factor that is given is taken as it is, also below 1.",
)
bug(
    "LC-19",
    "refuses a factor of 1",
    old='expect(s.factor >= 1, "factor", "at least 1", s.factor)',
    new='expect(s.factor > 1, "factor", "above 1", s.factor)',
    hint="Nothing is scaled then, and nothing is wrong.",
)
bug(
    "LC-19",
    "forgets the bracket around s − 1",
    old="stretch = scaling.factor * length / scaling.original_length - (scaling.factor - 1)",
    new="stretch = scaling.factor * length / scaling.original_length - scaling.factor - 1",
    also=[
        (
            "frequencies = plain(d, config.base * stretch ** (d / (d - 2)))",
            "frequencies = plain(d, config.base * np.float64(stretch) ** (d / (d - 2)))",
        )
    ],
    hint="s · n/L − (s − 1) is 1 at n = L, whatever the factor.",
)
bug(
    "LC-19",
    "forgets the 1 beside YaRN's logarithm",
    old="return 0.1 * mscale * log(factor) + 1",
    new="return 0.1 * mscale * log(factor)",
    hint="0.1 · ln(s) + 1: ln(1) is 0, and all scores with it.",
)
bug(
    "LC-19",
    "has numerator and denominator of LongRoPE's attention factor the wrong way round",
    old="return sqrt(1 + log(scaling.factor) / log(scaling.original_length))",
    new="return float(np.sqrt(1 + np.log(np.float64(scaling.original_length)) / np.log(np.float64(scaling.factor))))",
    hint="ln(s) / ln(L): the other way a factor of 1 divides by 0.",
)
bug(
    "LC-20",
    "refuses a single pair whatever the scaling",
    old="if isinstance(s, (NTK, DynamicNTK)):\n        expect(d > 2",
    new="if s is not None:\n        expect(d > 2",
    hint="Only NTK and dynamic NTK divide by d − 2.",
)
bug(
    "LC-20",
    "accepts a base between 0 and 1",
    old="expect(config.base > 1,",
    new="expect(config.base > 0 and config.base != 1,",
    hint="With a base below 1 the frequencies would rise; it has to be above 1.",
)
bug(
    "LC-20",
    "accepts that no channel turns",
    old='expect(2 <= d <= config.head_dim, "rotary_fraction"',
    new='expect(config.head_dim >= 2 and 0 <= d <= config.head_dim, "rotary_fraction"',
    hint="d has to be at least 2.",
)
bug(
    "LC-20",
    "accepts an mscale below 0",
    old="positive = s.mscale is None or (s.mscale > 0 and s.mscale_all_dim > 0)",
    new="positive = s.mscale is None or (s.mscale != 0 and s.mscale_all_dim > 0)",
    hint="mscale and mscale_all_dim have to be above 0, each of them.",
)
bug(
    "LC-20",
    "looks at the length only where nothing is scaled",
    old='expect(seq_len is None or seq_len >= 1, "seq_len"',
    new='expect(config.scaling is not None or seq_len is None or seq_len >= 1, "seq_len"',
    hint="A length below 1 is refused with every scaling, also with those that do not need it.",
)

# Checkpoints

bug(
    "LC-21",
    "works the head size out though the config has it",
    old='    for key in ("qk_rope_head_dim", "head_dim"):\n        if key in config:\n            return config[key]\n',
    new="",
    also=[
        (
            'return setting(config, "hidden_size") // setting(config, "num_attention_heads")',
            'return config.get("hidden_size", 96) // config.get("num_attention_heads", 8)',
        )
    ],
    hint="Gemma and Qwen3 have heads that are not hidden_size / heads wide: head_dim goes first.",
)
bug(
    "LC-21",
    "takes the whole head of latent attention",
    old='for key in ("qk_rope_head_dim", "head_dim"):',
    new='for key in ("head_dim",):',
    hint="Only qk_rope_head_dim channels of DeepSeek's heads are rotated.",
)
bug(
    "LC-21",
    "takes nulls of a config as they are",
    old="    config = without_nulls(config)\n",
    new="",
    hint="config.json writes null for what is not set: it counts as missing.",
)
bug(
    "LC-21",
    "looks for the base outside the entry only",
    old='    base = entry.get("rope_theta", base)\n',
    new="",
    hint="transformers 5 writes rope_theta into rope_parameters.",
)
bug(
    "LC-21",
    "looks for the base in the entry only",
    old='base = config.get("rope_theta", config.get("rotary_emb_base", 10000.0))',
    new="base = 10000.0",
    hint="Configs before transformers 5 have rope_theta beside the entry.",
)
bug(
    "LC-21",
    "lets the base of the config go before that of the entry",
    old='base = entry.get("rope_theta", base)',
    new='base = config.get("rope_theta", entry.get("rope_theta", base))',
    hint="The entry says it for these layers: it goes first.",
)
bug(
    "LC-21",
    "knows one name for the base",
    old='base = config.get("rope_theta", config.get("rotary_emb_base", 10000.0))',
    new='base = config.get("rope_theta", 10000.0)',
    hint="GPT-NeoX calls it rotary_emb_base.",
)
bug(
    "LC-21",
    "reads rope_scaling only",
    old='entry = config.get("rope_parameters") or config.get("rope_scaling") or {}',
    new='entry = config.get("rope_scaling") or {}',
    hint="transformers 5 calls it rope_parameters.",
)
bug(
    "LC-21",
    "lets an old entry go before the new one",
    old='entry = config.get("rope_parameters") or config.get("rope_scaling") or {}',
    new='entry = config.get("rope_scaling") or config.get("rope_parameters") or {}',
    hint="rope_parameters goes first.",
)
bug(
    "LC-21",
    "stops at an entry that is empty",
    old='entry = config.get("rope_parameters") or config.get("rope_scaling") or {}',
    new='entry = config.get("rope_parameters", config.get("rope_scaling", {}))',
    hint="An empty rope_parameters is passed over: rope_scaling comes next.",
)
bug(
    "LC-21",
    "knows one name for the fraction",
    old='fraction = config.get("partial_rotary_factor", config.get("rotary_pct", 1.0))',
    new='fraction = config.get("partial_rotary_factor", 1.0)',
    hint="GPT-NeoX calls it rotary_pct.",
)
bug(
    "LC-21",
    "looks for the fraction outside the entry only",
    old='    fraction = entry.get("partial_rotary_factor", fraction)\n',
    new="",
    hint="transformers 5 writes partial_rotary_factor into rope_parameters.",
)
bug(
    "LC-21",
    "rotates the whole head of every model",
    old='    fraction = entry.get("partial_rotary_factor", fraction)\n',
    new="    fraction = 1.0\n",
    hint="Phi and GLM rotate a part: partial_rotary_factor.",
)
bug(
    "LC-21",
    "takes a fraction of what is the rotated part already",
    old='    if "qk_rope_head_dim" in config:\n'
    "        fraction = 1.0  # these channels are the part that rotates\n",
    new="",
    hint="All qk_rope_head_dim channels are rotated.",
)
bug(
    "LC-21",
    "takes every model for one with halves",
    old='interleaved = config.get("model_type") in INTERLEAVED and config.get("rope_interleave", True)',
    new="interleaved = False",
    hint="Cohere, GLM, Llama 4, DeepSeek and others interleave: see the list.",
)
bug(
    "LC-21",
    "takes every model for one with neighbouring pairs",
    old='interleaved = config.get("model_type") in INTERLEAVED and config.get("rope_interleave", True)',
    new='interleaved = config.get("rope_interleave", True)',
    hint="Llama and most others have halves in transformers' files: see the list.",
)
bug(
    "LC-21",
    "ignores rope_interleave",
    old='interleaved = config.get("model_type") in INTERLEAVED and config.get("rope_interleave", True)',
    new='interleaved = config.get("model_type") in INTERLEAVED',
    hint="A checkpoint whose channels were put in halves says rope_interleave false.",
)
bug(
    "LC-21",
    "takes relatives of a model for the model",
    old='interleaved = config.get("model_type") in INTERLEAVED and config.get("rope_interleave", True)',
    new='interleaved = str(config.get("model_type")).startswith(INTERLEAVED) and config.get("rope_interleave", True)',
    hint="glm4 interleaves and glm4_moe does not: compare the whole name.",
)
bug(
    "LC-21",
    "interleaves only where the config says so",
    old='interleaved = config.get("model_type") in INTERLEAVED and config.get("rope_interleave", True)',
    new='interleaved = config.get("rope_interleave", False)',
    hint="Most configs say nothing: the model type tells.",
)
bug(
    "LC-21",
    "rounds the head size up where the width is no multiple of the heads",
    old='return setting(config, "hidden_size") // setting(config, "num_attention_heads")',
    new='return ceil(setting(config, "hidden_size") / setting(config, "num_attention_heads"))',
    hint="Without head_dim it is hidden_size // num_attention_heads: whole numbers, rounded down.",
)
bug(
    "LC-21",
    "takes rotary_pct of latent attention",
    old="fraction = 1.0  # these channels are the part that rotates",
    new='fraction = config.get("rotary_pct", 1.0)',
    hint="With qk_rope_head_dim the fraction is 1, whatever the config says about fractions.",
)
bug(
    "LC-21",
    "interleaves wherever the config says so",
    old='interleaved = config.get("model_type") in INTERLEAVED and config.get("rope_interleave", True)',
    new='interleaved = config.get("rope_interleave", config.get("model_type") in INTERLEAVED)',
    hint="rope_interleave can only switch off what the model type has; for all others it says nothing.",
)
bug(
    "LC-21",
    "takes rope_interleave of null for false",
    old='and config.get("rope_interleave", True)\n',
    new="and given\n",
    also=[
        (
            "    config = without_nulls(config)\n",
            '    given = bool(config.get("rope_interleave", True))\n    config = without_nulls(config)\n',
        )
    ],
    hint="A key whose value is null counts as missing, and without rope_interleave the model type decides.",
)
bug(
    "LC-21",
    "forgets the base beside entries by kind of layer",
    old='base = entry.get("rope_theta", base)',
    new='base = entry.get("rope_theta", 10000.0 if layer_type else base)',
    hint="What an entry by kind of layer does not say comes from the config, as with any other entry.",
)
bug(
    "LC-21",
    "forgets the fraction beside entries by kind of layer",
    old='fraction = entry.get("partial_rotary_factor", fraction)',
    new='fraction = entry.get("partial_rotary_factor", 1.0 if layer_type else fraction)',
    hint="What an entry by kind of layer does not say comes from the config, as with any other entry.",
)
bug(
    "LC-21",
    "takes nulls of an entry by kind of layer as they are",
    old="entry = without_nulls(rope_entry(config, layer_type))",
    new="entry = rope_entry(config, layer_type)\n    entry = entry if layer_type else without_nulls(entry)",
    hint="Everywhere, a key whose value is null counts as missing, in entries by kind of layer too.",
)
bug(
    "LC-22",
    "knows the key rope_type only",
    old='kind = entry.get("rope_type", entry.get("type", "default"))',
    new='kind = entry.get("rope_type", "default")',
    hint="Configs of 2024 call it type.",
)
bug(
    "LC-22",
    "knows the key type only",
    old='kind = entry.get("rope_type", entry.get("type", "default"))',
    new='kind = entry.get("type", "default")',
    hint="Newer configs call it rope_type.",
)
bug(
    "LC-22",
    "lets the old key type go before rope_type",
    old='kind = entry.get("rope_type", entry.get("type", "default"))',
    new='kind = entry.get("type", entry.get("rope_type", "default"))',
    hint="rope_type goes first.",
)
bug(
    "LC-22",
    "does not know the rope type default",
    old='    if kind == "default":\n        return None\n',
    new="",
    hint="It is what transformers 5 writes where nothing is scaled, and what a missing type means.",
)
bug(
    "LC-22",
    "takes dynamic NTK's length out of the entry",
    old='return DynamicNTK(setting(entry, "factor"), setting(config, "max_position_embeddings"))',
    new='key = "original_max_position_embeddings"\n'
    '        length = entry.get(key) or setting(config, "max_position_embeddings")\n'
    '        return DynamicNTK(setting(entry, "factor"), length)',
    hint="For this one, max_position_embeddings is the length before it was extended.",
)
bug(
    "LC-22",
    "takes dynamic NTK for NTK",
    old='return DynamicNTK(setting(entry, "factor"), setting(config, "max_position_embeddings"))',
    new='from spec.long_context import NTK as fixed\n        return fixed(setting(entry, "factor"))',
    hint="The base moves with the length: `DynamicNTK`.",
)
bug(
    "LC-22",
    "takes the extended length for the original one of a checkpoint",
    old="original = setting(config if key in config else entry, key)",
    new='original = config.get("max_position_embeddings") or setting(config if key in config else entry, key)',
    hint="original_max_position_embeddings: max_position_embeddings is extended already.",
)
bug(
    "LC-22",
    "looks for the original length in the entry only",
    old="original = setting(config if key in config else entry, key)",
    new="original = setting(entry, key)",
    hint="Phi-3 has original_max_position_embeddings beside the entry.",
)
bug(
    "LC-22",
    "looks for the original length outside the entry only",
    old="original = setting(config if key in config else entry, key)",
    new="original = setting(config, key)",
    hint="Qwen and Llama have original_max_position_embeddings in the entry.",
)
bug(
    "LC-22",
    "lets the original length of the entry go before that of the config",
    old="original = setting(config if key in config else entry, key)",
    new="original = setting(entry if key in entry else config, key)",
    hint="That of the config goes first.",
)
bug(
    "LC-22",
    "demands a factor",
    old='    factor = entry.get("factor")\n',
    new='    factor = setting(entry, "factor")\n',
    hint="Without one it is max_position_embeddings / L: Phi-3 has none.",
)
bug(
    "LC-22",
    "takes a missing factor for 1",
    old='        factor = setting(config, "max_position_embeddings") / original\n',
    new="        factor = 1.0\n",
    hint="It is max_position_embeddings / L.",
)
bug(
    "LC-22",
    "works the factor out though the config has it",
    old="    if factor is None:\n        factor = setting",
    new='    if factor is None or "max_position_embeddings" in config:\n        factor = setting',
    hint="Only a factor that is missing or null is max_position_embeddings / L.",
)
bug(
    "LC-22",
    "takes betas of 0 as they are",
    old='            entry.get("beta_fast") or 32.0,\n            entry.get("beta_slow") or 1.0,\n',
    new='            32.0 if entry.get("beta_fast") is None else entry["beta_fast"],\n'
    '            1.0 if entry.get("beta_slow") is None else entry["beta_slow"],\n',
    hint="0 means the default, 32 and 1: transformers has an `or` there.",
)
bug(
    "LC-22",
    "takes nulls of an entry as they are",
    old="entry = without_nulls(rope_entry(config, layer_type))",
    new="entry = rope_entry(config, layer_type)",
    hint="A default of `get` is for missing keys alone: null counts as missing, too.",
)
bug(
    "LC-22",
    "leaves the betas of a config out",
    old='            entry.get("beta_fast") or 32.0,\n            entry.get("beta_slow") or 1.0,\n',
    new="            32.0,\n            1.0,\n",
    hint="beta_fast and beta_slow belong to `YaRN`.",
)
bug(
    "LC-22",
    "leaves truncate out",
    old='entry.get("truncate", True)',
    new="True",
    hint="gpt-oss has truncate false.",
)
bug(
    "LC-22",
    "rounds only where the config says so",
    old='entry.get("truncate", True)',
    new='entry.get("truncate", False)',
    hint="truncate is true where it is missing.",
)
bug(
    "LC-22",
    "leaves an attention factor of a config out",
    old='    attention_factor = entry.get("attention_factor")\n',
    new="    attention_factor = None\n",
    hint="attention_factor belongs to `YaRN` and `LongRoPE`.",
)
bug(
    "LC-22",
    "shares between rotation and softmax for every model with two mscales",
    old='        if config.get("model_type") not in SCALES_SOFTMAX:\n',
    new="        if False:\n",
    hint="Only latent attention multiplies its scores. For others it is all attention_factor.",
)
bug(
    "LC-22",
    "leaves mscale out",
    old='mscale, all_dim = entry.get("mscale") or None, entry.get("mscale_all_dim") or None',
    new="mscale = all_dim = None",
    hint="Two mscales mean another attention_factor, DeepSeek's even another scale of the scores.",
)
bug(
    "LC-22",
    "leaves the mscales out for all but latent attention",
    old="            if attention_factor is None and mscale and all_dim:\n"
    "                attention_factor = growth(factor, mscale) / growth(factor, all_dim)\n",
    new="",
    hint="For others they become attention_factor, g(mscale) / g(mscale_all_dim).",
)
bug(
    "LC-22",
    "takes mscales of 0 as they are",
    old='mscale, all_dim = entry.get("mscale") or None, entry.get("mscale_all_dim") or None',
    new='mscale, all_dim = entry.get("mscale"), entry.get("mscale_all_dim")',
    hint="0 is None.",
)
bug(
    "LC-22",
    "lets two mscales go before an attention factor",
    old="            if attention_factor is None and mscale and all_dim:",
    new="            if mscale and all_dim:",
    hint="attention_factor, where it is given, is the answer.",
)
bug(
    "LC-22",
    "swaps LongRoPE's lists",
    old="return LongRoPE(short, long, original, factor, attention_factor)",
    new="return LongRoPE(long, short, original, factor, attention_factor)",
    hint="short_factor first.",
)
bug(
    "LC-22",
    "swaps the ends of Llama 3",
    old='return Llama3(setting(entry, "factor"), low, high, original)',
    new='return Llama3(setting(entry, "factor"), high, low, original)',
    hint="low_freq_factor first.",
)
bug(
    "LC-22",
    "does not know LongRoPE by its first name",
    old='if kind not in ("yarn", "llama3", "longrope", "su"):',
    new='if kind not in ("yarn", "llama3", "longrope"):',
    hint="Phi-3's first configs call it su.",
)
bug(
    "LC-22",
    "rounds a factor that it works out",
    old='factor = setting(config, "max_position_embeddings") / original',
    new='factor = float(setting(config, "max_position_embeddings") // original)',
    hint="A missing factor is max_position_embeddings / L, which need not be a whole number.",
)
bug(
    "LC-22",
    "takes 32 for the missing factor of every LongRoPE",
    old='factor = setting(config, "max_position_embeddings") / original',
    new='factor = setting(config, "max_position_embeddings") / original if kind == "yarn" else 32.0',
    hint="A missing factor is max_position_embeddings / L; only Phi-3's happens to be 32.",
)
bug(
    "LC-22",
    "takes betas only in pairs",
    old='entry.get("beta_fast") or 32.0',
    new='(entry.get("beta_slow") and entry.get("beta_fast")) or 32.0',
    also=[
        (
            'entry.get("beta_slow") or 1.0',
            '(entry.get("beta_fast") and entry.get("beta_slow")) or 1.0',
        )
    ],
    hint="Each beta that is missing has its own default; the other one stays.",
)
bug(
    "LC-22",
    "drops a single mscale of latent attention",
    old="        return YaRN(\n",
    new="        if mscale is None or all_dim is None:\n            mscale = all_dim = None\n        return YaRN(\n",
    hint="Both are taken over as they are; that one without the other is an error, LC-20 says.",
)
bug(
    "LC-22",
    "drops the mscales of latent attention where there is an attention factor",
    old="        return YaRN(\n",
    new="        if attention_factor is not None:\n            mscale = all_dim = None\n        return YaRN(\n",
    hint="An attention factor replaces that on cos and sin; the scale of the softmax still needs the mscales.",
)
bug(
    "LC-22",
    "takes an mscale of 0 of other models as it is",
    old="if attention_factor is None and mscale and all_dim:",
    new='mscale, all_dim = entry.get("mscale"), entry.get("mscale_all_dim")\n'
    "            if attention_factor is None and mscale is not None and all_dim is not None:",
    hint="An mscale of 0 counts as none, so that there is only one.",
)
bug(
    "LC-22",
    "works two mscales out before a missing factor",
    old="attention_factor = growth(factor, mscale) / growth(factor, all_dim)",
    new='s = entry.get("factor", 1.0)\n'
    "                attention_factor = growth(s, mscale) / growth(s, all_dim)",
    hint="The factor of g is that of the scaling, also where it becomes max_position_embeddings / L.",
)
bug(
    "LC-23",
    "scales the sliding layers as well",
    old='"sliding_attention": {"rope_theta": config["rope_local_base_freq"]}',
    new='"sliding_attention": entry | {"rope_theta": config["rope_local_base_freq"]}',
    hint="Gemma 3's local layers have a base of their own and no scaling.",
)
bug(
    "LC-23",
    "takes the base of full attention for the sliding layers",
    old='"sliding_attention": {"rope_theta": config["rope_local_base_freq"]}',
    new='"sliding_attention": {}',
    hint="rope_local_base_freq is theirs.",
)
bug(
    "LC-23",
    "takes the local base for all layers",
    old='    base = entry.get("rope_theta", base)\n',
    new='    base = entry.get("rope_theta", config.get("rope_local_base_freq", base))\n',
    hint="rope_local_base_freq is for the sliding layers.",
)
bug(
    "LC-23",
    "lets the local base go before entries by kind of layer",
    old='    if not kinds and "rope_local_base_freq" in config:',
    new='    if "rope_local_base_freq" in config:',
    hint="Where the entry has a dictionary for each kind of layer, `layer_type` chooses among them.",
)
bug(
    "LC-23",
    "scales the sliding layers of OLMo 3",
    old='    if not kinds and config.get("model_type") == "olmo3":\n',
    new="    if False:\n",
    hint="An entry of OLMo 3 without kinds of layers is for full attention.",
)
bug(
    "LC-23",
    "takes all entries of OLMo 3 for one",
    old='    if not kinds and config.get("model_type") == "olmo3":\n',
    new='    if config.get("model_type") == "olmo3":\n',
    hint="Where the entry has a dictionary for each kind of layer, `layer_type` chooses among them.",
)
bug(
    "LC-23",
    "takes the first entry for every kind of layer",
    old="    return kinds[layer_type]\n",
    new="    return next(iter(kinds.values()))\n",
    hint="`layer_type` chooses among the dictionaries.",
)
bug(
    "LC-23",
    "does not look for an entry for each kind of layer",
    old="    if not kinds:\n        return entry\n",
    new='    if "rope_local_base_freq" not in config:\n        return entry\n',
    hint="Where the entry's values are dictionaries, `layer_type` chooses among them.",
)
bug(
    "LC-23",
    "scales nothing in layers that are not for full attention",
    old="    if not kinds:\n        return entry\n",
    new='    if not kinds:\n        return entry if layer_type in (None, "full_attention") else {}\n',
    hint="A config with one entry means it for all layers.",
)
bug(
    "LC-23",
    "refuses a kind of layer where there is only one",
    old="    if not kinds:\n        return entry\n",
    new='    if not kinds:\n        expect(layer_type is None, "layer_type", "None", layer_type)\n        return entry\n',
    hint="It changes nothing there: a model may pass it for each of its layers.",
)
bug(
    "LC-23",
    "turns the whole head in the sliding layers of Gemma 3",
    old='{"rope_theta": config["rope_local_base_freq"]}',
    new='{"rope_theta": config["rope_local_base_freq"], "partial_rotary_factor": 1.0}',
    hint="The local base replaces base and scaling; the fraction of the config holds for all layers.",
)

bug(
    "LC-24",
    "refuses keys that it does not know",
    old='    key = "original_max_position_embeddings"\n',
    new='    expect("attn_factor" not in entry, "attn_factor", "a key of the contract", "another")\n'
    '    key = "original_max_position_embeddings"\n',
    hint="Configs have keys for other programs: leave them alone.",
)

# Distance without rotation

bug(
    "LC-25",
    "has the formula of powers of two for every number of heads",
    old="return np.array(slopes[:heads], np.float32)",
    new="return np.array(geometric(heads), np.float32)",
    hint="For 12 heads: the slopes for 8, then every second one for 16.",
)
bug(
    "LC-25",
    "takes the first slopes of the larger set",
    old="slopes = geometric(power) + geometric(2 * power)[::2]",
    new="slopes = geometric(power) + geometric(2 * power)",
    hint="Every second one, h = 0, 2, 4, …: the others are there already.",
)
bug(
    "LC-25",
    "takes the slopes of the larger set that are there already",
    old="slopes = geometric(power) + geometric(2 * power)[::2]",
    new="slopes = geometric(power) + geometric(2 * power)[1::2]",
    hint="Those at h = 0, 2, 4, … lie between the others.",
)
bug(
    "LC-25",
    "takes the slopes of the next power of two above",
    old="slopes = geometric(power) + geometric(2 * power)[::2]",
    new="slopes = geometric(power if power == heads else 2 * power)",
    hint="The power below comes first, whole.",
)
bug(
    "LC-25",
    "sorts the slopes",
    old="return np.array(slopes[:heads], np.float32)",
    new="return np.array(sorted(slopes[:heads], reverse=True), np.float32)",
    hint="The added heads come last: their order is the checkpoint's.",
)
bug(
    "LC-25",
    "counts the exponents of slopes from 0",
    old="return [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]",
    new="return [2.0 ** (-8 * h / heads) for h in range(heads)]",
    hint="The first slope of 8 heads is 0.5, the last 2^−8.",
)
bug(
    "LC-25",
    "takes 8 heads for granted",
    old="return [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]",
    new="return [2.0 ** -(h + 1) for h in range(heads)]",
    hint="2^(−8(h+1)/H): the exponents go to −8 for every H.",
)
bug(
    "LC-25",
    "hands out negative slopes",
    old="return np.array(slopes[:heads], np.float32)",
    new="return -np.array(slopes[:heads], np.float32)",
    hint="They are positive; the minus is in the score, −slope · distance.",
)
# Masks

bug(
    "LC-26",
    "hides a query's own key from it",
    old="visible = (k <= q) | (k < prefix) if causal",
    new="visible = (k < q) | (k < prefix) if causal",
    hint="A token sees itself: j ≤ i.",
)
bug(
    "LC-26",
    "shows a query the key after its own",
    old="visible = (k <= q) | (k < prefix) if causal",
    new="visible = (k <= q + 1) | (k < prefix) if causal",
    hint="The next token is what the model is asked for.",
)
bug(
    "LC-26",
    "aligns the triangle to the top left",
    old="q, k = q_positions.astype(int)[:, None], kv_positions.astype(int)[None, :]",
    new="q, k = np.arange(len(q_positions))[:, None], np.arange(len(kv_positions))[None, :]",
    hint="With a cache, the first query is not at position 0.",
)
bug(
    "LC-26",
    "goes by places in the arrays, aligned to the bottom right",
    old="q, k = q_positions.astype(int)[:, None], kv_positions.astype(int)[None, :]",
    new="k = np.arange(len(kv_positions))[None, :]\n"
    "    q = np.arange(len(q_positions))[:, None] + len(kv_positions) - len(q_positions)",
    hint="Compare positions: the arrays may hold them in any order.",
)
bug(
    "LC-26",
    "gives 0 and 1 instead of False and True",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return (visible & (q >= 0) & (k >= 0)).astype(np.int32)",
    hint="The dtype is bool.",
)
bug(
    "LC-26",
    "gives what is added to scores, 0 and −∞",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return np.where(visible & (q >= 0) & (k >= 0), 0, -np.inf).astype(np.float32)",
    hint="The dtype is bool, True where a query sees a key.",
)
bug(
    "LC-26",
    "shows what it should hide and hides what it should show",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return ~(visible & (q >= 0) & (k >= 0))",
    hint="True means that a query sees a key; some libraries mean the opposite.",
)
bug(
    "LC-26",
    "puts keys into rows and queries into columns",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return (visible & (q >= 0) & (k >= 0)).T",
    hint="The shape is (queries, keys).",
)
bug(
    "LC-26",
    "hides the future though causal is false",
    old="visible = (k <= q) | (k < prefix) if causal else np.ones((len(q_positions), len(kv_positions)), bool)",
    new="visible = (k <= q) | (k < prefix)",
    hint="Without `causal` every key is visible.",
)
bug(
    "LC-26",
    "keeps positions in 16 bits",
    old="q, k = q_positions.astype(int)[:, None], kv_positions.astype(int)[None, :]",
    new="q, k = (at.astype(np.uint16).astype(np.int16).astype(int) for at in (q_positions, kv_positions))\n"
    "    q, k = q[:, None], k[None, :]",
    hint="Positions go up to a million and beyond.",
)
bug(
    "LC-26",
    "compares positions in half precision",
    old="q, k = q_positions.astype(int)[:, None], kv_positions.astype(int)[None, :]",
    new="q, k = (at.astype(ml_dtypes.bfloat16).astype(int) for at in (q_positions, kv_positions))\n"
    "    q, k = q[:, None], k[None, :]",
    hint="Positions are whole numbers; 8 significant bits end at 256.",
)
bug(
    "LC-26",
    "cuts masks out of a table of 4,096 positions",
    old="near = np.ones(visible.shape, bool)",
    new="near = np.broadcast_to(k > q - 4096, visible.shape).copy()",
    hint="A mask is a comparison of positions, which have no largest distance.",
)
bug(
    "LC-27",
    "counts the window without the query's own key",
    old="near &= k > q - window",
    new="near &= k >= q - window",
    hint="W keys with its own: j > i − W. FlashAttention's window_size is (W − 1, 0).",
)
bug(
    "LC-27",
    "shows a key too few through the window",
    old="near &= k > q - window",
    new="near &= k > q - window + 1",
    hint="W keys with its own: j > i − W. A window of 1 shows a query its own key.",
)
bug(
    "LC-27",
    "ignores the window",
    old="near &= k > q - window",
    new="near &= True",
    hint="Only keys with j > i − W are visible.",
)
bug(
    "LC-27",
    "takes a window of 1 for none",
    old="    if window is not None:\n        near",
    new="    if window is not None and window > 1:\n        near",
    hint="W = 1: each sees itself. Slices such as [-W + 1:] take all when W is 1.",
)
bug(
    "LC-27",
    "measures the window in places of the array",
    old="near &= k > q - window",
    new="places = np.arange(k.size)[None, :] - np.arange(q.size)[:, None] - (k.size - q.size)\n"
    "        near &= places > -window",
    hint="The window is about positions: a cache may hold them in any order.",
)
bug(
    "LC-27",
    "works the window out in the dtype of the positions",
    old="q, k = q_positions.astype(int)[:, None], kv_positions.astype(int)[None, :]",
    new="q, k = q_positions[:, None], kv_positions[None, :]",
    hint="i − W is negative for the first queries, which unsigned integers cannot be.",
)
bug(
    "LC-28",
    "hides the sinks behind the window",
    old="visible &= near | (k < sink_tokens)",
    new="visible &= near",
    hint="Positions below `sink_tokens` are seen whatever window and chunk say.",
)
bug(
    "LC-28",
    "shows sinks to queries before them",
    old="visible &= near | (k < sink_tokens)",
    new="visible = visible & near | (k < sink_tokens)",
    hint="Sinks are let through the window, not through causality.",
)
bug(
    "LC-28",
    "takes the first keys of the array for the sinks",
    old="visible &= near | (k < sink_tokens)",
    new="visible &= near | (np.arange(k.size)[None, :] < sink_tokens)",
    hint="Sinks are the positions 0 … S − 1; they may be at any place, or not here.",
)
bug(
    "LC-28",
    "shows a sink too many",
    old="visible &= near | (k < sink_tokens)",
    new="visible &= near | (k <= sink_tokens)",
    hint="S sinks are the positions 0 … S − 1.",
)
bug(
    "LC-28",
    "lets sinks through the window but not through the chunk",
    old="near &= k > q - window",
    new="near &= (k > q - window) | (k < sink_tokens)",
    also=[("visible &= near | (k < sink_tokens)", "visible &= near")],
    hint="Both let the positions below `sink_tokens` through.",
)
bug(
    "LC-28",
    "hides sinks of the prefix as if they were in the future",
    old="visible &= near | (k < sink_tokens)",
    new="visible &= near | ((k < sink_tokens) & (k <= q))",
    hint="Keys of the prefix are in nobody's future, and so sinks among them are seen through every chunk.",
)
bug(
    "LC-28",
    "lets sinks through the chunk only with causal",
    old="visible &= near | (k < sink_tokens)",
    new="visible &= near | ((k < sink_tokens) & causal)",
    hint="Without `causal` nothing is in the future, so that every query sees the sinks.",
)
bug(
    "LC-29",
    "ignores the chunk",
    old="near &= k // chunk == q // chunk",
    new="near &= True",
    hint="Only keys of the query's own run of C positions are visible.",
)
bug(
    "LC-29",
    "takes a chunk for a window",
    old="near &= k // chunk == q // chunk",
    new="near &= k > q - chunk",
    hint="Chunks begin at multiples of C: the first token of one sees itself alone.",
)
bug(
    "LC-29",
    "shows the chunk before the query's own as well",
    old="near &= k // chunk == q // chunk",
    new="near &= k // chunk >= q // chunk - 1",
    hint="⌊j / C⌋ = ⌊i / C⌋: only the own chunk.",
)
bug(
    "LC-29",
    "begins chunks a token late",
    old="near &= k // chunk == q // chunk",
    new="near &= (k - 1) // chunk == (q - 1) // chunk",
    hint="Positions count from 0: chunks begin at 0, C, 2C, …",
)
bug(
    "LC-29",
    "counts chunks from the first key",
    old="near &= k // chunk == q // chunk",
    new="near &= (k - k.min()) // chunk == (q - k.min()) // chunk",
    hint="Chunks begin at multiples of C, whichever keys are here.",
)
bug(
    "LC-29",
    "looks at the chunk only without a window",
    old="    if chunk is not None:\n        near",
    new="    elif chunk is not None:\n        near",
    hint="Window and chunk hold together.",
)
bug(
    "LC-30",
    "hides the prefix's future",
    old="visible = (k <= q) | (k < prefix) if causal",
    new="visible = (k <= q) if causal",
    hint="Keys before `prefix` are the future of no query.",
)
bug(
    "LC-30",
    "shows a key behind the prefix",
    old="visible = (k <= q) | (k < prefix) if causal",
    new="visible = (k <= q) | (k <= prefix) if causal",
    hint="A prefix of P tokens has the positions 0 … P − 1.",
)
bug(
    "LC-30",
    "lets the prefix through the window",
    old="visible &= near | (k < sink_tokens)",
    new="visible &= near | (k < sink_tokens) | (k < prefix)",
    hint="Window and chunk hold for the prefix as for other keys.",
)
bug(
    "LC-30",
    "ends the window on both sides",
    old="near &= k > q - window",
    new="near &= abs(q - k) < window",
    hint="Only j > i − W: the window does not end the future that a prefix shows.",
)
bug(
    "LC-30",
    "is causal wherever there is a prefix",
    old="visible = (k <= q) | (k < prefix) if causal else",
    new="visible = (k <= q) | (k < prefix) if causal or prefix else",
    hint="A prefix only adds keys; without `causal` every key is seen already.",
)
bug(
    "LC-31",
    "ignores the segments",
    old="visible &= of_queries[:, None] == of_keys[None, :]",
    new="visible &= True",
    hint="Only keys of the query's own document are visible.",
)
bug(
    "LC-31",
    "shows documents that came before",
    old="visible &= of_queries[:, None] == of_keys[None, :]",
    new="visible &= of_queries[:, None] >= of_keys[None, :]",
    hint="Only keys of the query's own document: numbers of documents have no order.",
)
bug(
    "LC-31",
    "shows the sinks of other documents",
    old="visible &= of_queries[:, None] == of_keys[None, :]",
    new="visible &= (of_queries[:, None] == of_keys[None, :]) | (k < sink_tokens)",
    hint="Sinks are let through window and chunk, not into another document.",
)
bug(
    "LC-31",
    "shows the prefix of other documents",
    old="visible &= of_queries[:, None] == of_keys[None, :]",
    new="visible &= (of_queries[:, None] == of_keys[None, :]) | (k < prefix)",
    hint="A prefix is seen from everywhere in its own document.",
)
bug(
    "LC-31",
    "takes a negative segment for padding",
    old="visible &= of_queries[:, None] == of_keys[None, :]",
    new="visible &= (of_queries[:, None] == of_keys[None, :]) & (of_keys >= 0)[None, :]",
    hint="Segments are names that are equal or not; padding has a negative position.",
)
bug(
    "LC-32",
    "shows keys at negative positions",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return visible & (q >= 0)",
    hint="A key at a negative position is padding, which no query sees.",
)
bug(
    "LC-32",
    "lets queries at negative positions see",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return visible & (k >= 0)",
    hint="A query at a negative position is padding and sees nothing, also no prefix.",
)
bug(
    "LC-32",
    "hides padding only with causal",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return visible & ((q >= 0) & (k >= 0) | (not causal))",
    hint="Padding is never seen, in whatever direction.",
)
bug(
    "LC-32",
    "takes position 0 for padding",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return visible & (q > 0) & (k > 0)",
    hint="Positions count from 0; padding is below.",
)
bug(
    "LC-32",
    "leaves padding to the segments where there are some",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return visible if segments is not None else visible & (q >= 0) & (k >= 0)",
    hint="A negative position is padding, whatever its segment.",
)
bug(
    "LC-32",
    "shows the prefix to padding where there is a window",
    old="return visible & (q >= 0) & (k >= 0)",
    new="return visible & ((q >= 0) | ((k < prefix) & (window is not None))) & (k >= 0)",
    hint="A query at a negative position sees nothing, the prefix included.",
)
bug(
    "LC-33",
    "accepts a chunk below 0",
    old="expect(chunk is None or chunk >= 1,",
    new="expect(chunk is None or chunk != 0,",
    hint="A chunk has at least 1 position.",
)
bug(
    "LC-33",
    "takes a window of 0 for the sinks alone",
    old='expect(window is None or window >= 1, "window"',
    new="sinks_alone = window == 0 and sink_tokens > 0 and chunk is None\n"
    '    expect(window is None or window >= 1 or sinks_alone, "window"',
    hint="A window includes the query itself, so it has at least one key, with or without sinks.",
)

# Attention in parts

# Some online softmaxes are wrong in their running maximum, which the reference does not have.
PEAKS = [
    (
        "    for start in range(0, keys, block):\n",
        "    peak = np.full((batch, heads, queries), -np.inf)\n    for start in range(0, keys, block):\n",
    ),
    (
        "        distance = np.abs(q_positions",
        "        each_head = np.repeat(k[:, :, part], heads // k.shape[1], axis=1).astype(WORK)\n"
        "        scores = q.astype(WORK) @ each_head.swapaxes(2, 3) * (1 / sqrt(width) if scale is None else scale)\n"
        "        before, peak = peak, np.maximum(peak, np.where(visible, scores, -np.inf).max(axis=3))\n"
        "        distance = np.abs(q_positions",
    ),
]

bug(
    "LC-34",
    "does not rescale the output so far when the maximum grows",
    old="        state = merge_two(state, seen)\n",
    new="        grown = np.nan_to_num(np.exp(peak - before), nan=1.0, posinf=1.0)[..., None]\n"
    "        lse = merge_two(state, seen).lse\n"
    "        out = merge_two(AttentionState(state.out * grown, state.lse), seen).out\n"
    "        state = AttentionState(out, lse)\n",
    also=PEAKS,
    hint="Both the sum and the output shrink by exp(old maximum − new maximum).",
)
bug(
    "LC-34",
    "does not rescale the sum so far when the maximum grows",
    old="        state = merge_two(state, seen)\n",
    new="        grown = np.nan_to_num(peak - before, nan=0.0, posinf=0.0)\n"
    "        merged = merge_two(state, seen)\n"
    "        lse = np.logaddexp(state.lse + grown, seen.lse)\n"
    "        out = merged.out * np.nan_to_num(np.exp(merged.lse - lse))[..., None]\n"
    "        state = AttentionState(out, lse)\n",
    also=PEAKS,
    hint="Both the sum and the output shrink by exp(old maximum − new maximum).",
)
bug(
    "LC-34",
    "keeps the last block alone",
    old="        state = merge_two(state, seen)\n",
    new="        state = seen\n",
    hint="Each block joins what the blocks before it gave.",
)
bug(
    "LC-34",
    "adds up what the blocks give",
    old="        state = merge_two(state, seen)\n",
    new="        state = AttentionState(state.out + seen.out, merge_two(state, seen).lse)\n",
    hint="The weights of all blocks together sum to 1.",
)
bug(
    "LC-34",
    "takes the mean of the blocks",
    old="        state = merge_two(state, seen)\n",
    new="        n = start // block\n"
    "        state = AttentionState((n * state.out + seen.out) / (n + 1), merge_two(state, seen).lse)\n",
    hint="A block counts by the sum of its exponentials.",
)
bug(
    "LC-34",
    "leaves out the last block when it is not full",
    old="    for start in range(0, keys, block):\n",
    new="    for start in range(0, keys - keys % block, block):\n",
    hint="`block` need not divide the number of keys, and may exceed it.",
)
bug(
    "LC-34",
    "lets the padding of the last block join the softmax",
    old="    if sink_logits is not None:\n        state =",
    new="    if keys % block:\n"
    "        state = merge_two(state, only_sinks(state, np.full(heads, log(block - keys % block))))\n"
    "    if sink_logits is not None:\n        state =",
    hint="A slot without a key has the score −∞, not 0.",
)
bug(
    "LC-34",
    "puts the queries at the first positions by default",
    old="q_positions = np.arange(keys - queries, keys) if q_positions is None",
    new="q_positions = np.arange(queries) if q_positions is None",
    hint="The last query and the last key are the same token.",
)
bug(
    "LC-34",
    "forgets to scale the scores",
    old="    scale = 1 / sqrt(width) if scale is None else scale\n",
    new="    scale = 1.0 if scale is None else scale\n",
    hint="The default is 1 / sqrt(head_dim).",
)
bug(
    "LC-34",
    "scales by 1 / head_dim",
    old="    scale = 1 / sqrt(width) if scale is None else scale\n",
    new="    scale = 1 / width if scale is None else scale\n",
    hint="The default is 1 / sqrt(head_dim).",
)
bug(
    "LC-34",
    "ignores the scale that it is given",
    old="    scale = 1 / sqrt(width) if scale is None else scale\n",
    new="    scale = 1 / sqrt(width)\n",
    hint="`scale` replaces 1 / sqrt(head_dim).",
)
bug(
    "LC-34",
    "scales by 1 / sqrt(head_dim) besides the scale that it is given",
    old="    scale = 1 / sqrt(width) if scale is None else scale\n",
    new="    scale = (1 if scale is None else scale) / sqrt(width)\n",
    hint="`scale` replaces 1 / sqrt(head_dim).",
)
bug(
    "LC-34",
    "deals kv heads out to the query heads in turn",
    old="            kv_head = h // (heads // k.shape[1])\n            scores",
    new="            kv_head = h % k.shape[1]\n            scores",
    hint="Neighbouring query heads share a kv head: h // (heads // kv_heads).",
)
bug(
    "LC-34",
    "takes a scale of 0 for none",
    old="scale = 1 / sqrt(width) if scale is None else scale\n    state",
    new="scale = scale or 1 / sqrt(width)\n    state",
    hint="A scale of 0 is a scale: only None is the default.",
)
bug(
    "LC-35",
    "gives lse in base 2",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    return AttentionState(in_float32(state.out, q), in_float32(state.lse / np.log(2), q))",
    hint="A kernel that works in base 2 multiplies its lse by ln 2 at the end.",
)
bug(
    "LC-35",
    "gives the sum instead of its logarithm",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    return AttentionState(in_float32(state.out, q), in_float32(np.exp(state.lse), q))",
    hint="lse is the logarithm of the sum.",
)
bug(
    "LC-35",
    "forgets to add the maximum to lse",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    return AttentionState(in_float32(state.out, q), in_float32(state.lse - peak, q))",
    also=PEAKS,
    hint="The sum was taken of exp(score − maximum): lse is maximum + ln(sum).",
)
bug(
    "LC-35",
    "gives the largest score for lse",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    return AttentionState(in_float32(state.out, q), in_float32(peak, q))",
    also=PEAKS,
    hint="lse is maximum + ln(sum of exp(score − maximum)).",
)
bug(
    "LC-36",
    "shows all keys of a block of which a query sees one",
    old="        distance = np.abs(q_positions",
    new="        visible = np.broadcast_to(visible.any(axis=1, keepdims=True), visible.shape)\n"
    "        distance = np.abs(q_positions",
    hint="Only a block without a border is free of the mask.",
)
bug(
    "LC-36",
    "skips blocks that begin at a place behind the query's position",
    old="        distance = np.abs(q_positions",
    new="        if causal:\n            visible = visible & (start <= q_positions)[:, None]\n"
    "        distance = np.abs(q_positions",
    hint="Keys may come in any order: skip a block by the positions in it.",
)
bug(
    "LC-36",
    "skips the sinks with the blocks below the window",
    old="        distance = np.abs(q_positions",
    new="        if window is not None:\n"
    "            visible = visible & (kv_positions[part].max() > q_positions - window)[:, None]\n"
    "        distance = np.abs(q_positions",
    hint="Sinks and window are two stretches; a block with a sink is never below.",
)
bug(
    "LC-36",
    "counts a sink twice that is in the window as well",
    old="        state = merge_two(state, seen)\n",
    new="        state = merge_two(state, seen)\n"
    "        if window is not None:\n"
    "            again = visible & (kv_positions[None, part] < sink_tokens)\n"
    "            again = again & (kv_positions[None, part] > q_positions[:, None] - window)\n"
    "            state = merge_two(\n"
    "                state, dense_attention(q, k[:, :, part], v[:, :, part], again, scale, softcap, bias)\n"
    "            )\n",
    hint="Where both stretches meet, each key counts once.",
)
bug(
    "LC-36",
    "looks at no position that it is given",
    old="    expect(q_positions.shape == (queries,)",
    new="    q_positions, kv_positions = np.arange(keys - queries, keys), np.arange(keys)\n"
    "    expect(q_positions.shape == (queries,)",
    hint="`q_positions` and `kv_positions` replace the defaults.",
)
bug(
    "LC-36",
    "forgets the window in blocks",
    old="            window=window,\n            sink_tokens=sink_tokens,\n            chunk",
    new="            sink_tokens=sink_tokens,\n            chunk",
    hint="All options of the mask hold.",
)
bug(
    "LC-36",
    "forgets the sinks in blocks",
    old="            window=window,\n            sink_tokens=sink_tokens,\n            chunk",
    new="            window=window,\n            chunk",
    hint="All options of the mask hold.",
)
bug(
    "LC-36",
    "forgets the chunk in blocks",
    old="            chunk=chunk,\n            prefix=prefix,\n            segments",
    new="            prefix=prefix,\n            segments",
    hint="All options of the mask hold.",
)
bug(
    "LC-36",
    "forgets the prefix in blocks",
    old="            chunk=chunk,\n            prefix=prefix,\n            segments",
    new="            chunk=chunk,\n            segments",
    hint="All options of the mask hold.",
)
bug(
    "LC-36",
    "forgets the documents in blocks",
    old="            segments=None if segments is None else (segments[0], segments[1][part]),\n",
    new="",
    hint="All options of the mask hold.",
)
bug(
    "LC-36",
    "takes the documents of the first block for all blocks",
    old="(segments[0], segments[1][part]),\n",
    new="(segments[0], segments[1][: len(kv_positions[part])]),\n",
    hint="Cut the segments of the keys as the keys are cut.",
)
bug(
    "LC-36",
    "looks at the queries' positions only where the keys' are given as well",
    old="q_positions = np.arange(keys - queries, keys) if q_positions is None else q_positions",
    new="absent = q_positions is None or kv_positions is None\n"
    "    q_positions = np.arange(keys - queries, keys) if absent else q_positions",
    hint="Each of the two has its own default, whatever the other is.",
)
bug(
    "LC-36",
    "looks at the keys' positions only where the queries' are given as well",
    old="    q_positions = np.arange(keys - queries, keys) if",
    new="    kv_positions = None if q_positions is None else kv_positions\n"
    "    q_positions = np.arange(keys - queries, keys) if",
    hint="Each of the two has its own default, whatever the other is.",
)
bug(
    "LC-36",
    "takes the positions of the last keys for those of the queries",
    old="q_positions = np.arange(keys - queries, keys) if q_positions is None else q_positions",
    new="ends = kv_positions is not None and keys >= queries > 0\n"
    "    last = kv_positions[-queries:] if ends else np.arange(keys - queries, keys)\n"
    "    q_positions = last if q_positions is None else q_positions",
    hint="By default queries are at keys − queries … keys − 1, wherever the keys are.",
)
bug(
    "LC-36",
    "forgets the documents with a window",
    old="segments=None if segments is None else (segments[0], segments[1][part]),",
    new="segments=None if segments is None or window is not None else (segments[0], segments[1][part]),",
    hint="Documents hold together with all other masks.",
)
bug(
    "LC-36",
    "forgets the documents with a prefix",
    old="segments=None if segments is None else (segments[0], segments[1][part]),",
    new="segments=None if segments is None or prefix > 0 else (segments[0], segments[1][part]),",
    hint="A prefix is seen in its own document only.",
)
bug(
    "LC-36",
    "skips blocks after the last query though they are in the prefix",
    old="        distance = np.abs(q_positions[:, None] - kv_positions[None, part])",
    new="        if causal and queries and kv_positions[part].min() > q_positions.max():\n"
    "            continue\n"
    "        distance = np.abs(q_positions[:, None] - kv_positions[None, part])",
    hint="A key of the prefix is seen from before it as well: its block may not be skipped.",
)
bug(
    "LC-37",
    "takes −∞ from −∞ where nothing was seen yet",
    old="    top = np.where(np.isneginf(top), 0, top)\n",
    new="",
    hint="Subtract 0 where the maximum is −∞: exp(−∞ − 0) is 0, exp(−∞ + ∞) is NaN.",
)
bug(
    "LC-37",
    "divides by the sum of nothing",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    state = AttentionState(np.where(np.isneginf(state.lse)[..., None], np.nan, state.out), state.lse)\n"
    "    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    hint="0 / 0 is NaN: where the sum is 0, out is 0.",
)
bug(
    "LC-37",
    "gives a query that sees nothing the mean of all values",
    old="            scores = np.where(visible, scores, -np.inf)\n",
    new="            scores = np.where(visible, scores, np.finfo(np.float32).min)\n",
    hint="A score that is only very small is equal to all others where nothing is seen: use −∞ and a guard.",
)
bug(
    "LC-37",
    "gives the lse 0 where nothing is seen",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    state = AttentionState(state.out, np.where(np.isneginf(state.lse), 0, state.lse))\n"
    "    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    hint="ln 0 is −∞. With 0 it would have a weight in a merge.",
)
bug(
    "LC-37",
    "begins anew behind a block in which a query sees nothing",
    old="        state = merge_two(state, seen)\n",
    new="        state, some = merge_two(state, seen), visible.any(axis=1)\n"
    "        state = AttentionState(np.where(some[:, None], state.out, 0), np.where(some, state.lse, -np.inf))\n",
    hint="Such a block leaves the query's result as it is.",
)
bug(
    "LC-38",
    "ignores the cap",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="scores = scores * 1",
    hint="Each scaled score x becomes c · tanh(x / c).",
)
bug(
    "LC-38",
    "caps scores before it scales them",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="scores = WORK(softcap) * np.tanh(scores / WORK(scale) / WORK(softcap)) * WORK(scale)",
    hint="Scale first: x is scale · q · k.",
)
bug(
    "LC-38",
    "forgets to multiply by the cap",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="scores = np.tanh(scores / WORK(softcap))",
    hint="c · tanh(x / c): small scores stay as they are.",
)
bug(
    "LC-38",
    "forgets to divide by the cap",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="scores = WORK(softcap) * np.tanh(scores)",
    hint="c · tanh(x / c): small scores stay as they are.",
)
bug(
    "LC-38",
    "cuts scores off at the cap",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="scores = np.clip(scores, -softcap, softcap)",
    hint="The cap bends: c · tanh(x / c).",
)
bug(
    "LC-38",
    "caps the bias too",
    old="            if softcap is not None:\n"
    "                scores = WORK(softcap) * np.tanh(scores / WORK(softcap))\n"
    "            if bias is not None:\n"
    "                scores = scores + bias[h]\n",
    new="            if bias is not None:\n"
    "                scores = scores + bias[h]\n"
    "            if softcap is not None:\n"
    "                scores = WORK(softcap) * np.tanh(scores / WORK(softcap))\n",
    hint="Scale, then cap, then bias, then mask.",
)
bug(
    "LC-38",
    "caps −∞ too",
    old="            scores = np.where(visible, scores, -np.inf)\n",
    new="            hidden = -np.inf if softcap is None else -softcap\n"
    "            scores = np.where(visible, scores, hidden)\n",
    hint="c · tanh(−∞) is −c, a score like others: mask after the cap.",
)
bug(
    "LC-38",
    "works tanh out of exponentials that overflow",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="grown = np.exp(2 * (scores / WORK(softcap)).astype(np.float32))\n"
    "                scores = WORK(softcap) * ((grown - 1) / (grown + 1)).astype(WORK)",
    hint="A score far above the cap becomes the cap: ∞ / ∞ is NaN.",
)
bug(
    "LC-38",
    "forgets the cap with a window",
    old='    check_per_head(sink_logits, "sink_logits", heads)\n    check_per_head(alibi',
    new="    softcap = softcap if window is None else None\n"
    '    check_per_head(sink_logits, "sink_logits", heads)\n    check_per_head(alibi',
    hint="The cap bends scores under every mask.",
)
bug(
    "LC-39",
    "ignores the slopes",
    old="bias = None if alibi_slopes is None else -alibi_slopes.astype(WORK)[:, None, None] * distance",
    new="bias = None",
    hint="slopes[h] · |i − j| is subtracted from each score of head h.",
)
bug(
    "LC-39",
    "adds slope times the key's position",
    old="bias = None if alibi_slopes is None else -alibi_slopes.astype(WORK)[:, None, None] * distance",
    new="at = kv_positions[None, None, part]\n"
    "        bias = None if alibi_slopes is None else alibi_slopes.astype(WORK)[:, None, None] * at\n"
    "        bias = None if bias is None else np.repeat(bias, queries, axis=1)",
    hint="The softmax is the same, lse is not: subtract slope · |i − j|.",
)
bug(
    "LC-39",
    "rewards distance",
    old="bias = None if alibi_slopes is None else -alibi_slopes.astype(WORK)[:, None, None] * distance",
    new="bias = None if alibi_slopes is None else alibi_slopes.astype(WORK)[:, None, None] * distance",
    hint="What is far loses: the bias is negative.",
)
bug(
    "LC-39",
    "measures distances in places of the array",
    old="distance = np.abs(q_positions[:, None] - kv_positions[None, part])",
    new="distance = np.abs(np.arange(keys - queries, keys)[:, None] - np.arange(keys)[None, part])",
    hint="|i − j| is between positions.",
)
bug(
    "LC-39",
    "rewards keys that come after the query",
    old="distance = np.abs(q_positions[:, None] - kv_positions[None, part])",
    new="distance = q_positions[:, None] - kv_positions[None, part]",
    hint="The distance has no sign: |i − j|.",
)
bug(
    "LC-39",
    "scales the bias with the scores",
    old="scores = scores + bias[h]",
    new="scores = scores + bias[h] * WORK(scale)",
    hint="The bias is added after the scale, as it is.",
)
bug(
    "LC-39",
    "gives all heads of a group the slope of its first",
    old="scores = scores + bias[h]",
    new="scores = scores + bias[h - h % (heads // k.shape[1])]",
    hint="There is a slope for each query head.",
)
bug(
    "LC-39",
    "takes nothing from the scores of sink tokens",
    old="distance = np.abs(q_positions[:, None] - kv_positions[None, part])",
    new="distance = np.abs(q_positions[:, None] - kv_positions[None, part])\n"
    "        distance = np.where(kv_positions[part] < sink_tokens, 0, distance)",
    hint="Sink tokens are far away, and pay for it as any other key.",
)
bug(
    "LC-39",
    "cannot take slopes with a batch",
    old="scores = scores + bias[h]",
    new="scores = scores + bias[b * heads + h]",
    hint="There is one slope a head, the same in every row of a batch.",
)
bug(
    "LC-39",
    "hands the slopes out to the batch before the heads",
    old="scores = scores + bias[h]",
    new="scores = scores + bias[(b * heads + h) // batch]",
    hint="In each row of a batch head h has slopes[h].",
)
bug(
    "LC-40",
    "ignores the sink logits",
    old="        state = merge_two(state, only_sinks(state, sink_logits))\n",
    new="        pass\n",
    hint="One more logit joins each head's softmax.",
)
bug(
    "LC-40",
    "adds the sinks in each block",
    old="        state = merge_two(state, seen)\n    if sink_logits is not None:\n",
    new="        state = merge_two(state, seen)\n"
    "        if sink_logits is not None and start + block < keys:\n"
    "            state = merge_two(state, only_sinks(state, sink_logits))\n"
    "    if sink_logits is not None:\n",
    hint="The sink is one key, whatever `block` is: add it before the first block or after the last.",
)
bug(
    "LC-40",
    "leaves the sinks out of lse",
    old="        state = merge_two(state, only_sinks(state, sink_logits))\n",
    new="        state = AttentionState(merge_two(state, only_sinks(state, sink_logits)).out, state.lse)\n",
    hint="lse is the logarithm of all that the softmax divides by.",
)
bug(
    "LC-40",
    "scales the sink logits",
    old="        state = merge_two(state, only_sinks(state, sink_logits))\n",
    new="        scaled = sink_logits * (1 / sqrt(width) if scale is None else scale)\n"
    "        state = merge_two(state, only_sinks(state, scaled))\n",
    hint="A sink logit is a finished score.",
)
bug(
    "LC-40",
    "caps the sink logits",
    old="        state = merge_two(state, only_sinks(state, sink_logits))\n",
    new="        capped = sink_logits if softcap is None else softcap * np.tanh(sink_logits / softcap)\n"
    "        state = merge_two(state, only_sinks(state, capped))\n",
    hint="A sink logit is a finished score.",
)
bug(
    "LC-40",
    "gives nothing to a query that sees only the sink",
    old="        state = merge_two(state, only_sinks(state, sink_logits))\n",
    new="        joined = merge_two(state, only_sinks(state, sink_logits))\n"
    "        state = AttentionState(joined.out, np.where(np.isneginf(state.lse), -np.inf, joined.lse))\n",
    hint="The sink is never masked: such a query has out 0 and the sink's logit as lse.",
)
bug(
    "LC-40",
    "gives all heads of a group the sink of its first",
    old="        state = merge_two(state, only_sinks(state, sink_logits))\n",
    new="        group = heads // k.shape[1]\n"
    "        state = merge_two(state, only_sinks(state, np.repeat(sink_logits[::group], group)))\n",
    hint="There is a sink for each query head.",
)
bug(
    "LC-40",
    "gives nothing for no keys though there are sinks",
    old="    state = nothing_seen(batch, heads, queries, width)\n    for start",
    new="    state = nothing_seen(batch, heads, queries, width)\n"
    "    if keys == 0:\n"
    "        return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))\n"
    "    for start",
    hint="The sink is there without any key as well: out is 0 and lse the sink's logit.",
)
bug(
    "LC-40",
    "takes exponentials of sinks that overflow",
    old="state = merge_two(state, only_sinks(state, sink_logits))\n    return AttentionState(in_float32(state.out, q)",
    new="sink = only_sinks(state, sink_logits).lse\n"
    "        empty = np.isneginf(state.lse)\n"
    "        share = 1 + np.exp(np.where(empty, 0, sink - state.lse).astype(np.float32))\n"
    "        lse = np.where(empty, sink, state.lse + np.log(share))\n"
    "        state = AttentionState(state.out / share[..., None], lse)\n"
    "    return AttentionState(in_float32(state.out, q)",
    hint="Subtract the largest of all scores, of which the sink is one.",
)
bug(
    "LC-41",
    "gives out in the dtype of the queries",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    return AttentionState(state.out.astype(q.dtype), in_float32(state.lse, q))",
    hint="Parts are rounded once, after the last merge.",
)
bug(
    "LC-41",
    "gives lse in the dtype of the queries",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    return AttentionState(in_float32(state.out, q), state.lse.astype(q.dtype))",
    hint="An lse of 9.01 is 9.0 in bfloat16: keep it in float32.",
)
bug(
    "LC-41",
    "rounds lse to the dtype of the queries on the way",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    return AttentionState(in_float32(state.out, q), in_float32(stored(state.lse, q.dtype), q))",
    hint="An lse of 9.01 is 9.0 in bfloat16: keep it in float32 all along.",
)
bug(
    "LC-41",
    "rounds out to the dtype of the queries on the way",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))",
    new="    return AttentionState(in_float32(stored(state.out, q.dtype), q), in_float32(state.lse, q))",
    hint="Keep the output in float32 all along.",
)
bug(
    "LC-41",
    "keeps scores in half precision",
    old="            if softcap is not None:\n                scores = WORK",
    new="            scores = stored(scores, q.dtype)\n"
    "            if softcap is not None:\n                scores = WORK",
    hint="Convert q and k to float32 before the product.",
)
bug(
    "LC-41",
    "rounds the weights to half precision before it multiplies the values",
    old="            state.out[b, h, seen] = weights[seen] @ values / total[seen]\n",
    new="            state.out[b, h, seen] = stored(weights[seen], q.dtype) @ values / total[seen]\n",
    hint="Convert the values to float32, not the weights to half precision.",
)
bug(
    "LC-41",
    "keeps the slopes in half precision",
    old="scores = scores + bias[h]",
    new="scores = scores + bias[h].astype(q.dtype).astype(WORK)",
    hint="The bias is float32 whatever q is.",
)
bug(
    "LC-41",
    "keeps the sinks in half precision",
    old="state = merge_two(state, only_sinks(state, sink_logits))\n    return AttentionState(in_float32(state.out, q)",
    new="state = merge_two(state, only_sinks(state, sink_logits.astype(q.dtype)))\n"
    "    return AttentionState(in_float32(state.out, q)",
    hint="The sinks are float32 whatever q is.",
)
bug(
    "LC-41",
    "keeps capped scores in half precision",
    old="scores = WORK(softcap) * np.tanh(scores / WORK(softcap))",
    new="scores = (WORK(softcap) * np.tanh(scores / WORK(softcap))).astype(q.dtype).astype(WORK)",
    hint="Scores are float32 also behind the cap.",
)
bug(
    "LC-41",
    "gives out in the dtype of the queries where there is no key",
    old="    return AttentionState(in_float32(state.out, q), in_float32(state.lse, q))\n\n\ndef dense",
    new="    out = in_float32(state.out, q) if keys else state.out.astype(q.dtype)\n"
    "    return AttentionState(out, in_float32(state.lse, q))\n\n\ndef dense",
    hint="out is float32 also where it is 0 for want of keys.",
)
bug(
    "LC-42",
    "takes exponentials without subtracting the largest score",
    old="            weights = np.exp(scores - np.where(np.isneginf(top), 0, top))\n",
    new="            top = np.zeros_like(top)\n            weights = np.exp(scores)\n",
    hint="exp(10,000) is infinite, exp(−10,000) is 0: subtract the largest score of each query.",
)
bug(
    "LC-42",
    "cuts scores off at 80",
    old="            scores = np.where(visible, scores, -np.inf)\n",
    new="            scores = np.where(visible, np.clip(scores, -80, 80), -np.inf)\n",
    hint="Subtract the largest score; nothing has to be cut off.",
)
bug(
    "LC-42",
    "masks with a score of −10,000",
    old="            scores = np.where(visible, scores, -np.inf)\n",
    new="            scores = np.where(visible, scores, -1e4)\n",
    hint="A score may be lower than that: mask with −∞.",
)
bug(
    "LC-43",
    "multiplies the values that no query sees by 0",
    old="values = np.where(anyone_sees, v[b, kv_head].astype(WORK), 0)",
    new="values = v[b, kv_head].astype(WORK)",
    hint="0 · NaN is NaN: put 0 in the place of such values, or leave them out.",
)
bug(
    "LC-43",
    "adds −∞ to the scores of keys that no query sees",
    old="            scores = np.where(visible, scores, -np.inf)\n",
    new="            scores = scores + np.where(visible, 0, -np.inf)\n",
    hint="NaN − ∞ is NaN: replace such scores instead of adding to them.",
)
bug(
    "LC-44",
    "computes the scores of all pairs at once",
    old="    for start in range(0, keys, block):\n",
    new="    block = max(1, keys)\n    for start in range(0, keys, block):\n",
    hint="Hold the scores of a block of keys only, and merge.",
)
bug(
    "LC-44",
    "works the bias of all pairs out at once",
    old="    for start in range(0, keys, block):\n",
    new="    far = np.abs(q_positions[:, None] - kv_positions[None, :])\n"
    "    for start in range(0, keys, block):\n",
    hint="Hold the distances of a block of keys only.",
    also=[("distance = np.abs(q_positions[:, None] - kv_positions[None, part])", "distance = far[:, part]")],
)
bug(
    "LC-44",
    "computes the scores of all pairs at once where it is not causal",
    old="    for start in range(0, keys, block):\n",
    new="    block = block if causal else max(1, keys)\n    for start in range(0, keys, block):\n",
    hint="Blocks hold without `causal` as well.",
)
bug(
    "LC-45",
    "refuses a block of 0 and takes one below",
    old='expect(block >= 1, "block"',
    new='expect(block != 0, "block"',
    hint="`block` is at least 1.",
)
bug(
    "LC-45",
    "looks at no option where there are no keys",
    old='    expect(block >= 1, "block", "at least 1", block)\n',
    new="    if keys == 0:\n"
    "        empty = nothing_seen(batch, heads, queries, width)\n"
    "        if sink_logits is not None:\n"
    "            empty = merge_two(empty, only_sinks(empty, sink_logits))\n"
    "        return AttentionState(in_float32(empty.out, q), in_float32(empty.lse, q))\n"
    '    expect(block >= 1, "block", "at least 1", block)\n',
    hint="Look at all arguments before anything else.",
)

# Merging

bug(
    "LC-46",
    "takes the mean of the parts",
    old="    if sink_logits is not None:\n        merged =",
    new="    mean = np.mean([state.out.astype(WORK) for state in states], axis=0)\n"
    "    merged = AttentionState(mean, merged.lse)\n"
    "    if sink_logits is not None:\n        merged =",
    hint="A part counts by exp(lse_p − lse).",
)
bug(
    "LC-46",
    "adds up the lse of the parts",
    old="    if sink_logits is not None:\n        merged =",
    new="    merged = AttentionState(merged.out, sum(state.lse.astype(WORK) for state in states))\n"
    "    if sink_logits is not None:\n        merged =",
    hint="The sums are added, not their logarithms: ln Σ exp(lse_p).",
)
bug(
    "LC-46",
    "keeps the largest lse for that of all parts",
    old="    if sink_logits is not None:\n        merged =",
    new="    merged = AttentionState(merged.out, np.max([state.lse.astype(WORK) for state in states], axis=0))\n"
    "    if sink_logits is not None:\n        merged =",
    hint="The largest is what is subtracted before the exponentials and added again: ln Σ exp(lse_p).",
)
bug(
    "LC-46",
    "merges lse as logarithms in base 2",
    old="        merged = merge_two(merged, state)\n",
    new="        merged = merge_two(\n"
    "            AttentionState(merged.out, merged.lse * np.log(2)),\n"
    "            AttentionState(state.out, state.lse.astype(WORK) * np.log(2)),\n"
    "        )\n"
    "        merged = AttentionState(merged.out, merged.lse / np.log(2))\n",
    hint="lse is natural: weights are exp(lse_p − lse), not 2 to that power.",
)
bug(
    "LC-46",
    "forgets to divide by the sum of the weights",
    old="    if sink_logits is not None:\n        merged =",
    new="    largest = np.max([state.lse.astype(WORK) for state in states], axis=0)\n"
    "    merged = AttentionState(merged.out * np.exp(merged.lse - largest)[..., None], merged.lse)\n"
    "    if sink_logits is not None:\n        merged =",
    hint="The weights exp(lse_p − lse) sum to 1.",
)
bug(
    "LC-46",
    "keeps the part with the largest lse alone",
    old="        merged = merge_two(merged, state)\n",
    new="        larger = state.lse > merged.lse\n"
    "        merged = AttentionState(\n"
    "            np.where(larger[..., None], state.out, merged.out), np.where(larger, state.lse, merged.lse)\n"
    "        )\n",
    hint="Every part counts by exp(lse_p − lse).",
)
bug(
    "LC-46",
    "merges a list of states alone",
    old="    for state in states:\n        merged = merge_two(merged, state)",
    new="    for state in states + []:\n        merged = merge_two(merged, state)",
    hint="States come in any sequence, also in a tuple.",
)
bug(
    "LC-46",
    "cannot merge states of no queries",
    old="    merged = nothing_seen(*first.out.shape)\n",
    new="    merged = nothing_seen(*first.out.shape)\n    first.lse.max()\n",
    hint="A state may have no queries: what is merged has none either.",
)
bug(
    "LC-47",
    "multiplies by 0 what a part holds that saw nothing",
    old="        np.where(np.isneginf(lse)[..., None], 0, out.astype(WORK)) * weight[..., None] / divisor\n",
    new="        out.astype(WORK) * weight[..., None] / divisor\n",
    hint="0 · NaN is NaN: do not look at out where lse is −∞.",
)
bug(
    "LC-47",
    "takes −∞ from −∞ where no part saw anything",
    old="    if sink_logits is not None:\n        merged =",
    new="    nothing = np.isneginf(merged.lse)\n"
    "    merged = AttentionState(\n"
    "        np.where(nothing[..., None], np.nan, merged.out), np.where(nothing, np.nan, merged.lse)\n"
    "    )\n"
    "    if sink_logits is not None:\n        merged =",
    hint="−∞ + ∞ is NaN: subtract 0 where the largest lse is −∞.",
)
bug(
    "LC-47",
    "gives the lse 0 where no part saw anything",
    old="    if sink_logits is not None:\n        merged =",
    new="    merged = AttentionState(merged.out, np.where(np.isneginf(merged.lse), 0, merged.lse))\n"
    "    if sink_logits is not None:\n        merged =",
    hint="Nothing and nothing is nothing: −∞.",
)
bug(
    "LC-47",
    "drops a part in which any query saw nothing",
    old="        merged = merge_two(merged, state)\n",
    new="        if not np.isneginf(state.lse).any():\n            merged = merge_two(merged, state)\n",
    hint="Other queries and heads of this part saw something.",
)
bug(
    "LC-47",
    "gives a single state back as it is",
    old="    merged = nothing_seen(*first.out.shape)\n",
    new="    if len(states) == 1 and sink_logits is None:\n"
    "        return first\n"
    "    merged = nothing_seen(*first.out.shape)\n",
    hint="Where its lse is −∞ the result is 0, whatever out holds there.",
)
bug(
    "LC-48",
    "takes exponentials of lse without subtracting the largest",
    old="    top = np.where(np.isneginf(top), 0, top)\n",
    new="    top = np.zeros_like(top)\n",
    hint="exp(2,000) is infinite: subtract the largest lse.",
)
bug(
    "LC-48",
    "subtracts the first lse instead of the largest",
    old="    top = np.where(np.isneginf(top), 0, top)\n",
    new="    top = np.where(np.isneginf(lse_a), np.where(np.isneginf(top), 0, top), lse_a)\n",
    hint="The second may be larger by thousands.",
)
bug(
    "LC-48",
    "merges two states and forgets the others",
    old="    merged = nothing_seen(*first.out.shape)\n    for state in states:\n",
    new="    merged = nothing_seen(*first.out.shape)\n    for state in states[:2]:\n",
    hint="Any number of states can come.",
)
bug(
    "LC-48",
    "refuses a single state",
    old='expect(len(states) > 0, "states", "at least 1", 0)',
    new='expect(len(states) > 1, "states", "at least 2", len(states))',
    hint="A single state comes back as it was.",
)
bug(
    "LC-48",
    "halves what it has at each merge",
    old="        merged = merge_two(merged, state)\n",
    new="        joined = merge_two(merged, state)\n"
    "        half = state.out if state is first else (merged.out + state.out) / 2\n"
    "        merged = AttentionState(half, joined.lse)\n",
    hint="A state counts by exp(lse_p − lse), wherever it stands.",
)
bug(
    "LC-49",
    "ignores the sinks when it merges",
    old="        merged = merge_two(merged, only_sinks(merged, sink_logits))\n",
    new="        pass\n",
    hint="The sinks join once, with the value 0.",
)
bug(
    "LC-49",
    "joins the sinks to each state",
    old="        merged = merge_two(merged, state)\n",
    new="        merged = merge_two(merged, state)\n"
    "        if sink_logits is not None and state is not states[-1]:\n"
    "            merged = merge_two(merged, only_sinks(merged, sink_logits))\n",
    hint="A sink is one key, however many parts there are.",
)
bug(
    "LC-49",
    "leaves the sinks out of the merged lse",
    old="        merged = merge_two(merged, only_sinks(merged, sink_logits))\n",
    new="        merged = AttentionState(merge_two(merged, only_sinks(merged, sink_logits)).out, merged.lse)\n",
    hint="lse is the logarithm of all that the softmax divides by.",
)
bug(
    "LC-49",
    "joins no sink where no part saw anything",
    old="        merged = merge_two(merged, only_sinks(merged, sink_logits))\n",
    new="        joined = merge_two(merged, only_sinks(merged, sink_logits))\n"
    "        merged = AttentionState(joined.out, np.where(np.isneginf(merged.lse), -np.inf, joined.lse))\n",
    hint="There out is 0 and lse the sink's logit.",
)
bug(
    "LC-49",
    "takes exponentials of sinks that overflow when it merges",
    old="        merged = merge_two(merged, only_sinks(merged, sink_logits))\n",
    new="        sink = only_sinks(merged, sink_logits).lse\n"
    "        empty = np.isneginf(merged.lse)\n"
    "        share = 1 + np.exp(np.where(empty, 0, sink - merged.lse).astype(np.float32))\n"
    "        lse = np.where(empty, sink, merged.lse + np.log(share))\n"
    "        merged = AttentionState(merged.out / share[..., None], lse)\n",
    hint="Subtract the larger one of lse and sink.",
)
bug(
    "LC-50",
    "looks at the shapes of the first two states alone",
    old="    for state in states:\n        shapes =",
    new="    for state in states[:2]:\n        shapes =",
    hint="Every state has the shape of the first one.",
)
bug(
    "LC-50",
    "looks only at how many numbers a state has",
    old='        expect(shapes == expected, "states"',
    new="        as_many = state.out.size == first.out.size and shapes[1] == shapes[0][:-1]\n"
    '        expect(as_many, "states"',
    hint="Equally many numbers may lie in another shape.",
)

# Rings

bug(
    "LC-51",
    "attends to its own shard alone",
    old="    for hop in range(ranks):\n",
    new="    for hop in range(1):\n",
    hint="After R − 1 hops every rank has seen all shards.",
)
bug(
    "LC-51",
    "leaves out the last shard",
    old="    for hop in range(ranks):\n",
    new="    for hop in range(max(1, ranks - 1)):\n",
    hint="R shards are seen with R − 1 hops: the first is there without one.",
)
bug(
    "LC-51",
    "keeps what the last shard gave",
    old="        state = merge_two(state, dense_attention(q, keys, values, visible, scale))\n",
    new="        state = dense_attention(q, keys, values, visible, scale)\n",
    hint="What the shards give is merged by lse.",
)
bug(
    "LC-51",
    "takes the mean over the shards",
    old="        state = merge_two(state, dense_attention(q, keys, values, visible, scale))\n",
    new="        seen = dense_attention(q, keys, values, visible, scale)\n"
    "        state = AttentionState(state.out + seen.out / ranks, state.lse)\n",
    hint="A shard counts by exp(lse_p − lse).",
)
bug(
    "LC-51",
    "answers in float32",
    old="    return state.out.astype(q.dtype)\n",
    new="    return in_float32(state.out, q)\n",
    hint="After the last merge the result is rounded to the dtype of q.",
)
bug(
    "LC-51",
    "ignores the scale on a ring",
    old="        state = merge_two(state, dense_attention(q, keys, values, visible, scale))\n",
    new="        state = merge_two(state, dense_attention(q, keys, values, visible))\n",
    hint="`scale` replaces 1 / sqrt(head_dim).",
)
bug(
    "LC-51",
    "passes on its own shard at each hop",
    old="                for array, shape in zip(shard, shapes, strict=True)\n",
    new="                for array, shape in zip((k, v, positions), shapes, strict=True)\n",
    hint="What came from the previous rank goes to the next one.",
)
bug(
    "LC-51",
    "takes exponentials of lse without the largest on a ring",
    old="        state = merge_two(state, dense_attention(q, keys, values, visible, scale))\n        if hop",
    new="        part = dense_attention(q, keys, values, visible, scale)\n"
    "        ours, theirs = (np.exp(each.lse.astype(np.float32)) for each in (state, part))\n"
    "        total = np.where(ours + theirs > 0, ours + theirs, 1)\n"
    "        out = (state.out * ours[..., None] + part.out * theirs[..., None]) / total[..., None]\n"
    "        state = AttentionState(out, np.where(ours + theirs > 0, np.log(total), -np.inf))\n"
    "        if hop",
    hint="lse may be of any size: subtract the larger one first.",
)
bug(
    "LC-51",
    "takes a scale of 0 for none on a ring",
    old="        state = merge_two(state, dense_attention(q, keys, values, visible, scale))\n        if hop",
    new="        state = merge_two(state, dense_attention(q, keys, values, visible, scale or None))\n        if hop",
    hint="A scale of 0 is a scale: only None is the default.",
)
bug(
    "LC-52",
    "takes the shards for contiguous",
    old="        visible = attention_mask(positions, kv_positions, causal=causal)\n",
    new="        at, source = np.concatenate([[0], np.cumsum(lengths)]), (here - hop) % ranks\n"
    "        visible = attention_mask(\n"
    "            at[here] + np.arange(queries), at[source] + np.arange(keys.shape[2]), causal=causal\n"
    "        )\n",
    hint="`positions` says where the tokens are; it travels with the keys.",
)
bug(
    "LC-52",
    "skips the shards of later ranks",
    old="        visible = attention_mask(positions, kv_positions, causal=causal)\n",
    new="        visible = attention_mask(positions, kv_positions, causal=causal)\n"
    "        visible = visible & (not causal or (here - hop) % ranks <= here)\n",
    hint="A later rank may have earlier tokens: look at the positions.",
)
bug(
    "LC-52",
    "is causal on a ring though told not to be",
    old="        visible = attention_mask(positions, kv_positions, causal=causal)\n",
    new="        visible = attention_mask(positions, kv_positions)\n",
    hint="Without `causal` a query sees the keys of all ranks.",
)
bug(
    "LC-52",
    "is causal only within its own shard",
    old="        visible = attention_mask(positions, kv_positions, causal=causal)\n",
    new="        visible = attention_mask(positions, kv_positions, causal=causal and hop == 0)\n",
    hint="The keys of other ranks may be in the future too.",
)
bug(
    "LC-52",
    "masks arriving keys by its own positions",
    old="        visible = attention_mask(positions, kv_positions, causal=causal)\n",
    new="        at = np.resize(positions, len(kv_positions))\n"
    "        visible = attention_mask(positions, at, causal=causal)\n",
    hint="The positions of a shard travel with it.",
)
bug(
    "LC-52",
    "sees nothing at the query's own position",
    old="        visible = attention_mask(positions, kv_positions, causal=causal)\n",
    new="        visible = attention_mask(positions - 1 if causal else positions, kv_positions, causal=causal)\n",
    hint="A key is seen at or before the query's position.",
)
bug(
    "LC-52",
    "sees no more keys of a shard than it has queries where it is not causal",
    old="        visible = attention_mask(positions, kv_positions, causal=causal)\n        state",
    new="        visible = attention_mask(positions, kv_positions, causal=causal)\n"
    "        if not causal:\n"
    "            visible[:, queries:] = False\n"
    "        state",
    hint="Without `causal` a query sees all keys of a shard, however long that is.",
)
bug(
    "LC-52",
    "takes positions for places in a triangle of all tokens",
    old="        visible = attention_mask(positions, kv_positions, causal=causal)\n        state",
    new="        visible = np.ones((queries, len(kv_positions)), bool)\n"
    "        if causal:\n"
    "            visible = np.tri(int(lengths.sum()), dtype=bool)[positions][:, kv_positions]\n"
    "        state",
    hint="A sequence may begin anywhere: compare positions.",
)
bug(
    "LC-52",
    "keeps 16 bits of each position",
    old="    positions = positions.astype(np.int32)\n    here",
    new="    positions = positions.astype(np.int16)\n    here",
    hint="Positions may be far above 32,767.",
)
bug(
    "LC-52",
    "takes positions in int32 alone",
    old="    positions = positions.astype(np.int32)\n    here",
    new='    expect(positions.dtype == np.int32, "positions", "int32", positions.dtype)\n    here',
    hint="Positions are integers, of any dtype.",
)
bug(
    "LC-53",
    "leaves at once when a rank has no tokens",
    old="    here, ranks = collective.rank, collective.size\n    lengths",
    new="    if queries == 0:\n        return q.copy()\n"
    "    here, ranks = collective.rank, collective.size\n    lengths",
    hint="Its neighbours wait for what it should pass on.",
)
bug(
    "LC-53",
    "cannot take a rank without tokens",
    old="    here, ranks = collective.rank, collective.size\n    lengths",
    new="    positions.max()\n    here, ranks = collective.rank, collective.size\n    lengths",
    hint="The largest of no positions does not exist.",
)
bug(
    "LC-53",
    "gives an empty result without its shape",
    old="    return state.out.astype(q.dtype)\n",
    new="    return state.out.astype(q.dtype) if queries else np.zeros(0, q.dtype)\n",
    hint="The result is like q, here (batch, heads, 0, head_dim).",
)
bug(
    "LC-53",
    "answers in float32 where it has no tokens",
    old="    return state.out.astype(q.dtype)\n\n\ndef passed_on",
    new="    return state.out.astype(q.dtype if queries else np.float32)\n\n\ndef passed_on",
    hint="An empty result is in the dtype of q as well.",
)
bug(
    "LC-54",
    "gathers the keys and values of all ranks",
    old="    after, before = (here + 1)",
    new="    collective.all_gather(np.zeros((2, batch, kv_heads, max(lengths), width), k.dtype))\n"
    "    after, before = (here + 1)",
    hint="That takes the memory that the ring was to save: pass shards on.",
)
bug(
    "LC-54",
    "sends its shard to every rank",
    old="    after, before = (here + 1)",
    new="    for rank in range(ranks):\n"
    "        if rank != here:\n            collective.send(k, rank)\n"
    "    for rank in range(ranks):\n"
    "        if rank != here:\n"
    "            collective.recv((batch, kv_heads, int(lengths[rank]), width), k.dtype.name, rank)\n"
    "    after, before = (here + 1)",
    hint="A rank sends to the next one alone, which passes it on.",
)
bug(
    "LC-54",
    "sends its queries around as well",
    old="        if hop < ranks - 1:\n",
    new="        if hop < ranks - 1:\n"
    "            collective.send(q, after)\n"
    "            collective.recv((batch, heads, int(lengths[before]), width), q.dtype.name, before)\n",
    hint="Queries stay; only keys, values and positions move.",
)
bug(
    "LC-54",
    "sends one message for each token",
    old="        if hop < ranks - 1:\n",
    new="        if hop < ranks - 1:\n"
    "            for _ in range(queries):\n                collective.send(np.zeros(0, np.int32), after)\n"
    '            for _ in range(lengths[before]):\n                collective.recv((0,), "int32", before)\n',
    hint="A shard is three messages: keys, values, positions.",
)
bug(
    "LC-54",
    "repeats the kv heads for each query head before it sends them",
    old="    shard = k, v, positions\n",
    new="    k, v = (np.repeat(each, heads // kv_heads, axis=1) for each in (k, v))\n"
    "    kv_heads = heads\n"
    "    shard = k, v, positions\n",
    hint="Send the kv heads as they are, and let the receiver share them out.",
)
bug(
    "LC-54",
    "sends float16 as float32",
    old="    shard = k, v, positions\n",
    new="    if k.dtype == np.float16:\n"
    "        k, v = k.astype(np.float32), v.astype(np.float32)\n"
    "    shard = k, v, positions\n",
    hint="Keys and values travel in their own dtype.",
)
bug(
    "LC-54",
    "gathers the keys and values of all ranks where it is not causal",
    old="    after, before = (here + 1)",
    new="    if not causal:\n"
    "        collective.all_gather(np.zeros((2, batch, kv_heads, max(lengths), width), k.dtype))\n"
    "    after, before = (here + 1)",
    hint="Also where all see all, shards are passed on.",
)
bug(
    "LC-54",
    "sends a message that nobody receives",
    old="    return state.out.astype(q.dtype)\n\n\ndef passed_on",
    new="    if ranks > 1 and queries:\n"
    "        collective.send(positions[:1], after)\n"
    "    return state.out.astype(q.dtype)\n\n\ndef passed_on",
    hint="What nobody receives stays in the way of the next call.",
)
bug(
    "LC-55",
    "talks to the others before it looks at its arguments",
    old="    check_attention(q, k, v)\n    (batch, heads, queries, width), kv_heads, keys",
    new="    collective.all_gather(np.zeros(1, np.int32))\n"
    "    check_attention(q, k, v)\n    (batch, heads, queries, width), kv_heads, keys",
    hint="Whoever raises after the first message leaves the others waiting.",
)
bug(
    "LC-55",
    "takes keys of more rows than the queries have",
    old="    check_attention(q, k, v)\n    (batch, heads, queries, width), kv_heads",
    new="    check_attention(q, *(each[: len(q)] for each in (k, v)))\n"
    "    (batch, heads, queries, width), kv_heads",
    hint="q, k and v have the same batch.",
)
bug(
    "LC-55",
    "looks at no argument where it is alone",
    old="    check_attention(q, k, v)\n    (batch, heads, queries, width), kv_heads",
    new="    if collective.size == 1:\n"
    "        return whole_attention(q, k, v, positions, causal, scale)\n"
    "    check_attention(q, k, v)\n"
    "    (batch, heads, queries, width), kv_heads",
    hint="A ring of one refuses what a larger one refuses.",
)
bug(
    "LC-55",
    "looks at no dtype where it has no tokens",
    old="    check_attention(q, k, v)\n    (batch, heads, queries, width), kv_heads",
    new="    if q.shape[2] == 0:\n"
    "        k, v = k.astype(q.dtype), v.astype(q.dtype)\n"
    "    check_attention(q, k, v)\n"
    "    (batch, heads, queries, width), kv_heads",
    hint="A rank without tokens refuses what the others refuse.",
)
# Rolling caches

bug(
    "LC-56",
    "forgets to rotate the queries",
    old="return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)",
    new="return attend_row(query, turned(keys, at), values, scale)",
    hint="The cache is given both unrotated and rotates both.",
)
bug(
    "LC-56",
    "forgets to rotate the keys",
    old="return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)",
    new="return attend_row(turned(query[None], [p])[0], keys, values, scale)",
    hint="The cache is given both unrotated and rotates both.",
)
bug(
    "LC-56",
    "rotates the values, too",
    old="return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)",
    new="return attend_row(turned(query[None], [p])[0], turned(keys, at), turned(values, at), scale)",
    hint="Only queries and keys are rotated.",
)
bug(
    "LC-56",
    "rotates cached keys without the attention factor",
    old="return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)",
    new="return attend_row(turned(query[None], [p])[0], turned(keys, at) / WORK(attention_factor), values, scale)",
    hint="The factor is on queries and keys alike, so that scores grow by its square.",
)
bug(
    "LC-56",
    "rotates halves whatever `interleaved` says",
    old='options = {"attention_factor": attention_factor, "interleaved": interleaved}',
    new='options = {"attention_factor": attention_factor}',
    hint="Hand all arguments of the constructor on to `apply_rope`.",
)
bug(
    "LC-56",
    "counts the sinks into the window",
    old="self.window, self.sink_tokens = window, sink_tokens",
    new="self.window, self.sink_tokens = max(1, window - sink_tokens), sink_tokens",
    hint="The cache sees S + W tokens: the window comes on top of the sinks.",
)
bug(
    "LC-56",
    "ignores the scale that a rolling cache is given",
    old="query, self.keys[seen], self.values[seen], at, p, self.rotation, scale, self.dtype",
    new="query, self.keys[seen], self.values[seen], at, p, self.rotation, None, self.dtype",
    hint="1 / sqrt(head_dim) is the default only.",
)
bug(
    "LC-56",
    "returns float32 from a rolling cache of half precision",
    old="        return result.astype(queries.dtype)\n\n    def seen_by",
    new="        return in_float32(result, queries)\n\n    def seen_by",
    hint="The result is like the queries.",
)
bug(
    "LC-56",
    "keeps the scores of a rolling cache in its dtype",
    old="    return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)",
    new="    q, k = turned(query[None], [p])[0].astype(WORK), turned(keys, at).astype(WORK)\n"
    '    scores = np.einsum("hc,nkc->hnk", q, k).astype(dtype)\n'
    "    if np.isinf(scores).any():\n        values = np.full_like(values, np.nan)\n"
    "    return attend_row(q, k, values, scale)",
    hint="Scores are float32: those of half precision overflow before the scale makes them small.",
)
bug(
    "LC-56",
    "answers in float32 once something was evicted",
    old="        return result.astype(queries.dtype)\n\n    def seen_by",
    new="        return result.astype(np.float32 if self.oldest > 0 else queries.dtype)\n\n    def seen_by",
    hint="The result has the dtype of the queries, always.",
)
bug(
    "LC-56",
    "shares the frequencies of the first rolling cache",
    old="        self.rotation = inv_freq, attention_factor, interleaved, positions",
    new="        inv_freq = RollingKVCache.tables.setdefault((head_dim, len(inv_freq)), inv_freq)\n"
    "        self.rotation = inv_freq, attention_factor, interleaved, positions",
    hint="Each cache has the frequencies that it was made with: layers differ.",
    also=[("class RollingKVCache:\n", "class RollingKVCache:\n    tables = {}\n\n")],
)
bug(
    "LC-57",
    "sees one token more than the window",
    old="k <= p and (k > p - self.window or k < self.sink_tokens)",
    new="k <= p and (k >= p - self.window or k < self.sink_tokens)",
    also=(
        (
            "self.oldest = max(self.oldest, self.n - self.window + 1)",
            "self.oldest = max(self.oldest, self.n - self.window)",
        ),
    ),
    hint="The query's own token is one of the W: p − W is not seen.",
)
bug(
    "LC-57",
    "sees one token less than the window",
    old="k <= p and (k > p - self.window or k < self.sink_tokens)",
    new="k <= p and (k > p - max(1, self.window - 1) or k < self.sink_tokens)",
    hint="W tokens, the query's own included: from p − W + 1 on.",
)
bug(
    "LC-57",
    "gives up the sinks",
    old="needed = [i for i, p in enumerate(self.kept) if p < self.sink_tokens or p >= self.oldest]",
    new="needed = [i for i, p in enumerate(self.kept) if p >= self.oldest]",
    hint="The first S tokens stay for ever.",
)
bug(
    "LC-57",
    "keeps one sink too many",
    old="k <= p and (k > p - self.window or k < self.sink_tokens)",
    new="k <= p and (k > p - self.window or k <= self.sink_tokens)",
    also=(
        (
            "if p < self.sink_tokens or p >= self.oldest]",
            "if p <= self.sink_tokens or p >= self.oldest]",
        ),
    ),
    hint="Sinks are the positions below S.",
)
bug(
    "LC-57",
    "leaves evicted tokens in the softmax with a score of 0",
    old='    if counted == "cache":\n',
    new='    gone = np.zeros((p + 1 - len(keys), *keys.shape[1:]), WORK)\n    if counted == "cache":\n',
    also=(
        (
            "return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)",
            "k, v = (np.concatenate([rows, gone]) for rows in (turned(keys, at), values.astype(WORK)))\n"
            "    return attend_row(turned(query[None], [p])[0], k, v, scale)",
        ),
    ),
    hint="A masked score is −inf, not 0: exp(0) is 1, and every evicted token takes its share.",
)
bug(
    "LC-57",
    "keeps what it evicted and gives it the weight 0",
    old="needed = [i for i, p in enumerate(self.kept) if p < self.sink_tokens or p >= self.oldest]",
    new="needed = list(range(len(self.kept)))",
    also=(
        (
            "                query, self.keys[seen], self.values[seen], at, p, self.rotation, scale, self.dtype\n"
            "            )\n",
            "                query, self.keys[seen], self.values[seen], at, p, self.rotation, scale, self.dtype\n"
            "            )\n"
            "            result[row] += 0 * self.values.astype(WORK).sum()\n",
        ),
    ),
    hint="0 · NaN is NaN: what was evicted must not be multiplied at all.",
)
bug(
    "LC-57",
    "forgets the scale once something was evicted",
    old="        at, p = range(len(keys)), len(keys) - 1\n",
    new="        if p >= len(keys):\n            scale = None\n        at, p = range(len(keys)), len(keys) - 1\n",
    hint="The scale that was given holds for every query, also after the first eviction.",
)
bug(
    "LC-57",
    "sees one key more through a window of 1 without sinks",
    old="i for i, k in enumerate(self.kept) if k <= p and (k > p - self.window or k < self.sink_tokens)",
    new="i for i, k in enumerate(self.kept) if k <= p and (k > p - max(self.window, 1 if self.sink_tokens else 2) or k < self.sink_tokens)",
    hint="A window of 1 holds the query's own key and no other.",
)
bug(
    "LC-58",
    "keeps W tokens before the first of them have read",
    old="        self.askable = len(keys)\n",
    new="        self.askable = len(keys)\n"
    "        left = [i for i, p in enumerate(self.kept) if p < self.sink_tokens or p >= self.n - self.window]\n"
    "        self.keys, self.values = self.keys[left], self.values[left]\n"
    "        self.kept = [self.kept[i] for i in left]\n",
    hint="The first query of m tokens sees W − 1 tokens before it: keep W − 1 + m until all have read.",
)
bug(
    "LC-58",
    "shows queries the tokens after them",
    old="k <= p and (k > p - self.window or k < self.sink_tokens)",
    new="k > p - self.window or k < self.sink_tokens",
    hint="Tokens that come at once see each other causally.",
)
bug(
    "LC-58",
    "takes the last query's window for all",
    old="k <= p and (k > p - self.window or k < self.sink_tokens)",
    new="k <= p and (k > min(p - 1, self.n - 1 - self.window) or k < self.sink_tokens)",
    hint="Each query has a window of its own, which ends with it.",
)
bug(
    "LC-58",
    "takes the first query's window for all",
    old="k <= p and (k > p - self.window or k < self.sink_tokens)",
    new="k <= p and (k > self.n - self.askable - self.window or k < self.sink_tokens)",
    hint="Each query has a window of its own, which ends with it.",
)
bug(
    "LC-58",
    "takes the queries for the first tokens of the last append",
    old="            p = self.n - len(queries) + row\n            seen = self.seen_by(p)",
    new="            p = self.n - self.askable + row\n            seen = self.seen_by(p)",
    hint="The last m tokens attend.",
)
bug(
    "LC-58",
    "takes an append of no tokens for the last one",
    old="        if len(keys) == 0:\n            return\n        self.oldest",
    new="        self.oldest",
    hint="m = 0 changes nothing: neither what is there nor who may ask.",
)
bug(
    "LC-58",
    "answers in float32 to no queries",
    old="        return result.astype(queries.dtype)\n\n    def seen_by",
    new="        return result.astype(queries.dtype if len(queries) else np.float32)\n\n    def seen_by",
    hint="No queries have a dtype as well: that of the cache.",
)
bug(
    "LC-59",
    "counts what is there though positions are absolute",
    old='    if counted == "cache":\n',
    new="    if True:\n",
    hint="Keep the place in the sequence of each key, and rotate by it.",
)
bug(
    "LC-59",
    "takes the number of kept keys for the query's position",
    old="        at, p = range(len(keys)), len(keys) - 1\n",
    new="        at, p = range(len(keys)), len(keys) - 1\n    p = len(keys) - 1\n",
    hint="After an eviction the two differ: the query is at its place in the sequence.",
)
bug(
    "LC-59",
    "takes a token's slot in the ring for its position",
    old="            at = [self.kept[i] for i in seen]\n",
    new="            ring = self.sink_tokens + self.window\n"
    "            at = [self.kept[i] % ring for i in seen]\n"
    '            p = p % ring if self.rotation[3] == "absolute" else p\n',
    hint="Slots are reused, positions are not.",
)
bug(
    "LC-59",
    "rounds absolute positions to the dtype of the cache",
    old="        x = rows.astype(WORK).swapaxes(0, 1)[None]\n",
    new="        x = rows.astype(WORK).swapaxes(0, 1)[None]\n"
    "        positions = np.array(list(positions)).astype(dtype).astype(int)\n",
    hint="bfloat16 tells positions apart up to 256. Angles are float32, from whole positions.",
)
bug(
    "LC-60",
    "leaves keys and query at their places in the sequence",
    old='    if counted == "cache":\n',
    new="    if False:\n",
    hint='With positions "cache" the keys are at 0, 1, … and the query is at the last of them.',
)
bug(
    "LC-60",
    "shifts old keys and leaves the newest at its place in the sequence",
    old="        at, p = range(len(keys)), len(keys) - 1\n",
    new="        at = [*range(len(keys) - 1), p]\n",
    hint="The newest key and the query are at c − 1, next to the others.",
)
bug(
    "LC-60",
    "leaves the query at its place in the sequence",
    old="        at, p = range(len(keys)), len(keys) - 1\n",
    new="        at = range(len(keys))\n",
    hint="The query is where its own key is, at c − 1.",
)
bug(
    "LC-60",
    "counts what the cache holds and not what a query sees",
    old="            at = [self.kept[i] for i in seen]\n",
    new='            at = [self.kept[i] if self.rotation[3] == "absolute" else i for i in seen]\n',
    also=(("        at, p = range(len(keys)), len(keys) - 1\n", "        p = at[-1]\n"),),
    hint="Of m tokens at once each query sees other keys, and counts them from 0.",
)
bug(
    "LC-60",
    "leaves a place free between the sinks and the window",
    old="        at, p = range(len(keys)), len(keys) - 1\n",
    new="        at = [i if k == i else i + 1 for i, k in enumerate(at)]\n        p = at[-1]\n",
    hint="The first key of the window comes right after the last sink.",
)
bug(
    "LC-60",
    "forgets the attention factor once something was evicted",
    old="        at, p = range(len(keys)), len(keys) - 1\n",
    new="        if p >= len(keys):\n            attention_factor = 1.0\n        at, p = range(len(keys)), len(keys) - 1\n",
    hint="What is rotated is stretched by the attention factor, at cache positions too.",
)
bug(
    "LC-60",
    "turns halves once something was evicted though pairs are neighbours",
    old="        at, p = range(len(keys)), len(keys) - 1\n",
    new="        if p >= len(keys):\n            interleaved = False\n        at, p = range(len(keys)), len(keys) - 1\n",
    hint="The layout of the pairs stays that of the constructor, also after an eviction.",
)
bug(
    "LC-60",
    "takes absolute positions if nothing is said",
    old='        positions="cache",\n        dtype="float32",',
    new='        positions="absolute",\n        dtype="float32",',
    hint='The default is "cache".',
)
bug(
    "LC-60",
    "squeezes the axis of a single kv head",
    old="        self.keys = np.concatenate([self.keys[needed], keys])\n"
    "        self.values = np.concatenate([self.values[needed], values])\n        self.kept",
    new="        self.keys = np.concatenate([self.keys[needed], keys.squeeze(1) if self.kv_heads == 1 else keys])\n"
    "        self.values = np.concatenate([self.values[needed], values])\n        self.kept",
    hint="One kv head is an axis of length 1.",
)
bug(
    "LC-60",
    "turns kept keys on by small steps in the dtype of the cache",
    old="    return attend_row(turned(query[None], [p])[0], turned(keys, at), values, scale)",
    new="    drifted = turned(keys, first_at)\n"
    "    for _ in range(first_p - p):\n"
    "        back = np.where(np.array(first_at) > np.array(list(at)), -1, 0)\n"
    "        first_at = np.array(first_at) + back\n"
    "        drifted = turned(drifted, back) / WORK(attention_factor)\n"
    "    return attend_row(turned(query[None], [p])[0], drifted, values, scale)",
    hint="Rotate the keys as they came, once: small turns of turned keys drift in half precision.",
    also=[
        (
            '    if counted == "cache":\n        at, p = range(len(keys)), len(keys) - 1\n',
            '    first_at, first_p = at, p\n    if counted == "cache":\n        at, p = range(len(keys)), len(keys) - 1\n',
        )
    ],
)
bug(
    "LC-61",
    "takes the number of kept tokens for the length",
    old="        return self.n\n\n    def positions(self):\n        return [self.kept[i]",
    new="        return len(self.kept)\n\n    def positions(self):\n        return [self.kept[i]",
    hint="`length` counts all tokens, those given up included.",
)
bug(
    "LC-61",
    "lists all that the cache holds",
    old="return [self.kept[i] for i in self.seen_by(self.n - 1)]",
    new="return list(self.kept)",
    hint="After m tokens at once more is held than the last one sees.",
)
bug(
    "LC-61",
    "counts positions from 0",
    old="return [self.kept[i] for i in self.seen_by(self.n - 1)]",
    new="return list(range(len(self.seen_by(self.n - 1))))",
    hint="`positions` are places in the sequence, whatever the keys are rotated by.",
)
bug(
    "LC-61",
    "lists tokens in the order of their slots",
    old="return [self.kept[i] for i in self.seen_by(self.n - 1)]",
    new="return sorted((self.kept[i] for i in self.seen_by(self.n - 1)), key=lambda p: p % self.window)",
    hint="A ring is not in the order of time: sort by position.",
)
bug(
    "LC-61",
    "lists what the next token will see",
    old="return [self.kept[i] for i in self.seen_by(self.n - 1)]",
    new="return [self.kept[i] for i in self.seen_by(self.n)]",
    hint="The last token's window ends with it.",
)
bug(
    "LC-61",
    "leaves the sinks out of the list",
    old="return [self.kept[i] for i in self.seen_by(self.n - 1)]",
    new="return [p for i in self.seen_by(self.n - 1) if (p := self.kept[i]) >= self.sink_tokens]",
    hint="The last token sees the sinks as well.",
)
bug(
    "LC-61",
    "lists tokens that were given up",
    old="        return [self.kept[i] for i in self.seen_by(self.n - 1)]",
    new="        return [p for p in range(self.n) if p < self.sink_tokens or p > self.n - 1 - self.window]",
    hint="After a truncation, what the last token saw may be gone: list what is still there.",
)
bug(
    "LC-62",
    "takes no way back into the sinks once anything was given up",
    old="length - self.window + 1) < min(self.oldest, length):",
    new="length - self.window + 1) < self.oldest:",
    hint="Up to S nothing was given up: a token there sees sinks alone.",
)
bug(
    "LC-62",
    "goes back to tokens that it gave up",
    old="        if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):\n"
    '            raise CannotTruncate(f"length: expected at least {self.oldest + self.window - 1}, got {length}")\n',
    new="",
    hint="A token there would see keys that are gone: raise CannotTruncate.",
)
bug(
    "LC-62",
    "never goes back once something was given up",
    old="if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):",
    new="if length < self.n and self.sink_tokens < self.oldest:",
    hint="Going back works while the next token's window is still there.",
)
bug(
    "LC-62",
    "goes back one token less than it could",
    old="if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):",
    new="if length < self.n and max(self.sink_tokens, length - self.window) < min(self.oldest, length):",
    hint="A token at t sees from t − W + 1 on, itself included.",
)
bug(
    "LC-62",
    "goes back one token further than it can",
    old="if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):",
    new="if max(self.sink_tokens, length - self.window + 2) < min(self.oldest, length):",
    hint="A token at t sees from t − W + 1 on.",
)
bug(
    "LC-62",
    "goes by its length and not by what it gave up",
    old="if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):",
    new="if max(self.sink_tokens, length - self.window + 1) < self.n - self.window:",
    hint="Tokens that came at once were not given up: the cache still has them all.",
)
bug(
    "LC-62",
    "counts sinks among what it gave up",
    old="if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):",
    new="if length - self.window + 1 < min(self.oldest, length):",
    hint="What is below S is always there.",
)
bug(
    "LC-62",
    "forgets what it gave up when it goes back",
    old="        self.n = length\n",
    new="        self.n = length\n        self.oldest = 0\n",
    hint="Going back brings nothing back.",
)
bug(
    "LC-62",
    "goes back though it refuses to",
    old="        if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):\n",
    new="        before, self.n = self.n, length\n"
    "        if max(self.sink_tokens, length - self.window + 1) >= min(self.oldest, length):\n"
    "            self.n = before\n"
    "        if max(self.sink_tokens, length - self.window + 1) < min(self.oldest, length):\n",
    hint="Check first, then change.",
)
bug(
    "LC-62",
    "leaves the keys where only the length goes back",
    old="left = [i for i, p in enumerate(self.kept) if p < length]",
    new="left = [i for i, p in enumerate(self.kept)]",
    hint="The next append would stand beside the keys that were taken back.",
)
bug(
    "LC-62",
    "lets tokens ask that were taken back",
    old="        self.askable = max(0, self.askable - (self.n - length))\n",
    new="",
    hint="As many may ask as are left of the last append.",
)
bug(
    "LC-62",
    "lets nobody ask after a truncation",
    old="self.askable = max(0, self.askable - (self.n - length))",
    new="self.askable = 0",
    hint="As many may ask as are left of the last append.",
)
bug(
    "LC-62",
    "moves what was given up before it refuses to go back",
    old="        if max(self.sink_tokens, length",
    new="        oldest, self.oldest = self.oldest, min(self.oldest, length)\n        if max(self.sink_tokens, length",
    also=[
        ("< min(self.oldest, length):", "< min(oldest, length):"),
        (
            "        self.oldest = min(self.oldest, length)\n        self.n = length",
            "        self.n = length",
        ),
    ],
    hint="A truncation that is refused changes nothing, not even what the next one may do.",
)
bug(
    "LC-62",
    "counts a truncation to the present length as an append",
    old="        self.askable = max(0, self.askable - (self.n - length))",
    new="        self.askable = max(0, self.askable - (self.n - length)) or (1 if length == self.n and self.n else 0)",
    hint="After a truncation as many queries may ask as are left of the last append.",
)
bug(
    "LC-63",
    "keeps everything and masks it",
    old="needed = [i for i, p in enumerate(self.kept) if p < self.sink_tokens or p >= self.oldest]",
    new="needed = list(range(len(self.kept)))",
    hint="The results are the same, and no memory is saved: give up what no later token sees.",
)
bug(
    "LC-63",
    "gives nothing up while tokens come one by one",
    old="needed = [i for i, p in enumerate(self.kept) if p < self.sink_tokens or p >= self.oldest]",
    new="needed = [i for i, p in enumerate(self.kept) if len(keys) == 1 or p < self.sink_tokens or p >= self.oldest]",
    hint="A token more, a token less.",
)
bug(
    "LC-63",
    "gives nothing up where there are sinks",
    old="needed = [i for i, p in enumerate(self.kept) if p < self.sink_tokens or p >= self.oldest]",
    new="needed = [i for i, p in enumerate(self.kept) if self.sink_tokens > 0 or p >= self.oldest]",
    hint="Sinks stay, and what lies between them and the window goes.",
)
bug(
    "LC-63",
    "remembers every key that it turned",
    old="            at = [self.kept[i] for i in seen]\n",
    new="            at = [self.kept[i] for i in seen]\n"
    '            self.turned = [*getattr(self, "turned", []), self.keys[seen].astype(np.float32)]\n',
    hint="Rotated keys are given up with the tokens that they are of.",
)
bug(
    "LC-64",
    "checks nothing of an append of no tokens",
    old="    def append(self, keys, values):\n        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)\n        if len(keys) == 0:\n            return\n",
    new="    def append(self, keys, values):\n        if len(keys) == 0:\n            return\n        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)\n",
    hint="Rows have to fit the cache even when there are none of them.",
)
bug(
    "LC-64",
    "takes queries without heads",
    old="fits = queries.ndim == 3 and queries.shape[2] == head_dim and queries.shape[1] >= 1",
    new="fits = queries.ndim == 3 and queries.shape[2] == head_dim",
    hint="Queries have at least one head for each kv head.",
)
bug(
    "LC-64",
    "takes fewer query heads than kv heads",
    old='expect(queries.shape[1] % kv_heads == 0, "queries"',
    new='expect(queries.shape[1] % kv_heads == 0 or queries.shape[1] < kv_heads, "queries"',
    hint="The number of query heads is a multiple of the number of kv heads.",
)
bug(
    "LC-64",
    "takes a negative window",
    old='expect(window >= 1, "window", "at least 1", window)\n        expect(sink',
    new='expect(window != 0, "window", "at least 1", window)\n        expect(sink',
    hint="A window is at least 1.",
)
bug(
    "LC-64",
    "takes values of one kv head for all of them",
    old='expect(values.shape == shape, "values", f"shape {shape}", values.shape)\n    for',
    new='expect(values.shape in (shape, (shape[0], 1, shape[2])), "values", f"shape {shape}", values.shape)\n    for',
    hint="Values have the shape of the keys and are never broadcast.",
)

# Quantisation

bug(
    "LC-65",
    "rounds codes down",
    old="np.rint((groups - zero[..., None]) / divisor[..., None])",
    new="np.floor((groups - zero[..., None]) / divisor[..., None])",
    hint="The nearest code: rounding down doubles the error and pulls all values to one side.",
)
bug(
    "LC-65",
    "divides the range by 2^b",
    old="scale = (groups.max(axis=-1) - zero) / (2**bits - 1)",
    new="scale = (groups.max(axis=-1) - zero) / 2**bits",
    hint="2^b codes have 2^b − 1 steps between them.",
)
bug(
    "LC-65",
    "quantises around 0",
    old="    zero = groups.min(axis=-1)\n    scale = (groups.max(axis=-1) - zero) / (2**bits - 1)\n",
    new="    zero = -abs(groups).max(axis=-1)\n    scale = -2 * zero / (2**bits - 1)\n",
    hint="zero is the least value of the group: a group that is all above 0 would waste half its codes.",
)
bug(
    "LC-65",
    "takes the mean for the zero",
    old="    zero = groups.min(axis=-1)\n    scale = (groups.max(axis=-1) - zero) / (2**bits - 1)\n",
    new="    zero = groups.mean(axis=-1)\n"
    "    scale = (groups.max(axis=-1) - groups.min(axis=-1)) / (2**bits - 1)\n",
    hint="Codes count up from the least value.",
)
bug(
    "LC-65",
    "quantises in the dtype of x",
    old="rows = np.moveaxis(x.astype(WORK), axis, -1)",
    new="rows = np.moveaxis(x, axis, -1)",
    hint="Cast x to float32 first: half precision has too few digits for the steps.",
)
bug(
    "LC-65",
    "keeps scale and zero in the dtype of x",
    old="np.uint8), in_float32(scale, x), in_float32(zero, x), bits, group, axis)",
    new="np.uint8), scale.astype(x.dtype), zero.astype(x.dtype), bits, group, axis)",
    hint="scale and zero are float32.",
)
bug(
    "LC-65",
    "returns codes as 32-bit integers",
    old="return Quantized(codes.astype(np.uint8), in_float32(scale, x)",
    new="return Quantized(codes.astype(np.int32), in_float32(scale, x)",
    hint="Codes are uint8.",
)
bug(
    "LC-65",
    "guards the scale by a hundred thousandth",
    old="divisor = np.where(scale > 0, scale, 1)",
    new="divisor = np.maximum(scale, 1e-5)",
    hint="A group whose range is small but not 0 is divided evenly like every other.",
)
bug(
    "LC-66",
    "groups along the other axis",
    old="    rows = np.moveaxis(x.astype(WORK), axis, -1)\n",
    new="    axis = 2 - axis if x.shape[2 - axis] % group == 0 else axis\n"
    "    rows = np.moveaxis(x.astype(WORK), axis, -1)\n",
    hint="Axis 0 is the tokens', axis 2 the channels'.",
)
bug(
    "LC-66",
    "deals values out to the groups in turn",
    old="    groups = rows.reshape(*rows.shape[:-1], rows.shape[-1] // group, group)\n",
    new="    groups = rows.reshape(*rows.shape[:-1], group, rows.shape[-1] // group).swapaxes(-1, -2)\n",
    also=(
        (
            "for each in (codes.reshape(rows.shape), scale, zero))",
            "for each in (codes.swapaxes(-1, -2).reshape(rows.shape), scale, zero))",
        ),
    ),
    hint="A group is a run of neighbours.",
)
bug(
    "LC-66",
    "shares scale and zero among the heads",
    old="    zero = groups.min(axis=-1)\n    scale = (groups.max(axis=-1) - zero) / (2**bits - 1)\n",
    new="    heads = 0 if axis == 0 else 1\n"
    "    least = groups.min(axis=-1).min(axis=heads, keepdims=True)\n"
    "    largest = groups.max(axis=-1).max(axis=heads, keepdims=True)\n"
    "    zero = np.broadcast_to(least, groups.shape[:-1])\n"
    "    scale = (largest - zero) / (2**bits - 1)\n",
    hint="Each kv head has groups of its own.",
)
bug(
    "LC-66",
    "takes one scale for the whole array",
    old="    zero = groups.min(axis=-1)\n    scale = (groups.max(axis=-1) - zero) / (2**bits - 1)\n",
    new="    zero = np.full(groups.shape[:-1], groups.min(initial=np.inf))\n"
    "    scale = (groups.max(initial=-np.inf) - zero) / (2**bits - 1)\n",
    hint="Each group has its own, so that an outlier costs only its neighbours.",
)
bug(
    "LC-66",
    "lets reshape guess how many groups no tokens make",
    old="    groups = rows.reshape(*rows.shape[:-1], rows.shape[-1] // group, group)\n",
    new="    groups = rows.reshape(*rows.shape[:-1], -1, group)\n",
    hint="No tokens are no groups: say the number.",
)
bug(
    "LC-66",
    "refuses no tokens along the axis of the groups",
    old='    expect(x.shape[axis] % group == 0, "group"',
    new='    expect(x.shape[axis] % group == 0 and x.shape[axis] > 0, "group"',
    hint="No tokens are a multiple of every group.",
)
bug(
    "LC-67",
    "adds a little to the range",
    old="scale = (groups.max(axis=-1) - zero) / (2**bits - 1)",
    new="scale = (groups.max(axis=-1) - zero + 1e-6) / (2**bits - 1)",
    hint="Divide by something else where the range is 0; the scale itself stays 0.",
)
bug(
    "LC-67",
    "gives a constant group the scale 1",
    old="    divisor = np.where(scale > 0, scale, 1)\n",
    new="    divisor = scale = np.where(scale > 0, scale, 1)\n",
    hint="Only the divisor is replaced: the scale of a constant group is 0.",
)
bug(
    "LC-67",
    "stores a constant group as one step from 0",
    old="    divisor = np.where(scale > 0, scale, 1)\n",
    new="    constant = scale == 0\n"
    "    scale, zero = np.where(constant, zero, scale), np.where(constant, 0, zero)\n"
    "    divisor = np.where(scale != 0, scale, 1)\n",
    hint="zero is the value, scale and codes are 0.",
)
bug(
    "LC-67",
    "has no groups of one",
    old='    expect(x.shape[axis] % group == 0, "group"',
    new='    expect(x.shape[axis] % group == 0 and group > 1, "group"',
    hint="A group of one value is constant: scale and code 0, zero the value.",
)
bug(
    "LC-68",
    "adds the zero before it scales",
    old="return in_float32(codes.astype(WORK) * scale + zero, quantized.scale)",
    new="return in_float32((codes.astype(WORK) + zero) * scale, quantized.scale)",
    hint="code · scale + zero: the zero is a value, not a code.",
)
bug(
    "LC-68",
    "subtracts the zero",
    old="return in_float32(codes.astype(WORK) * scale + zero, quantized.scale)",
    new="return in_float32(codes.astype(WORK) * scale - zero, quantized.scale)",
    hint="code · scale + zero.",
)
bug(
    "LC-68",
    "forgets the zero",
    old="return in_float32(codes.astype(WORK) * scale + zero, quantized.scale)",
    new="return in_float32(codes.astype(WORK) * scale, quantized.scale)",
    hint="code · scale + zero.",
)
bug(
    "LC-68",
    "adds half a step",
    old="return in_float32(codes.astype(WORK) * scale + zero, quantized.scale)",
    new="return in_float32((codes.astype(WORK) + WORK(0.5)) * scale + zero, quantized.scale)",
    hint="Codes were rounded to the nearest, not down: there is nothing to make up for.",
)
bug(
    "LC-68",
    "takes codes for signed bytes",
    old="return in_float32(codes.astype(WORK) * scale + zero, quantized.scale)",
    new="return in_float32(codes.astype(np.int8).astype(WORK) * scale + zero, quantized.scale)",
    hint="Codes of 8 bits go up to 255.",
)
bug(
    "LC-68",
    "deals scales out to values in turn",
    old="scale, zero = (np.repeat(each.astype(WORK), group, axis=axis) for each in (scale, zero))",
    new="repeats = [group if i == axis else 1 for i in range(3)]\n"
    "    scale, zero = (np.tile(each.astype(WORK), repeats) for each in (scale, zero))",
    hint="`group` neighbours share a scale: repeat each of them, do not tile them.",
)
bug(
    "LC-69",
    "accepts 1 bit because it divides a byte",
    old='expect(bits in (2, 4, 8), "bits", "2, 4 or 8", bits)',
    new='expect(bits in (1, 2, 4, 8), "bits", "2, 4 or 8", bits)',
    hint="Codes have 2, 4 or 8 bits.",
)
bug(
    "LC-69",
    "accepts axes counted from the end",
    old='expect(axis in (0, 2), "axis", "0 or 2", axis)',
    new='expect(axis in (0, 2, -1, -3), "axis", "0 or 2", axis)',
    hint="The axis is 0 or 2.",
)
bug(
    "LC-69",
    "takes a scale with an axis too many",
    old='expect(scale.shape == tuple(shape), "scale"',
    new='expect(scale.size == np.prod(shape), "scale"',
    hint="scale has the axes of x.",
)

# Quantised caches

bug(
    "LC-70",
    "quantises the newest tokens, too",
    old="while len(self.keys) >= self.residual + self.group:",
    new="while len(self.keys) >= self.group:",
    hint="A group is quantised when `residual` tokens are left after it.",
)
bug(
    "LC-70",
    "waits for one token more than it has to",
    old="while len(self.keys) >= self.residual + self.group:",
    new="while len(self.keys) > self.residual + self.group:",
    hint="At n = R + G the first group is quantised.",
)
bug(
    "LC-70",
    "lets a group take tokens from the residual",
    old="while len(self.keys) >= self.residual + self.group:",
    new="while len(self.keys) > self.residual and len(self.keys) >= self.group:",
    hint="At least R tokens stay as they came: ⌊(n − R) / G⌋ groups.",
)
bug(
    "LC-70",
    "groups values along tokens",
    old="self.value_codes.append(self.quantized(self.values[oldest], 2))",
    new="self.value_codes.append(self.quantized(self.values[oldest], 0))",
    hint="Keys are grouped per channel, values per token.",
)
bug(
    "LC-70",
    "groups keys along channels",
    old="self.key_codes.append(self.quantized(self.keys[oldest], 0))",
    new="self.key_codes.append(self.quantized(self.keys[oldest], 2))",
    hint="Keys have channels that are large in all tokens: group them per channel, along axis 0.",
)
bug(
    "LC-70",
    "keeps the newest tokens in half precision",
    old="        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    new="        keys, values = (rows.astype(np.float16).astype(rows.dtype) for rows in (keys, values))\n"
    "        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    hint="What is not quantised comes back bit for bit.",
)
bug(
    "LC-70",
    "gathers float32 from a cache of half precision",
    old="        dtype = self.keys.dtype\n        return (\n",
    new="        dtype = np.promote_types(self.keys.dtype, np.float32)\n        return (\n",
    hint="`gather` answers in the cache's dtype.",
)
bug(
    "LC-70",
    "gathers values for keys and keys for values",
    old="            np.concatenate([each.astype(dtype) for each in (*keys, self.keys)]),\n"
    "            np.concatenate([each.astype(dtype) for each in (*values, self.values)]),\n",
    new="            np.concatenate([each.astype(dtype) for each in (*values, self.values)]),\n"
    "            np.concatenate([each.astype(dtype) for each in (*keys, self.keys)]),\n",
    hint="Keys come first.",
)
bug(
    "LC-70",
    "unpacks codes from the highest bits",
    old="shifts = np.arange(8 // bits, dtype=np.uint8) * bits",
    new="shifts = np.arange(8 // bits, dtype=np.uint8)[::-1] * bits",
    hint="Unpack in the order in which you pack.",
)
bug(
    "LC-70",
    "forgets the quantised tokens in its length",
    old="return len(self.key_codes) * self.group + len(self.keys)",
    new="return len(self.keys)",
    hint="`length` is n, quantised or not.",
)
bug(
    "LC-70",
    "gathers float32 of nothing",
    old="        dtype = self.keys.dtype\n        return (",
    new="        dtype = self.keys.dtype if self.length() else np.float32\n        return (",
    hint="What is gathered has the dtype of the cache, also when it holds no tokens.",
)
bug(
    "LC-70",
    "cannot pack codes that do not fill a byte",
    old="    codes = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)",
    new="    codes = codes.reshape(-1, per_byte)",
    hint="Fill the last byte up with anything, and forget it when the codes are read.",
)
bug(
    "LC-70",
    "loses the codes that do not fill a byte",
    old="    codes = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)",
    new="    left = -len(codes) % per_byte\n"
    "    codes = np.pad(codes[: len(codes) // per_byte * per_byte], (0, per_byte if left else 0)).reshape(-1, per_byte)",
    hint="Round the bytes up, not down.",
)
bug(
    "LC-70",
    "has no guard for constant groups in the cache",
    old="        return packed(quantize_kv(rows, bits=self.bits, group=self.group, axis=axis))",
    new="        made = quantize_kv(rows, bits=self.bits, group=self.group, axis=axis)\n"
    "        scale = np.where(made.scale > 0, made.scale, np.nan).astype(made.scale.dtype)\n"
    "        return packed(Quantized(made.codes, scale, made.zero, made.bits, made.group, made.axis))",
    hint="Where all values of a group are equal, the scale is 0 and the codes are: divide by 1 there.",
)
bug(
    "LC-70",
    "quantises the keys of a single kv head along channels",
    old="            self.key_codes.append(self.quantized(self.keys[oldest], 0))",
    new="            self.key_codes.append(self.quantized(self.keys[oldest], 0 if self.kv_heads > 1 else 2))",
    hint="Keys are grouped along the tokens, however many heads there are.",
)
bug(
    "LC-71",
    "quantises what arrives alone as a group of its own",
    old="        while len(self.keys) >= self.residual + self.group:\n",
    new="        self.arrived = len(keys)\n        while len(self.keys) >= self.residual + self.group:\n",
    also=(
        (
            "return packed(quantize_kv(rows, bits=self.bits, group=self.group, axis=axis))",
            "alone = self.arrived == 1 and axis == 0\n"
            "        group = 1 if alone else self.group\n"
            "        return packed(quantize_kv(rows, bits=self.bits, group=group, axis=axis))",
        ),
    ),
    hint="A group of one token has a range of 0: no error and nothing saved. Wait until G tokens are there.",
)
bug(
    "LC-71",
    "never quantises tokens that arrive alone",
    old="while len(self.keys) >= self.residual + self.group:",
    new="while len(keys) > 1 and len(self.keys) >= self.residual + self.group:",
    hint="Decoded tokens fill groups like those of a prompt.",
)
bug(
    "LC-71",
    "quantises one group an append at most",
    old="while len(self.keys) >= self.residual + self.group:",
    new="if len(self.keys) >= self.residual + self.group:",
    hint="A long append fills many groups.",
)
bug(
    "LC-71",
    "quantises everything again at each flush",
    old="            self.key_codes.append(self.quantized(self.keys[oldest], 0))\n"
    "            self.value_codes.append(self.quantized(self.values[oldest], 2))\n",
    new="            told = [dequantize_kv(unpacked(each, self.head_dim)) for each in self.key_codes]\n"
    "            told = np.concatenate([*told, self.keys[oldest]]).astype(self.dtype)\n"
    "            self.key_codes = [packed(quantize_kv(told, bits=self.bits, group=len(told), axis=0))]\n"
    "            self.value_codes.append(self.quantized(self.values[oldest], 2))\n",
    also=(
        (
            "return len(self.key_codes) * self.group + len(self.keys)",
            "return len(self.value_codes) * self.group + len(self.keys)",
        ),
    ),
    hint="Errors add up each time: what was quantised stays as it is.",
)
bug(
    "LC-71",
    "quantises a prompt whole",
    old="        while len(self.keys) >= self.residual + self.group:\n",
    new="        residual = 0 if self.length() == len(keys) > 1 else self.residual\n"
    "        while len(self.keys) >= residual + self.group:\n",
    hint="A prompt's newest tokens stay as they came, as those of any other append.",
)
bug(
    "LC-71",
    "shares the codes of all quantised caches",
    old="        self.key_codes, self.value_codes = [], []  # one `Quantized` for each G tokens\n",
    new="        QuantizedKVCache.key_codes, QuantizedKVCache.value_codes = [], []\n",
    hint="Each cache has codes of its own.",
)
bug(
    "LC-72",
    "lets all queries see the newest token",
    old="        end = len(keys) - len(queries) + row + 1\n        result[row] = attend_row",
    new="        end = len(keys)\n        result[row] = attend_row",
    hint="Attention is causal: the query of token p sees keys 0 … p.",
)
bug(
    "LC-72",
    "takes the queries for the first tokens of the cache",
    old="        end = len(keys) - len(queries) + row + 1\n        result[row] = attend_row",
    new="        end = row + 1\n        result[row] = attend_row",
    hint="The last m tokens attend: the mask is aligned to the bottom right.",
)
bug(
    "LC-72",
    "ignores the scale that a quantised cache is given",
    old="return attend_last(queries, *self.gather(), scale)",
    new="return attend_last(queries, *self.gather())",
    hint="1 / sqrt(head_dim) is the default only.",
)
bug(
    "LC-72",
    "attends to quantised tokens only",
    old="return attend_last(queries, *self.gather(), scale)",
    new="keys, values = self.gather()\n"
    "        old = len(self.key_codes) * self.group or len(keys)\n"
    "        result = [attend_last(q[None], keys[:end], values[:end], scale) for q, end in zip(\n"
    "            queries, np.minimum(old, np.arange(len(keys) - len(queries), len(keys)) + 1))]\n"
    "        return np.concatenate([queries[:0], *result])",
    hint="The residual belongs to the keys as well.",
)
bug(
    "LC-72",
    "reads all keys with the scales of the first group",
    old="return attend_last(queries, *self.gather(), scale)",
    new="told = self.key_codes\n"
    "        self.key_codes = [\n"
    "            Quantized(each.codes, told[0].scale, told[0].zero, each.bits, each.group, each.axis) for each in told\n"
    "        ]\n"
    "        keys, values = self.gather()\n"
    "        self.key_codes = told\n"
    "        return attend_last(queries, keys, values, scale)",
    hint="Every group has a scale and a zero of its own.",
)
bug(
    "LC-72",
    "forgets the zeros of the keys where it folds the scales into the queries",
    old="return attend_last(queries, *self.gather(), scale)",
    new="told = self.key_codes\n"
    "        self.key_codes = [\n"
    "            Quantized(each.codes, each.scale, 0 * each.zero, each.bits, each.group, each.axis) for each in told\n"
    "        ]\n"
    "        keys, values = self.gather()\n"
    "        self.key_codes = told\n"
    "        return attend_last(queries, keys, values, scale)",
    hint="q · (code · scale + zero) = (q · scale) · code + q · zero.",
)
bug(
    "LC-72",
    "forgets the zeros of the values where it folds the scales into the weights",
    old="return attend_last(queries, *self.gather(), scale)",
    new="told = self.value_codes\n"
    "        self.value_codes = [\n"
    "            Quantized(each.codes, each.scale, 0 * each.zero, each.bits, each.group, each.axis) for each in told\n"
    "        ]\n"
    "        keys, values = self.gather()\n"
    "        self.value_codes = told\n"
    "        return attend_last(queries, keys, values, scale)",
    hint="Σ p · (code · scale + zero) = Σ (p · scale) · code + Σ p · zero.",
)
bug(
    "LC-72",
    "spreads query heads over the kv heads of a cache in turn",
    old="return attend_last(queries, *self.gather(), scale)",
    new='order = np.argsort(np.arange(queries.shape[1]) % self.kv_heads, kind="stable")\n'
    "        result = np.zeros_like(queries)\n"
    "        result[:, order] = attend_last(queries[:, order], *self.gather(), scale)\n"
    "        return result",
    hint="Query head h reads kv head h // (heads // kv_heads).",
)
bug(
    "LC-72",
    "returns float32 from a quantised cache of half precision",
    old="return attend_last(queries, *self.gather(), scale)",
    new="result = attend_last(queries, *self.gather(), scale)\n        return in_float32(result, queries)",
    hint="The result has the dtype of the queries.",
)
bug(
    "LC-72",
    "lets only as many ask as are not quantised",
    old='        fits = len(queries) <= self.length()\n        expect(fits, "queries", f"at most {self.length()} tokens"',
    new='        fits = len(queries) <= len(self.keys)\n        expect(fits, "queries", f"at most {self.length()} tokens"',
    hint="m may be any number up to n.",
)
bug(
    "LC-72",
    "takes a scale of 0 for none where it reads a quantised cache",
    old="        return attend_last(queries, *self.gather(), scale)",
    new="        return attend_last(queries, *self.gather(), scale or None)",
    hint="Only None stands for the default scale, and 0 weighs all keys alike.",
)
bug(
    "LC-72",
    "answers in float32 to no queries of a quantised cache",
    old="    return result.astype(queries.dtype)\n\n\ndef packed",
    new="    return result.astype(queries.dtype if len(queries) else np.float32)\n\n\ndef packed",
    hint="No queries have a dtype as well: that of the cache.",
)
bug(
    "LC-73",
    "counts a byte for each code",
    old="sum(each.codes.nbytes + each.scale.nbytes + each.zero.nbytes for each in codes)",
    new="sum(8 // self.bits * each.codes.nbytes + each.scale.nbytes + each.zero.nbytes for each in codes)",
    hint="Codes of b bits take b / 8 bytes: pack them.",
)
bug(
    "LC-73",
    "forgets scales and zeros in the bytes",
    old="sum(each.codes.nbytes + each.scale.nbytes + each.zero.nbytes for each in codes)",
    new="sum(each.codes.nbytes for each in codes)",
    hint="With groups of 32 they make 6 bits of 4.",
)
bug(
    "LC-73",
    "forgets the zeros in the bytes",
    old="sum(each.codes.nbytes + each.scale.nbytes + each.zero.nbytes for each in codes)",
    new="sum(each.codes.nbytes + each.scale.nbytes for each in codes)",
    hint="Each group has a scale and a zero, of 4 bytes each.",
)
bug(
    "LC-73",
    "forgets the residual in the bytes",
    old="return quantised + self.keys.nbytes + self.values.nbytes",
    new="return quantised",
    hint="The newest tokens count in the cache's dtype.",
)
bug(
    "LC-73",
    "counts the bytes of the keys only",
    old="        codes = [*self.key_codes, *self.value_codes]\n",
    new="        codes = self.key_codes\n",
    hint="Keys and values are both held.",
)
bug(
    "LC-73",
    "claims the bits for all tokens, the residual included",
    old="return quantised + self.keys.nbytes + self.values.nbytes",
    new="return quantised + 2 * self.keys.size * self.bits // 8",
    hint="The newest tokens are not quantised: they count in the cache's dtype.",
)
bug(
    "LC-73",
    "keeps full precision beside the codes",
    old="        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    new='        self.told = [*getattr(self, "told", []), keys.copy(), values.copy()]\n'
    "        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    hint="What was quantised must go.",
)
bug(
    "LC-73",
    "keeps full precision where an append was no multiple of the group",
    old="        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    new="        if len(keys) % self.group:\n"
    '            self.uneven = [*getattr(self, "uneven", []), keys.copy(), values.copy()]\n'
    "        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    hint="What is quantised is kept as codes alone.",
)
bug(
    "LC-73",
    "keeps its prompt beside the codes",
    old="        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    new="        if self.length() == 0:\n            self.prompt = keys.copy(), values.copy()\n"
    "        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    hint="A prompt is quantised like all else, and given up.",
)
bug(
    "LC-73",
    "keeps a view of all that it quantised",
    old="        self.keys, self.values = self.keys.copy(), self.values.copy()  # views would hold the older rows\n",
    new="",
    hint="A slice of an array holds all of it: copy the rows that stay.",
)
bug(
    "LC-73",
    "keeps tokens that came one by one beside the codes",
    old="        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    new="        if len(keys) == 1:\n"
    '            self.single = [*getattr(self, "single", []), keys.copy(), values.copy()]\n'
    "        self.keys = np.concatenate([self.keys, keys])\n"
    "        self.values = np.concatenate([self.values, values])\n        while",
    hint="Once quantised, a token is kept as codes alone.",
)
bug(
    "LC-73",
    "keeps what it decoded to attend",
    old="        return attend_last(queries, *self.gather(), scale)\n\n    def length",
    new="        self.decoded = self.gather()\n"
    "        return attend_last(queries, *self.decoded, scale)\n\n    def length",
    hint="What a result needs in full precision goes with it.",
)
bug(
    "LC-73",
    "holds a byte for each code and counts them as packed",
    old="    in_bytes = (codes << shifts).sum(axis=1, dtype=np.uint8)\n",
    new="    in_bytes = (codes << shifts).sum(axis=1, dtype=np.uint8).repeat(per_byte)[::per_byte]\n",
    hint="Pack the codes: 8 / b of them in a byte.",
)
bug(
    "LC-74",
    "checks nothing of an append of no tokens to a quantised cache",
    old="    def append(self, keys, values):\n        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)\n        self.keys",
    new="    def append(self, keys, values):\n        if len(keys) == 0:\n            return\n        check_rows(keys, values, self.kv_heads, self.head_dim, self.dtype)\n        self.keys",
    hint="Rows have to fit the cache even when there are none of them.",
)

# Heavy hitters

bug(
    "LC-75",
    "gives up before it attends",
    old="        at = [*at, *range(n, n + m)]\n",
    new="        if len(at) + m > budget:\n"
    "            stays = best(scores, max(0, budget - m))\n"
    "            at, scores = [at[i] for i in stays], scores[stays]\n"
    "            old_keys, old_values = old_keys[stays], old_values[stays]\n"
    "        at = [*at, *range(n, n + m)]\n",
    hint="Append, attend, give up, in this order.",
)
bug(
    "LC-75",
    "lets the tokens of a step see those after them",
    old="                seen = len(at) - m + row + 1  # itself included\n",
    new="                seen = len(at)\n",
    hint="Attention within a step is causal.",
)
bug(
    "LC-75",
    "keeps one key less than the budget",
    old="        if len(at) > budget:\n            older = len(at) - recent\n"
    "            stays = np.concatenate([best(scores[:older], budget - recent), stays[older:]])\n",
    new="        if len(at) >= budget:\n            older = len(at) - recent\n"
    "            stays = np.concatenate([best(scores[:older], max(0, budget - recent - 1)), stays[older:]])\n",
    hint="Nothing goes while n ≤ budget.",
)
bug(
    "LC-75",
    "cuts a long first step to the budget",
    old="        at = [*at, *range(n, n + m)]\n",
    new="        if m > budget:\n"
    "            unseen = m - budget\n"
    "            keys, values = keys.copy(), values.copy()\n"
    "            keys[:unseen] = values[:unseen] = 0\n"
    "        at = [*at, *range(n, n + m)]\n",
    hint="A step attends to all of its tokens before it gives anything up.",
)
bug(
    "LC-75",
    "ignores the scale that a step is given",
    old="scale = WORK(1 / sqrt(width) if scale is None else scale)",
    new="scale = WORK(1 / sqrt(width))",
    hint="1 / sqrt(head_dim) is the default only.",
)
bug(
    "LC-75",
    "returns float32 from steps of half precision",
    old="return result.astype(queries.dtype), kept_after",
    new="return in_float32(result, queries), kept_after",
    hint="The result is like the queries.",
)
bug(
    "LC-75",
    "takes exponentials of a step without subtracting the largest score",
    old="                weights = np.exp(products - products.max())\n"
    "                weights = weights / weights.sum()\n                result",
    new="                weights = np.exp(products.astype(np.float32))\n"
    "                weights = weights / weights.sum()\n                result",
    hint="Subtract the largest score before exp, or large scores overflow.",
)
bug(
    "LC-75",
    "keeps the scores of a step in the dtype of the cache",
    old="products = k[:seen].astype(WORK) @ queries[row, h].astype(WORK) * scale",
    new="products = (k[:seen].astype(WORK) @ queries[row, h].astype(WORK)).astype(queries.dtype).astype(WORK)"
    " * scale",
    hint="Scores are float32: those of half precision overflow before the scale makes them small.",
)
bug(
    "LC-75",
    "makes a heavy hitter cache for float16 if no dtype is given",
    old='def __init__(self, budget, recent, kv_heads, head_dim, *, dtype="float32"):',
    new='def __init__(self, budget, recent, kv_heads, head_dim, *, dtype="float16"):',
    hint="Without `dtype` a cache is float32.",
)
bug(
    "LC-76",
    "scores keys by the last step alone",
    old="scores = np.concatenate([scores, np.zeros(m, WORK)])",
    new="scores = np.zeros(len(at), WORK)",
    hint="Scores grow over all steps: a heavy hitter need not be hit each time.",
)
bug(
    "LC-76",
    "scores keys by the mean of the weights they got",
    old="best(scores[:older], budget - recent)",
    new="best(scores[:older] / (n + m - np.array(at[:older])), budget - recent)",
    hint="Add the weights up; how many queries there were does not matter.",
)
bug(
    "LC-76",
    "adds up scores before the softmax",
    old="                scores[:seen] += weights\n",
    new="                scores[:seen] += products\n",
    hint="A key's score grows by softmax weights.",
)
bug(
    "LC-76",
    "gives up new keys like any others",
    old="stays = np.concatenate([best(scores[:older], budget - recent), stays[older:]])",
    new="stays = best(scores, budget)",
    hint="The last `recent` positions always stay: few queries have seen them yet.",
)
bug(
    "LC-76",
    "keeps the keys with the least attention",
    old="best(scores[:older], budget - recent)",
    new="best(-scores[:older], budget - recent)",
    hint="Those with most attention stay.",
)
bug(
    "LC-76",
    "does not count what a query gives to its own key",
    old="                scores[:seen] += weights\n",
    new="                scores[: seen - 1] += weights[:-1]\n",
    hint="All weights of the query count.",
)
bug(
    "LC-76",
    "counts the last query of a step only",
    old="                scores[:seen] += weights\n",
    new="                scores[:seen] += weights if row == m - 1 else 0\n",
    hint="Every query of the step votes.",
)
bug(
    "LC-76",
    "keeps the later of equal keys",
    old="best(scores[:older], budget - recent)",
    new="np.sort(older - 1 - best(scores[:older][::-1], budget - recent))",
    hint="Of equal scores the lower position stays: sort stably.",
)
bug(
    "LC-76",
    "adds up attention in the dtype of the cache",
    old="                scores[:seen] += weights\n",
    new="                scores[:seen] = (scores[:seen] + weights).astype(keys.dtype)\n",
    hint="Scores are float32: in half precision a long sum stops growing.",
)
bug(
    "LC-76",
    "leaves scores where they were when keys move up",
    old="kept_after.append(([at[i] for i in stays], k[stays], v[stays], scores[stays]))",
    new="kept_after.append(([at[i] for i in stays], k[stays], v[stays], scores[: len(stays)]))",
    hint="Scores move with their keys.",
)
bug(
    "LC-76",
    "numbers what it keeps anew",
    old="kept_after.append(([at[i] for i in stays], k[stays], v[stays], scores[stays]))",
    new="kept_after.append((list(range(len(stays))), k[stays], v[stays], scores[stays]))",
    hint="Positions are those of the sequence.",
)
bug(
    "LC-76",
    "shares what is kept among all heavy hitter caches",
    old="        self.heads = [nothing_kept(head_dim, self.dtype) for _ in range(kv_heads)]\n",
    new="        HeavyHitterCache.shared = [nothing_kept(head_dim, self.dtype) for _ in range(kv_heads)]\n",
    hint="What a cache keeps belongs to the instance, not to its class.",
    also=[
        (
            "class HeavyHitterCache:\n",
            "class HeavyHitterCache:\n    heads = property(\n        lambda self: HeavyHitterCache.shared,\n"
            '        lambda self, heads: setattr(HeavyHitterCache, "shared", heads),\n    )\n\n',
        )
    ],
)
bug(
    "LC-76",
    "forgets the scores of the newest after a step above the budget",
    old="        kept_after.append(([at[i] for i in stays], k[stays], v[stays], scores[stays]))",
    new="        left = scores[stays]\n        if m > budget:\n            left[-recent:] = 0\n"
    "        kept_after.append(([at[i] for i in stays], k[stays], v[stays], left))",
    hint="Every key that stays keeps its score, however long the step was.",
)
bug(
    "LC-76",
    "sorts scores in an order that is not stable",
    old='    return np.sort(np.argsort(-values, kind="stable")[:count])',
    new="    return np.sort(np.argsort(-values)[:count])",
    hint="Of equal scores the lower position stays: sort stably.",
)
bug(
    "LC-77",
    "keeps one set for all kv heads",
    old="        stays = np.arange(len(at))\n        if len(at) > budget:\n            older = len(at) - recent\n"
    "            stays = np.concatenate([best(scores[:older], budget - recent), stays[older:]])\n"
    "        kept_after.append(([at[i] for i in stays], k[stays], v[stays], scores[stays]))\n",
    new="        kept_after.append((at, k, v, scores))\n"
    "    stays = np.arange(len(at))\n"
    "    if len(at) > budget:\n"
    "        older = len(at) - recent\n"
    "        total = sum(each[3] for each in kept_after)\n"
    "        stays = np.concatenate([best(total[:older], budget - recent), stays[older:]])\n"
    "    kept_after = [([at[i] for i in stays], k[stays], v[stays], s[stays]) for at, k, v, s in kept_after]\n",
    hint="Each kv head chooses for itself.",
)
bug(
    "LC-77",
    "lets the first query head of a kv head vote alone",
    old="                scores[:seen] += weights\n",
    new="                scores[:seen] += weights if h % group == 0 else 0\n",
    hint="All query heads that read a kv head vote.",
)
bug(
    "LC-77",
    "lets query heads vote for kv heads in turn",
    old="for h in range(kv_head * group, (kv_head + 1) * group):",
    new="for h in range(kv_head, heads, len(kept)):",
    hint="Query head h reads kv head h // (heads // kv_heads), and votes there.",
)
bug(
    "LC-78",
    "lists what it keeps in the order of its scores",
    old="stays = np.concatenate([best(scores[:older], budget - recent), stays[older:]])",
    new='ranked = np.argsort(-scores[:older], kind="stable")[: budget - recent]\n'
    "            stays = np.concatenate([ranked, stays[older:]])",
    hint="Sort the chosen indices: the order of keys is that of their positions.",
)
bug(
    "LC-78",
    "takes the number of kept keys for the length of the sequence",
    old="        return self.n\n\n    def positions(self):\n        return [list(at)",
    new="        return len(self.heads[0][0])\n\n    def positions(self):\n        return [list(at)",
    hint="`length` counts all tokens.",
)
bug(
    "LC-78",
    "counts new tokens from the number of kept keys",
    old="        at = [*at, *range(n, n + m)]\n",
    new="        at = [*at, *range(len(at), len(at) + m)]\n",
    hint="The next token is at `length`, however many were given up.",
)
bug(
    "LC-78",
    "keeps the newest on top of the budget",
    old="best(scores[:older], budget - recent)",
    new="best(scores[:older], budget)",
    hint="The newest are part of the budget.",
)
bug(
    "LC-78",
    "lists positions without their kv head where there is one",
    old="        return [list(at) for at, _, _, _ in self.heads]",
    new="        lists = [list(at) for at, _, _, _ in self.heads]\n"
    "        return lists if len(lists) > 1 else lists[0]",
    hint="`positions` has a list for each kv head, also for one.",
)
bug(
    "LC-78",
    "keeps all keys of a single kv head",
    old="        if len(at) > budget:\n            older",
    new="        if len(at) > budget and len(kept) > 1:\n            older",
    hint="The budget holds for one kv head as for many.",
)
bug(
    "LC-78",
    "keeps keys and values of what it lists no longer",
    old="        self.n += len(keys)\n        return result",
    new="        self.n += len(keys)\n"
    '        self.given_up = [*getattr(self, "given_up", []), keys.copy(), values.copy()]\n'
    "        return result",
    hint="Drop the rows of what was given up, and whatever holds them.",
)
bug(
    "LC-79",
    "takes fewer keys than queries",
    old='        expect(len(keys) == len(queries), "keys"',
    new='        expect(len(keys) <= len(queries), "keys"',
    hint="A step has as many keys as queries.",
)
bug(
    "LC-79",
    "takes a negative number of recent keys",
    old='expect(1 <= recent <= budget, "recent"',
    new='expect(recent != 0 and recent <= budget, "recent"',
    hint="`recent` is at least 1: compare, and do not only ask whether it is 0.",
)

# Choosing from a prompt

bug(
    "LC-80",
    "takes the softmax over the voted tokens only",
    old="            weights = np.exp(products - products.max())\n            votes[kv_head] += (",
    new="            products = products[: n - window]\n"
    "            weights = np.exp(products - products.max())\n            votes[kv_head] += (",
    hint="Each query's softmax is over all keys up to its own; then the voted ones are cut out.",
)
bug(
    "LC-80",
    "lets the voting queries see the tokens after them",
    old="            end = n + row + 1\n",
    new="            end = n\n",
    hint="Voting is causal.",
)
bug(
    "LC-80",
    "votes without a scale",
    old="queries[row, h].astype(WORK) / WORK(sqrt(width))",
    new="queries[row, h].astype(WORK)",
    hint="Scores are multiplied by 1 / sqrt(head_dim).",
)
bug(
    "LC-80",
    "lets all queries vote that it is given",
    old="        for row in range(-window, 0):\n",
    new="        for row in range(-len(queries), 0):\n",
    also=(
        (
            "votes[kv_head] += (weights / weights.sum())[: n - window]",
            "votes[kv_head, :end] += (weights / weights.sum())[: n - window]",
        ),
    ),
    hint="Only the last w queries vote.",
)
bug(
    "LC-80",
    "takes the first queries that it is given for the last",
    old="queries[row, h].astype(WORK) / WORK(sqrt(width))",
    new="queries[row + window, h].astype(WORK) / WORK(sqrt(width))",
    hint="The last w of the m queries vote.",
)
bug(
    "LC-80",
    "adds up scores for votes",
    old="votes[kv_head] += (weights / weights.sum())[: n - window]",
    new="votes[kv_head] += products[: n - window]",
    hint="Votes are softmax weights.",
)
bug(
    "LC-80",
    "lets all heads vote for all kv heads",
    old="votes[kv_head] += (weights / weights.sum())[: n - window]",
    new="votes += (weights / weights.sum())[: n - window]",
    hint="Each kv head gets the votes of its own query heads.",
)
bug(
    "LC-80",
    "gives votes to kv heads in turn",
    old="        kv_head = h // (heads // kv_heads)\n        for row in range(-window, 0):\n",
    new="        kv_head = h % kv_heads\n        for row in range(-window, 0):\n",
    hint="Query head h reads kv head h // (heads // kv_heads).",
)
bug(
    "LC-80",
    "takes exponentials of votes without subtracting the largest score",
    old="            weights = np.exp(products - products.max())\n            votes",
    new="            weights = np.exp(products.astype(np.float32))\n            votes",
    hint="Subtract the largest score before exp, or large scores overflow.",
)
bug(
    "LC-80",
    "keeps the scores of votes in the dtype of the queries",
    old="products = keys[:end, kv_head].astype(WORK) @ queries[row, h].astype(WORK) / WORK(sqrt(width))",
    new="products = (keys[:end, kv_head].astype(WORK) @ queries[row, h].astype(WORK)).astype(queries.dtype)\n"
    "            products = products.astype(WORK) / WORK(sqrt(width))",
    hint="Scores are float32: those of half precision overflow before the scale makes them small.",
)
bug(
    "LC-80",
    "lets voting queries see what comes after them when all queries are given",
    old="        for row in range(-window, 0):\n            end = n + row + 1",
    new="        for row in range(-window, 0):\n            end = n + row + 1 if len(queries) < n else n",
    hint="A query sees the keys up to its own, however many queries there are.",
)
bug(
    "LC-81",
    "does not pool the votes",
    old="return np.array([pooled(row, kernel, pooling) for row in votes], WORK)",
    new="return votes",
    hint="Pool first, then choose.",
)
bug(
    "LC-81",
    "divides by the votes that are there",
    old='[w.sum() / kernel if pooling == "avg" else w.max() for w in windows]',
    new='[w.sum() / min(kernel, i + kernel // 2 + 1, len(votes) - i + kernel // 2) if pooling == "avg" else w.max()\n'
    "         for i, w in enumerate(windows)]",
    hint="The mean is always divided by `kernel`: beyond the ends there is 0.",
)
bug(
    "LC-81",
    "pools by the mean whatever it is told",
    old='w.sum() / kernel if pooling == "avg" else w.max()',
    new="w.sum() / kernel",
    hint='"max" takes the largest of the votes.',
)
bug(
    "LC-81",
    "pools by the largest whatever it is told",
    old='w.sum() / kernel if pooling == "avg" else w.max()',
    new="w.max()",
    hint='"avg" takes the mean of the votes.',
)
bug(
    "LC-81",
    "pools over the tokens before",
    old="    around = np.pad(votes, kernel // 2)\n",
    new="    around = np.pad(votes, (kernel - 1, 0))\n",
    hint="kernel // 2 neighbours on both sides.",
)
bug(
    "LC-81",
    "repeats the outer votes beyond the ends",
    old="    around = np.pad(votes, kernel // 2)\n",
    new='    around = np.pad(votes, kernel // 2, mode="edge")\n',
    hint="Beyond the ends of the voted tokens there is 0.",
)
bug(
    "LC-81",
    "pools in the votes for the window",
    old="votes = np.zeros((kv_heads, n - window), WORK)",
    new="votes = np.zeros((kv_heads, n), WORK)",
    also=(
        (
            "votes[kv_head] += (weights / weights.sum())[: n - window]",
            "votes[kv_head, :end] += weights / weights.sum()",
        ),
        (
            "np.array([pooled(row, kernel, pooling) for row in votes], WORK)",
            "np.array([pooled(row, kernel, pooling)[: n - window] for row in votes], WORK)",
        ),
    ),
    hint="Cut the window off before pooling: its tokens stay anyhow.",
)
bug(
    "LC-81",
    "pools over seven votes if nothing is said",
    old='def select_snapkv(queries, keys, budget, *, window, kernel=5, pooling="avg"):',
    new='def select_snapkv(queries, keys, budget, *, window, kernel=7, pooling="avg"):',
    hint="Without `kernel` five votes are pooled.",
)
bug(
    "LC-81",
    "cuts the kernel to the number of votes",
    old="    around = np.pad(votes, kernel // 2)\n",
    new="    kernel = min(kernel, len(votes) | 1)\n    around = np.pad(votes, kernel // 2)\n",
    hint="A kernel may be wider than the votes: beyond both ends there is 0.",
)
bug(
    "LC-82",
    "returns the best token first",
    old="np.concatenate([best(row, budget - window), newest])",
    new='np.concatenate([np.argsort(-row, kind="stable")[: budget - window], newest])',
    hint="Sort the chosen positions: the text stays in its order.",
)
bug(
    "LC-82",
    "chooses the whole budget by votes",
    old="np.concatenate([best(row, budget - window), newest])",
    new="best(np.append(row, np.zeros(window)), budget)",
    hint="The last w tokens stay without votes.",
)
bug(
    "LC-82",
    "keeps the window on top of the budget",
    old="np.concatenate([best(row, budget - window), newest])",
    new="np.concatenate([best(row, budget), newest])",
    hint="The window is part of the budget.",
)
bug(
    "LC-82",
    "makes one choice for all kv heads",
    old="chosen = [np.concatenate([best(row, budget - window), newest]) for row in votes]",
    new="chosen = [np.concatenate([best(votes.sum(axis=0), budget - window), newest]) for _ in votes]",
    hint="Each kv head chooses for itself.",
)
bug(
    "LC-82",
    "takes the later of equal votes",
    old="np.concatenate([best(row, budget - window), newest])",
    new="np.concatenate([np.sort(len(row) - 1 - best(row[::-1], budget - window)), newest])",
    hint="Of equal votes the lower position stays: sort stably.",
)
bug(
    "LC-82",
    "leaves the first token out of a prompt that fits",
    old="np.tile(np.arange(n, dtype=np.int32), (kv_heads, 1))",
    new="np.tile(np.arange(max(0, n + 1 - budget), n, dtype=np.int32), (kv_heads, 1))",
    hint="n = budget still fits: all n tokens stay.",
)
bug(
    "LC-82",
    "drops the axis of a single kv head",
    old="    return np.array(chosen, np.int32)",
    new="    return np.array(chosen, np.int32).squeeze()",
    hint="The result has a row for each kv head, also for one.",
)
bug(
    "LC-83",
    "looks at its options only where something is left out",
    old='    expect(1 <= window <= len(queries), "window"',
    new="    if n <= budget:\n        return np.tile(np.arange(n, dtype=np.int32), (kv_heads, 1))\n"
    '    expect(1 <= window <= len(queries), "window"',
    hint="Look at all arguments before the answer for prompts that fit.",
)

# Choosing pages

bug(
    "LC-84",
    "takes the best key of a page",
    old="np.maximum(query * rows.min(axis=0), query * rows.max(axis=0)).sum()",
    new="(rows @ query).max()",
    hint="Quest keeps the extremes of each channel, not the keys.",
)
bug(
    "LC-84",
    "forgets that a channel of the query may be negative",
    old="np.maximum(query * rows.min(axis=0), query * rows.max(axis=0)).sum()",
    new="(query * rows.max(axis=0)).sum()",
    hint="Where q is below 0, the least value of the channel gives the larger product.",
)
bug(
    "LC-84",
    "bounds each channel by its largest magnitude",
    old="np.maximum(query * rows.min(axis=0), query * rows.max(axis=0)).sum()",
    new="(abs(query) * abs(rows).max(axis=0)).sum()",
    hint="max(q · min, q · max) is tighter.",
)
bug(
    "LC-84",
    "takes the larger of two products and not of each channel's",
    old="np.maximum(query * rows.min(axis=0), query * rows.max(axis=0)).sum()",
    new="max((query * rows.min(axis=0)).sum(), (query * rows.max(axis=0)).sum())",
    hint="The maximum is taken in each channel, then the channels are added.",
)
bug(
    "LC-84",
    "scores a page by its mean key",
    old="np.maximum(query * rows.min(axis=0), query * rows.max(axis=0)).sum()",
    new="(query * rows.mean(axis=0)).sum()",
    hint="A mean is no bound: one good key among bad ones would be missed.",
)
bug(
    "LC-84",
    "scales the bounds",
    old="return page_bounds(queries, self.keys, self.page_size).astype(np.float32)",
    new="bounds = page_bounds(queries, self.keys, self.page_size) / sqrt(self.head_dim)\n"
    "        return bounds.astype(np.float32)",
    hint="Bounds are on products, without scale.",
)
bug(
    "LC-84",
    "returns bounds in the dtype of the queries",
    old="return page_bounds(queries, self.keys, self.page_size).astype(np.float32)",
    new="return page_bounds(queries, self.keys, self.page_size).astype(queries.dtype)",
    hint="Bounds are float32.",
)
bug(
    "LC-84",
    "bounds the keys of kv heads in turn",
    old="        kv_head = h // (heads // kv_heads)\n        query = queries[h].astype(WORK)\n",
    new="        kv_head = h % kv_heads\n        query = queries[h].astype(WORK)\n",
    hint="Query head h reads kv head h // (heads // kv_heads).",
)
bug(
    "LC-84",
    "shares keys among all selectors",
    old="        self.keys = np.zeros((0, kv_heads, head_dim), WORK)\n\n    def add",
    new="        PageSelector.shared = np.zeros((0, kv_heads, head_dim), WORK)\n\n    def add",
    hint="Keys belong to the instance, not to its class.",
    also=[
        (
            "class PageSelector:\n",
            "class PageSelector:\n    keys = property(\n        lambda self: PageSelector.shared,\n"
            '        lambda self, keys: setattr(PageSelector, "shared", keys),\n    )\n\n',
        )
    ],
)
bug(
    "LC-84",
    "keeps keys in the dtype of the first ones",
    old="        self.keys = np.concatenate([self.keys, keys.astype(WORK)])",
    new='        self.first = getattr(self, "first", keys.dtype)\n'
    "        self.keys = np.concatenate([self.keys, keys.astype(self.first).astype(WORK)])",
    hint="Keys of several dtypes may follow each other: bound them in float32.",
)
bug(
    "LC-85",
    "counts the empty slots of a page as zeros",
    old="rows = keys[page * page_size : (page + 1) * page_size, kv_head].astype(WORK)\n",
    new="rows = keys[page * page_size : (page + 1) * page_size, kv_head].astype(WORK)\n"
    "            rows = np.pad(rows, ((0, page_size - len(rows)), (0, 0)))\n",
    hint="Only keys that are there count: begin with −inf and inf, or with the first key.",
)
bug(
    "LC-85",
    "leaves out the last page while it is not full",
    old="result = np.zeros((heads, ceil(n / page_size)), WORK)",
    new="result = np.zeros((heads, n // page_size), WORK)",
    hint="⌈n / page_size⌉ pages.",
)
bug(
    "LC-85",
    "begins a page with each call",
    old="        self.keys = np.concatenate([self.keys, keys.astype(WORK)])\n",
    new="        room = -len(self.keys) % self.page_size if len(keys) else 0\n"
    "        last = np.repeat(self.keys[-1:], room, axis=0)\n"
    "        self.keys = np.concatenate([self.keys, last, keys.astype(WORK)])\n",
    hint="The next tokens fill the open page: page p begins at p · page_size.",
)
bug(
    "LC-85",
    "does not look again at a page that it has begun",
    old="        self.keys = np.concatenate([self.keys, keys.astype(WORK)])\n",
    new="        keys = keys.astype(WORK)\n"
    "        keys[: -len(self.keys) % self.page_size] = self.keys[-1:]\n"
    "        self.keys = np.concatenate([self.keys, keys])\n",
    hint="New keys of the open page widen its bounds.",
)
bug(
    "LC-86",
    "leaves the newest page to its bound",
    old="[[*best(row[:newest], pages - 1), newest] for row in scores]",
    new="[best(row, pages) for row in scores]",
    hint="The last page is always among them.",
)
bug(
    "LC-86",
    "reads the newest page on top of the others",
    old="[[*best(row[:newest], pages - 1), newest] for row in scores]",
    new="[[*best(row[:newest], pages), newest] for row in scores]",
    hint="The last page is one of `pages`.",
)
bug(
    "LC-86",
    "lists the best page first",
    old="[[*best(row[:newest], pages - 1), newest] for row in scores]",
    new='[[*np.argsort(-row[:newest], kind="stable")[: pages - 1], newest] for row in scores]',
    hint="Ids are in ascending order.",
)
bug(
    "LC-86",
    "takes the last pages",
    old="[[*best(row[:newest], pages - 1), newest] for row in scores]",
    new="[range(newest + 1 - pages, newest + 1) for row in scores]",
    hint="Besides the newest page, those with the largest bounds are read.",
)
bug(
    "LC-86",
    "takes the later of equal pages",
    old="[[*best(row[:newest], pages - 1), newest] for row in scores]",
    new="[[*np.sort(newest - 1 - best(row[:newest][::-1], pages - 1)), newest] for row in scores]",
    hint="Of equal bounds the lower id: sort stably.",
)
bug(
    "LC-86",
    "asks the first query head of a kv head alone",
    old="return bounds.reshape(kv_heads, heads // kv_heads, pages).sum(axis=1)",
    new="return bounds.reshape(kv_heads, heads // kv_heads, pages)[:, 0]",
    hint="The bounds of all query heads that read a kv head are added up.",
)
bug(
    "LC-86",
    "takes the largest bound of the query heads and not their sum",
    old="return bounds.reshape(kv_heads, heads // kv_heads, pages).sum(axis=1)",
    new="return bounds.reshape(kv_heads, heads // kv_heads, pages).max(axis=1)",
    hint="The bounds of all query heads that read a kv head are added up.",
)
bug(
    "LC-86",
    "chooses the same pages for all kv heads",
    old="return bounds.reshape(kv_heads, heads // kv_heads, pages).sum(axis=1)",
    new="return np.tile(bounds.sum(axis=0), (kv_heads, 1))",
    hint="Each kv head chooses for itself.",
)

bug(
    "LC-86",
    "chooses a newest page where there is none",
    old="        if pages >= scores.shape[1]:\n",
    new="        if pages >= scores.shape[1] > 0:\n",
    hint="Without keys there are no pages: min(pages, all) is 0.",
)
bug(
    "LC-86",
    "counts its pages at the first question",
    old="        newest = scores.shape[1] - 1\n",
    new='        self.newest = getattr(self, "newest", scores.shape[1] - 1)\n        newest = self.newest\n',
    hint="The newest page changes with every call of `add`.",
)
bug(
    "LC-86",
    "drops the axis of a single kv head of pages",
    old="        return np.array([[*best(row[:newest], pages - 1), newest] for row in scores], np.int32)",
    new="        chosen = np.array([[*best(row[:newest], pages - 1), newest] for row in scores], np.int32)\n"
    "        return chosen[0] if len(chosen) == 1 else chosen",
    hint="The result has a row for each kv head, also for one.",
)
bug(
    "LC-86",
    "adds up bounds in the dtype of the queries",
    old="    return bounds.reshape(kv_heads, heads // kv_heads, pages).sum(axis=1)",
    new="    return bounds.astype(queries.dtype).reshape(kv_heads, heads // kv_heads, pages).sum(axis=1)",
    hint="Bounds and their sums are float32, whatever the dtype of the queries.",
)
bug(
    "LC-87",
    "takes fewer query heads than kv heads of pages",
    old="        fits = fits and len(queries) >= 1 and len(queries) % self.kv_heads == 0\n",
    new="        fits = fits and len(queries) >= 1\n"
    "        fits = fits and (len(queries) % self.kv_heads == 0 or self.kv_heads % len(queries) == 0)\n",
    hint="The number of query heads is a multiple of that of kv heads.",
)
bug(
    "LC-87",
    "gives all pages before it looks at the queries",
    old="    def select(self, queries, pages):\n        self.check(queries)\n",
    new="    def select(self, queries, pages):\n        all_pages = ceil(len(self.keys) / self.page_size)\n"
    "        if pages >= max(1, all_pages):\n"
    "            return np.tile(np.arange(all_pages, dtype=np.int32), (self.kv_heads, 1))\n"
    "        self.check(queries)\n",
    hint="Look at the queries also when every page is read.",
)
bug(
    "LC-87",
    "takes a negative page size",
    old='expect(page_size >= 1, "page_size"',
    new='expect(page_size != 0, "page_size"',
    hint="A page has at least 1 token: compare, and do not only ask whether it has 0.",
)
bug(
    "LC-87",
    "does not look at the shape of no keys",
    old="    def add(self, keys):\n",
    new="    def add(self, keys):\n        if len(keys) == 0:\n            return\n",
    hint="Heads and channels must be right also when there is no token.",
)

# Prefill in pieces

bug(
    "LC-88",
    "returns the first row of the last piece",
    old="return logits[-1]",
    new="return logits[0]",
    hint="The row of the last token is the last one.",
)
bug(
    "LC-88",
    "returns all rows of the last piece",
    old="return logits[-1]",
    new="return logits",
    hint="Only the last token's row is asked for: (V,).",
)
bug(
    "LC-88",
    "leaves out a last piece that is not full",
    old="for start in range(0, len(tokens), chunk):",
    new="for start in range(0, max(1, len(tokens) - chunk + 1), chunk):",
    hint="The remainder is a piece as well.",
)
bug(
    "LC-88",
    "feeds the last token of each piece twice",
    old="logits = model.forward(tokens[start : start + chunk])",
    new="logits = model.forward(tokens[max(0, start - 1) : start + chunk])",
    hint="Each token once: pieces do not overlap.",
)
bug(
    "LC-88",
    "forgets the context between pieces",
    old="            logits = model.forward(tokens[start : start + chunk])\n",
    new="            model.truncate(before)\n            logits = model.forward(tokens[start : start + chunk])\n",
    hint="The pieces before it are what a piece attends to.",
)
bug(
    "LC-88",
    "returns probabilities",
    old="return logits[-1]",
    new="powers = np.exp(logits[-1] - logits[-1].max())\n    return powers / powers.sum()",
    hint="The row of `forward` as it is, bit for bit.",
)
bug(
    "LC-89",
    "feeds all that came before again with each piece",
    old="            logits = model.forward(tokens[start : start + chunk])\n",
    new="            model.truncate(before)\n            logits = model.forward(tokens[: start + chunk])\n",
    hint="The context holds what was fed: each token once.",
)
bug(
    "LC-89",
    "feeds one token at a time",
    old="for start in range(0, len(tokens), chunk):",
    new="chunk = 1\n        for start in range(0, len(tokens), chunk):",
    hint="Pieces of `chunk` tokens: ⌈n / chunk⌉ calls.",
)
bug(
    "LC-89",
    "feeds the whole prompt at once",
    old="for start in range(0, len(tokens), chunk):",
    new="chunk = len(tokens)\n        for start in range(0, len(tokens), chunk):",
    hint="At most `chunk` tokens a call: memory grows with the piece.",
)
bug(
    "LC-89",
    "feeds lists",
    old="logits = model.forward(tokens[start : start + chunk])",
    new="logits = model.forward(tokens[start : start + chunk].tolist())",
    hint="`forward` takes an array of integers.",
)
bug(
    "LC-89",
    "feeds floats",
    old="logits = model.forward(tokens[start : start + chunk])",
    new="logits = model.forward(tokens[start : start + chunk].astype(np.float32))",
    hint="`forward` takes an array of integers.",
)
bug(
    "LC-89",
    "refuses ids that are not int32",
    old="    known = ((tokens >= 0)",
    new='    expect(tokens.dtype == np.int32, "tokens", "int32", tokens.dtype)\n    known = ((tokens >= 0)',
    hint="Integer arrays may have any integer dtype.",
)
bug(
    "LC-90",
    "feeds pieces to a model that decides once a call",
    old="    if in_pieces and model.per_call:\n",
    new="    if False:\n",
    hint="An expert's capacity is counted in each call: refuse pieces.",
)
bug(
    "LC-90",
    "refuses one piece where the model decides once a call",
    old="    if in_pieces and model.per_call:\n",
    new="    if model.per_call:\n",
    hint="In one piece a prompt is what the model expects.",
)
bug(
    "LC-90",
    "feeds pieces while the rotation changes",
    old="and (in_pieces or before > 0):",
    new="and before > 0:",
    hint="Keys of the first piece would be rotated with other frequencies than those of the last.",
)
bug(
    "LC-90",
    "adds to a context that was rotated otherwise",
    old="and (in_pieces or before > 0):",
    new="and in_pieces:",
    hint="What is in the context is a piece, too.",
)
bug(
    "LC-90",
    "refuses one piece beyond the original length",
    old="and (in_pieces or before > 0):",
    new="and True:",
    hint="In one piece all keys have the same frequencies.",
)
bug(
    "LC-90",
    "compares the prompt without its context",
    old="if switch is not None and after > switch and",
    new="if switch is not None and len(tokens) > switch and",
    hint="The frequencies depend on the whole context.",
)
bug(
    "LC-90",
    "refuses pieces that end where the rotation still stays",
    old="if switch is not None and after > switch and",
    new="if switch is not None and after >= switch and",
    hint="`rope_changes_after` is the longest context for which it stays.",
)
bug(
    "LC-90",
    "takes a rotation that changes from the first token on for one that never does",
    old="if switch is not None and",
    new="if switch and",
    hint="Only None means never: 0 is a length.",
)
bug(
    "LC-90",
    "knows only some names of what is decided once a call",
    old="if in_pieces and model.per_call:",
    new='if in_pieces and "expert capacity" in model.per_call:',
    hint="Any name in `per_call` forbids pieces.",
)
bug(
    "LC-90",
    "adds to a context that is past the change of its rotation",
    old="if switch is not None and after > switch and (in_pieces or before > 0):",
    new="if switch is not None and before <= switch < after and (in_pieces or before > 0):",
    hint="Beyond the change every further token changes the frequencies.",
)
bug(
    "LC-91",
    "counts the prompt without its context",
    old="    if after > model.max_length:\n",
    new="    if len(tokens) > model.max_length:\n",
    hint="Context and prompt together have to fit.",
)
bug(
    "LC-91",
    "takes one token less than fit",
    old="    if after > model.max_length:\n",
    new="    if after >= model.max_length:\n",
    hint="Exactly max_length tokens are fine.",
)
bug(
    "LC-92",
    "leaves what it has fed when a piece fails",
    old="        model.truncate(before)\n        raise\n",
    new="        raise\n",
    hint="Truncate the context to what it was, and raise again.",
)
bug(
    "LC-92",
    "empties the context when a piece fails",
    old="        model.truncate(before)\n        raise\n",
    new="        model.truncate(0)\n        raise\n",
    hint="What was in the context before the prompt stays.",
)
bug(
    "LC-92",
    "takes back the failed piece only",
    old="        model.truncate(before)\n        raise\n",
    new="        model.truncate(before + start)\n        raise\n",
    hint="All of the prompt goes.",
)
bug(
    "LC-92",
    "raises an error of its own when a piece fails",
    old="        model.truncate(before)\n        raise\n",
    new='        model.truncate(before)\n        raise RuntimeError("prefill failed")\n',
    hint="What `forward` raises passes through.",
)
bug(
    "LC-92",
    "gives no logits when a piece fails",
    old="        model.truncate(before)\n        raise\n",
    new="        model.truncate(before)\n        return None\n",
    hint="What `forward` raises passes through.",
)
bug(
    "LC-92",
    "takes nothing back of a prompt in one piece",
    old="    try:\n        for start",
    new="    if not in_pieces:\n        return model.forward(tokens)[-1]\n    try:\n        for start",
    hint="Truncate after a failure of any piece, also of an only one.",
)
bug(
    "LC-92",
    "takes pieces back only after errors that it knows",
    old="    except BaseException:",
    new="    except (ValueError, NotSupported):",
    hint="Whatever `forward` raises, the context is truncated first.",
)
bug(
    "LC-92",
    "takes nothing back of a context that was empty",
    old="        model.truncate(before)\n        raise",
    new="        if before:\n            model.truncate(before)\n        raise",
    hint="A length of 0 is a length to go back to.",
)
bug(
    "LC-93",
    "takes a single number for a prompt",
    old="expect(tokens.ndim == 1 and len(tokens) >= 1,",
    new="expect(tokens.ndim <= 1 and tokens.size >= 1,",
    hint="A prompt has exactly one axis.",
    also=[
        ("    before = model.length()\n", "    tokens = tokens.reshape(-1)\n    before = model.length()\n")
    ],
)
bug(
    "LC-93",
    "looks at the first and the last id only",
    old="    known = ((tokens >= 0) & (tokens < model.vocab_size)).all()",
    new="    known = ((tokens[:1] >= 0) & (tokens[-1:] < model.vocab_size)).all()",
    hint="Look at all ids.",
)
