"""One check of the doctor: what looks, at which models, and what it needs."""

from collections.abc import Callable
from dataclasses import dataclass

from eval.diagnose.report.report import KINDS, Finding
from eval.diagnose.subject.subject import Subject


@dataclass(frozen=True)
class Check:
    """One check of a group.

    Attributes:
        name: of the check; its findings may have names of their own.
        run: looks, and says what it found.
        kinds: of models that it can look at.
        needs: `record` (a run folder), `trainer`, `latent` (a model that predicts latents), `average` (one with a
            moving average), `dialogues` (a dialogue model and text), `texts` or `tokenizer`; without it the check is
            left out.
    """

    name: str
    run: Callable[[Subject], Finding | list[Finding]]
    kinds: tuple[str, ...] = KINDS
    needs: str = ""
