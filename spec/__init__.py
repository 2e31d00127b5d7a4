"""What must hold: one Markdown file of numbered requirements and one contract module per topic.

A submission may import this package and nothing else of the project.
"""

from spec.collective import Collective
from spec.errors import (
    CallbackError,
    Cancelled,
    CannotCompact,
    CannotTruncate,
    ContextTooLong,
    DamagedIndex,
    InvalidArgument,
    NothingSaved,
    NotSupported,
    OutOfBlocks,
    SpecError,
    ToolFailure,
    UnknownDocument,
    UnknownSequence,
)
from spec.model import Model

__all__ = [
    "CallbackError",
    "Cancelled",
    "CannotCompact",
    "CannotTruncate",
    "Collective",
    "ContextTooLong",
    "DamagedIndex",
    "InvalidArgument",
    "Model",
    "NotSupported",
    "NothingSaved",
    "OutOfBlocks",
    "SpecError",
    "ToolFailure",
    "UnknownDocument",
    "UnknownSequence",
]
