"""Ground truth of the agent with tools: plain Python, and `jsonschema` for what a schema means.

The rules are in spec/agent.md. `scanning.py` finds JSON in text and `formats.py` calls in it, `parsing.py`
whole or in pieces. `schemas.py` and `arguments.py` check. `breaker.py`, `results.py` and `toolbox.py` run a
call, `loop.py` a whole run with `journal.py` as its memory; `transcript.py`, `circles.py` and `compaction.py`
look at lists of messages and calls. `constraint.py` says which tokens may follow, by the automaton of
`grammar.py`.
"""

from .arguments import canonical_call, validate_arguments
from .circles import detect_loop
from .compaction import compact
from .constraint import JsonConstraint
from .loop import Agent
from .parsing import StreamingToolParser, parse_tool_calls
from .toolbox import Toolbox
from .transcript import check_transcript

__all__ = [
    "Agent",
    "JsonConstraint",
    "StreamingToolParser",
    "Toolbox",
    "canonical_call",
    "check_transcript",
    "compact",
    "detect_loop",
    "parse_tool_calls",
    "validate_arguments",
]
