"""The agent with tools; the rules are in spec/agent.md.

What a model wrote is text on the host, and so is nearly all of this; MLX has the masks, which meet logits.

`parsing.py` reads calls: `hermes.py`, `react.py`, `llama3.py` and `openai.py` find them, `blocks.py` takes
JSON out of other text. `arguments.py` checks what they ask for. `toolbox.py` carries one out, in
`attempts.py`, past `breakers.py`. `agent.py` has what is made once, `loop.py` a run, `journal.py` what it
knows and its checkpoints. `transcript.py` looks at messages and shortens them, `circles.py` sees calls come
again. `constraint.py` says which tokens may follow, by llguidance and a schema's `grammar.py`.

What `week3 agent` needs besides. A model: `writing.py`, told of its tools by `prompt.py`, which `leaning.py`
helps to see when one is asked for; `vocabulary.py` has the bytes of its tokens. Tools: `tools.py`, with
`arithmetic.py`, `sandboxed.py`, and `own_tools.py`, which reads the user's. `clock.py` is a clock that ticks,
`trace.py` writes a run down. `evaluating.py` is `week3 agent eval`, `judging.py` knows which calls are right.
"""

from .agent import Agent
from .arguments import validate_arguments
from .circles import detect_loop
from .constraint import JsonConstraint
from .parsing import StreamingToolParser, parse_tool_calls
from .toolbox import Toolbox
from .transcript import check_transcript, compact

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
