"""Where the inputs of a property come from: Hypothesis, driven by our seed and by nothing else.

Three of its internals are used here, so `pyproject.toml` pins its version.
"""

from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import Phase
from hypothesis.internal.conjecture import engine, providers
from hypothesis.internal.constants_ast import Constants

EXAMPLES = 15  # inputs per property; with fewer, known bugs live at some seeds
THOROUGH = 8  # times as many


def set_up(seed: int, *, thorough: bool, shrink: bool) -> Callable[[], None]:
    """From here on the seed decides all inputs, until what is returned puts back what was there before.

    A judge may run inside a test that another one judges.
    """
    before = _State()
    hypothesis.core.global_force_seed = seed  # type: ignore[assignment]
    # Numbers found in modules that happen to be loaded, a submission's too, must not change the inputs.
    providers._get_local_constants = Constants
    hypothesis.settings.register_profile(
        "week3",
        max_examples=EXAMPLES * (THOROUGH if thorough else 1),
        deadline=None,
        derandomize=False,  # Hypothesis would set it in CI, and ignore the seed
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("week3")
    return before.put_back


class _State:
    """What `set_up` and `shrink_for` change."""

    def __init__(self) -> None:
        self.seed = hypothesis.core.global_force_seed
        self.constants = providers._get_local_constants
        self.shrinking = engine.MAX_SHRINKING_SECONDS
        self.profile = hypothesis.settings.get_current_profile_name()
        self.settings = hypothesis.settings.get_profile(self.profile)

    def put_back(self) -> None:
        hypothesis.core.global_force_seed = self.seed
        providers._get_local_constants = self.constants
        engine.MAX_SHRINKING_SECONDS = self.shrinking
        hypothesis.settings.register_profile(self.profile, self.settings)
        hypothesis.settings.load_profile(self.profile)


def shrink_for(seconds: float) -> None:
    """How long Hypothesis looks for a smaller failing input."""
    engine.MAX_SHRINKING_SECONDS = seconds  # type: ignore[assignment]


def replay(item: pytest.Function, blob: str | None) -> None:
    """The test runs on this input alone; on inputs of the seed again with None."""
    again = (hypothesis.__version__, blob.encode()) if blob else None
    item.obj._hypothesis_internal_use_reproduce_failure = again
