"""The exceptions of the contract.

Each message is a sentence that names the argument, what was expected and what came, for example
``window: expected at least 1, got 0``. A call that raises one of these has changed nothing.
"""


class SpecError(Exception):
    """Base of every error that the contract names."""


class InvalidArgument(SpecError, ValueError):
    """An argument is outside what the docstring allows."""


class OutOfBlocks(SpecError):
    """The pool has fewer free blocks than the operation needs."""


class NotThere(SpecError, KeyError):
    """Base of the errors about an id that is not there."""

    def __str__(self) -> str:  # KeyError would show the quoted representation
        return str(self.args[0]) if self.args else ""


class UnknownSequence(NotThere):
    """No sequence of this id is in the cache."""


class UnknownDocument(NotThere):
    """No document of this id is in the index."""


class NothingSaved(SpecError):
    """Nothing was ever saved in this storage."""


class DamagedIndex(SpecError):
    """The bytes in the storage are not those that were saved."""


class CannotTruncate(SpecError):
    """The sequence cannot go back that far: keys that it would need were given back."""


class ContextTooLong(SpecError):
    """The tokens do not fit into what the model's context may hold."""


class CannotCompact(SpecError):
    """The messages that must stay do not fit into the budget."""


class Cancelled(SpecError):
    """Whoever asked does not want an answer any more. Nobody's failure: it goes through to the caller."""


class ToolFailure(SpecError):
    """A tool's function failed, and knows how.

    transient: nothing was done, and the same may work later, in `retry_after` seconds or more.
    """

    def __init__(self, message: str, transient: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message, transient, retry_after)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    @property
    def transient(self) -> bool:
        return bool(self.args[1])

    @property
    def retry_after(self) -> float:
        return float(self.args[2])


class NotSupported(SpecError):
    """The combination of options is refused because it would be silently wrong."""


class CallbackError(SpecError):
    """A callback raised something that is neither in `spec` nor a listed builtin.

    ``args`` are the class name and the message of what it raised.
    """
