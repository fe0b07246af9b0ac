"""Frames to codes and back: each small square of pixels is the code whose picture is nearest.

Shapes: B clips, T frames, S frame side, N transformer tokens of a frame (squares of `patch_size`, row by row), C codes
of a token (squares of `code_size` within it, row by row), P pixels of a code, V codes.
"""

import torch
from torch import nn

from configuration_jepa.configuration_video_jepa import VideoJepaConfig

# Squares that are compared with all codes at once: bounds the memory of coding to some 64 MB at 1,000 codes.
_SQUARES_AT_ONCE = 2**14


class FrameCodes(nn.Module):
    """The picture of every code, which travels with the weights, and the two ways between frames and codes.

    A square becomes the code with the nearest picture by squared error, so coding a decoded frame gives the same codes
    (as long as no two pictures are equal).
    """

    values: torch.Tensor

    def __init__(self, config: VideoJepaConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("values", torch.zeros(config.vocab_size, config.code_size**2))

    def grey_values(self) -> torch.Tensor:
        """`(V, 1)`: equal steps of brightness from 0 to 1."""
        return torch.linspace(0.0, 1.0, self.config.vocab_size)[:, None]

    @torch.no_grad()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """`(B, T, 1, S, S)` from 0 to 1 -> codes `(B, T, N, C)`, int64.

        Raises:
            ValueError: frames of another shape, type or range.
        """
        self._check(frames)
        squares = self.squares(frames.float())
        flat = squares.reshape(-1, squares.shape[-1])
        half_norms = self.values.float().pow(2).sum(1) / 2
        if torch.compiler.is_compiling():  # one graph for whatever is drawn
            return self._nearest(flat, half_norms).view(squares.shape[:-1])
        codes = half_norms.argmin().repeat(len(flat))
        drawn = flat.amax(1) > 0  # of moving digits most squares are black, and need no comparison
        codes[drawn] = self._nearest(flat[drawn], half_norms)
        return codes.view(squares.shape[:-1])

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(B, T, N, C)` -> frames `(B, T, 1, S, S)`, float32.

        Raises:
            ValueError: a code out of range.
        """
        low, high = (int(edge) for edge in torch.aminmax(codes)) if codes.numel() else (0, 0)
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(f"codes holds {wrong}: codes go from 0 to {self.config.vocab_size - 1}.")
        return self.assemble(self.values.float()[codes])

    def expected(self, probabilities: torch.Tensor) -> torch.Tensor:
        """The mean frame under probabilities of the codes, `(B, T, N, C, V) -> (B, T, 1, S, S)`, float32."""
        return self.assemble(probabilities.float() @ self.values.float())

    def squares(self, frames: torch.Tensor) -> torch.Tensor:
        """Cut `(B, T, 1, S, S)` into `(B, T, N, C, P)`."""
        batch, length = frames.shape[:2]
        side, inner, code = self._counts()
        cut = frames.reshape(batch, length, side, inner, code, side, inner, code)
        return cut.permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(batch, length, side**2, inner**2, code**2)

    def assemble(self, squares: torch.Tensor) -> torch.Tensor:
        """Put `(B, T, N, C, P)` together to `(B, T, 1, S, S)`."""
        batch, length = squares.shape[:2]
        side, inner, code = self._counts()
        laid = squares.reshape(batch, length, side, side, inner, inner, code, code).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return laid.reshape(batch, length, 1, self.config.frame_size, self.config.frame_size)

    def _nearest(self, squares: torch.Tensor, half_norms: torch.Tensor) -> torch.Tensor:
        """`(n, P) -> (n,)`: |s - v|^2 is least where s v - |v|^2 / 2 is greatest."""
        values = self.values.float()
        parts = (squares,) if torch.compiler.is_compiling() else squares.split(_SQUARES_AT_ONCE)
        return torch.cat([(part @ values.T - half_norms).argmax(1) for part in parts])

    def _counts(self) -> tuple[int, int, int]:
        """Tokens along a frame's side, codes along a token's, pixels along a code's."""
        config = self.config
        return config.frame_size // config.patch_size, config.patch_size // config.code_size, config.code_size

    def _check(self, frames: torch.Tensor) -> None:
        side = self.config.frame_size
        if frames.dim() != 5 or tuple(frames.shape[2:]) != (1, side, side):
            raise ValueError(
                f"frames has shape {tuple(frames.shape)}: this model takes (clips, frames, 1, {side}, {side})."
            )
        if not frames.is_floating_point():
            raise ValueError(f"frames is {frames.dtype}: it must be floating point, from 0 (black) to 1.")
        if torch.compiler.is_compiling():  # values are not looked at
            return
        low, high = (float(edge) for edge in torch.aminmax(frames)) if frames.numel() else (0.0, 0.0)
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"frames goes from {low:g} to {high:g}: it must go from 0 (black) to 1.")
