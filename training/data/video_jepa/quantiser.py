"""Pictures for the codes of small squares: a finite-scalar quantiser (Mentzer et al., 2023, arXiv:2309.15505).

An encoder takes a square to a few bounded numbers, each is rounded to one of its levels, and a decoder paints the
square from them; the gradient passes the rounding unchanged. The codes are the points of the lattice of levels, their
pictures what the decoder paints, so there is no codebook to learn and none that could collapse.
"""

import math

import torch
from torch import nn

_WIDTH, _STEPS, _BATCH, _LEARNING_RATE = 64, 1500, 2048, 4e-3
_BLACK_SHARE = 1 / 16  # of a batch; most squares of a frame are black, and need one code
_REFINEMENTS = 5


def learn_pictures(
    squares: torch.Tensor,
    levels: list[int],
    seed: int = 0,
    steps: int = _STEPS,
    refinements: int = _REFINEMENTS,
) -> torch.Tensor:
    """The pictures of all codes, `(product of levels, P)`, float32, from 0 to 1. One of them is black.

    Args:
        squares: `(n, P)` from 0 to 1, none of them black.
        levels: of each dimension of the lattice.
        seed: of weights and batches; the global random state stays as it was.
        steps: of the quantiser's training.
        refinements: how often each picture then moves to the mean of the squares that are nearest to it (Lloyd, 1982,
            https://doi.org/10.1109/TIT.1982.1056489): rounding learns where codes are, means where they are best.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        quantiser = Quantiser(squares.shape[1], levels)
        _train(quantiser, squares, steps)
    with torch.no_grad():
        pictures = quantiser.decoder(quantiser.lattice()).sigmoid()
        black = pictures.pow(2).sum(1).argmin()
        pictures[black] = 0.0
        for _ in range(refinements):
            pictures = _refined(pictures, squares, black)
    return pictures


class Quantiser(nn.Module):
    """Squares `(n, P)` to squares, by way of the lattice.

    Args:
        pixels: P.
        levels: of each dimension.
    """

    levels: torch.Tensor

    def __init__(self, pixels: int, levels: list[int]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32))
        self.encoder = _mlp(pixels, len(levels))
        self.decoder = _mlp(len(levels), pixels)

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        """What the decoder paints, from 0 to 1."""
        return self.decoder(self.quantise(self.encoder(squares))).sigmoid()

    def quantise(self, latents: torch.Tensor) -> torch.Tensor:
        """Points of the lattice, from -1 to 1, with the gradient of the bounded latents (section 3.1, appendix A.1).

        An even number of levels is bounded half a step lower, so that rounding gives exactly so many.
        """
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = (latents + (offset / half).atanh()).tanh() * half - offset
        return (bounded + (bounded.round() - bounded).detach()) / self._reach()

    def lattice(self) -> torch.Tensor:
        """All points of the lattice, `(product of levels, dimensions)`, the last dimension counting fastest."""
        axes = [torch.arange(level, dtype=torch.float32) - level // 2 for level in self.levels.int().tolist()]
        return torch.cartesian_prod(*axes).view(math.prod(map(len, axes)), len(axes)) / self._reach()

    def _reach(self) -> torch.Tensor:
        return (self.levels / 2).floor()


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, outputs)
    )


def _train(quantiser: Quantiser, squares: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(quantiser.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    black = torch.zeros(round(_BLACK_SHARE * _BATCH), squares.shape[1])
    for _ in range(steps):
        batch = torch.cat((black, squares[torch.randint(len(squares), (_BATCH - len(black),))]))
        loss = (quantiser(batch) - batch).pow(2).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _refined(pictures: torch.Tensor, squares: torch.Tensor, black: torch.Tensor) -> torch.Tensor:
    """Each picture at the mean of its squares; black, and codes without squares, stay."""
    half_norms = pictures.pow(2).sum(1) / 2
    nearest = torch.cat([(part @ pictures.T - half_norms).argmax(1) for part in squares.split(2**14)])
    total = torch.zeros_like(pictures).index_add_(0, nearest, squares)
    count = nearest.bincount(minlength=len(pictures))
    moves = count > 0
    moves[black] = False
    return torch.where(moves[:, None], total / count.clamp(min=1)[:, None], pictures)
