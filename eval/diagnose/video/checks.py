"""Which checks a video model gets of its own, beside those that ask nothing of text."""

from eval.diagnose.video import codes, leaks, learning, outlook, parity

CHECKS = (
    *(leaks.future_frames, leaks.other_frames, leaks.hidden_codes, leaks.cache, leaks.position_ignored),
    *(learning.parameters_for_data, learning.predictions, learning.clip),
    *(outlook.shape, outlook.copies_last, outlook.frames),
    *(parity.own_loss, parity.offset, parity.code_table),
    *(codes.codes, codes.overlap, codes.visible_positions, codes.drawn),
)
