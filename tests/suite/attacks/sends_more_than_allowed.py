"""Announces a message of 2**60 bytes."""

import struct

from known import channel


def attack():
    channel()._socket.send(struct.pack("<4sIIQ", b"WK3\x01", 1, 2, 1 << 60))
