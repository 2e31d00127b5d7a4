"""Ground truth of the agent with tools: plain Python, with `jsonschema` for what a schema means.

`parsing.py` reads calls, `arguments.py` checks them, `toolbox.py` runs one, with `breaker.py`. `loop.py` is a
whole run, `state.py` what it knows; `transcript.py` looks at messages, `constraint.py` at tokens.
"""

from .arguments import validate_arguments
from .constraint import JsonConstraint
from .loop import Agent
from .parsing import StreamingToolParser, parse_tool_calls
from .toolbox import Toolbox
from .transcript import check_transcript, compact, detect_loop

__all__ = [
    "Agent",
    "JsonConstraint",
    "StreamingToolParser",
    "Toolbox",
    "check_transcript",
    "compact",
    "detect_loop",
    "parse_tool_calls",
    "validate_arguments",
]
