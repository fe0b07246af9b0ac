"""What a model's predictions are like on real text, in figures: counted slice by slice, so no logits are kept."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from eval.diagnose.subject.subject import Subject

# Powers of two: what is looked for is a scale that is wrong by more than a factor of ten.
TEMPERATURES = tuple(2.0**power for power in range(-10, 15))
MAX_POSITIONS = 1024
# Tokens above which the temperatures are tried on a part of the positions: they cost as much as all the rest.
FEWER_ABOVE = 16_384
UNIGRAM_ROWS = 128
UNSEEN = 0.1  # of the unigram guess's mass is spread over the whole vocabulary, so that no token is impossible


@dataclass(frozen=True)
class Predictions:
    """N predicted positions, V tokens; nats throughout.

    Attributes:
        loss: mean -ln p of the true tokens.
        ln_v: of a guess that knows nothing.
        unigram: of a guess by how often tokens occur in the sample, each position left out of its own count.
        entropies, top_masses: (N,) of each prediction; the mass is that of its most likely token.
        right: (N,) whether that token is the true one.
        most_predicted: share of the positions that get the most frequent first choice.
        spread: standard deviation of a position's logits over the vocabulary, mean over the positions.
        best_temperature, best_loss: dividing all logits by this number gives the lowest loss.
        context: by how much the true token's logit lies above those of the tokens that are true elsewhere, in nats at
            the best temperature: exactly 0 for predictions that do not hang on the context.
        context_error: standard error of `context`.
        kl_to_unigram: mean KL divergence of the predictions from the unigram guess.
        variation: mean KL divergence of the predictions from their mean.
    """

    loss: float
    ln_v: float
    unigram: float
    entropies: Tensor
    top_masses: Tensor
    right: Tensor
    most_predicted: float
    spread: float
    best_temperature: float
    best_loss: float
    context: float
    context_error: float
    kl_to_unigram: float
    variation: float

    @property
    def count(self) -> int:
        """Positions that were looked at."""
        return len(self.right)

    @property
    def accuracy(self) -> float:
        """Share of the positions whose most likely token is the true one."""
        return float(self.right.double().mean())

    @property
    def top_mass(self) -> float:
        """Mean mass of the most likely token."""
        return float(self.top_masses.double().mean())

    @property
    def entropy(self) -> float:
        """Mean entropy."""
        return float(self.entropies.double().mean())


@torch.no_grad()
def look_at_predictions(subject: Subject, share: float = 1.0) -> Predictions | None:
    """Figures of the predictions on real text; None where some are no numbers.

    Args:
        share: of the rows that the limits allow.
    """
    pieces = []
    counts = token_counts(subject)
    for logits, truth in _slices(subject, share):
        if torch.isnan(logits).any() or torch.isposinf(logits).any():
            return None
        pieces.append(_look(logits.double() if logits.numel() < 1e6 else logits, truth, counts))
    return _together(pieces, counts)


def token_counts(subject: Subject) -> Tensor:
    """(V,) how often each token stands in the sample."""
    ids = subject.batch(UNIGRAM_ROWS, subject.limits.length).input_ids
    return torch.bincount(ids.flatten(), minlength=subject.vocab_size)


def _slices(subject: Subject, share: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and true tokens of a few rows at a time, until enough positions were seen."""
    batch = subject.batch(max(1, int(share * subject.limits.rows)), subject.limits.length)
    enough, seen = int(share * MAX_POSITIONS), 0
    for repeat in range(4 if subject.kind == "masked" else 1):
        # Other holes in the same rows: a row has few.
        asked = subject.holes(batch, seed=repeat) if subject.kind == "masked" else batch
        for (piece,) in subject.pieces(asked, each=16):
            if seen < enough:
                logits, truth = subject.predictions(piece)
                seen += len(truth)
                yield logits, truth


@dataclass(frozen=True)
class _Seen:
    """Sums over the positions of one slice."""

    losses: Tensor
    entropies: Tensor
    top_masses: Tensor
    choices: Tensor
    truth: Tensor
    spreads: Tensor
    above_others: Tensor
    tempered: Tensor  # at each temperature, and at last the number of positions tried
    cross: Tensor
    mass: Tensor


def _look(logits: Tensor, truth: Tensor, counts: Tensor) -> _Seen:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    logits = _without_ruled_out(logits)
    own = logits.gather(1, truth[:, None])[:, 0]
    elsewhere = logits[:, truth]
    unigram = _unigram(counts, logits.shape[1]).to(logits)
    some = slice(None, None, 1 + logits.shape[1] // FEWER_ABOVE)
    tempered = [((logits[some] / heat).logsumexp(-1) - own[some] / heat).sum() for heat in TEMPERATURES]
    return _Seen(
        losses=-log_p.gather(1, truth[:, None])[:, 0],
        entropies=torch.special.entr(p).sum(-1),
        top_masses=p.amax(-1),
        choices=logits.argmax(-1),
        truth=truth,
        spreads=logits.std(-1),
        above_others=own - (elsewhere.sum(1) - own) / max(len(truth) - 1, 1),
        tempered=torch.stack([*tempered, own.new_tensor(len(own[some]))]),
        cross=-(p * unigram.log()).sum(-1),
        mass=p.sum(0),
    )


def _without_ruled_out(logits: Tensor) -> Tensor:
    """-inf, by which a model rules a token out, becomes the lowest other logit of its position."""
    ruled_out = torch.isneginf(logits)
    if not ruled_out.any():
        return logits
    lowest = logits.masked_fill(ruled_out, math.inf).amin(-1, keepdim=True)
    return torch.where(ruled_out, lowest, logits)


def _together(pieces: list[_Seen], counts: Tensor) -> Predictions:
    def joint(name: str) -> Tensor:
        return torch.cat([vars(piece)[name] for piece in pieces]).double().cpu()

    truth, choices, above = joint("truth").long(), joint("choices").long(), joint("above_others")
    mass = sum(piece.mass.double().cpu() for piece in pieces)
    mean = mass / mass.sum()
    *sums, tried = torch.stack([piece.tempered.double().cpu() for piece in pieces]).sum(0).tolist()
    heat, lowest = min(zip(TEMPERATURES, sums, strict=True), key=lambda pair: pair[1])
    loss = float(joint("losses").mean())
    entropies = joint("entropies")
    return Predictions(
        loss=loss,
        ln_v=math.log(len(mean)),
        unigram=float(_left_out(counts.cpu(), len(mean))[truth].mean()),
        entropies=entropies,
        top_masses=joint("top_masses"),
        right=choices == truth,
        most_predicted=float(torch.bincount(choices).max() / len(choices)),
        spread=float(joint("spreads").mean()),
        best_temperature=heat,
        best_loss=loss - (sums[TEMPERATURES.index(1.0)] - lowest) / tried,
        context=float(above.mean() / heat),
        context_error=float(above.std() / heat / math.sqrt(len(above))),
        kl_to_unigram=float((joint("cross") - entropies).mean()),
        variation=float(torch.special.entr(mean).sum() - entropies.mean()),
    )


def _wide(counts: Tensor, vocabulary: int) -> Tensor:
    """(V,) counts as float64, of a vocabulary that is larger or smaller than their number."""
    return pad(counts.double(), (0, vocabulary - len(counts)))


def _unigram(counts: Tensor, vocabulary: int) -> Tensor:
    """(V,) probabilities of the unigram guess."""
    wide = _wide(counts, vocabulary)
    return (1 - UNSEEN) * wide / wide.sum() + UNSEEN / vocabulary


def _left_out(counts: Tensor, vocabulary: int) -> Tensor:
    """(V,) -ln of the unigram guess for a token that does not count itself."""
    wide = _wide(counts, vocabulary)
    return -((1 - UNSEEN) * (wide - 1).clamp_min(0) / (wide.sum() - 1) + UNSEEN / vocabulary).log()
