"""all-MiniLM-L6-v2 gives the embeddings of the published model, whatever texts come together: on the host, as
on a CPU, and in MLX, as on a GPU."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import ndtr

from solution.models.elementwise import exp_below, gelu
from solution.models.embedding import TOKENS, Encoder, _batches
from solution.models.embedding_host import CORES, Host, _blas, _gelu
from spec import InvalidArgument, NotSupported
from tests.suite.outside import outside
from tests.suite.real_models import fetched

pytestmark = pytest.mark.xdist_group("real models")

TEXTS = (
    "A cat sits on the mat.",
    "",
    "A kitten rests on the rug.",
    "Interest rates rose again.",
    "日本の首都は東京です。 Ελλάδα 👩‍🚀",
    "def f(x): return x ** 2  # [SEP] [CLS]",
    "one two three four five six seven eight nine ten " * 12,
    "far too long " * 300,
)


@pytest.fixture(scope="module")
def folder():
    return fetched("all-minilm-l6-v2")


@pytest.fixture(scope="module", params=["host", "mlx"])
def encoder(folder, request):
    made = Encoder.open(folder)
    made._rows_of = (Host(made._network) if request.param == "host" else made._network).rows_of
    return made


@pytest.fixture(scope="module")
def published(folder):
    """What transformers computes on the same files, one text at a time, (n, 384)."""
    torch, transformers = outside("torch"), outside("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.AutoModel.from_pretrained(str(folder)).eval()

    def embed(texts):
        rows = []
        for text in texts:
            read = tokenizer(
                text, truncation=True, max_length=256, return_tensors="pt", split_special_tokens=True
            )
            with torch.no_grad():
                mean = model(**read).last_hidden_state[0].mean(dim=0)
            rows.append(torch.nn.functional.normalize(mean, dim=0).numpy())
        return np.stack(rows)

    return embed


def test_embeddings_are_those_of_the_published_model(encoder, published):
    ours = encoder.embed(TEXTS)
    assert (ours.shape, ours.dtype) == ((len(TEXTS), 384), mx.float32)
    assert np.abs(np.array(ours) - published(TEXTS)).max() <= 1e-5


def test_neighbours_in_a_batch_change_nothing(encoder):
    """More texts than a batch holds, of all lengths, against some alone."""
    texts = ["word " * (7 * n % 37) for n in range(64)]
    alone = np.concatenate([np.array(encoder.embed([text])) for text in texts[::9]])
    assert np.abs(np.array(encoder.embed(texts))[::9] - alone).max() <= 1e-5


def test_rows_have_length_1_and_the_order_of_their_texts(encoder):
    rows = np.array(encoder.embed(TEXTS))
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() <= 1e-6
    back = np.array(encoder.embed(TEXTS[::-1]))[::-1]
    assert np.abs(rows - back).max() <= 1e-5


def test_what_is_alike_is_near(encoder):
    cat, kitten, rates = np.array(encoder.embed([TEXTS[0], TEXTS[2], TEXTS[3]]))
    assert cat @ kitten > 0.5 > cat @ rates


def test_no_text_gives_no_row(encoder):
    assert encoder.embed([]).shape == (0, 384)


@pytest.mark.parametrize("lengths", [(2, 2, 3, 200, 300, 500, 600, 1200), (9,) * 40, (1500,), ()])
def test_batches_keep_the_order_and_hold_so_many_tokens(lengths):
    tokens = [[0] * n for n in lengths]
    batches = _batches(tokens)
    assert [text for batch in batches for text in batch] == tokens
    assert all(len(batch) * len(batch[-1]) <= TOKENS or len(batch) == 1 for batch in batches)


def test_many_texts_are_a_batch_for_each_core():
    assert len(_batches([[0] * 9] * (CORES * TOKENS // 9))) >= CORES
    assert len(_batches([[0] * 9] * 3)) == 1


def test_threads_of_the_blas_are_given_back(folder):
    """Also where something raises meanwhile."""
    before = [each["num_threads"] for each in _blas().info()]
    host = Host(Encoder.open(folder)._network)
    with pytest.raises(IndexError):
        host.rows_of([[[10**9]], [[0]]])
    assert [each["num_threads"] for each in _blas().info()] == before


# ---- Functions. ----


ROUNDING = 2.0**-24


def rounding_of_exp(x):
    """Of itself, at most. The polynomial of degree 7 in x / 32 rounds 14 times, and its terms add up to
    e^(|x| / 32) where it is e^(-|x| / 32); five squarings double that and round themselves, 31 times in
    all."""
    return ROUNDING * (32 * 14 * np.exp(np.abs(x) / 16) + 31)


def test_powers_of_e_are_right_to_what_rounding_explains():
    x = np.linspace(-32, 0, 100_001).astype(np.float32).astype(np.float64)
    ours = np.array(exp_below(mx.array(x.astype(np.float32)), mx.array(0.0)))
    assert (np.abs(ours / np.exp(x) - 1) <= 8e-10 * 32 + rounding_of_exp(x)).all()
    assert 0 <= exp_below(mx.array([-1e30, -np.inf]), mx.array(0.0)).max().item() <= 2e-14


def gelu_on_host(x):
    y = np.array(x)
    _gelu(y)
    return y


@pytest.mark.parametrize("function", [gelu, gelu_on_host])
def test_gelu_is_right_to_what_rounding_explains(function):
    """Beside the 7e-8 of its polynomial p: the tail is e^-p, p has 14 roundings, and four follow."""
    x = np.linspace(-40, 40, 400_001).astype(np.float32).astype(np.float64)
    tail = ndtr(-np.abs(x))
    p = np.minimum(-np.log(np.maximum(tail, 1e-14)), 32)
    allowed = 7e-8 + np.abs(x) * tail * (rounding_of_exp(p) + 14 * ROUNDING * p) + 4 * ROUNDING * np.abs(x)
    assert (np.abs(np.array(function(mx.array(x.astype(np.float32)))) - x * ndtr(x)) <= allowed).all()


# ---- Files. ----


@pytest.fixture
def copy(folder, tmp_path):
    """The model's files, to be changed. The weights are a link."""
    for name in ("config.json", "tokenizer.json", "1_Pooling/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    return tmp_path


def change(file, **settings):
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_a_text_ends_after_as_many_tokens_as_the_files_say(copy, encoder):
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    short = Encoder.open(copy).embed(["one two three four five six"])
    assert np.abs(np.array(short - encoder.embed(["one two three"]))).max() <= 1e-5


@pytest.mark.parametrize(
    ("file", "setting", "said"),
    [
        (
            "config.json",
            {"model_type": "roberta"},
            "expected a bert with gelu and absolute positions, got roberta",
        ),
        ("config.json", {"hidden_act": "relu"}, "got bert, relu"),
        ("config.json", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "pooling_mode_cls_token"),
    ],
)
def test_another_kind_of_encoder_is_refused(copy, file, setting, said):
    change(copy / file, **setting)
    with pytest.raises(NotSupported, match=said):
        Encoder.open(copy)


def test_a_tensor_of_another_shape_is_named(copy):
    change(copy / "config.json", intermediate_size=1000)
    expected = (
        r"encoder\.layer\.0\.intermediate\.dense\.weight: expected shape \(1000, 384\), got \(1536, 384\)"
    )
    with pytest.raises(InvalidArgument, match=expected):
        Encoder.open(copy)


def test_a_tensor_that_is_missing_is_named(copy):
    change(copy / "config.json", num_hidden_layers=7)
    with pytest.raises(InvalidArgument, match=r"encoder\.layer\.6\.attention\.self\.query\.weight"):
        Encoder.open(copy)


def test_a_file_that_was_cut_off_is_told(copy, folder):
    whole = (folder / "model.safetensors").read_bytes()
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(InvalidArgument, match="expected a file of at least"):
        Encoder.open(copy)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_is_missing_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(InvalidArgument, match=f"expected a folder with a {name}"):
        Encoder.open(copy)
