from spec import InvalidArgument


def expect(holds, name, expected, got):
    if not holds:
        raise InvalidArgument(f"{name}: expected {expected}, got {got!r}")
