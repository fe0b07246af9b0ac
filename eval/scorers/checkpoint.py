"""From a checkpoint and a source to figures: which family, which settings, which rows."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoModelForMaskedLM

from eval.loading import checked_name, open_model, open_tokenizer, read_run
from eval.scorers.text_jepa import BATCH_SIZE, MAX_ROWS, Scores, score_rows
from training.data.errors import InputError
from training.data.rows import RowReport
from training.data.settings import DataSettings
from training.data.sources import load_rows, scoring_split
from training.data.tokenization import encode_rows

_OF_THE_SOURCE = ("split", "text_column", "streaming", "max_rows", "max_bad_share")


@dataclass(frozen=True)
class ScoreRequest:
    """What to score and how. `data` and `split` None mean: the run's own source, and its test part.

    A single file is used whole, unless it is the file that the run was trained on (then its test part by row hash).
    """

    checkpoint: str
    data: str | None = None
    split: str | None = None
    text_column: str | None = None
    max_rows: int | None = MAX_ROWS
    batch_size: int = BATCH_SIZE
    seed: int = 0
    device: str | None = None
    progress: bool = False


@dataclass(frozen=True)
class Scored:
    """Figures of a checkpoint, with the family, data settings, split and rows that they were made with."""

    scores: Scores
    family: str
    settings: DataSettings
    split: str
    rows: RowReport


def score_checkpoint(request: ScoreRequest) -> Scored:
    """Open a checkpoint, prepare the rows as in training, and score it.

    Raises:
        InputError: bad checkpoint, source or setting.
        NonFiniteError: the model scores NaN.
    """
    for name, value in (("max_rows", request.max_rows), ("batch_size", request.batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, was given {value}")
    family = family_of(request.checkpoint)
    settings = data_settings(request)
    split = choose_split(request, settings)
    scores, report = SCORERS[family](request, settings, split)
    return Scored(scores, family, settings, split, report)


def family_of(checkpoint: str) -> str:
    """The family that a checkpoint's config names; raises InputError for one that has no scorer."""
    name = checked_name(checkpoint)
    try:
        family = AutoConfig.from_pretrained(name).model_type
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{checkpoint} is no checkpoint that can be scored: {reason}") from error
    if family not in SCORERS:
        raise InputError(f"{checkpoint} is a {family!r} model; eval.score knows {', '.join(sorted(SCORERS))}")
    return family


def data_settings(request: ScoreRequest) -> DataSettings:
    """The run's `data` section with the requested source; defaults where the checkpoint has no run.json.

    Raises:
        InputError: no source given and none known, or a run.json with settings this version does not have.
    """
    run = read_run(request.checkpoint) or {}
    section = run.get("recipe", {}).get("data", {})
    known = {field.name for field in dataclasses.fields(DataSettings)}
    if not set(section) <= known:
        raise InputError(
            f"{request.checkpoint}/run.json has data settings that this version lacks: "
            f"{', '.join(sorted(set(section) - known))}; score with the version that trained it"
        )
    if request.data is None and "data" not in section:
        raise InputError(f"{request.checkpoint} does not say what it was trained on: give a source with --data")
    settings = DataSettings(**section)
    if request.data is not None and not same_source(request.data, settings.data if section else None):
        # What says how to read the run's source is not said of another; how text is treated belongs to the model.
        own = {name: getattr(DataSettings, name) for name in _OF_THE_SOURCE}
        settings = dataclasses.replace(settings, data=request.data, **own)
    if request.text_column is not None:
        settings = dataclasses.replace(settings, text_column=request.text_column)
    settings.validate()
    return settings


def choose_split(request: ScoreRequest, settings: DataSettings) -> str:
    """The split asked for; else "all" for a single file other than the run's own, and "test" for anything else."""
    if request.split is not None:
        return request.split
    run = read_run(request.checkpoint) or {}
    trained_on = run.get("recipe", {}).get("data", {}).get("data")
    return "test" if same_source(settings.data, trained_on) else scoring_split(settings, "test")


def same_source(first: str, second: str | None) -> bool:
    """Whether two sources are written alike or are the same file or folder."""
    if second is None:
        return False
    if first == second:
        return True
    paths = Path(first).expanduser(), Path(second).expanduser()
    return all(path.exists() for path in paths) and paths[0].samefile(paths[1])


def _score_text(request: ScoreRequest, settings: DataSettings, split: str) -> tuple[Scores, RowReport]:
    """A latent text model's figures on the rows of a source, and what became of those rows."""
    model = open_model(request.checkpoint, AutoModelForMaskedLM, request.device)
    tokenizer = open_tokenizer(request.checkpoint)
    rows = load_rows(settings, split)
    encoded = encode_rows(rows.dataset, tokenizer, model.config.max_position_embeddings, settings.long_rows)
    scores = score_rows(
        model,
        tokenizer,
        encoded.dataset,
        model.token_counts,
        max_rows=request.max_rows,
        batch_size=request.batch_size,
        seed=request.seed,
        progress=request.progress,
    )
    return scores, rows.report


SCORERS: dict[str, Callable[[ScoreRequest, DataSettings, str], tuple[Scores, RowReport]]] = {"text_jepa": _score_text}
