from .arguments import canonical_call
from .basics import expect


def detect_loop(calls, results, *, repeats, max_period=4):
    expect(len(calls) == len(results), "results", f"{len(calls)}, one for each call", len(results))
    expect(repeats >= 2, "repeats", "at least 2", repeats)
    expect(max_period >= 1, "max_period", "at least 1", max_period)
    pairs = [
        (canonical_call(call), result.status, result.content)
        for call, result in zip(calls, results, strict=True)
    ]
    return any(
        len(pairs) >= repeats * period and pairs[-repeats * period :] == pairs[-period:] * repeats
        for period in range(1, max_period + 1)
    )
