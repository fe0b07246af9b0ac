"""From a checkpoint and a source to figures: which family, which settings, which rows."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from eval.loading import checked_name, open_model, open_tokenizer
from eval.replies.saying import FAMILY, open_dialogue
from eval.scorers.causal import AFFORDABLE, CausalRequest, CausalScores, score_causal_checkpoint
from eval.scorers.dialogue import MAX_PAIRS, DialogueScores, score_pairs
from eval.scorers.text_jepa import BATCH_SIZE, MAX_ROWS, Scores, score_rows
from eval.scorers.video import VIDEO, VideoScores, affordable_clips, score_video_checkpoint
from training.common.errors import InputError
from training.common.manifest import read_run
from training.data.dialogue_jepa.pairs import prepare_pairs_of
from training.data.families import FAMILIES
from training.data.settings import (
    DataSettings,
    DialogueDataSettings,
    GeneratorDataSettings,
    SourceSettings,
    VideoDataSettings,
)
from training.data.sources.locate import load_rows, scoring_split
from training.data.sources.rows import RowReport
from training.data.tokenization import encode_rows

_OF_THE_SOURCE = ("split", "text_column", "streaming", "max_rows", "max_bad_share")


@dataclass(frozen=True)
class ScoreRequest:
    """What to score and how. `data` and `split` None mean: the run's own source, and its test part.

    A single file is used whole, unless it is the file that the run was trained on (then its test part by row hash).
    `max_rows` "auto" is what is scored in some minutes, None everything. Of a dialogue model, rows are pairs of a
    context and a reply, of a video model clips, and its source is `digits` (or `data`; always a split of it). Of a
    causal model, rows are documents, and `batch_size` counts windows; what follows `digits` is for such models only,
    see `CausalRequest`.
    """

    checkpoint: str
    data: str | None = None
    split: str | None = None
    text_column: str | None = None
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

    def rows(self, affordable: int) -> int | None:
        """How many rows at most, where so many are affordable; raises InputError for a number that makes no sense."""
        if self.max_rows == AFFORDABLE:
            return affordable
        if isinstance(self.max_rows, str) or (self.max_rows is not None and self.max_rows < 1):
            raise InputError(f"max_rows must be at least 1, `all` or `{AFFORDABLE}`, was given {self.max_rows}")
        return self.max_rows

    def refuse_causal_settings(self) -> None:
        """Raise InputError for a setting of causal models, when it is another that is scored."""
        bound = None if self.max_tokens == AFFORDABLE else self.max_tokens or "all"
        for name, value in (("context", self.context), ("stride", self.stride), ("max_tokens", bound)):
            if value is not None:
                raise InputError(f"{name}: got {value}, but {self.checkpoint} is no causal model; leave it out")


@dataclass(frozen=True)
class Scored:
    """Figures of a checkpoint, with the family, data settings, split and rows that they were made with.

    `details` stand in the Score JSON beside what every family has.
    """

    scores: Scores | CausalScores | DialogueScores | VideoScores
    family: str
    settings: Any
    split: str
    rows: RowReport
    details: dict[str, Any] = field(default_factory=dict)


Result = tuple[Scores | CausalScores | DialogueScores | VideoScores, RowReport, dict[str, Any]]


def score_checkpoint(request: ScoreRequest) -> Scored:
    """Open a checkpoint, prepare the rows as in training, and score it.

    Raises:
        InputError: bad checkpoint, source or setting.
        NonFiniteError: the model scores NaN.
    """
    if request.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, was given {request.batch_size}")
    request.rows(MAX_ROWS)
    family = family_of(request.checkpoint)
    settings = data_settings(request)
    split = choose_split(request, settings)
    scores, report, details = SCORERS.get(family, _score_causal)(request, settings, split)
    return Scored(scores, family, settings, split, report, details)


def family_of(checkpoint: str) -> str:
    """The family that a checkpoint's config names, or the kind of a stock causal model.

    Raises:
        InputError: one that has no scorer.
    """
    name = checked_name(checkpoint)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{checkpoint} is no checkpoint that can be scored: {reason}") from error
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if config.model_type not in SCORERS and not set(config.architectures or ()) & set(causal):
        raise InputError(
            f"{checkpoint} is a {config.model_type!r} model; eval.score knows {', '.join(sorted(SCORERS))} and the "
            "library's causal language models"
        )
    return config.model_type


def data_settings(request: ScoreRequest) -> SourceSettings | VideoDataSettings:
    """The run's `data` section with the requested source; defaults where the checkpoint has no run.json.

    Raises:
        InputError: no source given and none known, or a run.json with settings this version does not have.
    """
    family = family_of(request.checkpoint)
    settings_class = _settings_class(family)
    section = _data_section(request.checkpoint, settings_class)
    if family == VIDEO:
        return _video_settings(request, section)
    if request.digits is not None:
        raise InputError(f"digits: got {request.digits!r}, but {request.checkpoint} is no video model; use --data")
    if request.data is None and "data" not in section:
        raise InputError(f"{request.checkpoint} does not say what it was trained on: give a source with --data")
    settings = settings_class(**section)
    if request.data is not None and not same_source(request.data, settings.data if section else None):
        # What says how to read the run's source is not said of another; how text is treated belongs to the model.
        own = {name: getattr(settings_class, name) for name in _OF_THE_SOURCE}
        settings = dataclasses.replace(settings, data=request.data, **own)
    if request.text_column is not None:
        settings = dataclasses.replace(settings, text_column=request.text_column)
    if request.documents is not None:
        settings = _with_documents(settings, request)
    settings.validate()
    return settings


def choose_split(request: ScoreRequest, settings: SourceSettings | VideoDataSettings) -> str:
    """The split asked for; else "all" for a single file other than the run's own, and "test" for anything else."""
    if request.split is not None:
        return request.split
    if isinstance(settings, VideoDataSettings):
        return "test"
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


def _video_settings(request: ScoreRequest, section: dict[str, Any]) -> VideoDataSettings:
    """The run's `data` section with the requested digits."""
    for name, value in (("text_column", request.text_column), ("documents", request.documents)):
        if value is not None:
            raise InputError(f"{name}: got {value!r}, but {request.checkpoint} is a video model; leave it out")
    if request.data is not None and request.digits is not None:
        raise InputError(f"data: got {request.data!r} and digits {request.digits!r}; give --digits alone")
    digits = request.digits if request.digits is not None else request.data
    if digits is None and not section:
        raise InputError(f"{request.checkpoint} does not say what it was trained on: give digits with --digits")
    settings = VideoDataSettings(**section)
    settings = settings if digits is None else dataclasses.replace(settings, digits=digits)
    settings.validate()
    return settings


def _settings_class(family: str) -> type[SourceSettings] | type[VideoDataSettings]:
    """The family's own; a stock causal model reads documents as our generator does."""
    return FAMILIES[family].data_settings if family in FAMILIES else GeneratorDataSettings


def _data_section(checkpoint: str, settings_class: type[SourceSettings] | type[VideoDataSettings]) -> dict[str, Any]:
    """The `data` section of the run's recipe, empty where there is none; raises InputError for unknown settings."""
    section = (read_run(checkpoint) or {}).get("recipe", {}).get("data", {})
    known = {one.name for one in dataclasses.fields(settings_class)}
    if not set(section) <= known:
        raise InputError(
            f"{checkpoint}/run.json has data settings that this version lacks: "
            f"{', '.join(sorted(set(section) - known))}; score with the version that trained it"
        )
    return section


def _with_documents(settings: SourceSettings, request: ScoreRequest) -> SourceSettings:
    if not isinstance(settings, GeneratorDataSettings):
        raise InputError(
            f"documents: got {request.documents!r}, but {request.checkpoint} scores phrases; leave it out"
        )
    return dataclasses.replace(settings, documents=request.documents)


def _score_text(request: ScoreRequest, settings: DataSettings, split: str) -> Result:
    """A latent text model's figures on the rows of a source, and what became of those rows."""
    request.refuse_causal_settings()
    model = open_model(request.checkpoint, AutoModelForMaskedLM, request.device)
    tokenizer = open_tokenizer(request.checkpoint)
    rows = load_rows(settings, split)
    encoded = encode_rows(rows.dataset, tokenizer, model.config.max_position_embeddings, settings.long_rows)
    scores = score_rows(
        model,
        tokenizer,
        encoded.dataset,
        model.token_counts,
        max_rows=request.rows(MAX_ROWS),
        batch_size=request.batch_size,
        seed=request.seed,
        progress=request.progress,
    )
    return scores, rows.report, {}


def _score_causal(request: ScoreRequest, settings: GeneratorDataSettings, split: str) -> Result:
    """A causal model's figures on the documents of a source."""
    section = _data_section(request.checkpoint, GeneratorDataSettings)
    return score_causal_checkpoint(
        CausalRequest(
            checkpoint=request.checkpoint,
            context=request.context,
            stride=request.stride,
            batch_size=request.batch_size,
            max_documents=request.rows(MAX_ROWS),
            max_tokens=request.max_tokens,
            seed=request.seed,
            device=request.device,
            progress=request.progress,
        ),
        settings,
        split,
        trained_on=GeneratorDataSettings(**section) if "data" in section else None,
    )


def _score_dialogue(request: ScoreRequest, settings: DialogueDataSettings, split: str) -> Result:
    """A dialogue model's figures on the pairs of a source's dialogues."""
    request.refuse_causal_settings()
    model, tokenizer = open_dialogue(request.checkpoint, request.device)
    lengths = (model.config.max_position_embeddings, model.config.max_reply_length)
    encoded = prepare_pairs_of(settings, split, tokenizer, *lengths)
    scores = score_pairs(
        model,
        tokenizer,
        encoded.dataset,
        max_rows=request.rows(MAX_PAIRS),
        batch_size=request.batch_size,
        seed=request.seed,
        progress=request.progress,
    )
    cut = {name: encoded.report["tokens"][name] for name in ("contexts_cut", "replies_cut")}
    return scores, RowReport(**encoded.report["rows"]), {"scoring": scores.details | cut}


def _score_video(request: ScoreRequest, settings: VideoDataSettings, split: str) -> Result:
    """A video model's figures on clips of a source's digits."""
    request.refuse_causal_settings()
    return score_video_checkpoint(
        request.checkpoint,
        settings,
        split,
        bound=lambda model: request.rows(affordable_clips(model)),
        batch_size=request.batch_size,
        seed=request.seed,
        device=request.device,
        progress=request.progress,
    )


SCORERS: dict[str, Callable[[ScoreRequest, Any, str], Result]] = {
    "text_jepa": _score_text,
    "staged_generator": _score_causal,
    FAMILY: _score_dialogue,
    VIDEO: _score_video,
}
