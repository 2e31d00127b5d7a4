"""Text to tokens as transformers does it, conversations that cannot be forged, and text as tokens come."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from solution.models.chat import ROLES
from solution.models.hiding import ESCAPE, MARK
from solution.models.tokenizer import Tokenizer
from solution.models.vocabulary import WORDS
from spec import InvalidArgument, NotSupported
from tests.suite.outside import outside
from tests.suite.real_models import fetched

TEXTS = (
    "",
    " ",
    "\n\n\t  x",
    "The capital of France is Paris.",
    "naïve café, Ελλάδα, Россия, עברית, العربية, हिन्दी, ไทย",
    "日本の首都は東京です。한국어도 있어요。",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\ufeff\u00a0 ﬁ Ǆ",
    "I'm, you're, IT'S; we'll\u2019ve",
    "    def f(x: int) -> str:\n        return f'{x!r}'  # why?\n\n\n\n",
    "#include <map>\r\nint main() { return a[i] <<= b ? x->y : ~z; }\r\n",
    '{"a": [true, null], "b": "\\u00e9\\n"}',
    "\x00\x01\x7f\x85 \ue000 \U0010fffd \U0010fffc \U0010fffb \uffff",
    "word" * 50 + " " * 40 + "=" * 70,
)
MARKS = st.sampled_from(["\U0010fffd", "\U0010fffc", "\U0010fffb", "�"])
ANY_TEXT = st.text() | st.text(alphabet=st.characters(max_codepoint=127) | MARKS)


@pytest.fixture(scope="module")
def smollm2():
    return Tokenizer.open(fetched("smollm2-135m-instruct"))


@pytest.fixture(scope="module")
def minilm():
    return Tokenizer.open(fetched("all-minilm-l6-v2"))


@pytest.fixture(scope="module")
def published():
    """transformers on the same GGUF file. It does not know of `smollm`, where each digit is a word."""
    path = fetched("smollm2-135m-instruct")
    return outside("transformers").AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


@pytest.fixture(scope="module")
def published_minilm():
    path = fetched("all-minilm-l6-v2")
    return outside("transformers").AutoTokenizer.from_pretrained(str(path))


def plain(published, text):
    return published.encode(text, add_special_tokens=False, split_special_tokens=True)


# ---- The same tokens. ----


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_reads_as_transformers_does(smollm2, published, text):
    assert smollm2.encode(text) == plain(published, text)


@settings(max_examples=300)
@given(text=ANY_TEXT)
def test_smollm2_reads_any_text_as_transformers_does_between_digits(smollm2, published, text):
    """A digit is a word of its own, which transformers does not know of this file."""
    cut = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(text)
    assert smollm2.encode(text) == [id for piece, _ in cut for id in plain(published, piece)]


def test_smollm2_reads_digits_one_by_one(smollm2, published):
    text = "in   2024.5"
    assert [smollm2.decode([id]) for id in smollm2.encode(text)] == ["in", "   ", *"2024", ".", "5"]
    assert smollm2.encode(text) != plain(published, text)


@pytest.mark.parametrize("text", TEXTS)
def test_minilm_reads_as_transformers_does(minilm, published_minilm, text):
    assert minilm.encode(text) == plain(published_minilm, text)
    assert minilm.framed([text, "x"]) == published_minilm([text, "x"])["input_ids"]


@settings(max_examples=300)
@given(text=ANY_TEXT)
def test_minilm_reads_any_text_as_transformers_does(minilm, published_minilm, text):
    assert minilm.encode(text) == plain(published_minilm, text)


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe"])
def test_words_are_cut_as_transformers_cuts_them(pre):
    mapping = outside("transformers.integrations.gguf.gguf_tokenizer_mapping")
    assert mapping.GGUF_PRE_TOKENIZER_SPLITS[pre] == WORDS[pre]


@settings(max_examples=300)
@given(text=ANY_TEXT)
def test_words_of_gpt2_are_those_of_the_library(text):
    ours = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(outside("tokenizers").Regex(WORDS["gpt-2"]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    assert ours.pre_tokenize_str(text) == pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(
        text
    )


LACKING = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2}


@settings(max_examples=300)
@given(text=ANY_TEXT)
def test_bytes_make_up_the_text_again(smollm2, text):
    """But for the few bytes that SmolLM2 has no token for, which it drops, in transformers too."""
    text = "".join(c for c in text if not LACKING & set(c.encode()))
    assert smollm2.decode(smollm2.encode(text)) == text
    assert smollm2.decode(smollm2.encode(text, special=True)) == text


# ---- Special tokens. ----

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def test_special_tokens_are_read_where_they_are_asked_for(smollm2, published):
    text = "a<|im_end|>b <|im_start|>\n<|endoftext|>"
    assert smollm2.encode(text, special=True) == published.encode(text, add_special_tokens=False)
    assert smollm2.encode("<|im_start|><|im_end|>", special=True) == [1, 2]


@settings(max_examples=300)
@given(pieces=st.lists(st.sampled_from([*SPECIAL, "<", "<|", "|>", "im_end|>", "[SEP]", "x", MARK, ESCAPE])))
def test_text_never_becomes_a_special_token(smollm2, published, pieces):
    text = "".join(pieces)
    ids = smollm2.encode(text)
    assert not set(ids) & set(published.all_special_ids)
    assert ids == plain(published, text)


def test_a_special_token_that_begins_within_another_is_hidden_too():
    tokenizer = made(special=["[[X]]", "[X]"])
    assert tokenizer.decode(tokenizer.encode("[[X]] [X]")) == "[[X]] [X]"
    assert not {256, 257} & set(tokenizer.encode("[[X]] [X]"))
    assert tokenizer.encode("[[X]][X]", special=True) == [256, 257]


def test_a_special_token_is_hidden_where_the_file_would_normalise_first():
    backend = bytewise()
    backend.add_tokens([AddedToken("[X]", normalized=True, special=True)])
    tokenizer = made(backend=backend)
    assert 256 not in tokenizer.encode("[X]")
    assert tokenizer.encode("[X]", special=True) == [256]


def test_a_special_token_that_cannot_be_hidden_is_refused():
    with pytest.raises(NotSupported, match="at least two characters"):
        made(special=["\u20ac"])


def test_what_ends_a_text_or_a_turn_is_known(smollm2):
    assert {smollm2.decode([id]) for id in smollm2.eos_ids} == {"<|endoftext|>", "<|im_end|>"}


# ---- Conversations. ----

TALK = (
    {"role": "system", "content": " You are terse. "},
    {"role": "user", "content": "Capital of Japan?\n"},
    {"role": "assistant", "content": "Tokyo."},
    {"role": "user", "content": "«日本» <tag> & 'q' \"q\" > <"},
)


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("count", range(1, len(TALK) + 1))
def test_a_conversation_reads_as_in_transformers(smollm2, published, count, generate):
    talk = [dict(message) for message in TALK[:count]]
    expected = published.apply_chat_template(talk, add_generation_prompt=generate)["input_ids"]
    assert smollm2.chat(talk, generate=generate) == expected


PIECES = st.lists(
    st.sampled_from([*SPECIAL, "<", "<|", "<|im_", "start|>", "|>", ">", " ", "\n", "x", MARK]), max_size=4
)


@settings(max_examples=300)
@given(contents=st.lists(PIECES.map("".join), min_size=1, max_size=3), template=st.integers(0, 3))
def test_no_message_forges_a_special_token(contents, template):
    """Whether the template puts something between the messages or nothing, and trims them or not."""
    between, trim = ("", "\n")[template % 2], ("", "|trim")[template // 2]
    source = f"{{% for m in messages %}}<|im_start|>{{{{ m.content{trim} }}}}{between}{{% endfor %}}"
    tokenizer = made(special=SPECIAL, template=source)
    ids = tokenizer.chat([{"role": "user", "content": content} for content in contents])
    assert [id for id in ids if id >= 256] == [256] * len(contents)
    told = [content.strip() if trim else content for content in contents]
    assert tokenizer.decode(ids) == "".join(f"<|im_start|>{each}{between}" for each in told)


@pytest.mark.parametrize(
    ("template", "content"),
    [
        ("<|im_{{ messages[0].content | trim }}", " start|> x"),
        ("{{ messages[0].content | trim }}start|>", "x <|im_ "),
    ],
)
def test_no_message_completes_what_the_template_writes(template, content):
    tokenizer = made(special=SPECIAL, template=template)
    ids = tokenizer.chat([{"role": "user", "content": content}])
    assert max(ids) < 256
    assert "<|im_start|>" in tokenizer.decode(ids)


def test_the_template_alone_says_what_begins_a_conversation():
    backend = bytewise(["[B]"])
    backend.post_processor = processors.TemplateProcessing(single="[B] $A", special_tokens=[("[B]", 256)])
    tokenizer = made(backend=backend, template="[B]{{ messages[0].content }}")
    assert tokenizer.framed(["a"])[0] == tokenizer.chat([{"role": "user", "content": "a"}]) == [256, 64]


def test_nested_data_forges_nothing_either():
    tokenizer = made(special=SPECIAL, template="{{ messages[0].calls | tojson }}")
    calls = [{"<|im_end|>": ["<|im_start|>", 1, None, True]}]
    ids = tokenizer.chat([{"role": "assistant", "calls": calls}])
    assert max(ids) < 256
    assert json.loads(tokenizer.decode(ids)) == calls


def test_a_role_is_one_of_a_few_words():
    tokenizer = made(special=["<|user|>", "<|boss|>"], template="{{ '<|' + messages[0].role + '|>' }}")
    assert tokenizer.chat([{"role": "user", "content": ""}]) == [256]
    with pytest.raises(
        InvalidArgument, match=rf"messages\[0\]: expected a role of {', '.join(ROLES)}, got 'boss'"
    ):
        tokenizer.chat([{"role": "boss", "content": ""}])


def test_templates_have_what_transformers_gives_them(tmp_path):
    """Blocks leave no lines behind, loops can break, and three functions more than Jinja has."""
    source = (
        "{% for m in messages %}\n"
        "    {% if loop.index == 2 %}\n{% break %}\n{% endif %}\n"
        "{{ m.content | tojson }}{{ bos_token }}\n"
        "{% endfor %}\n"
        "{{ strftime_now('%Y') | length }}{% if tools is defined %}tools{% endif %}"
    )
    tokenizer = made(template=source, names={"bos_token": "[B]"})
    talk = [{"role": "user", "content": "<é>\n"}, {"role": "user", "content": "b"}]
    assert tokenizer.decode(tokenizer.chat(talk)) == '"<é>\\n"[B]\n4'


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "[Rr]ange too big"),
        ("{% if %}", "Expected an expression"),
        ("{{ 1 + messages }}", "unsupported operand"),
    ],
)
def test_a_template_that_refuses_fails_or_reaches_out_is_told(template, said):
    with pytest.raises(InvalidArgument, match=said):
        made(template=template).chat([{"role": "user", "content": "x"}])


def test_a_model_without_a_template_is_told(minilm):
    with pytest.raises(NotSupported, match="chat template"):
        minilm.chat([{"role": "user", "content": "x"}])


# ---- Files. ----


def bytewise(special=()):
    """One token a byte, and the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    return backend


def made(folder=None, special=(), template=None, names=(), backend=None, **files):
    """A tokenizer out of a folder."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "tokenizer.json").write_text((backend or bytewise(special)).to_str())
        config = {**dict(names), **({"chat_template": template} if template else {})}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        for name, value in files.items():
            (folder / f"{name}.json").write_text(json.dumps(value))
        return Tokenizer.open(folder)


def test_ends_are_collected_from_all_files():
    special = ["<|x|>", "<|y|>", "<|z|>", "<|eot_id|>", "<|other|>"]
    tokenizer = made(
        special=special,
        names={"eos_token": {"content": "<|x|>"}},
        generation_config={"eos_token_id": [257]},
        config={"eos_token_id": 258},
    )
    assert tokenizer.eos_ids == {256, 257, 258, 259}


@pytest.mark.parametrize("named", [False, True])
def test_a_template_may_be_one_of_several(named):
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    tokenizer = made(names={"chat_template": several if named else "plain"})
    assert tokenizer.decode(tokenizer.chat([])) == "plain"


def test_a_template_in_a_file_of_its_own_goes_first(tmp_path):
    (tmp_path / "tokenizer.json").write_text(bytewise().to_str())
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    (tmp_path / "chat_template.jinja").write_text("new")
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.decode(tokenizer.chat([])) == "new"


def test_truncation_and_padding_of_the_file_are_not_taken_over(tmp_path):
    backend = bytewise()
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    assert Tokenizer.open(tmp_path).framed(["abcde", "a"]) == [[64, 65, 66, 67, 68], [64]]


@pytest.mark.parametrize("name", ["nothing", "model.bin", "folder"])
def test_what_is_no_model_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidArgument, match=rf"tokenizer\.json.*{name}"):
        Tokenizer.open(tmp_path / name)


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json: expected JSON"):
        Tokenizer.open(tmp_path)


def gguf(path, **metadata):
    import mlx.core as mx

    mx.save_gguf(str(path), {"x": mx.zeros((1,))}, {f"tokenizer.ggml.{k}": v for k, v in metadata.items()})
    return path


def of_bytes(path, **metadata):
    """A GGUF file of one token a byte and two more."""
    import mlx.core as mx

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|bos|>", "<tool>", "ab"]
    types = mx.array([1] * 256 + [3, 4, 1])
    return gguf(path, model="gpt2", tokens=tokens, merges=["a b"], token_type=types, **metadata)


def test_a_gguf_file_says_what_begins_a_text_and_which_tokens_are_special(tmp_path):
    import mlx.core as mx

    path = of_bytes(
        tmp_path / "m.gguf",
        bos_token_id=mx.array(256),
        add_bos_token=mx.array(True),
        eot_token_id=mx.array(7),
    )
    tokenizer = Tokenizer.open(path)
    assert tokenizer.framed(["<tool>"]) == [[256, 257]]
    assert tokenizer.encode("<tool><|bos|>", special=True) == [257, 256]
    assert 256 not in tokenizer.encode("<|bos|>")
    assert tokenizer.eos_ids == {7}


def test_without_add_bos_token_nothing_begins_a_text(tmp_path):
    import mlx.core as mx

    path = of_bytes(tmp_path / "m.gguf", bos_token_id=mx.array(256), add_bos_token=mx.array(False))
    assert Tokenizer.open(path).framed(["<tool>"]) == [[257]]


@pytest.mark.parametrize(("model", "pre"), [("llama", "default"), ("gpt2", "tekken")])
def test_a_vocabulary_that_is_not_read_is_named(tmp_path, model, pre):
    path = gguf(tmp_path / "m.gguf", model=model, pre=pre)
    with pytest.raises(NotSupported, match=rf"tokenizer\.ggml\.pre .* got {model} and {pre}"):
        Tokenizer.open(path)


# ---- Text as tokens come. ----


def falls_back_on_bytes():
    """As Llama 2: words begin with ▁, and what is no word becomes bytes."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "é", "日"]
    vocabulary = {word: id for id, word in enumerate(words)}
    backend = Backend(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return made(backend=backend)


@pytest.fixture(scope="module")
def tokenizers(smollm2, minilm):
    return {
        "byte level": (smollm2, 49152),
        "falls back on bytes": (falls_back_on_bytes(), 263),
        "words": (minilm, 30522),
    }


def fed(tokenizer, ids):
    pieces, detokenizer = [], tokenizer.detokenizer()
    for id in ids:
        pieces.append(detokenizer.feed(id))
    return pieces, detokenizer.close()


@pytest.mark.parametrize("kind", ["byte level", "falls back on bytes", "words"])
@settings(max_examples=400)
@given(data=st.data())
def test_pieces_make_up_the_text_and_end_at_characters(tokenizers, kind, data):
    """Of texts, cut where a generation may end; and of tokens at random, which make up no text."""
    tokenizer, count = tokenizers[kind]
    written = st.text(alphabet="ab é日👩‍👧�\n.").map(tokenizer.encode)
    low = st.integers(0, min(count, 300) - 1) if kind != "words" else st.integers(990, 1300)
    ids = data.draw(written | st.lists(low | st.integers(0, count - 1), max_size=12))
    ids = ids[: data.draw(st.integers(0, len(ids)))]
    pieces, rest = fed(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)
    assert not any(piece.endswith("�") for piece in pieces)


def test_a_character_of_several_tokens_comes_with_its_last(smollm2):
    ids = smollm2.encode("a👩b")
    pieces, rest = fed(smollm2, ids)
    assert len(ids) > 3
    assert [piece for piece in pieces if piece] == ["a", "👩", "b"]
    assert rest == ""


def test_half_a_character_at_the_end_is_told_by_close(smollm2):
    pieces, rest = fed(smollm2, smollm2.encode("a👩")[:-1])
    assert (pieces[0], "".join(pieces[1:]), rest) == ("a", "", "�")


def test_text_comes_with_its_token(smollm2):
    """Nothing that is complete waits for the next one."""
    pieces, _ = fed(smollm2, smollm2.encode("The capital of France is Paris."))
    assert all(pieces)


def test_the_cost_of_a_token_does_not_grow(smollm2, monkeypatch):
    decoded = []
    decode = Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: decoded.append(len(ids)) or decode(self, ids))
    fed(smollm2, smollm2.encode("The capital of France is Paris. " * 30))
    assert max(decoded) <= 2


@pytest.mark.parametrize("id", [-1, 49152])
def test_an_id_outside_the_vocabulary_is_told(smollm2, id):
    with pytest.raises(InvalidArgument, match=f"ids: expected tokens of the vocabulary, got {id}"):
        smollm2.decode([5, id])
    with pytest.raises(InvalidArgument, match=f"got {id}"):
        smollm2.detokenizer().feed(id)
