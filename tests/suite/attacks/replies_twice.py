"""Answers each call a second time, so that each later call would get the answer of the one before."""

from known import peer


def attack():
    link = peer().link
    send = link._channel.send

    def twice(frame, remaining):
        send(frame, remaining)
        send(frame, remaining)

    link._channel.send = twice
