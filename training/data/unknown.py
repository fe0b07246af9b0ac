"""How much of a text a tokenizer does not know: always said, warned about above 10 %, refused above 50 %.

What a model does not see it cannot get wrong: figures of a text that is mostly unknown would flatter it.
"""

import logging

from transformers import PreTrainedTokenizerBase

from training.common.errors import InputError

UNKNOWN_NOTE, UNKNOWN_REFUSED = 0.1, 0.5

logger = logging.getLogger(__name__)


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The unknown token; None for a tokenizer that has none, or gives that name to its begin, end or padding."""
    unknown = tokenizer.unk_token
    return None if unknown in (None, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) else unknown


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of `unknown_token`."""
    return None if unknown_token(tokenizer) is None else tokenizer.unk_token_id


def unknown_share(counts: dict[str, int]) -> float:
    """Unknown tokens among all of a text's, 0..1, by the `tokens` and `unknown` of an encoding's report."""
    return counts["unknown"] / counts["tokens"] if counts["tokens"] else 0.0


def check_unknown(share: float, where: str, allowed: bool) -> None:
    """Warn where a tokenizer does not know much of a text.

    Args:
        share: see `unknown_share`.
        allowed: take a text that is mostly unknown (`--allow_unknown`).

    Raises:
        InputError: more than half of it is unknown, and that is not allowed.
    """
    if share > UNKNOWN_REFUSED and not allowed:
        raise InputError(
            f"data: {share:.0%} of the tokens of {where} are unknown to the tokenizer, so that figures would be those "
            "of the few that it knows; take a tokenizer or a model of that language, or --tokenizer bpe, which knows "
            "every text (--allow_unknown true goes on all the same)"
        )
    if share > UNKNOWN_NOTE:
        logger.warning(
            f"warning: {share:.0%} of the tokens of {where} are unknown to the tokenizer; in no figure do they count "
            "as right. A larger --max_vocab or --tokenizer bpe knows more"
        )
