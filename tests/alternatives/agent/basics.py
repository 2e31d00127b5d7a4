"""What the parts share: blanks, and the refusal of what a caller must not give."""

from spec import InvalidArgument

BLANK = " \t\n\r"


def require(condition, sentence):
    if not condition:
        raise InvalidArgument(sentence)
