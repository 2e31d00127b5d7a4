"""What every part needs: what counts as white space, and how to refuse."""

from spec import InvalidArgument

SPACE = " \t\n\r"  # RFC 8259


def expect(condition, argument, expected, got):
    if not condition:
        raise InvalidArgument(f"{argument}: expected {expected}, got {got}")
