"""Opening a checkpoint the way users open it, and refusing one that is not whole.

model = open_model("outputs/quickstart", AutoModelForMaskedLM)
"""

from pathlib import Path
from typing import Any

import safetensors
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

import configuration_jepa  # noqa: F401  (registers the families' configurations with the Auto classes)
import modeling_jepa  # noqa: F401  (registers the families' models with the Auto classes)
from configuration_jepa import VideoJepaConfig
from training.common.errors import InputError
from training.common.layout import TOKENIZER_FILE
from training.common.manifest import _listed, verify_manifest
from training.common.wording import one_line
from training.data.video_jepa.frame_tokenizer import FrameTokenizer

# What shows the answers of a family's checkpoints.
_COMMANDS = {
    "text_jepa": "eval.fill_blank",
    "dialogue_jepa": "eval.chat",
    "staged_generator": "eval.generate",
    "video_jepa": "eval.predict_video",
}


def open_model(checkpoint: str | Path, auto_class: Any, device: str | None = None) -> PreTrainedModel:
    """A model in eval mode, float32 or as saved, with every tensor accounted for.

    Args:
        checkpoint: a folder, or a repository id of the Hub that is already local or can be fetched.
        auto_class: one of `transformers`' Auto classes for models.
        device: "cpu", "cuda" ...; None takes a GPU where there is one.

    Raises:
        InputError: no checkpoint there, a file differs from the manifest, or tensors are missing, unexpected or
            of another shape.
    """
    name, target = checked_name(checkpoint), choose_device(device)
    try:
        # Shapes that differ are allowed here only to be refused below by name.
        model, info = auto_class.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        if "Unrecognized configuration class" in str(error):
            raise InputError(_wrong_kind(name, auto_class)) from error
        raise InputError(f"{name} cannot be opened as a model: {one_line(error)}") from error
    _refuse_incomplete(name, info)
    return model.to(target).eval()


def open_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase | FrameTokenizer:
    """The tokenizer saved with a checkpoint, of a video model that of its frames; raises InputError where there is
    none.
    """
    name = checked_name(checkpoint)
    try:
        if AutoConfig.from_pretrained(name).model_type == VideoJepaConfig.model_type:
            return FrameTokenizer.from_pretrained(Path(cached_file(name, TOKENIZER_FILE)).parent)
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"{name} holds no tokenizer that can be opened: {one_line(error)}") from error


def _wrong_kind(name: str, auto_class: Any) -> str:
    """One line about a checkpoint that `auto_class` does not open."""
    kind = AutoConfig.from_pretrained(name).model_type
    instead = f"use python -m {_COMMANDS[kind]}" if kind in _COMMANDS else "give another checkpoint"
    return f"{name} is a {kind!r} model, which {auto_class.__name__} does not open; {instead}"


def checked_name(checkpoint: str | Path) -> str:
    """What to hand to from_pretrained: a folder that holds a whole checkpoint, or the name of a repository.

    Raises:
        InputError: no such folder, no config in it, or a file that differs from the manifest.
    """
    folder = Path(checkpoint)
    if not folder.exists():
        # A repository's id is NAME or OWNER/NAME; anything else can only have been meant as a folder.
        if str(checkpoint).count("/") != 1 or str(checkpoint).startswith((".", "/", "outputs/")):
            raise InputError(f"no checkpoint at {checkpoint}: there is no such folder; train one or check the path")
        return str(checkpoint)
    if not (folder / "config.json").is_file():
        raise InputError(f"{checkpoint} is no checkpoint: it holds no config.json; name the folder of a trained model")
    verify_manifest(folder)
    return str(folder)


def quiet_libraries() -> None:
    """No progress bars and reports of the libraries: a command's own output and its one line of error stand alone."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def choose_device(device: str | None) -> torch.device:
    """The device asked for, or the first GPU, or the CPU; raises InputError for one that is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here: {one_line(error)}; use 'cpu'") from error
    return chosen


def _refuse_incomplete(name: str, info: dict) -> None:
    """Raise InputError that names what loading could not place: such tensors would be random numbers."""
    problems = [
        f"{kind} {_listed(sorted(str(key) for key in info[field]))}"
        for kind, field in (
            ("missing", "missing_keys"),
            ("unexpected", "unexpected_keys"),
            ("misshapen", "mismatched_keys"),
        )
        if info[field]
    ]
    if problems:
        raise InputError(
            f"{name} does not hold the tensors of its model: {'; '.join(problems)}; take another checkpoint"
        )
