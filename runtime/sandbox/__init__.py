"""Runs a command that nobody trusts.

    child = start([sys.executable, "-I", "-B", "-c", "..."], tier=best_tier(), read_only={}, env={},
                  limits=Limits(), channel=None)

What the machine offers decides the tier, and the caller names it: nothing here falls back to a weaker one.

    values.py    what the caller says and sees: Limits, Tier
    folders.py   what Python itself must read
    launcher.py  confines itself, then becomes the command; runs inside
    child.py     the running command: its output, its end
    start.py     puts the four together, one way per tier
    tiers.py     what this machine offers, found by trying
"""

from runtime.sandbox.child import Child
from runtime.sandbox.start import CannotStart, start
from runtime.sandbox.tiers import Unavailable, best_tier, demand, tiers, why_not
from runtime.sandbox.values import Limits, Tier, TierName

__all__ = [
    "CannotStart",
    "Child",
    "Limits",
    "Tier",
    "TierName",
    "Unavailable",
    "best_tier",
    "demand",
    "start",
    "tiers",
    "why_not",
]
