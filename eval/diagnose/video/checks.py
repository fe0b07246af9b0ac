"""Which checks a video model gets, by group. Those of `gradient`, `size` and `training` that ask nothing of text are
the same as everywhere.
"""

from dataclasses import replace

from eval.diagnose.checks import gradient, size, training
from eval.diagnose.checks.check import Check
from eval.diagnose.report.report import VIDEO
from eval.diagnose.video import codes, leaks, learning, outlook, parity


def _same(checks: tuple[Check, ...], *names: str) -> tuple[Check, ...]:
    """Checks of a text group by name, for video."""
    return tuple(replace(check, kinds=(VIDEO,)) for check in checks if check.name in names)


def _own(name: str, run: object, needs: str = "") -> Check:
    return Check(name, run, kinds=(VIDEO,), needs=needs)  # type: ignore[arg-type] # of a VideoSubject


CHECKS: dict[str, tuple[Check, ...]] = {
    "leak": (
        _own("future_frames", leaks.future_frames),
        _own("other_frames", leaks.other_frames),
        _own("hidden_codes", leaks.hidden_codes),
        _own("batch_mates", leaks.batch_mates),
        _own("cache", leaks.cache),
        _own("position_ignored", leaks.position_ignored),
    ),
    "size": (
        *_same(size.CHECKS, "loss_at_start", "symmetric_units"),
        _own("parameters_for_data", learning.parameters_for_data),
    ),
    "gradient": _same(gradient.CHECKS, "non_finite", "flow", "update_ratio"),
    "distribution": (
        _own("shape", outlook.shape),
        _own("copies_last", outlook.copies_last),
        _own("frames", outlook.frames),
    ),
    "collapse": (_own("predictions", learning.predictions),),
    "ranking": (),
    "parity": (
        _own("train_eval", parity.train_eval),
        _own("reload", parity.reload),
        _own("dtype", parity.dtype),
        _own("own_loss", parity.own_loss),
        _own("offset", parity.offset),
        _own("code_table", parity.code_table),
    ),
    "data": (
        _own("codes", codes.codes),
        _own("overlap", codes.overlap),
        _own("visible_positions", codes.visible_positions, needs="trainer"),
        _own("drawn", codes.drawn),
    ),
    "training": _same(training.CHECKS, "non_finite", "learning_rate", "advice"),
    "sampling": (_own("greedy_deterministic", learning.deterministic),),
    "memorise": (_own("clip", learning.clip),),
}
