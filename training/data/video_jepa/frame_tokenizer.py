"""The codes of a video model: learned from the small squares of training clips, measured, and kept by content.

`patch`: the decoder's pictures of all points of a finite-scalar quantiser (Mentzer et al., 2023, arXiv:2309.15505),
each then moved to the mean of the squares that are nearest to it. `grey`: equal steps of brightness, nothing to learn.
The pictures go into the model (`set_frame_codes`) and travel with its weights; what stands here made them.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from configuration_jepa import VideoJepaConfig
from modeling_jepa.frame_codes import FrameCodes
from training.common.errors import InputError
from training.common.layout import TOKENIZER_FILE
from training.data.cache import cached, digest
from training.data.video_jepa.clips import ClipMaker, as_frames
from training.data.video_jepa.quantiser import learn_pictures

LEARNING_CLIPS, MEASURED_CLIPS, COUNTED_CLIPS = 256, 100, 64
_CLIPS_AT_ONCE = 8
_FIELDS = ("vocab_size", "frame_size", "patch_size", "code_size", "frame_codes")


class FrameTokenizer:
    """Frames to codes and back, in the place that a text model's tokenizer has.

    Args:
        config: its `vocab_size` and the sizes of frames and squares are used.
        values: `(V, code_size^2)`, the picture of each code; None for the steps of `grey`.
        report: what was measured, see `measure`; plain values.
    """

    pad_token_id = unk_token_id = mask_token_id = bos_token_id = eos_token_id = None

    def __init__(
        self, config: VideoJepaConfig, values: torch.Tensor | None = None, report: dict[str, Any] | None = None
    ) -> None:
        self.config = VideoJepaConfig(**{name: getattr(config, name) for name in _FIELDS})
        self.report = dict(report or {})
        self.codes = FrameCodes(self.config)
        self.codes.values.copy_(self.codes.grey_values() if values is None else values)

    def __len__(self) -> int:
        return self.config.vocab_size

    @property
    def values(self) -> torch.Tensor:
        """`(V, code_size^2)`, float32, from 0 to 1."""
        return self.codes.values

    @property
    def fingerprint(self) -> str:
        """Changes with the pictures and the sizes."""
        pictures = hashlib.sha256(self.values.cpu().numpy().tobytes()).hexdigest()
        return digest(pictures, {name: getattr(self.config, name) for name in _FIELDS})

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """`(B, T, 1, S, S)` from 0 to 1 -> codes `(B, T, N, C)`, on the frames' device."""
        return self.codes.to(frames.device).encode(frames)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(B, T, N, C)` -> frames `(B, T, 1, S, S)`."""
        return self.codes.to(codes.device).decode(codes)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> tuple[str, ...]:
        """Write `frame_tokenizer.safetensors`: the pictures, and as metadata sizes and report.

        Args:
            **kwargs: of the library's tokenizers, which `Trainer` may pass; none has a meaning here.
        """
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        path = Path(save_directory) / TOKENIZER_FILE
        facts = {"config": {name: getattr(self.config, name) for name in _FIELDS}, "report": self.report}
        save_file({"values": self.values.cpu().contiguous()}, path, {"format": "pt", "facts": json.dumps(facts)})
        return (str(path),)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "FrameTokenizer":
        """The tokenizer that `save_pretrained` wrote there. Raises InputError where there is none."""
        path = Path(folder) / TOKENIZER_FILE
        try:
            with safe_open(path, "pt") as file:
                facts, values = json.loads(file.metadata()["facts"]), file.get_tensor("values")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is no frame tokenizer that can be opened ({' '.join(str(error).split())}); give the folder "
                "of a trained video model"
            ) from None
        return cls(VideoJepaConfig(**facts["config"]), values, facts["report"])


def make_frame_tokenizer(
    config: VideoJepaConfig, levels: list[int], train: ClipMaker, valid: ClipMaker
) -> FrameTokenizer:
    """The tokenizer for these clips: made once, measured on held-out clips, and cached by content.

    Args:
        config: sizes and `frame_codes`.
        levels: of the quantiser's dimensions, or for `grey` the number of steps alone; their product is the number
            of codes.
        train: what is learned from.
        valid: what is measured on.

    Raises:
        InputError: levels that do not suit `frame_codes`; the cache cannot be written.
    """
    _check_levels(config, levels)
    sizes = {name: getattr(config, name) for name in _FIELDS if name != "vocab_size"}
    key = digest("frame tokenizer", sizes, levels, train.fingerprint, valid.fingerprint)

    def make(folder: Path) -> None:
        coded = VideoJepaConfig(**sizes, vocab_size=math.prod(levels))
        values = (
            None
            if config.frame_codes == "grey"
            else learn_pictures(training_squares(coded, train, LEARNING_CLIPS), levels)
        )
        tokenizer = FrameTokenizer(coded, values)
        tokenizer.report = measure(tokenizer, valid, MEASURED_CLIPS) | {"levels": levels}
        tokenizer.save_pretrained(folder)

    return FrameTokenizer.from_pretrained(cached(key, make)[0])


def training_squares(config: VideoJepaConfig, train: ClipMaker, clips: int) -> torch.Tensor:
    """The squares of some training clips that are not black, `(squares, code_size^2)`, float32, from 0 to 1."""
    codes = FrameCodes(config)
    found = []
    for start in range(0, clips, _CLIPS_AT_ONCE):
        squares = codes.squares(train.frames(range(start, start + _CLIPS_AT_ONCE))).flatten(0, 3)
        found.append(squares[squares.amax(1) > 0])
    return torch.cat(found)


@torch.no_grad()
def measure(tokenizer: FrameTokenizer, valid: ClipMaker, clips: int = MEASURED_CLIPS) -> dict[str, Any]:
    """How good the codes are, on held-out clips.

    Returns:
        `reconstruction_mse`: squared error of decoded frames, summed over a frame and averaged over frames.
        `codes_used`: share of the codes that occur at least once.
        `unchanged`: share of the codes that coding the decoded frame gives again.
        `clips`: how many it was measured on.
    """
    squared, frames, unchanged, total = 0.0, 0, 0, 0
    counts = torch.zeros(len(tokenizer), dtype=torch.int64)
    for start in range(0, clips, _CLIPS_AT_ONCE):
        truth = valid.frames(range(start, min(start + _CLIPS_AT_ONCE, clips)))
        codes = tokenizer.encode(truth)
        decoded = tokenizer.decode(codes)
        squared += float((decoded - truth).double().pow(2).sum())
        frames += truth.shape[0] * truth.shape[1]
        unchanged += int((tokenizer.encode(decoded) == codes).sum())
        total += codes.numel()
        counts += codes.flatten().bincount(minlength=len(tokenizer))
    return {
        "reconstruction_mse": squared / frames,
        "codes_used": float((counts > 0).double().mean()),
        "unchanged": unchanged / total,
        "clips": clips,
    }


def count_codes(tokenizer: FrameTokenizer, train: ClipMaker, clips: int = COUNTED_CLIPS) -> np.ndarray:
    """How often each code occurs in the first training clips, `(V,)`, int64."""
    counts = torch.zeros(len(tokenizer), dtype=torch.int64)
    for start in range(0, clips, _CLIPS_AT_ONCE):
        rendered = torch.from_numpy(train.render(range(start, min(start + _CLIPS_AT_ONCE, clips))))
        counts += tokenizer.encode(as_frames(rendered)).flatten().bincount(minlength=len(tokenizer))
    return counts.numpy()


def describe(tokenizer: FrameTokenizer) -> str:
    """One line for the screen: what the codes are and how good."""
    config, report = tokenizer.config, tokenizer.report
    kind = f"{len(tokenizer):,} {'greys' if config.frame_codes == 'grey' else 'learned codes'}"
    return (
        f"frame tokens: {kind} for squares of {config.code_size} x {config.code_size} pixels: reconstruction error "
        f"{report['reconstruction_mse']:.2f} per frame of {config.frame_size} x {config.frame_size} (MSE summed over "
        f"the frame), {report['codes_used']:.0%} of the codes in use, {report['unchanged']:.2%} unchanged by decoding "
        f"and coding again (on {report['clips']:,} held-out clips)"
    )


def _check_levels(config: VideoJepaConfig, levels: list[int]) -> None:
    if config.frame_codes == "grey" and len(levels) != 1:
        raise InputError(f"code_levels: got {levels} with frame_codes=grey; give one number of greys, such as 16")
    if config.frame_codes == "patch" and config.code_size == 1:
        raise InputError("code_size: got 1 with frame_codes=patch; use frame_codes=grey, or squares of 2 or more")
