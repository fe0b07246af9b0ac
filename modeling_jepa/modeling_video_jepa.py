"""The video model: hidden codes of frames are predicted, by attention over space and over time.

Shapes: B clips, T frames, S frame side, N transformer tokens of a frame, C codes of a token, V codes, H width,
K holes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from configuration_jepa.configuration_video_jepa import VideoJepaConfig
from modeling_jepa.frame_codes import FrameCodes
from modeling_jepa.frame_decoding import FrameDecodingMixin
from modeling_jepa.latent_head import LatentHead
from modeling_jepa.layers import MLP, Attention, PositionEmbeddings, RMSNorm, rotary_position_embeddings
from modeling_jepa.losses import cosine, part
from modeling_jepa.modeling_base import JepaPreTrainedModel, at_holes
from modeling_jepa.pipeline_frame_prediction import FramePredictionPipeline  # noqa: F401  (so that it travels along)

logger = logging.get_logger(__name__)

# What a frame sees of the others: the frames before it and itself; all; itself alone.
TIME_VIEWS = ("past", "all", "own")


@dataclass
class VideoOutput(ModelOutput):
    """Output of the video model.

    Args:
        loss: 0-d, when labels are given.
        loss_parts: name -> (sum, count), float32 `(2,)`, without gradient: `prediction` (cross entropy, nats),
            `accuracy`, and for the cosine head `cos_mean` (cosine of the prediction and the true code's row).
        logits: with labels `(K, V)`, holes in row-major order; without `(B, T, N, C, V)`.
        last_hidden_state: `(B, T, N, H)`, normed.
        hidden_states, attentions: as everywhere in the library.
        row_logits: `(B, T, N, C, V)`, the logits at the holes and 0 elsewhere, which `compute_metrics` of a Trainer
            gets: with labels, outside training, and without gradient.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    row_logits: torch.Tensor | None = None


class SpaceTimeBlock(GradientCheckpointingLayer):
    """Pre-norm block: attention over time at each place, attention over the places of each frame, MLP (factorised
    attention: Bertasius et al., 2021, arXiv:2102.05095, eq. 5 to 7).
    """

    def __init__(self, config: VideoJepaConfig, layer_idx: int) -> None:
        super().__init__()
        self.time_attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.time_attn = Attention(config, layer_idx)
        self.space_attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.space_attn = Attention(config, layer_idx)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        time_positions: PositionEmbeddings,
        space_positions: PositionEmbeddings,
        time_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """`(B, T, N, H) -> (B, T, N, H)`. `time_mask`: `(B N, 1, T, seen frames)`, added to the scores."""
        batch, length, places, _ = hidden_states.shape
        by_place = self.time_attn_norm(hidden_states).transpose(1, 2).flatten(0, 1)
        attended, _ = self.time_attn(
            by_place,
            position_embeddings=time_positions,
            attention_mask=time_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(attended.unflatten(0, (batch, places)).transpose(1, 2))
        by_frame = self.space_attn_norm(hidden_states).flatten(0, 1)
        attended, _ = self.space_attn(by_frame, position_embeddings=space_positions, **kwargs)
        hidden_states = hidden_states + self.dropout(attended.unflatten(0, (batch, length)))
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class VideoJepaPreTrainedModel(JepaPreTrainedModel):
    """What the library asks of the family."""

    config: VideoJepaConfig
    main_input_name = "frames"
    _no_split_modules = ["SpaceTimeBlock"]
    _supports_flash_attn = False
    _supports_flex_attn = False
    _can_record_outputs = {"hidden_states": SpaceTimeBlock, "attentions": Attention}


class VideoTrunk(VideoJepaPreTrainedModel):
    """Codes, some of them hidden, to one vector per token."""

    def __init__(self, config: VideoJepaConfig) -> None:
        super().__init__(config)
        self.codes = FrameCodes(config)
        self.embed_pixels = nn.Linear(config.patch_size**2, config.hidden_size, bias=False)
        self.embed_hidden = nn.Linear(config.codes_per_token, config.hidden_size, bias=False)
        self.embed_places = nn.Embedding(config.tokens_per_frame, config.hidden_size)
        self.embed_frames = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(SpaceTimeBlock(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FrameCodes):
            if self.config.frame_codes == "grey":
                init.copy_(module.values, module.grey_values())
            else:  # until learned pictures are given
                init.uniform_(module.values)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        codes: torch.Tensor,
        hidden: torch.Tensor | None = None,
        time_view: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoOutput:
        """`last_hidden_state` `(B, T, N, H)`; arguments as of `VideoJepaForFramePrediction.forward`."""
        first = 0 if past_key_values is None else past_key_values.get_seq_length()
        batch, length, places = codes.shape[:3]
        if first + length > self.config.max_position_embeddings:
            raise ValueError(
                f"{first + length} frames are more than max_position_embeddings="
                f"{self.config.max_position_embeddings}: give or ask for fewer."
            )
        frame_ids = torch.arange(first, first + length, device=codes.device)
        # Called and not read, as `device_map` may keep the weights elsewhere.
        of_places = self.embed_places(torch.arange(places, device=codes.device))
        embedded = self._embed(codes, hidden, of_places.dtype) + of_places + self.embed_frames(frame_ids)[:, None]
        time_positions, space_positions = self._positions(frame_ids, embedded.dtype)
        mask = _time_mask(time_view, batch, first, length, embedded)
        mask = mask.expand(batch, -1, -1).repeat_interleave(places, 0)[:, None] if mask is not None else None
        hidden_states = self.dropout(embedded)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, time_positions, space_positions, mask, past_key_values=past_key_values, **kwargs
            )
        return VideoOutput(last_hidden_state=self.norm(hidden_states))

    def get_input_embeddings(self) -> nn.Linear:
        """What the pictures of codes go through: there is no table of tokens."""
        return self.embed_pixels

    def set_input_embeddings(self, value: nn.Linear) -> None:  # type: ignore[override]
        """Replace it."""
        self.embed_pixels = value

    def _embed(self, codes: torch.Tensor, hidden: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """The pictures of the codes that are shown, and which are hidden: `(B, T, N, C) -> (B, T, N, H)`."""
        pixels = self.codes.values[codes].to(dtype)
        if hidden is None:
            return self.embed_pixels(pixels.flatten(3))
        shown = pixels.masked_fill(hidden[..., None], 0.0)
        return self.embed_pixels(shown.flatten(3)) + self.embed_hidden(hidden.to(dtype))

    def _positions(self, frame_ids: torch.Tensor, dtype: torch.dtype) -> tuple[PositionEmbeddings, PositionEmbeddings]:
        """Rotations by frame number, and by row and column: half of each head's pairs for either."""
        config = self.config
        head_dim = config.hidden_size // config.num_attention_heads
        side = config.frame_size // config.patch_size
        place = torch.arange(config.tokens_per_frame, device=frame_ids.device)
        axes = [
            rotary_position_embeddings(number[None], head_dim // 2, config.rope_theta, dtype)
            for number in (place // side, place % side)
        ]
        # Pairs are (i, i + D/2): the first quarter turns by the row, the second by the column, then again.
        cos, sin = (torch.cat([axis[part][..., : head_dim // 4] for axis in axes] * 2, dim=-1) for part in range(2))
        return rotary_position_embeddings(frame_ids[None], head_dim, config.rope_theta, dtype), (cos, sin)


class VideoJepaForFramePrediction(FrameDecodingMixin, VideoJepaPreTrainedModel):
    """The trunk with a head over the codes: hidden parts of a clip, or the frames after it, are predicted.

    `token_counts` `(V,)`, int64, are the counts of the codes in the training part (zeros: unknown).
    """

    token_counts: torch.Tensor

    def __init__(self, config: VideoJepaConfig) -> None:
        super().__init__(config)
        self.model = VideoTrunk(config)
        width = config.latent_size or config.hidden_size
        self.split = nn.Linear(config.hidden_size, config.codes_per_token * width, bias=False)
        self.head = LatentHead(config, width)
        self.register_buffer("token_counts", torch.zeros(config.vocab_size, dtype=torch.int64))
        self.post_init()

    @property
    def has_teacher(self) -> bool:
        """There is no moving average to update."""
        return False

    @can_return_tuple
    def forward(  # type: ignore[misc] # TransformersKwargs repeats a name
        self,
        frames: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
        time_view: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoOutput:
        """Predict hidden codes, and learn to.

        Args:
            frames: `(B, T, 1, S, S)`, float, from 0 (black) to 1; or their `codes` instead.
            codes: `(B, T, N, C)`, int64. What stands at hidden places makes no difference.
            hidden: `(B, T, N, C)`, bool: the codes that the model does not see. Without it none is hidden, or with
                labels those where they are not -100.
            time_view: `(B,)`, int64, index into `TIME_VIEWS`: what a frame sees of the others. Without it, the past.
            labels: `(B, T, N, C)`: the true code where one is to be predicted, -100 elsewhere. The head runs there
                only.
            num_items_in_batch: holes of the whole accumulation window over all processes; the loss is a share of its
                mean. Without it, the mean over these holes.
            past_key_values: keys and values of the frames before, which are then not given again.
            **kwargs: for the attention interface.

        Raises:
            ValueError: both or neither of frames and codes, a wrong shape, type or range, or too many frames.
        """
        if (frames is None) == (codes is None):
            raise ValueError("Give exactly one of frames and codes.")
        if codes is None:
            codes = self.model.codes.encode(frames)
        self._check(codes, hidden, labels)
        if hidden is None and labels is not None:
            hidden = labels != -100
        if hidden is None and self.training and torch.is_grad_enabled():
            logger.warning_once(
                "The video model learns without labels and hidden: it sees every code that it predicts. The Trainer's "
                "label_smoothing_factor takes labels away: use label_smoothing of the model's configuration instead."
            )
        read = self.model(codes, hidden, time_view, past_key_values=past_key_values, **kwargs)
        states = {"last_hidden_state": read.last_hidden_state}
        states |= {"hidden_states": read.hidden_states, "attentions": read.attentions}
        if labels is None:
            return VideoOutput(logits=self._score(self._queries(read.last_hidden_state)), **states)

        holes = labels != -100
        tokens = holes.any(-1)
        queries = self._queries(read.last_hidden_state[tokens])[holes[tokens]]
        logits, target_ids = self._score(queries), labels[holes]
        parts = self._parts(queries, logits, target_ids)
        count = target_ids.numel() if num_items_in_batch is None else num_items_in_batch
        return VideoOutput(
            loss=parts["prediction"][0] / max(count, 1) if isinstance(count, int) else parts["prediction"][0] / count,
            loss_parts={name: value.detach() for name, value in parts.items()},
            logits=logits,
            row_logits=at_holes(logits, holes, self.training),
            **states,
        )

    def get_output_embeddings(self) -> nn.Linear:
        """The head's table of codes."""
        return self.head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace it."""
        self.head.decoder = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Not possible: raises `ValueError`."""
        raise ValueError(
            "Codes are pictures of this model's frames: set vocab_size in the configuration of a new one."
        )

    @torch.no_grad()
    def set_token_counts(self, counts: torch.Tensor) -> None:
        """Keep the training part's code counts `(V,)`, and start the bias at their smoothed log frequency."""
        if tuple(counts.shape) != (self.config.vocab_size,):
            raise ValueError(f"counts has shape {tuple(counts.shape)}; it must be ({self.config.vocab_size},).")
        self.token_counts.copy_(counts)
        if self.head.bias is not None:
            smoothed = self.token_counts + 1.0
            self.head.bias.copy_(torch.log(smoothed / smoothed.sum()))

    @torch.no_grad()
    def set_frame_codes(self, values: torch.Tensor) -> None:
        """Keep the learned pictures of the codes, `(V, code_size^2)`, from 0 to 1."""
        own = self.model.codes.values
        if values.shape != own.shape:
            raise ValueError(f"values has shape {tuple(values.shape)}; it must be {tuple(own.shape)}.")
        own.copy_(values)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VideoJepaForFramePrediction):
            init.zeros_(module.token_counts)

    def _queries(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., H)` -> what each code of the token is predicted by, `(..., C, width)`."""
        return self.head(self.split(states).unflatten(-1, (self.config.codes_per_token, -1)))

    def _score(self, queries: torch.Tensor) -> torch.Tensor:
        with self.head.at_hand():
            return self.head.logits(queries, self.head.table)

    def _parts(self, queries: torch.Tensor, logits: torch.Tensor, target_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = nn.functional.cross_entropy(
            logits.float(), target_ids, reduction="none", label_smoothing=self.config.label_smoothing
        )
        parts = {"prediction": part(losses), "accuracy": part(logits.detach().argmax(-1) == target_ids)}
        if self.config.head == "cosine":
            with torch.no_grad(), self.head.at_hand():
                parts["cos_mean"] = part(cosine(queries, self.head.table[target_ids]))
        return parts

    def _check(self, codes: torch.Tensor, hidden: torch.Tensor | None, labels: torch.Tensor | None) -> None:
        config = self.config
        expected = (config.tokens_per_frame, config.codes_per_token)
        if codes.dim() != 4 or tuple(codes.shape[2:]) != expected:
            raise ValueError(
                f"codes has shape {tuple(codes.shape)}: it must be (clips, frames, {expected[0]}, {expected[1]})."
            )
        for name, given in (("hidden", hidden), ("labels", labels)):
            if given is not None and given.shape != codes.shape:
                raise ValueError(f"{name} has shape {tuple(given.shape)}: it must be that of codes, {codes.shape}.")


def _time_mask(
    time_view: torch.Tensor | None, batch: int, first: int, length: int, like: torch.Tensor
) -> torch.Tensor | None:
    """What is added to the scores of `(B or 1, T, first + T)`; None where everything is seen."""
    if time_view is None and length == 1:
        return None
    query = torch.arange(first, first + length, device=like.device)[:, None]
    key = torch.arange(first + length, device=like.device)[None]
    views = torch.stack((key <= query, torch.ones_like(key <= query), key == query))
    seen = views[0][None] if time_view is None else views[time_view]
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(
        ~seen, torch.finfo(like.dtype).min
    )
