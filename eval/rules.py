"""Rules of thumb that planning, advice and diagnosis share: sizes against data, steps against it, chance levels.

Pure functions of numbers; nothing here opens a model or a file. Each verdict says what was found, what is allowed and
what to do, in one line.

Text and dialogue are measured in *effective examples*: (phrase, position) pairs, so a phrase of 8 words that loses one
word at a time gives 8. The generator is measured in tokens of its training part.

Two numbers say how long a run is: *passes*, how often it sees every row, and *rows per example*, steps x batch /
effective examples, by which it is judged: rows of n positions, seen once, are 1/n rows per example.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

# Rows drawn per effective example: right, a warning above, a loud one above.
ROWS_PER_EXAMPLE = (5.0, 10.0)
FAR_TOO_MANY_ROWS_PER_EXAMPLE = 100.0
# Above the range it is a warning; above this multiple of it, a loud one.
LOUD_SIZE_FACTOR = 2.0
# Rules of thumb below which generated text does not become grammatical: the smallest models of TinyStories that write
# consistent sentences have about 1M parameters (Eldan & Li, 2023, arXiv:2305.07759); the tokens are our own estimate.
LANGUAGE_PARAMETERS = 1_000_000
LANGUAGE_TOKENS = 1_000_000
# A suggestion keeps this far above the low end of its range: small is quick, too small underfits.
ABOVE_LOW = 1.25
LARGEST_WANTED = 20_000_000  # of data beyond every ladder


@dataclass(frozen=True)
class Range:
    """Parameters from `low` to `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class Verdict:
    """What was found: `level` ("ok", "note", "warning" or "loud"), `name` for programs, `message` for people."""

    level: str
    name: str
    message: str


# (examples up to and including, parameters): above the last step, up to as many parameters as examples.
TEXT_LADDER: tuple[tuple[int, Range], ...] = (
    (30_000, Range(500_000, 1_500_000)),
    (250_000, Range(1_000_000, 4_000_000)),
    (1_000_000, Range(4_000_000, 30_000_000)),
)
# Clips are far more redundant than words: our own estimate, in predicted tokens (clips x frames x tokens per frame).
VIDEO_LADDER: tuple[tuple[int, Range], ...] = (
    (1_000_000, Range(200_000, 1_000_000)),
    (30_000_000, Range(500_000, 4_000_000)),
    (300_000_000, Range(1_000_000, 15_000_000)),
)
# The generator's counterpart in tokens. A causal model learns from every token, so the steps lie higher.
TOKEN_LADDER: tuple[tuple[int, Range], ...] = (
    (1_000_000, Range(500_000, 2_000_000)),
    (10_000_000, Range(1_000_000, 10_000_000)),
    (100_000_000, Range(5_000_000, 100_000_000)),
)


@dataclass(frozen=True)
class Shape:
    """Width, depth and heads of a trunk."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int


# What a suggestion chooses from, by size; the heads are 32 to 64 wide.
SHAPES: tuple[Shape, ...] = (
    Shape(64, 2, 2),
    Shape(128, 2, 4),
    Shape(192, 3, 4),
    Shape(256, 3, 4),
    Shape(256, 4, 4),
    Shape(384, 4, 6),
    Shape(384, 6, 6),
    Shape(512, 6, 8),
    Shape(768, 8, 12),
)
# (effective examples up to and including, entries of the vocabulary); the last holds above.
VOCABULARIES: tuple[tuple[float, int], ...] = ((30_000, 4_000), (1_000_000, 8_000), (math.inf, 16_000))
# As many tokens as parameters make the best of a given time of computing (Hoffmann et al., 2022, arXiv:2203.15556).
TOKENS_PER_PARAMETER = 20.0
# A corpus seen so often teaches nearly as much as new text would (Muennighoff et al., 2023, arXiv:2305.16264).
PASSES_OF_A_CORPUS = 4


def suggest_shape(sizes: Range, parameters_of: Callable[[Shape], int]) -> Shape:
    """The smallest shape that is comfortably in a range; the nearest where none is.

    Args:
        sizes: parameters that suit the data.
        parameters_of: trainable parameters of a model of a shape, its vocabulary included.
    """
    wanted = max(ABOVE_LOW * sizes.low, LARGEST_WANTED if sizes.high > TOKEN_LADDER[-1][1].high else 0)
    counted = [(parameters_of(shape), shape) for shape in SHAPES]
    fitting = [shape for count, shape in counted if wanted <= count <= sizes.high]
    return fitting[0] if fitting else min(counted, key=lambda pair: abs(math.log(pair[0] / wanted)))[1]


def suggest_vocabulary(examples: int) -> int:
    """Entries of a trained vocabulary at most."""
    _positive(examples=examples)
    return next(vocabulary for up_to, vocabulary in VOCABULARIES if examples <= up_to)


def rows_to_draw(examples: int, holes_per_row: float = 1.0) -> float:
    """5 to 10 rows for each effective example: the lower end where a row has several holes."""
    low, high = ROWS_PER_EXAMPLE
    return (low if holes_per_row > 1 else (low + high) / 2) * examples


def text_size_range(examples: int) -> Range:
    """Parameters that suit a number of effective examples (a latent text or dialogue model)."""
    return _climb(TEXT_LADDER, examples, "examples")


def token_size_range(tokens: int) -> Range:
    """Parameters that suit a number of training tokens (a causal generator trained from nothing)."""
    return _climb(TOKEN_LADDER, tokens, "tokens")


def video_size_range(tokens: int) -> Range:
    """Parameters that suit a number of predicted video tokens (clips x frames x tokens per frame)."""
    return _climb(VIDEO_LADDER, tokens, "tokens")


def judge_video_size(parameters: int, tokens: int) -> Verdict:
    """Whether a video model suits its clips."""
    return _judge_size(parameters, tokens, video_size_range(tokens), "video tokens")


def judge_text_size(parameters: int, examples: int) -> Verdict:
    """Whether a latent text model suits its data."""
    return _judge_size(parameters, examples, text_size_range(examples), "effective examples")


def judge_generator_size(parameters: int, tokens: int) -> list[Verdict]:
    """Whether either is too small to learn language at all (listed first), then whether the model suits its data."""
    verdicts = []
    if parameters < LANGUAGE_PARAMETERS:
        verdicts.append(
            Verdict(
                "warning",
                "too_small_for_language",
                f"{readable(parameters)} parameters are too few to learn language (first grammatical sentences come "
                f"with about {readable(LANGUAGE_PARAMETERS)}): widen or deepen the model",
            )
        )
    if tokens < LANGUAGE_TOKENS:
        verdicts.append(
            Verdict(
                "warning",
                "too_little_for_language",
                f"{readable(tokens)} tokens are too few to learn language from nothing (take at least "
                f"{readable(LANGUAGE_TOKENS)}): add text, or start from a trained model",
            )
        )
    return [*verdicts, _judge_size(parameters, tokens, token_size_range(tokens), "tokens")]


def passes_over_data(steps: int, batch: int, rows: int) -> float:
    """How often every row is seen: steps x batch / rows.

    Args:
        steps: optimizer steps; 0 before the first.
        batch: rows per step, over all processes and accumulation.
        rows: of the training part.
    """
    _positive(batch=batch, rows=rows)
    return steps * batch / rows


def rows_per_example(steps: int, batch: int, examples: int) -> float:
    """Rows drawn per effective example: steps x batch / effective examples (`passes_over_data` by their number)."""
    _positive(steps=steps, batch=batch, examples=examples)
    return steps * batch / examples


def judge_steps(per_example: float, holes_per_row: float = 1.0) -> Verdict:
    """5 to 10 rows per effective example are right; over 10 is a warning, over 100 a loud one; fewer are noted.

    Args:
        per_example: see `rows_per_example`.
        holes_per_row: several holes at once ask for as many examples, so the range begins as much lower.
    """
    low, high = ROWS_PER_EXAMPLE[0] / max(1.0, holes_per_row), ROWS_PER_EXAMPLE[1]
    holes = f" with {holes_per_row:.1f} holes a row" if holes_per_row > 1 else ""
    wanted = f"{readable_ratio(low)} to {high:g} are right{holes}"
    found = f"{readable_ratio(per_example)} rows per effective example ({wanted})"
    if per_example > FAR_TOO_MANY_ROWS_PER_EXAMPLE:
        remedy = f"it will learn them by heart; cut the steps to 1/{per_example / high:,.0f}"
        return Verdict("loud", "far_too_many_steps", f"{found}: {remedy}")
    if per_example > high:
        return Verdict("warning", "many_steps", f"{found}: fewer steps or more data")
    if per_example < low:
        return Verdict("note", "few_steps", f"{found}: a short run, more steps will still help")
    return Verdict("ok", "steps", found)


def chance_above_negatives(num_negatives: int) -> float:
    """acc_neg of a model that knows nothing: 1 / (1 + N), 1/33 for 32 negatives."""
    _positive(num_negatives=num_negatives)
    return 1.0 / (1 + num_negatives)


def expected_acc_neg(rank: float, vocab_size: int, num_negatives: int) -> float:
    """acc_neg that a true rank implies with uniform negatives: (1 - (rank - 1) / (V - 1)) ^ N.

    With V = 4,000 and N = 32: 0.93 at rank 10, 0.67 at rank 50, 0.45 at rank 100. So a good acc_neg says little.
    """
    if not 1 <= rank <= vocab_size:
        raise ValueError(f"rank must lie between 1 and vocab_size={vocab_size}, was given {rank}")
    _positive(vocab_size=vocab_size - 1, num_negatives=num_negatives)
    return (1.0 - (rank - 1) / (vocab_size - 1)) ** num_negatives


def readable(count: float) -> str:
    """A count in three digits with its unit, never rounded to nothing: 950, 1.20k, 0.99M, 12.3M, 1.50B.

    From 100,000 on in millions, so that sizes of small models compare at a glance.
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size or (unit == "M" and count >= 1e5):
            value = count / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{unit}"
    return f"{count:,.0f}"


def readable_ratio(ratio: float) -> str:
    """A ratio in three digits, without an exponent where it is large: 0.056, 1.21, 12.3, 4,000."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _climb(ladder: tuple[tuple[int, Range], ...], amount: int, unit: str) -> Range:
    """The step of a ladder that an amount of data stands on."""
    _positive(**{unit: amount})
    for up_to, sizes in ladder:
        if amount <= up_to:
            return sizes
    # "Above: up to the data" - but never less than the last step already allowed.
    last = ladder[-1][1]
    return Range(last.low, max(last.high, amount))


def _judge_size(parameters: int, amount: int, sizes: Range, unit: str) -> Verdict:
    """Compare parameters with a range, in one line."""
    _positive(parameters=parameters)
    found = f"{readable(parameters)} parameters for {readable(amount)} {unit}"
    wanted = f"{readable(sizes.low)} to {readable(sizes.high)} suit them"
    if parameters > sizes.high:
        level = "loud" if parameters > LOUD_SIZE_FACTOR * sizes.high else "warning"
        return Verdict(
            level, "too_large", f"{found} are too many ({wanted}): it will learn them by heart; go smaller or add data"
        )
    if parameters < sizes.low:
        return Verdict("note", "too_small", f"{found} are few ({wanted}): it may underfit; widen it or deepen it")
    return Verdict("ok", "size", f"{found} ({wanted})")


def _positive(**numbers: float) -> None:
    """Raise ValueError that names the first number that is not above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, was given {value}")
