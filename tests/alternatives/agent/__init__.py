"""Agent with tools: right, and of another structure, so that the suite can be held to it.

What differs, all of it free by the contract:

- one JSON scanner by hand, a coroutine on a growing tape, serves parsing, streaming, checking and loops;
- arguments of a call are the slice of the text that the model wrote, and are not written anew;
- JSON Schema is a table of functions, one for each keyword, and has no library below;
- a call is a machine of stages that stops before each wait and each attempt, and can be dropped there;
- a run is a list of facts; its state is a fold over them, a checkpoint is the list, resuming is the fold;
- a constraint is an automaton over bytes, compiled from its end to its beginning; a state is a set of nodes.

`scanning.py` has the scanner, `reading.py` the four formats, `schemas.py` the tables. `calls.py` is a call on
its way and the toolbox, `runs.py` a run. `transcripts.py` looks at messages and at circles of calls,
`constraint.py` at tokens; `basics.py` is below them all.
"""

from .calls import Toolbox
from .constraint import JsonConstraint
from .reading import StreamingToolParser, parse_tool_calls
from .runs import Agent
from .schemas import validate_arguments
from .transcripts import check_transcript, compact, detect_loop

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
