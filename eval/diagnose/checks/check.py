"""One check of the doctor: what looks, at which models, and what it needs; `@check` says it above the function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eval.diagnose.probes.exact import NotFiniteError, not_finite
from eval.diagnose.report.report import Finding, Rule

TEXT_KINDS = ("causal", "masked", "seq2seq")
ANY: tuple[str, ...] = ()  # of every kind, those of families without text too
Found = Finding | list[Finding]


@dataclass(frozen=True)
class Check:
    """One check of a group.

    Attributes:
        name: of the check; its findings may have names of their own.
        run: subject -> what it found.
        kinds: of models that it can look at, or `ANY`.
        needs: `record` (a run folder), `trainer`, `latent` (a model that predicts latents), `average` (one with a
            moving average), `documents` (one whose rows may hold several), `dialogues` (a dialogue model and text),
            `texts`, `tokenizer` or `future` (a model whose loss asks what follows); without it the check is left out.
        group: that it belongs to.
    """

    name: str
    run: Callable[[Any], Found]
    kinds: tuple[str, ...] = TEXT_KINDS
    needs: str = ""
    group: str = ""

    def is_for(self, kind: str) -> bool:
        """Whether it can look at models of a kind."""
        return not self.kinds or kind in self.kinds

    def __call__(self, subject: Any) -> Any:
        """What it finds in a subject."""
        return self.run(subject)


def check(
    name: str, right: str, kinds: tuple[str, ...] = TEXT_KINDS, needs: str = ""
) -> Callable[[Callable[[Any, Rule], Found]], Check]:
    """Make a `Check` of a function of a subject and its rule, see `Rule`; kinds and needs as of `Check`.

    Where logits are not finite (`NotFiniteError`), nothing is compared, and the group says so once.

    Args:
        name: `group.name` of the finding.
        right: its threshold.
    """

    def made(look: Callable[[Any, Rule], Found]) -> Check:
        def run(subject: Any) -> Found:
            try:
                return look(subject, Rule(name, right))
            except NotFiniteError:
                return not_finite(subject, name)

        group, _, short = name.partition(".")
        return Check(short, run, kinds, needs, group)

    return made
