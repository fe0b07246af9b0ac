"""Which family a checkpoint is of, how that is scored, with which settings and on which rows."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
from eval.loading import checked_name
from eval.plots.tables import causal_table, classifier_table, dialogue_table, text_table, video_table
from eval.scorers import causal, dialogue, text_classifier, text_jepa, video
from eval.scorers.request import ScoreRequest, Scores
from training.common.errors import InputError
from training.common.manifest import read_run
from training.data.families import FAMILIES
from training.data.settings import GeneratorDataSettings, SourceSettings, VideoDataSettings
from training.data.sources.locate import scoring_split
from training.data.sources.rows import RowReport
from training.data.video_jepa.own_clips import with_source

CLASSIFIER = "text_classifier"
_OF_THE_SOURCE = ("split", "text_column", "streaming", "max_rows", "max_bad_share", "allow_unknown")


@dataclass(frozen=True)
class Scorer:
    """How the checkpoints of a family are scored.

    Attributes:
        kind: of models, in messages.
        score: (request, data settings, split) -> figures, and what became of the rows.
        table: Score JSON -> what is printed.
        settings: of a request that others have not.
        by_frame: whether there are figures by predicted frame, which can be drawn.
    """

    kind: str
    score: Callable[[ScoreRequest, Any, str], tuple[Scores, RowReport]]
    table: Callable[[dict[str, Any]], Table]
    settings: tuple[str, ...] = ("text_column",)
    by_frame: bool = False


def scorer_of(family: str) -> Scorer:
    """That of the family; that of causal models for a stock one."""
    return SCORERS.get(family, CAUSAL)


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
    if config.model_type == TextJepaConfig.model_type and any(
        name.endswith("ForSequenceClassification") for name in config.architectures or ()
    ):
        return CLASSIFIER
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
        InputError: no source given and none known, a setting that this family lacks, or a run.json with settings this
            version does not have.
    """
    family = family_of(request.checkpoint)
    for name, value in request.given().items():
        if name not in scorer_of(family).settings:
            owners = [scorer.kind for scorer in SCORERS.values() if name in scorer.settings]
            raise InputError(
                f"{name}: got {value!r}, but {request.checkpoint} is no {' or '.join(owners)} model; leave it out"
            )
    settings_class = _settings_class(family)
    section = data_section(request.checkpoint, settings_class)
    if settings_class is VideoDataSettings:
        return _video_settings(request, section)
    if request.data is None and "data" not in section:
        raise InputError(f"{request.checkpoint} does not say what it was trained on: give a source with --data")
    settings = settings_class(**section)
    if request.data is not None and not same_source(request.data, settings.data if section else None):
        # What says how to read the run's source is not said of another; how text is treated belongs to the model.
        own = {name: getattr(settings_class, name) for name in _OF_THE_SOURCE}
        settings = dataclasses.replace(settings, data=request.data, **own)
    own = ("text_column", "label_column", "documents")
    asked = {name: value for name, value in request.given().items() if name in own}
    settings = dataclasses.replace(settings, **asked, **({"allow_unknown": True} if request.allow_unknown else {}))
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
    if request.data is not None and request.digits is not None:
        raise InputError(f"data: got {request.data!r} and digits {request.digits!r}; give --digits alone")
    digits = request.digits if request.digits is not None else request.data
    if digits is None and not section:
        raise InputError(f"{request.checkpoint} does not say what it was trained on: give --digits or --clips")
    settings = VideoDataSettings(**section)
    settings = settings if digits is None else with_source(settings, digits)
    settings.validate()
    return settings


def _settings_class(family: str) -> type[SourceSettings] | type[VideoDataSettings]:
    """The family's own; a stock causal model reads documents as our generator does."""
    return FAMILIES[family].data_settings if family in FAMILIES else GeneratorDataSettings


def data_section(checkpoint: str, settings_class: type[SourceSettings] | type[VideoDataSettings]) -> dict[str, Any]:
    """The `data` section of the run's recipe, empty where there is none; raises InputError for unknown settings."""
    section = (read_run(checkpoint) or {}).get("recipe", {}).get("data", {})
    known = {one.name for one in dataclasses.fields(settings_class)}
    if not set(section) <= known:
        raise InputError(
            f"{checkpoint}/run.json has data settings that this version lacks: "
            f"{', '.join(sorted(set(section) - known))}; score with the version that trained it"
        )
    return section


def _score_causal(request: ScoreRequest, settings: GeneratorDataSettings, split: str) -> Any:
    section = data_section(request.checkpoint, GeneratorDataSettings)
    trained_on = GeneratorDataSettings(**section) if "data" in section else None
    return causal.score_request(request, settings, split, trained_on)


CAUSAL = Scorer("causal", _score_causal, causal_table, ("text_column", "documents", "context", "stride", "max_tokens"))
SCORERS: dict[str, Scorer] = {
    TextJepaConfig.model_type: Scorer("text", text_jepa.score_request, text_table),
    CLASSIFIER: Scorer("classifier", text_classifier.score_request, classifier_table, ("text_column", "label_column")),
    StagedGeneratorConfig.model_type: CAUSAL,
    DialogueJepaConfig.model_type: Scorer("dialogue", dialogue.score_request, dialogue_table),
    VideoJepaConfig.model_type: Scorer("video", video.score_request, video_table, ("digits",), by_frame=True),
}
