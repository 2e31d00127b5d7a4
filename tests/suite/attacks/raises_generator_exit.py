"""Raises what an `except Exception` lets through."""


def attack():
    raise GeneratorExit
