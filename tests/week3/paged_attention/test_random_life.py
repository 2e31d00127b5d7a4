"""Any series of operations, against the reference and plain lists."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading.marks import requirement
from grading.matching import assert_equal, assert_identical, assert_matches
from grading.truth import GroundTruth
from spec import CannotTruncate, InvalidArgument, OutOfBlocks, SpecError
from spec.paged_attention import CacheUsage
from tests.week3.paged_attention.cases import HEAD_DIM, KV_HEADS, joined, query_rows, rows, rows_of

reference = GroundTruth("paged_attention")


ACTIONS = ["add", "append", "append", "group", "fork", "truncate", "free", "swap", "swap", "reset", "attend"]
STEPS = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 7))


class Life:
    """Runs the same steps on a cache, on the reference, and on plain lists of tokens.

    Keys and values follow from the tokens, so that content found in the prefix cache can be told, too.
    """

    def __init__(self, impl, **options):
        self.cache = impl.PagedKVCache(8, 3, KV_HEADS, HEAD_DIM, **options)
        self.model = reference.exact.PagedKVCache(8, 3, KV_HEADS, HEAD_DIM, **options)
        self.window = options.get("window")
        self.told = {}  # name -> tokens
        self.gangs = []
        self.last = "the start"  # the last call, for messages

    def both(self, method, *args, **options):
        """Calls both; True if both succeeded, False if both refused for the same reason."""
        shown = [repr(each) for each in args if not isinstance(each, np.ndarray)]
        shown += [f"{name}={value!r}" for name, value in options.items()]
        self.last = f"{method}({', '.join(shown)})"
        outcomes = []
        for cache in (self.model, self.cache):
            try:
                outcomes.append(getattr(cache, method)(*args, **options))
            except (OutOfBlocks, CannotTruncate, InvalidArgument) as refusal:
                outcomes.append(refusal)
        expected, actual = outcomes
        if isinstance(expected, SpecError) or isinstance(actual, SpecError):
            assert type(actual) is type(expected), (
                f"{self.last}: expected {outcome(expected)}, got {outcome(actual)}"
            )
            return False
        assert_equal(actual, expected, self.last)
        return True

    def step(self, action, a, b, c):
        here = [name for name in self.told if not any(name in gang for gang in self.gangs)]
        new = next((name for name in range(4) if name not in self.told), None)
        if action == "add" and new is not None:
            self.add(new, b, c)
        elif action == "swap" and self.gangs and (a > 0 or not here):
            if self.both("swap_in", self.gangs[0]):
                self.gangs.pop(0)
        elif action == "reset":
            self.both("reset_prefix_cache")
        elif action == "free" and self.told:
            self.free(list(self.told)[a % len(self.told)])
        elif here:
            name = here[a % len(here)]
            tokens = self.told[name]
            if action == "swap":
                self.gangs.append(here[: 1 + b % len(here)])
                self.both("swap_out", self.gangs[-1])
            elif action == "fork" and new is not None:
                self.both("fork", name, new)
                self.told[new] = list(tokens)
            elif action == "truncate":
                if self.both("truncate", name, min(c, len(tokens))):
                    self.told[name] = tokens[:c]
            elif action == "group":
                self.group(here, b, c % 4)
            elif action == "attend" and tokens:
                self.attend(name, 1 + c % len(tokens))
            elif action == "append":
                self.append(name, [1 + b % 2] * c)

    def add(self, name, b, c):
        tokens = [1, 1, 1, 2, 2, 2, 3, 3][: c + 1] + [b] * (b % 3)
        self.both("add", name, tokens, salt=None if b < 3 else "x")
        self.told[name] = tokens[: self.model.length(name)]
        self.append(name, tokens[len(self.told[name]) :])

    def append(self, name, new):
        tokens = self.told[name]
        if self.both("append", name, *rows_of(new, tokens), tokens=new):
            self.told[name] = tokens + new

    def free(self, name):
        self.both("free", name)
        del self.told[name]
        self.gangs = [left for gang in self.gangs if (left := [other for other in gang if other != name])]

    def group(self, names, b, m):
        """Reserves and writes for all; commits some and rolls the others back."""
        new = [1 + b % 2] * m
        if not self.both("reserve", names, [m] * len(names), [new] * len(names)):
            return
        self.both("write", 0, *joined(rows(0, 0), *(rows_of(new, self.told[name]) for name in names)))
        committed = [name for i, name in enumerate(names) if (i + b) % 3 != 0]
        rolled_back = [name for name in names if name not in committed]
        if rolled_back:  # a list without names is asked of nobody: the text leaves it open
            self.both("rollback", rolled_back)
        if committed:
            self.both("commit", committed)
        for name in committed:
            self.told[name] = self.told[name] + new

    def attend(self, name, m):
        queries = query_rows(m, m)
        first = max(0, len(self.told[name]) - m - self.window + 1) if self.window else 0
        if self.model.block_table(name)[first // 3] is not None:
            expected = reference.attention(queries, *rows_of(self.told[name]), window=self.window)
            assert_matches(self.cache.attend([name], queries, [m]), expected, f"output of {name}")

    def check(self):
        expected, actual = self.model.usage(), self.cache.usage()
        for count in (field.name for field in fields(CacheUsage)):
            assert_equal(
                getattr(actual, count), getattr(expected, count), f"usage().{count} after {self.last}"
            )
        for name, tokens in self.told.items():
            assert_equal(self.cache.length(name), len(tokens), f"length() of {name} after {self.last}")
            if not any(name in gang for gang in self.gangs):
                held = len(tokens) if self.window is None else min(len(tokens), self.window)
                keys, values = rows_of(tokens)
                got_keys, got_values = self.cache.gather(name)
                assert_identical(got_keys, keys[len(tokens) - held :], f"keys of {name} after {self.last}")
                assert_identical(
                    got_values, values[len(tokens) - held :], f"values of {name} after {self.last}"
                )


def outcome(value):
    return f"{type(value).__name__} ({value})" if isinstance(value, SpecError) else "success"


@requirement("PA-57")
@pytest.mark.parametrize(
    "options", [{"prefix_caching": True}, {"window": 3}, {}], ids=["prefix caching", "window", "plain"]
)
@given(steps=st.integers(1, 60).flatmap(lambda n: st.lists(STEPS, min_size=n, max_size=n)))
@example(steps=[("add", 0, 1, 3), ("fork", 0, 0, 0), ("append", 0, 0, 1)])
def test_a_random_life(impl, steps, options):
    life = Life(impl, **options)
    for step in steps:
        life.step(*step)
        life.check()
