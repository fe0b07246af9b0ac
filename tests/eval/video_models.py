"""A tiny video model and its checkpoint for the tests of eval; nothing is trained."""

import json
from pathlib import Path

import torch

from configuration_jepa import VideoJepaConfig
from modeling_jepa import VideoJepaForFramePrediction


def tiny_video(seed: int = 0, **changes) -> VideoJepaForFramePrediction:
    """8 frames of 16 x 16 pixels, in codes of 4 x 4 of which the first is black."""
    torch.manual_seed(seed)
    config = VideoJepaConfig(
        **{
            "vocab_size": 19,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "latent_size": 8,
            "max_position_embeddings": 8,
            "frame_size": 16,
            **changes,
        }
    )
    model = VideoJepaForFramePrediction(config).eval()
    values = model.model.codes.values.clone()
    values[0] = 0
    model.set_frame_codes(values)
    return model


def tiny_video_checkpoint(folder: Path, **changes) -> Path:
    """A checkpoint folder as a run leaves it."""
    tiny_video(**changes).save_pretrained(folder)
    run = {"family": "video_jepa", "recipe": {"data": {"digits": "builtin:digits", "flip": True, "clip_seed": 3}}}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder
