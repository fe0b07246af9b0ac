"""Which checks a video model gets of its own, by group, beside those that ask nothing of text."""

from eval.diagnose.checks.check import Check
from eval.diagnose.video import codes, leaks, learning, outlook, parity

CHECKS: dict[str, tuple[Check, ...]] = {
    "leak": (leaks.future_frames, leaks.other_frames, leaks.hidden_codes, leaks.cache, leaks.position_ignored),
    "size": (learning.parameters_for_data,),
    "gradient": (),
    "distribution": (outlook.shape, outlook.copies_last, outlook.frames),
    "collapse": (learning.predictions,),
    "ranking": (),
    "parity": (parity.own_loss, parity.offset, parity.code_table),
    "data": (codes.codes, codes.overlap, codes.visible_positions, codes.drawn),
    "training": (),
    "sampling": (),
    "memorise": (learning.clip,),
}
