"""What must hold: one Markdown file of numbered requirements and one contract module per topic.

A submission may import this package and nothing else of the project.
"""

from spec.collective import Collective
from spec.errors import (
    CallbackError,
    CannotTruncate,
    InvalidArgument,
    NotSupported,
    OutOfBlocks,
    SpecError,
    UnknownSequence,
)

__all__ = [
    "CallbackError",
    "CannotTruncate",
    "Collective",
    "InvalidArgument",
    "NotSupported",
    "OutOfBlocks",
    "SpecError",
    "UnknownSequence",
]
