"""Tokens of one sequence: how caches check what they are given, and where they keep it."""

import mlx.core as mx

from .checks import expect

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
SPARE = 64  # tokens for which there is spare room, at least


# Checks ---------------------------------------------------------------------------------------------------


def check_cache(kv_heads: int, head_dim: int, dtype: str) -> None:
    expect(kv_heads >= 1, "kv_heads", "at least 1", kv_heads)
    expect(head_dim >= 1, "head_dim", "at least 1", head_dim)
    expect(dtype in DTYPES, "dtype", " or ".join(DTYPES), dtype)


def check_tokens(keys: mx.array, values: mx.array, kv_heads: int, head_dim: int, dtype: str) -> None:
    """(m, kv_heads, head_dim) each, in the cache's dtype."""
    fits = keys.ndim == 3 and keys.shape[1:] == (kv_heads, head_dim)
    expect(fits, "keys", f"shape (m, {kv_heads}, {head_dim})", keys.shape)
    expect(values.shape == keys.shape, "values", f"shape {keys.shape}", values.shape)
    for name, rows in (("keys", keys), ("values", values)):
        expect(rows.dtype == DTYPES[dtype], name, f"dtype {dtype}", rows.dtype)


def check_queries(queries: mx.array, kv_heads: int, head_dim: int, dtype: str) -> None:
    fits = queries.ndim == 3 and queries.shape[2] == head_dim and queries.shape[1] >= 1
    expect(fits, "queries", f"shape (m, heads, {head_dim})", queries.shape)
    expect(queries.shape[1] % kv_heads == 0, "queries", f"a multiple of {kv_heads} heads", queries.shape)
    expect(queries.dtype == DTYPES[dtype], "queries", f"dtype {dtype}", queries.dtype)


# Storage --------------------------------------------------------------------------------------------------


class Rows:
    """Arrays (…, rows, width) that grow at the end and give up at the front, all alike.

    There is spare room at the end, and MLX writes into it in place while an array has one owner: whatever
    reads it must be evaluated before the next `append`.
    """

    def __init__(self, *empty: mx.array, spare: int = SPARE) -> None:
        """empty: an array without rows for each column, (…, 0, width); spare: the least spare room."""
        self.columns, self._spare = list(empty), spare
        self._first = self._end = 0  # the rows in use

    def __len__(self) -> int:
        return self._end - self._first

    def append(self, *rows: mx.array) -> None:
        """rows: (…, m, width), one for each column."""
        held, count = len(self), rows[0].shape[-2]
        room, wanted = self.columns[0].shape[-2], held + count + max(self._spare, held // 4)
        if self._end + count <= room <= 2 * wanted:
            for column, new in zip(self.columns, rows, strict=True):
                column[..., self._end : self._end + count, :] = new
            self._end += count
        else:
            parts = zip(self.all(), rows, strict=True)
            self.columns = [_joined(old, new, wanted) for old, new in parts]
            self._first, self._end = 0, held + count
        mx.eval(self.columns)

    def drop(self, count: int) -> None:
        """Gives up the first rows."""
        self._first += count

    def keep(self, count: int) -> None:
        """Gives up all but the first rows."""
        self._end = self._first + count

    def all(self) -> list[mx.array]:
        return self.part(0, len(self))

    def part(self, first: int, end: int) -> list[mx.array]:
        """(…, end − first, width) of each column."""
        return [column[..., self._first + first : self._first + end, :] for column in self.columns]


def _joined(old: mx.array, new: mx.array, room: int) -> mx.array:
    spare = room - old.shape[-2] - new.shape[-2]
    return mx.concatenate([old, new, mx.zeros((*new.shape[:-2], spare, new.shape[-1]), new.dtype)], axis=-2)
