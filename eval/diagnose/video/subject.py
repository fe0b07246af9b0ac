"""A video model under examination: held-out clips take the place of text, the codes of frames that of tokens.

Shapes: B clips, T frames, N transformer tokens of a frame, C codes of a token, S frame side, V codes.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from eval.diagnose import thresholds
from eval.diagnose.subject.subject import IGNORED, Subject
from modeling_jepa.modeling_video_jepa import TIME_VIEWS
from training.data.video_jepa.clips import ClipMaker

VIDEO = "video"
OBJECTIVES = ("future", "joint", "individual")
MOST_ROWS, MOST_FRAMES = 8, 10  # of an ordinary batch: as many tokens as one of text
POSITIONS_OF_A_CLIP = 128  # whose predictions are looked at: most of the others are black as well
_HIDDEN_SHARE = 0.5
_MODES = ("argmax", "sample")


@dataclass(frozen=True)
class ClipBatch:
    """Clips as the model sees them.

    Attributes:
        codes: `(B, T, N, C)`, int64.
        hidden: the same shape, bool.
        labels: the codes at hidden places, -100 elsewhere.
        time_view: `(B,)`, int64, see `TIME_VIEWS`; None for what forward takes by default.
    """

    codes: Tensor
    hidden: Tensor
    labels: Tensor
    time_view: Tensor | None

    @property
    def input_ids(self) -> Tensor:
        """The codes as rows, `(B, T N C)`: what checks of text count and measure lengths by."""
        return self.codes.flatten(1)

    def split(self, rows: int) -> list["ClipBatch"]:
        """Pieces of at most so many clips."""
        return [self.take(slice(start, start + rows)) for start in range(0, len(self.codes), rows)]

    def take(self, rows: slice | list[int]) -> "ClipBatch":
        """Some of its clips."""
        return ClipBatch(**{name: None if value is None else value[rows] for name, value in vars(self).items()})

    def to(self, device: torch.device) -> "ClipBatch":
        """On another device."""
        return ClipBatch(**{name: None if value is None else value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Clips:
    """What a video model is shown.

    Attributes:
        frames: `(B, T, 1, S, S)`, float32, from 0 to 1, held out.
        codes: of these frames, `(B, T, N, C)`.
        objective: that the model was trained for, one of `OBJECTIVES`; `future` for a mixture.
        makers: what renders the clips of each split; empty where frames were handed over.
        num_clips: different training clips; None where unknown.
    """

    frames: Tensor
    codes: Tensor
    objective: str = "future"
    makers: dict[str, ClipMaker] = field(default_factory=dict)
    num_clips: int | None = None

    @property
    def context(self) -> int:
        """Frames of a clip."""
        return self.frames.shape[1]


@dataclass
class VideoSubject(Subject):
    """See `Subject`; `sample` is of `Clips`, and lengths are counted in frames."""

    sample: Clips  # type: ignore[assignment] # what both have in common is their context
    update_steps: int = thresholds.UPDATE_STEPS_OF_VIDEO

    @property
    def vocab_size(self) -> int:
        """Number of codes."""
        return self.model.config.vocab_size

    @property
    def output_table(self) -> Tensor:
        """(V, width): the rows by which codes are predicted."""
        return self.model.head.decoder.weight.detach()

    def turn(self, seed: int) -> None:
        """Look at the same clips in another order, so that other ones come first; 0 changes nothing."""
        order = torch.randperm(len(self.sample.codes), generator=torch.Generator().manual_seed(seed))
        if seed:
            self.sample = replace(self.sample, frames=self.sample.frames[order], codes=self.sample.codes[order])

    def batch(self, rows: int = 4, length: int = MOST_FRAMES) -> ClipBatch:  # type: ignore[override]
        """Clips of the first `length` frames, as the model's objective hides them; at most as many as there are."""
        return self.asked(rows, length, self.sample.objective)

    def asked(self, rows: int, length: int, objective: str) -> ClipBatch:
        """Clips with holes: `future` hides the second half of the frames, the others half of all codes."""
        codes = self.sample.codes[:rows, : min(length, self.context)]
        if objective == "future":
            frame = torch.arange(codes.shape[1])[:, None, None]
            hidden = (frame >= codes.shape[1] - codes.shape[1] // 2).expand(codes.shape)
        else:
            generator = torch.Generator().manual_seed(0)
            hidden = torch.rand(codes.shape, generator=generator) < _HIDDEN_SHARE
        view = torch.full((len(codes),), OBJECTIVES.index(objective))
        return ClipBatch(codes, hidden, codes.masked_fill(~hidden, IGNORED), view).to(self.device)

    def plain(self, rows: int, length: int) -> ClipBatch:
        """Clips of which nothing is hidden, under the default view."""
        codes = self.sample.codes[:rows, : min(length, self.context)]
        shown = torch.zeros_like(codes, dtype=torch.bool)
        return ClipBatch(codes, shown, torch.full_like(codes, IGNORED), None).to(self.device)

    def inputs(self, batch: ClipBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """Arguments of forward without labels."""
        view = {} if batch.time_view is None else {"time_view": batch.time_view}
        return {"codes": batch.codes, "hidden": batch.hidden, **view}

    def learning_inputs(self, batch: ClipBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """Arguments of forward with labels."""
        return {**self.inputs(batch), "labels": batch.labels}

    def predictions(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(K, V) float32 logits and (K,) true codes of some hidden places of each clip, spread evenly over them."""
        with torch.no_grad():
            found = [self.answers(self.model, piece) for piece in batch.split(1)]
        kept = [_spread(len(truth)) for _, truth in found]
        logits = torch.cat([logits[some] for (logits, _), some in zip(found, kept, strict=True)])
        return logits, torch.cat([truth[some] for (_, truth), some in zip(found, kept, strict=True)])

    def places(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Every hidden place, in the shape of the codes, and (K,) the true codes there."""
        holes = batch.labels != IGNORED
        return holes, batch.labels[holes]

    def changed(self, batch: ClipBatch) -> ClipBatch:  # type: ignore[override]
        """The same clips with another code at every place, under the next view where one is given."""
        view = None if batch.time_view is None else (batch.time_view + 1) % len(TIME_VIEWS)
        return replace(batch, codes=self.other_codes(batch), time_view=view)

    def other_codes(self, batch: ClipBatch) -> Tensor:
        """Codes of which every one differs from the one in the batch: each moved on by a half of V."""
        return (batch.codes + max(1, self.vocab_size // 2)) % self.vocab_size

    def fitting_length(self, wanted: int, rows: int = 3) -> int:
        """Frames of an ordinary batch: what is wanted is counted in tokens."""
        return min(self.limits.length, self.context)

    @property
    def foretells(self) -> bool:
        """Not where it sees later frames, or one alone: it need not come to know what follows."""
        return self.sample.objective == "future"

    @property
    def believed_digits(self) -> float:
        """Frames are mostly black, and a code that is nearly sure has logits far from 0."""
        return thresholds.BELIEVED_ROUNDING

    def greedy(self) -> Tensor:
        """The best next frames of a clip, and ones that are drawn with a generator of their own."""
        seen = self.sample.frames[:1, : self.context // 2].to(self.device)
        chance = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            said = [self.model.predict_frames(seen, 1, steps=2, mode=mode, generator=chance) for mode in _MODES]
        return torch.cat(said)


def seen_as(batch: ClipBatch, view: str) -> ClipBatch:
    """The batch under one of `TIME_VIEWS`."""
    return replace(batch, time_view=torch.full((len(batch.codes),), TIME_VIEWS.index(view), device=batch.codes.device))


def _spread(count: int) -> Tensor:
    """Places all over `count` ones, the same at every call; at no regular distances, which frames have too."""
    some = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:POSITIONS_OF_A_CLIP]
    return some.sort().values
