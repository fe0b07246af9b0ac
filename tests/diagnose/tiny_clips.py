"""Tiny video models trained for seconds on clips of the built-in digits, by the plain Trainer.

The same lesson is learnt once on a machine.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModel, PreTrainedModel, Trainer, TrainingArguments, default_data_collator, set_seed
from transformers.trainer_callback import PrinterCallback

from configuration_jepa import VideoJepaConfig
from modeling_jepa import VideoJepaForFramePrediction
from tests.diagnose.tiny_training import package_code
from training.data.cache import cached, digest
from training.data.settings import VideoDataSettings, VideoMaskingSettings
from training.data.video_jepa.frame_tokenizer import FrameTokenizer
from training.data.video_jepa.masking import VideoMasker
from training.data.video_jepa.prepared import make_clips

FRAMES, SIZE, CODES, CLIPS = 8, 32, 24, 256
IGNORED = -100

Change = Callable[[PreTrainedModel], PreTrainedModel]


@dataclass(frozen=True)
class ClipLesson:
    """What a tiny video model is taught.

    Attributes:
        seed: of weights, order and masks.
        steps, learning_rate: of AdamW, 8 clips a step.
        objective: as in a recipe.
        labels: `hidden`, where the codes are hidden; `everywhere`; or `before`, the codes of the frame before.
        still: whether the digits stand still.
        changes: of the configuration.
    """

    seed: int = 0
    steps: int = 250
    learning_rate: float = 3e-3
    objective: str = "mixed"
    labels: str = "hidden"
    still: bool = False
    changes: dict[str, Any] = field(default_factory=dict)


class MaskedClips(Dataset[dict[str, Tensor]]):
    """Coded clips, each with new holes every time that it is taken."""

    def __init__(self, codes: Tensor, masker: VideoMasker, labels: str, length: int) -> None:
        self.codes, self.masker, self.labels, self.length = codes, masker, labels, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        number = torch.tensor([place % len(self.codes)])
        made = self.masker.mask_codes(self.codes[number], number, torch.tensor([place // len(self.codes)]), 0.8)
        if self.labels == "everywhere":
            made["labels"] = made["codes"].clone()
        if self.labels == "before":
            made["labels"] = torch.where(made["hidden"], made["codes"].roll(1, 1), IGNORED)
            made["labels"][:, 0] = IGNORED
        return {name: value[0] for name, value in made.items()}


def config_of(lesson: ClipLesson) -> VideoJepaConfig:
    """Small enough to learn in seconds."""
    shape: dict[str, Any] = {
        "vocab_size": CODES,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": FRAMES,
        "frame_size": SIZE,
        "patch_size": 8,
        "code_size": 4,
        "latent_size": 32,
        "dropout": 0.0,
    }
    return VideoJepaConfig(**{**shape, **lesson.changes})


def clips(split: str, count: int, config: VideoJepaConfig, still: bool = False) -> Tensor:
    """`(clips, frames, 1, S, S)` of the built-in digits."""
    maker, _ = make_clips(VideoDataSettings(), split, FRAMES, config.frame_size)
    frames = maker.frames(range(count))
    return frames[:, :1].expand_as(frames).contiguous() if still else frames


def tokenizer_of(config: VideoJepaConfig, seed: int = 0) -> FrameTokenizer:
    """Codes that are squares of training clips, black first: coarse, and made at once."""
    if config.frame_codes == "grey":
        return FrameTokenizer(config)
    empty = FrameTokenizer(config, torch.zeros(config.vocab_size, config.code_size**2))
    squares = empty.codes.squares(clips("train", 32, config)).flatten(0, 3)
    squares = squares[squares.amax(1) > 0.2].unique(dim=0)
    chosen = torch.randperm(len(squares), generator=torch.Generator().manual_seed(seed))[: config.vocab_size - 1]
    return FrameTokenizer(config, torch.cat([torch.zeros(1, squares.shape[1]), squares[chosen]]))


def untrained_video(lesson: ClipLesson) -> VideoJepaForFramePrediction:
    """With the weights that it would begin with, and its codes."""
    config = config_of(lesson)
    set_seed(lesson.seed)
    model, tokenizer = VideoJepaForFramePrediction(config), tokenizer_of(config)
    model.set_frame_codes(tokenizer.values)
    counted = tokenizer.encode(clips("train", 32, config)).flatten()
    model.set_token_counts(counted.bincount(minlength=config.vocab_size))
    return model.eval()


def trainer_of(model: PreTrainedModel, lesson: ClipLesson, folder: Path) -> Trainer:
    """The plain Trainer of a lesson."""
    tokenizer = FrameTokenizer(model.config, model.model.codes.values)
    codes = tokenizer.encode(clips("train", CLIPS, model.config, lesson.still))
    masker = VideoMasker(VideoMaskingSettings(objective=lesson.objective), tokenizer, lesson.seed, FRAMES)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=lesson.steps,
        per_device_train_batch_size=8,
        learning_rate=lesson.learning_rate,
        warmup_steps=lesson.steps // 10,
        seed=lesson.seed,
        logging_steps=50,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=MaskedClips(codes, masker, lesson.labels, 8 * max(lesson.steps, 8)),
        data_collator=default_data_collator,
    )


def learn_clips(lesson: ClipLesson, change: Change | None = None) -> VideoJepaForFramePrediction:
    """Train, or take what was trained before.

    Args:
        change: of the model before its training, in place; given again to what was loaded.
    """
    code = [Path(__file__).read_text(encoding="utf-8"), package_code()]
    folder, _ = cached(
        digest("tiny clips", asdict(lesson), None if change is None else change.__qualname__, *code),
        lambda staging: _train_into(staging, lesson, change),
    )
    model = AutoModel.from_pretrained(folder)
    return (model if change is None else change(model)).eval()


def _train_into(folder: Path, lesson: ClipLesson, change: Change | None) -> None:
    model = untrained_video(lesson)
    trainer = trainer_of(model if change is None else change(model), lesson, folder)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    kept = untrained_video(lesson)  # a change is no part of what is saved
    kept.load_state_dict(model.state_dict())
    kept.save_pretrained(folder)
    tokenizer_of(kept.config).save_pretrained(folder)
