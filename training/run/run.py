"""What a run was asked to do: recipe and command line, checked."""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from training.common.addresses import checked_repo_id
from training.common.errors import InputError
from training.data.settings import DataSettings, MaskingSettings
from training.settings.common import EvaluationSettings, TrainingSettings
from training.settings.recipes import SETTINGS_SECTIONS, config_class_of
from training.settings.schema import shortened

LOG_FORMATS = ("auto", "table", "plain", "json")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Run:
    """Everything a run was asked to do. `model` and `loss` hold only what was set; the configuration has the rest.

    The other sections are of the family's own classes, see `training.settings.recipes`.
    """

    family: str
    recipe_path: Path
    output_dir: Path
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    data: Any = field(default_factory=DataSettings)
    masking: Any = field(default_factory=MaskingSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    resume: str = "auto"
    extend: bool = False
    init_from: str | None = None
    stage: int | None = None
    dry_run: bool = False
    device: str = "auto"
    threads: str = "auto"
    log_format: str = "auto"
    log_parts: bool = False
    diagnose: bool = False
    diagnose_steps: int | None = None
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private: bool = False
    own_source: bool = False  # a flag names another source than the recipe, whose sample phrases are of no use then

    @property
    def config_fields(self) -> dict[str, Any]:
        """Keyword arguments for the family's configuration class."""
        return {**self.model, **self.loss, **({} if self.stage is None else {"stage": self.stage})}

    @property
    def keeps(self) -> bool:
        """Whether a second text is scored, that the model should not forget."""
        return getattr(self.evaluation, "keep", None) is not None

    def with_settings(self, **sections: dict[str, Any]) -> "Run":
        """A copy with some settings changed, such as `training={"max_steps": 10}`; checked again."""
        changed = {
            section: replace(getattr(self, section), **values)
            if section in SETTINGS_SECTIONS
            else {**getattr(self, section), **values}
            for section, values in sections.items()
        }
        run = replace(self, **changed)
        _validate(run)
        return run


def _has_stages(family: str) -> bool:
    return "stage" in config_class_of(family).universal_fields


def _validate(run: Run) -> None:
    if run.stage is not None and not _has_stages(run.family):
        raise InputError(f"stage: family {run.family} has no stages; leave --stage out")
    for section in SETTINGS_SECTIONS:
        settings = getattr(run, section)
        for item in fields(settings):
            value = getattr(settings, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{item.name}: got {value}; use a finite number")
            if any(isinstance(number, int) and number >= 2**32 for number in _items(value)):
                raise InputError(f"{item.name}: got {shortened(value)}; use whole numbers below 2 ** 32")
        settings.validate()
    try:
        config = config_class_of(run.family)(vocab_size=run.data.max_vocab, **run.config_fields)
    except (ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error.__cause__ or error).split())) from None
    _refuse_long_spans(run.masking, config.max_position_embeddings)
    if run.training.adapts_checkpoint and run.init_from is None:
        raise InputError(
            f"lora_rank={run.training.lora_rank} adapts a model that is there: {run.training.adaptable}, or leave "
            "lora_rank out"
        )
    if run.device not in DEVICES:
        raise InputError(f"device: got {run.device!r}; use one of {', '.join(DEVICES)}")
    if run.log_format not in LOG_FORMATS:
        raise InputError(f"log_format: got {run.log_format!r}; use one of {', '.join(LOG_FORMATS)}")
    if run.training.num_train_epochs is not None and run.data.streaming:
        raise InputError("num_train_epochs: nobody knows how long a stream is; give --max_steps")
    if run.threads != "auto" and not (run.threads.isdecimal() and int(run.threads) > 0):
        raise InputError(f"threads: got {run.threads!r}; use auto, or a whole number of at least 1")
    if run.diagnose_steps is not None and run.diagnose_steps < 1:
        raise InputError(f"diagnose_steps: got {run.diagnose_steps}; use a whole number of at least 1")
    _refuse_half_an_address(run)
    try:
        if run.output_dir.exists() and not run.output_dir.is_dir():
            raise InputError(f"output_dir: {run.output_dir} is a file; give a folder (--output_dir outputs/NAME)")
    except OSError as error:
        raise InputError(f"output_dir: {str(run.output_dir)[:80]} is not possible ({error.strerror})") from None


def _refuse_long_spans(masking: Any, max_length: int) -> None:
    if not isinstance(masking, MaskingSettings) or masking.masking != "span":
        return
    if masking.max_span_length > max_length:
        raise InputError(
            f"max_span_length={masking.max_span_length} is more than a phrase can hold, max_position_embeddings="
            f"{max_length}: lower it"
        )


def _refuse_half_an_address(run: Run) -> None:
    """Publishing needs a place, and a place is given for publishing only."""
    if run.push_to_hub and run.hub_model_id is None:
        raise InputError("push_to_hub: no repository is named; give --hub_model_id OWNER/NAME")
    if not run.push_to_hub and (run.hub_model_id is not None or run.hub_private):
        given = "hub_private" if run.hub_model_id is None else "hub_model_id"
        raise InputError(f"{given}: nothing is published without --push_to_hub; give both, or neither")
    if run.hub_model_id is not None:
        checked_repo_id(run.hub_model_id, "hub_model_id")


def _items(value: Any) -> list:
    return value if isinstance(value, list) else [value]
