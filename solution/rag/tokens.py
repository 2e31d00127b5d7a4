"""Words of a text, for BM25."""

import re

WORD = re.compile(r"\w\w+")
# Those of Lucene's EnglishAnalyzer: in nearly every text, and in most questions.
STOPWORDS = frozenset(
    [
        *(
            "an",
            "and",
            "are",
            "as",
            "at",
            "be",
            "but",
            "by",
            "for",
            "if",
            "in",
            "into",
            "is",
            "it",
            "no",
            "not",
        ),
        *("of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to"),
        *("was", "will", "with"),
    ]
)


def words(text: str) -> list[str]:
    """In small letters, of at least two characters, without the commonest English ones."""
    return [word for word in WORD.findall(text.lower()) if word not in STOPWORDS]
