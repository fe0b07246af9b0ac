"""The pipeline `frame-prediction`: a clip, from an array, from pictures or from a file, to the frames that follow."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Pipeline

from configuration_jepa.configuration_video_jepa import VideoJepaConfig

try:
    from PIL import Image, ImageSequence
except ImportError:  # arrays need no pictures
    Image = ImageSequence = None  # type: ignore[assignment]

_SETTINGS = ("num_frames", "steps", "temperature", "top_k", "mode", "seed")


class FramePredictionPipeline(Pipeline):
    """Predicts frames. It travels with every video checkpoint.

    Example:
        >>> predict = pipeline("frame-prediction", model="user/name", trust_remote_code=True)  # doctest: +SKIP
        >>> predict("clip.gif", num_frames=10, mode="argmax").shape  # doctest: +SKIP
        torch.Size([10, 1, 64, 64])
    """

    model: Any
    _load_tokenizer: Any = False
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kind, own = self.model.config.model_type, VideoJepaConfig.model_type
        if kind != own:
            raise ValueError(f"model is a {kind} model: the pipeline 'frame-prediction' takes a {own}.")

    def __call__(self, inputs: Any, **settings: Any) -> Any:  # type: ignore[override] # no stray arguments
        """Predict what follows a clip, or each of a list of clips.

        Args:
            inputs: a clip is an array or tensor `(T, S, S)` or `(T, 1, S, S)` of floats from 0 (black) to 1 or of
                bytes; a list of pictures or of such arrays `(S, S)`; or the path of an animated picture (GIF). Only
                pictures may have another size, and are brought to the model's. A list of clips, or an array
                `(B, T, 1, S, S)`, gives one answer each.
            **settings: `num_frames`, `steps`, `temperature`, `top_k` and `mode` as of `predict_frames`; `seed` of what
                is drawn.

        Returns:
            `(num_frames, 1, S, S)`, float32 from 0 to 1, on the CPU, for each clip.

        Raises:
            ValueError: a clip of another shape, type or range, a file that is no picture, or a bad setting.
        """
        if isinstance(inputs, list | tuple):
            return super().__call__([inputs], **settings)[0] if _is_frame(inputs) else self._each(inputs, settings)
        if not isinstance(inputs, str | os.PathLike) and torch.as_tensor(inputs).dim() == 5:
            return self._each(list(inputs), settings)
        return super().__call__(inputs, **settings)

    def _each(self, clips: Sequence[Any], settings: dict[str, Any]) -> list[torch.Tensor]:
        return super().__call__(list(clips), **settings)

    def _sanitize_parameters(self, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown := sorted(set(settings) - set(_SETTINGS)):
            raise ValueError(f"{unknown[0]} is no setting of frame-prediction: use {', '.join(_SETTINGS)}.")
        return {}, settings, {}

    def preprocess(self, clip: Any) -> dict[str, torch.Tensor]:  # type: ignore[override] # as in the library's own
        """Frames `(1, T, 1, S, S)`, float32."""
        size = self.model.config.frame_size
        if isinstance(clip, str | os.PathLike):
            frames = _read(clip, size)
        elif isinstance(clip, list | tuple):
            frames = torch.stack([_of_picture(one, size) if _is_picture(one) else _of_array(one) for one in clip])
        else:
            frames = _of_array(clip)
        if frames.dim() == 3:
            frames = frames[:, None]
        if frames.dim() != 4:
            raise ValueError(f"a clip has shape {tuple(frames.shape)}: give (frames, {size}, {size}).")
        return {"frames": frames[None]}

    def _forward(  # type: ignore[override] # as in the library's own pipelines
        self, inputs: dict[str, torch.Tensor], seed: int | None = None, **settings: Any
    ) -> dict[str, torch.Tensor]:
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        return {"frames": self.model.predict_frames(inputs["frames"], generator=generator, **settings)}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """The frames that follow one clip."""
        return outputs["frames"][0]


def _is_picture(one: Any) -> bool:
    return Image is not None and isinstance(one, Image.Image)


def _is_frame(clip: Sequence[Any]) -> bool:
    """Whether a list holds the frames of one clip, rather than clips."""
    first = clip[0] if clip else None
    if _is_picture(first):
        return True
    return first is not None and not isinstance(first, str | os.PathLike | list | tuple) and _of_array(first).dim() < 3


def _read(path: str | os.PathLike[str], size: int) -> torch.Tensor:
    """The frames `(T, S, S)` of an animated picture."""
    if Image is None:
        raise ValueError(f"{path}: pictures need Pillow: pip install pillow, or give an array.")
    try:
        with Image.open(path) as file:
            return torch.stack([_of_picture(frame, size) for frame in ImageSequence.Iterator(file)])
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}): give an animated one, such as a GIF."
        ) from error


def _of_picture(picture: Any, size: int) -> torch.Tensor:
    """`(S, S)`, float32: grey, and brought to the model's size."""
    grey = picture.convert("L")
    if grey.size != (size, size):
        grey = grey.resize((size, size), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(size, size).float() / 255


def _of_array(array: Any) -> torch.Tensor:
    """Float32 from 0 to 1: bytes are shared by 255, floats stay."""
    given = torch.as_tensor(array)
    if given.dtype == torch.uint8:
        return given.float() / 255
    if not given.is_floating_point():
        raise ValueError(f"a clip is {given.dtype}: give floats from 0 (black) to 1, or bytes (uint8).")
    return given.float()
