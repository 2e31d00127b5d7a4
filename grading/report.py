"""What grading one implementation found: plain data that the JSON file, the terminal and JUnit all show."""

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["met", "broken", "not attempted", "error"]
Outcome = Literal["passed", "failed", "error"]
LEVEL_WEIGHTS = {"core": 3, "edge": 2, "scale": 1}


@dataclass
class TestResult:
    """One test of one requirement."""

    node: str
    outcome: Outcome
    message: str = ""  # one or a few sentences: first differing index, expected, actual, smallest input
    diagnosis: list[str] = field(default_factory=list)  # titles of the known bugs that explain the output
    blob: str = ""  # Hypothesis' encoding of the failing input, for `week3 replay`


@dataclass
class RequirementResult:
    id: str
    title: str
    topic: str
    level: str
    needs: list[str]
    status: Status
    tests: list[TestResult]
    message: str = ""
    diagnosis: list[str] = field(default_factory=list)
    waits_for: list[str] = field(default_factory=list)  # the roots: what else must be mended first


@dataclass
class TopicResult:
    name: str
    status: str  # "complete" | "incomplete" | "not attempted"
    score: float
    max_score: float = 100.0
    missing: list[str] = field(default_factory=list)  # contract names without an implementation, in order
    note: str = ""  # why the topic ended early, if it did


@dataclass
class Report:
    implementation: str
    framework: str
    suite_version: str
    seed: int
    isolation: str
    topics: dict[str, TopicResult]
    requirements: dict[str, RequirementResult]
    seconds: float
    max_score: float = 100.0

    @property
    def score(self) -> float:
        """Mean over the topics, each 100 × weights of met requirements / all weights."""
        scores = [topic.score for topic in self.topics.values()]
        return sum(scores) / len(scores) if scores else 0.0

    @property
    def passed(self) -> bool:
        return all(requirement.status == "met" for requirement in self.requirements.values())
