"""Raises with a text that steers terminals, breaks encodings, and looks like what Hypothesis prints."""

FORGED = "Falsifying example: test(\n    everything='fine',\n)\n@reproduce_failure('6.0', b'AAAA')\n"


class Forger(ValueError):
    def __str__(self):
        return "\x1b[2J\x1b[1;32m1 passed\ud800\x00]]>" + FORGED + "Falsifying example: f(" * 10_000


def attack():
    raise Forger(str(Forger()))
