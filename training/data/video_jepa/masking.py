"""Which codes of a clip are hidden: a function of (seed, pass, row_id, position), and of nothing else.

So it is the same on CPU and GPU, for any batch size, accumulation, number of processes or workers, and after any
resume. What changes as training goes on (the share of hidden codes, the length of the clips) follows the share of the
steps that are done, and has no state either.

Shapes: B clips, T frames, N transformer tokens of a frame, C codes of a token.
"""

import torch

from modeling_jepa.counter_random import counter_integers, counter_uniform
from training.common.errors import InputError
from training.data.collators import IGNORED
from training.data.settings import OBJECTIVES, VideoMaskingSettings
from training.data.video_jepa.clips import as_frames
from training.data.video_jepa.frame_tokenizer import FrameTokenizer

# Where all frames lose codes, something must be left to predict them from.
MOST_HIDDEN = 0.95
_OBJECTIVE, _CONTEXT, _HOLE = range(11, 14)


class VideoMasker:
    """Turns rendered clips into codes, some of which are hidden.

    Each clip has one objective, of which its `time_view` is the index in `modeling_video_jepa.TIME_VIEWS`:

    - `future`: the first frames are clean, codes of the later ones hidden; a frame sees the past and itself.
    - `joint`: codes of all frames are hidden; a frame sees all.
    - `individual`: the same, and a frame sees itself alone.

    Args:
        settings: objectives, shares and schedules.
        tokenizer: frames to codes.
        seed: of the run.
        length: frames of a clip.

    Raises:
        InputError: settings out of range, or a curriculum or a context that does not fit the clips' length.
    """

    def __init__(self, settings: VideoMaskingSettings, tokenizer: FrameTokenizer, seed: int, length: int) -> None:
        settings.validate()
        if length < 2:
            raise InputError(f"max_position_embeddings: got {length}; motion is seen in clips of 2 frames or more")
        if settings.curriculum_frames and settings.curriculum_frames[-1] != length:
            raise InputError(
                f"curriculum_frames: got {settings.curriculum_frames}; the last one must be the clips' length, "
                f"max_position_embeddings={length}"
            )
        if settings.context_frames is not None and settings.context_frames >= length:
            raise InputError(
                f"context_frames: got {settings.context_frames}; use at most {length - 1}, as clips have {length} "
                "frames"
            )
        self.settings = settings
        self.tokenizer = tokenizer
        self.seed = seed
        self.length = length

    def __call__(self, batch: dict[str, torch.Tensor], progress: float = 0.0) -> dict[str, torch.Tensor]:
        """Code and mask one batch.

        Args:
            batch: `frames` (B, length, S, S) uint8; `row_id`, `pass_index` (B,).
            progress: share of the training steps done, from 0 to 1.

        Returns:
            As of `mask_codes`; frames beyond the present length are left out.
        """
        frames = as_frames(batch["frames"][:, : self.length_at(progress)])
        return self.mask_codes(self.tokenizer.encode(frames), batch["row_id"], batch["pass_index"], progress)

    def mask_codes(
        self, codes: torch.Tensor, row_id: torch.Tensor, pass_index: torch.Tensor, progress: float = 0.0
    ) -> dict[str, torch.Tensor]:
        """Hide codes of clips.

        Args:
            codes: `(B, T, N, C)`.
            row_id, pass_index: `(B,)`.
            progress: as above.

        Returns:
            `codes`; `hidden` (B, T, N, C) bool, at least one in each clip; `labels`, the codes at hidden places and
            -100 elsewhere; `time_view` (B,) int64.
        """
        time_view = self.objectives(row_id, pass_index)
        is_future = (time_view == OBJECTIVES.index("future"))[:, None, None, None]
        ratio = self.mask_ratio(progress)
        limit = torch.where(is_future, ratio, min(ratio, MOST_HIDDEN))
        frame = torch.arange(codes.shape[1], device=codes.device)[:, None, None]
        clean = is_future & (frame < self._context(row_id, pass_index, codes.shape[1])[:, None, None, None])
        keys = (pass_index[:, None, None, None], row_id[:, None, None, None], _positions(codes))
        order = counter_uniform(self.seed, _HOLE, *keys).masked_fill(clean, 2.0)
        first = torch.zeros_like(order, dtype=torch.bool).flatten(1)
        first.scatter_(1, order.flatten(1).argmin(1, keepdim=True), True)
        hidden = (order < limit) | first.view_as(order)
        labels = torch.where(hidden, codes, IGNORED)
        return {"codes": codes, "hidden": hidden, "labels": labels, "time_view": time_view}

    def objectives(self, row_id: torch.Tensor, pass_index: torch.Tensor) -> torch.Tensor:
        """The index of each clip's objective in `OBJECTIVES`, `(B,)`, int64."""
        if self.settings.objective != "mixed":
            return torch.full_like(row_id, OBJECTIVES.index(self.settings.objective))
        shares = torch.tensor(self.settings.shares, dtype=torch.float64, device=row_id.device)
        drawn = counter_uniform(self.seed, _OBJECTIVE, pass_index, row_id)
        return torch.searchsorted(shares.cumsum(0)[:-1].contiguous(), drawn, right=True)

    def mask_ratio(self, progress: float) -> float:
        """The share of hidden codes at this share of the steps: a straight line from start to end."""
        start, end = self.settings.mask_ratio_start, self.settings.mask_ratio_end
        return start + (end - start) * min(max(progress, 0.0), 1.0)

    def length_at(self, progress: float) -> int:
        """Frames of a clip at this share of the steps: the curriculum's lengths take equal parts of its share of the
        steps, and the last one all that follows.
        """
        lengths = self.settings.curriculum_frames
        if not lengths:
            return self.length
        stage = int(max(progress, 0.0) / self.settings.curriculum_share * len(lengths))
        return lengths[min(stage, len(lengths) - 1)]

    def _context(self, row_id: torch.Tensor, pass_index: torch.Tensor, length: int) -> torch.Tensor:
        """Clean frames at the beginning, `(B,)`: fixed, or drawn from a quarter to three quarters of the length."""
        if self.settings.context_frames is not None:
            return torch.full_like(row_id, min(self.settings.context_frames, length - 1))
        fewest, most = max(1, length // 4), max(1, 3 * length // 4)
        return fewest + counter_integers(self.seed, _CONTEXT, pass_index, row_id, high=most - fewest + 1)


def _positions(codes: torch.Tensor) -> torch.Tensor:
    """A number for each place of a clip, `(T, N, C)`; it does not depend on how many frames follow."""
    shape = codes.shape[1:]
    return torch.arange(shape.numel(), device=codes.device).view(shape)
