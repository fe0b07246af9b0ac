"""Which finding explains which: the cause comes first, and what follows from it stands below it."""

from collections.abc import Sequence
from dataclasses import replace

from eval.diagnose.report.report import FAIL, PASS, Finding

_BEHAVIOUR = ("distribution.", "collapse.", "ranking.", "sampling.", "memorise.")
_LEARNT = (*_BEHAVIOUR, "training.", "gradient.update_ratio")
# From the most exact finding to the most general: a fail of the left explains findings that begin as on the right.
EXPLAINS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gradient.non_finite", ("",)),
    ("training.non_finite", ("training.", *_BEHAVIOUR)),
    ("parity.missing_tensors", ("repair.", "gradient.", "parity.", *_BEHAVIOUR)),
    ("parity.unused_layers", ("repair.", *_BEHAVIOUR)),
    ("parity.tokenizer_size", ("repair.", *_BEHAVIOUR)),
    ("data.tokens", ("repair.", *_BEHAVIOUR)),
    ("size.fresh_layer", ("repair.", *_BEHAVIOUR)),
    ("gradient.flow", ("repair.broken_layer", *_BEHAVIOUR)),
    ("parity.own_loss", _LEARNT),
    ("parity.offset", ("repair.", "parity.own_loss", *_LEARNT)),
    ("data.padding_in_loss", _BEHAVIOUR),
    ("data.visible_positions", _BEHAVIOUR),
    ("leak.future_tokens", ("leak.", "parity.length", "training.too_good", *_BEHAVIOUR)),
    ("leak.batch_mates", ("leak.padding", "leak.cache")),
    ("leak.position_ignored", _BEHAVIOUR),
    ("repair.", _BEHAVIOUR),
    ("training.learning_rate", _LEARNT),
    ("training.rate_too_small", _LEARNT),
    ("training.still_warming_up", _LEARNT),
    ("training.loss_scale", _LEARNT),
    ("training.jump", _LEARNT),
    ("training.same_rows", _LEARNT),
    ("training.overfitting", _LEARNT),
    ("memorise.learning_rate", _LEARNT),
    ("gradient.update_ratio", _LEARNT),
    ("size.dead_units", _BEHAVIOUR),
    ("size.symmetric_units", _BEHAVIOUR),
    ("collapse.", ("distribution.", "ranking.", "memorise.", "sampling.")),
    ("distribution.", ("collapse.", "ranking.", "memorise.", "sampling.")),
)


def causes_first(findings: Sequence[Finding]) -> list[Finding]:
    """The findings in the order in which they are to be read: causes before others, each after what explains it.

    Each finding that is not a pass says in `because` which failed finding explains it, if one does.
    """
    failed = [one.check for one in findings if one.verdict == FAIL]
    roots: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for rank, (begins, explained) in enumerate(EXPLAINS):
        for root in [check for check in failed if check.startswith(begins)]:
            if root in roots:
                continue
            ranks.setdefault(root, rank)
            for one in findings:
                if one.check != root and one.check not in ranks and one.check.startswith(explained):
                    roots.setdefault(one.check, root)
    told = [
        replace(one, because=roots[one.check]) if one.verdict != PASS and one.check in roots else one
        for one in findings
    ]
    order = {one.check: place for place, one in enumerate(told)}

    def place(one: Finding) -> tuple[int, int, bool, int]:
        root = one.because or one.check
        return ranks.get(root, len(EXPLAINS)), order.get(root, 0), bool(one.because), order[one.check]

    return sorted(told, key=place)
