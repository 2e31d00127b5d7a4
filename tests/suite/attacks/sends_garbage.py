"""Writes what is no message at all."""

from known import channel


def attack():
    channel()._socket.send(b"HTTP/1.1 200 OK\r\n\r\n" * 10)
