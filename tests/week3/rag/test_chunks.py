"""`split`: where chunks begin and end, and what they say of themselves."""

from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.edited import reference
from grading.marks import requirement
from grading.matching import assert_equal, check_refusals
from spec import InvalidArgument

TRUTH = reference("rag")

TEXTS = st.text("ab é\n", max_size=13)
SIZES = st.integers(1, 6)
SEPARATED = st.text("a. b\n", max_size=18)
SEPARATORS = st.sampled_from([("\n\n", "\n", ". ", " "), (" ", ". "), ("aa", "."), ("\n",), ("b. ", "a")])


def positions(chunks):
    return [(chunk.start, chunk.end) for chunk in chunks]


def check(impl, text, size, overlap, **options):
    options |= {"doc_id": "d", "size": size, "overlap": overlap}
    expected = positions(TRUTH.split(text, **options))
    assert_equal(positions(impl.split(text, **options)), expected, "positions")


# RAG-01


@requirement("RAG-01")
@given(text=TEXTS, size=SIZES, overlap=st.integers(0, 5))
@example(text="abcdefghij", size=4, overlap=1)
@example(text="abcdefghij", size=4, overlap=2)
@example(text="abcdefghij", size=5, overlap=0)
@example(text="abcdefghijk", size=5, overlap=0)
def test_windows_begin_at_multiples_of_the_stride(impl, text, size, overlap):
    check(impl, text, size, overlap % size)


@requirement("RAG-01")
@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 7, 8])
def test_as_many_windows_as_it_takes(impl, length):
    """⌈(n − O) / (S − O)⌉ where n > S."""
    chunks = impl.split("x" * length, doc_id="d", size=4, overlap=1)
    expected = min(length, 1) if length <= 4 else -(-(length - 1) // 3)
    assert_equal(len(chunks), expected, "number of chunks")


# RAG-02


@requirement("RAG-02")
@given(text=st.text("ab é𝄞\n", max_size=13), size=SIZES, overlap=st.integers(0, 5))
@example(text="a  b\n", size=3, overlap=0)
@example(text="abababab", size=3, overlap=1)
@example(text="𝄞é𝄞é𝄞", size=2, overlap=1)
@example(text="e\u0301a\r\nb\u2028 \ufb01", size=3, overlap=1)
def test_a_chunk_is_what_stands_at_its_place(impl, text, size, overlap):
    chunks = impl.split(text, doc_id="d", size=size, overlap=overlap % size)
    for chunk in chunks:
        assert_equal(chunk.text, text[chunk.start : chunk.end], f"text of {chunk.start} to {chunk.end}")
    assert_equal(positions(chunks), sorted(positions(chunks)), "positions, in order")
    ends = [0, *(chunk.end for chunk in chunks)]
    pieces = [chunk.text[end - chunk.start :] for end, chunk in zip(ends, chunks, strict=False)]
    assert_equal("".join(pieces), text, "text of all chunks")


@requirement("RAG-02")
@pytest.mark.parametrize("metadata", [None, {"lang": "en", "groups": ["a", 1, None, True]}])
def test_a_chunk_has_its_documents_metadata(impl, metadata):
    chunks = impl.split("abcdef", doc_id="the document", size=4, overlap=1, metadata=metadata)
    assert_equal([chunk.doc_id for chunk in chunks], ["the document"] * 2, "doc_id of each")
    assert_equal([chunk.metadata for chunk in chunks], [metadata or {}] * 2, "metadata of each")


# RAG-03


def words(text):
    return len(text.split())


def utf8(text):
    return len(text.encode())


def kinds(text):
    """Not one of these units is the sum over characters, or over halves."""
    return len(set(text))


def tokens(text):
    """Sometimes a longer text has fewer: greedily the longest of a vocabulary, else a character."""
    count = 0
    while text:
        step = next(n for n in (4, 3, 2, 1) if text[:n] in ("abcd", "xabc", "bcda", "bc") or n == 1)
        text, count = text[step:], count + 1
    return count


TEXT = "a bb  ccc dddd\n b é e"


@requirement("RAG-03")
@pytest.mark.parametrize(
    ("text", "length", "size", "overlap"),
    [
        ("a bb ccc dddd", words, 2, 1),
        (TEXT, words, 3, 2),
        (TEXT, words, 2, 0),
        ("    ", words, 1, 0),
        ("añébéé𝄞cdé", utf8, 4, 2),
        ("añébéé𝄞cdé", utf8, 5, 4),
        (" ab  é c  \n d ", utf8, 3, 1),
        ("aabbaabcabacca", kinds, 2, 1),
        ("aabbaabcabddd", kinds, 3, 2),
        ("abcdefgh", lambda text: 3 * len(text), 9, 3),
        ("abcdefgh", lambda text: 3 * len(text), 10, 5),
    ],
)
def test_as_much_as_fits(impl, text, length, size, overlap):
    check(impl, text, size, overlap, length=length)


@requirement("RAG-03")
@given(text=st.text("ab ", max_size=10), size=st.integers(1, 3), overlap=st.integers(0, 2))
@example(text="a  bb a b", size=2, overlap=1)
def test_windows_of_words(impl, text, size, overlap):
    check(impl, text, size, overlap % size, length=words)


@requirement("RAG-03")
@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (2, 1), (3, 2), (3, 0)])
def test_where_more_may_count_less_any_end_that_fits_will_do(impl, size, overlap):
    """And any beginning from which the rest fits."""
    text, asked = "xabcdabcxabcbcda", []

    def length(piece):
        asked.append(piece)
        return tokens(piece)

    found = positions(impl.split(text, doc_id="d", size=size, overlap=overlap, length=length))
    assert_equal(
        [each for each in asked if each not in text], [], "what length was asked about, beside pieces"
    )
    for start, end in found:
        assert tokens(text[start:end]) <= size, f"{start} to {end}: longer than {size}"
        assert end == len(text) or tokens(text[start : end + 1]) > size, f"{start} to {end}: one more fits"
    for (before, end), (start, later) in zip(found, found[1:], strict=False):
        assert before < start <= end < later, f"{start} to {later} after {before} to {end}"
        assert tokens(text[start:end]) <= overlap, f"{start} to {later} repeats more than {overlap}"
    assert_equal((found[0][0], found[-1][1]), (0, len(text)), "first and last position")


# RAG-04


@requirement("RAG-04")
@given(text=SEPARATED, size=SIZES, overlap=st.integers(0, 5), separators=SEPARATORS)
@example(text="One two. Three four. Five", size=14, overlap=0, separators=(". ", " "))
@example(text="One two. Three four. Five", size=14, overlap=6, separators=(". ", " "))
@example(text="a b. cc dd ee", size=9, overlap=0, separators=(". ", " "))
@example(text="aaaaaaaa", size=5, overlap=3, separators=("aa",))
@example(text="abc\n\ndefg", size=4, overlap=0, separators=("\n\n",))
@example(text="ab. abcdef", size=4, overlap=1, separators=(". ", " "))
@example(text="abcd abcdefghi", size=6, overlap=2, separators=(" ",))
@example(text="a bbbbb ccc", size=6, overlap=5, separators=(" ",))
@example(text="a aaa\na", size=4, overlap=3, separators=("\n", " "))
@example(text="abaaa", size=3, overlap=2, separators=("ab", "a"))
def test_joints(impl, text, size, overlap, separators):
    check(impl, text, size, overlap % size, separators=separators)


@requirement("RAG-04")
@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_joints_between_words(impl, overlap):
    text = "a bb. cc d\ne. f g h.i j"
    check(impl, text, 3, overlap, separators=("\n", ". ", " "), length=words)
    check(impl, text, 9, 3 * overlap, separators=("\n", ". ", " "), length=utf8)


# RAG-05


def ids_of(doc_id, pieces):
    """RAG-05, of the texts of the chunks."""
    digests = [sha256(piece.encode("utf-8")).hexdigest()[:16] for piece in pieces]
    earlier = [digests[:i].count(digest) for i, digest in enumerate(digests)]
    return [f"{doc_id}#{digest}" + (f"-{n}" if n else "") for digest, n in zip(digests, earlier, strict=True)]


@requirement("RAG-05")
@given(text=st.text("abé ", max_size=12), size=st.integers(1, 3), overlap=st.integers(0, 2))
@example(text="abcabc", size=3, overlap=0)
@example(text="abababab", size=2, overlap=0)
@example(text="éa béc", size=2, overlap=1)
def test_an_id_is_made_of_the_text(impl, text, size, overlap):
    chunks = impl.split(text, doc_id="d", size=size, overlap=overlap % size)
    assert_equal([chunk.id for chunk in chunks], ids_of("d", [chunk.text for chunk in chunks]), "ids")


@requirement("RAG-05")
@pytest.mark.parametrize("doc_id", ["d", "a#b", "Straße 1/2"])
def test_equal_texts_of_two_documents_have_two_ids(impl, doc_id):
    ids = [chunk.id for chunk in impl.split("abcabcabc", doc_id=doc_id, size=3, overlap=0)]
    assert_equal(ids, [f"{doc_id}#ba7816bf8f01cfea{end}" for end in ("", "-1", "-2")], "ids")


@requirement("RAG-05")
def test_an_id_stays_where_something_else_changed(impl):
    """Positions, metadata and options are no part of it."""
    first = impl.split("aaabbbccc", doc_id="d", size=3, overlap=0)
    second = impl.split("xyzaaabbb", doc_id="d", size=3, overlap=0, separators=["b"], metadata={"n": 1})
    assert_equal([chunk.id for chunk in second[1:]], [chunk.id for chunk in first[:2]], "ids of aaa and bbb")


# RAG-55


@requirement("RAG-55")
def test_bad_sizes_are_refused(impl):
    valid = {"text": "abcdef", "doc_id": "d", "size": 4, "overlap": 1, "separators": [" "]}
    assert_equal(positions(impl.split(**valid)), [(0, 4), (3, 6)], "positions")
    wrong = [
        ("size", {"size": 0, "overlap": 0}),
        ("size", {"size": -1, "overlap": -2}),
        ("overlap", {"overlap": -1}),
        ("overlap", {"overlap": 4}),
        ("overlap", {"overlap": 5}),
        ("separators", {"separators": [" ", ""]}),
        ("overlap", {"text": "", "overlap": 4}),
        ("separators", {"text": "", "separators": [""]}),
    ]
    check_refusals(impl.split, valid, wrong)


@requirement("RAG-55")
@pytest.mark.parametrize("text", ["a𝄞b", "aaaaa𝄞", "𝄞"])
def test_a_code_point_that_does_not_fit_is_refused(impl, text):
    valid = {"text": "aébc", "doc_id": "d", "size": 3, "overlap": 1, "length": utf8}
    assert_equal(positions(impl.split(**valid)), [(0, 2), (2, 4)], "positions")
    check_refusals(impl.split, valid, [("size/length/text", {"text": text})])


@requirement("RAG-55")
def test_bad_sizes_are_refused_before_length_is_called(impl):
    asked = []
    with pytest.raises(InvalidArgument):
        impl.split("abc", doc_id="d", size=2, overlap=2, length=lambda text: asked.append(text) or len(text))
    assert_equal(asked, [], "what length was asked about")
