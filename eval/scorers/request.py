"""What every scorer is asked, and what it answers. Light: no model is opened here."""

from dataclasses import dataclass, field
from typing import Any

from training.common.errors import InputError

AFFORDABLE = "auto"
BATCH_SIZE = 64
# What is scored of each kind by default: within ten minutes on two cores.
MAX_ROWS = 2000  # phrases, at most 8,000 blanks: a standard error of about half a point; or documents
MAX_PAIRS = 10_000  # a standard error of at most half a point of hits@1
MAX_CLIPS = 1000  # a standard error of about 1 % of the squared error


@dataclass(frozen=True)
class ScoreRequest:
    """What to score and how. `data` and `split` None mean: the run's own source, and its test part.

    A single file is used whole, unless it is the file that the run was trained on (then its test part by row hash).
    `max_rows` "auto" is what is scored in some minutes, None everything. Of a dialogue model, rows are pairs of a
    context and a reply, of a video model clips, and its source is `digits` (or `data`; always a split of it). Of a
    causal model, rows are documents, and `batch_size` counts windows; what follows `digits` is for such models only,
    see `eval.scorers.causal.ScoringPlan`.
    """

    checkpoint: str
    data: str | None = None
    split: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    allow_unknown: bool = False
    max_rows: int | str | None = AFFORDABLE
    batch_size: int = BATCH_SIZE
    seed: int = 0
    device: str | None = None
    progress: bool = False
    digits: str | None = None
    documents: str | None = None
    context: int | None = None
    stride: int | None = None
    max_tokens: int | str | None = AFFORDABLE

    def rows(self, affordable: int | None) -> int | None:
        """How many rows at most, where so many are affordable (None: all). Raises InputError for nonsense."""
        return bounded("max_rows", self.max_rows, affordable)

    def given(self) -> dict[str, object]:
        """The settings that only some families have, and that were given: name -> value."""
        names = ("text_column", "label_column", "digits", "documents", "context", "stride")
        found = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return found if self.max_tokens == AFFORDABLE else {**found, "max_tokens": self.max_tokens or "all"}


@dataclass(frozen=True)
class Scores:
    """Figures of one model.

    Attributes:
        metrics, baselines: have the same keys; None where a figure makes no sense.
        num_examples, num_rows: blanks, tokens, pairs, clips or labelled rows; and phrases, documents, dialogues ...
        answers: to each example, as the family's scorer describes them: for paired comparisons of two models.
        details: how it was scored, where a family has something to say: `scoring` of the Score JSON.
    """

    metrics: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    num_examples: int
    num_rows: int
    answers: Any = None
    details: dict[str, Any] = field(default_factory=dict)


def bounded(name: str, value: int | str | None, affordable: int | None) -> int | None:
    """`value`, with `affordable` for "auto"; raises InputError for a word or number that makes no sense."""
    if value == AFFORDABLE:
        return affordable
    if isinstance(value, str) or (value is not None and value < 1):
        raise InputError(f"{name} must be at least 1, `all` or `{AFFORDABLE}`, was given {value}")
    return value
