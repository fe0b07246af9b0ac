"""Frames after a clip: by expectation, by the best codes or by sampling, which reveals the codes of a frame in
parallel (Chang et al., 2022, arXiv:2202.04200, section 3.2), frame after frame.

Shapes: B clips, T frames, S frame side, N transformer tokens of a frame, C codes of a token, V codes.
"""

import math
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

MODES = ("sample", "argmax", "expectation")


class FrameDecodingMixin:
    """`predict_frames` for a video model.

    `self` is any to the type checker: its class is not named here, as code from the Hub may not import in a circle.
    """

    @torch.no_grad()
    def predict_frames(
        self: Any,
        frames: torch.Tensor,
        num_frames: int | None = None,
        steps: int = 4,
        temperature: float = 0.8,
        top_k: int | None = 5,
        mode: str = "sample",
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The frames that follow.

        Args:
            frames: `(B, T, 1, S, S)`, float, from 0 (black) to 1.
            num_frames: frames to predict; None for as many as the model has places for.
            steps: parallel steps for each frame: after step i the share cos(pi i / 2 steps) of its codes is still
                hidden, the least certain ones. What has been revealed stays. Not for `expectation`.
            temperature: of sampling, falling to a fifth of it over a frame's steps.
            top_k: codes that are drawn from, the best ones; None for all.
            mode: `sample`; `argmax`, the best code each time; `expectation`, the mean frame under the probabilities of
                all codes, all frames in one pass: the guess with the smallest squared error, and blurred.
            generator: of the randomness of `sample`; None for the global one.

        Returns:
            `(B, num_frames, 1, S, S)`, float32, from 0 to 1.

        Raises:
            ValueError: frames of a wrong shape, type or range, too many or no frames, or a setting out of range.
        """
        num_frames = self.config.max_position_embeddings - frames.shape[1] if num_frames is None else num_frames
        _check(frames, num_frames, steps, temperature, top_k, mode, self.config.max_position_embeddings)
        codes = self.model.codes.encode(frames.to(self.device))
        was_training = self.training
        self.eval()
        try:
            if mode == "expectation":
                return self.model.codes.expected(self._probabilities(codes, num_frames))
            greedy = mode == "argmax"
            return self.model.codes.decode(
                self._roll_out(codes, num_frames, steps, 0.0 if greedy else temperature, top_k, generator)
            )
        finally:
            self.train(was_training)

    def _probabilities(self: Any, codes: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Of all codes of the frames that follow, all of them hidden: `(B, num_frames, N, C, V)`."""
        batch, known, places, inner = codes.shape
        future = codes.new_zeros(batch, num_frames, places, inner)
        hidden = torch.zeros(batch, known + num_frames, places, inner, dtype=torch.bool, device=codes.device)
        hidden[:, known:] = True
        states = self.model(torch.cat((codes, future), 1), hidden).last_hidden_state[:, known:]
        return self._score(self._queries(states)).float().softmax(-1)

    def _roll_out(
        self: Any,
        codes: torch.Tensor,
        num_frames: int,
        steps: int,
        temperature: float,
        top_k: int | None,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Codes of the frames that follow, one frame after the other, `(B, num_frames, N, C)`."""
        cache = DynamicCache(config=None)
        self.model(codes, past_key_values=cache)
        found = []
        for _ in range(num_frames):
            found.append(self._reveal(codes.shape[2:], cache, len(codes), steps, temperature, top_k, generator))
            if len(found) < num_frames:
                self.model(found[-1], past_key_values=cache)
        return torch.cat(found, 1)

    def _reveal(
        self: Any,
        shape: torch.Size,
        cache: DynamicCache,
        batch: int,
        steps: int,
        temperature: float,
        top_k: int | None,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """One frame's codes `(B, 1, N, C)`; the cache is left as it was."""
        total = math.prod(shape)
        codes = torch.zeros(batch, total, dtype=torch.int64, device=self.device)
        hidden = torch.ones(batch, total, dtype=torch.bool, device=self.device)
        for step in range(1, steps + 1):
            states = self.model(
                codes.view(batch, 1, *shape), hidden.view(batch, 1, *shape), past_key_values=cache
            ).last_hidden_state
            cache.crop(-1)  # this frame is read again, when more of it is shown
            logits = self._score(self._queries(states)).float().view(batch, total, -1)
            cooled = temperature * (1 - 0.8 * (step - 1) / steps)
            drawn = draw_codes(logits, cooled, top_k, generator)
            codes = torch.where(hidden, drawn, codes)
            left = int(total * math.cos(math.pi * step / (2 * steps)))
            certainty = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0].masked_fill(~hidden, torch.inf)
            hidden = torch.zeros_like(hidden).scatter(1, certainty.argsort(1)[:, :left], True) & hidden
        return codes.view(batch, 1, *shape)


def draw_codes(
    logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None = None
) -> torch.Tensor:
    """One code for each row of logits, `(..., V) -> (...)`: the best at temperature 0, else drawn from the `top_k`."""
    if temperature == 0:
        return logits.argmax(-1)
    best, ids = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]), dim=-1)
    probabilities = (best / temperature).softmax(-1)
    chosen = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator).view(*ids.shape[:-1], 1)
    return ids.gather(-1, chosen)[..., 0]


def _check(
    frames: torch.Tensor, num_frames: int, steps: int, temperature: float, top_k: int | None, mode: str, longest: int
) -> None:
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not possible: it must be one of {', '.join(MODES)}.")
    if frames.dim() == 5 and frames.shape[1] < 2:
        raise ValueError(f"frames holds {frames.shape[1]} frame(s): motion is seen in at least 2.")
    if num_frames < 1 or frames.shape[1] + num_frames > longest:
        raise ValueError(
            f"num_frames={num_frames} after {frames.shape[1]} frames is not possible: the model has places for "
            f"{longest} frames in all, and at least one must be left to predict."
        )
    if steps < 1:
        raise ValueError(f"steps={steps} is not possible: it must be at least 1.")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} is not possible: it must be above 0; mode='argmax' is greedy.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} is not possible: it must be None or at least 1.")
