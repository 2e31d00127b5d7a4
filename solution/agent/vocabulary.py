"""The bytes of a model's tokens, as `JsonConstraint` takes them."""

import json

from solution.models.vocabulary import Vocabulary
from spec import NotSupported


def token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """Of each id, without the gaps in it; none of special tokens, and of ids that are no token.

    Raises NotSupported for other vocabularies than byte-level BPE.
    """
    backend = vocabulary.backend
    kind = json.loads(backend.to_str())["decoder"]["type"]
    if kind != "ByteLevel":
        raise NotSupported(f"vocabulary: expected byte-level BPE, got one with the decoder {kind}")
    found = [b""] * backend.get_vocab_size()
    added = backend.get_added_tokens_decoder()
    byte_of = _byte_of()
    for text, id in backend.get_vocab().items():
        if id not in added:
            found[id] = bytes(byte_of[character] for character in text)
        elif not added[id].special:
            found[id] = added[id].content.encode()
    return found


def _byte_of() -> dict[str, int]:
    """GPT-2 writes printable bytes as themselves, and the others, in order, as the characters from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): byte for byte in printable}
    return shown | {chr(256 + place): byte for place, byte in enumerate(others)}
