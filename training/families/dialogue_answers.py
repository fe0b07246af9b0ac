"""Answers of a dialogue model side by side: said greedily, sampled, and found among the training replies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.decoding.decoding import Decoding
from eval.replies.index import ReplyIndex
from eval.replies.saying import read_turns, say
from eval.scorers.holes import choose_rows
from training.common.errors import InputError
from training.data.dialogue_jepa.dialogues import BETWEEN_TURNS
from training.data.prepared import Prepared

SAMPLED = Decoding(top_k=50, temperature=0.7)
REPLIES_WHILE_TRAINING = 1000  # read anew at every milestone: a second or two
PROMPTS_IN_CARD = 10
SEED = 0  # decides which rows stand in tables and logs: the same for every run


@dataclass(frozen=True)
class Answers:
    """To one prompt, whose turns stand on lines of their own; `true_reply` where it is known."""

    prompt: str
    greedy: str
    sampled: str
    retrieved: str
    cosine: float
    true_reply: str | None = None

    def line(self) -> str:
        """For logs and tables."""
        shown = " / ".join(self.prompt.split(BETWEEN_TURNS))
        return (
            f"{shown} ... greedy: {self.greedy} ... {SAMPLED.sampled_name}: {self.sampled} ... retrieved "
            f"({self.cosine:.2f}): {self.retrieved}"
        )


class Answerer:
    """Answers a recipe's sample phrases while a model is trained, from some of its training replies."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self._index: tuple[int, ReplyIndex] | None = None

    def line(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, phrase: str) -> str:
        """One line; a phrase that cannot be answered is said instead, as it is no reason to stop a run."""
        try:
            return answer(model, tokenizer, self._index_of(model, tokenizer), phrase).line()
        except InputError as error:
            return f"{phrase}: {error}"

    def _index_of(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ReplyIndex:
        """Of the teacher as it is now: made again when it has moved."""
        now = int(model.teacher.num_updates)
        if self._index is None or self._index[0] != now:
            replies = training_replies(self.prepared, REPLIES_WHILE_TRAINING)
            self._index = now, ReplyIndex.build(model, tokenizer, replies)
        return self._index[1]


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    index: ReplyIndex,
    prompt: str,
    true_reply: str | None = None,
) -> Answers:
    """All three answers to a prompt; leaves the model's mode and the random state as they were.

    Args:
        prompt: the turns so far, each on a line of its own.
    """
    turns = prompt.split(BETWEEN_TURNS)
    context = [read_turns(turns, model, tokenizer).ids]
    found = index.retrieve(turns, k=1)[0]
    return Answers(
        prompt=prompt,
        greedy=say(model, tokenizer, context)[0],
        sampled=say(model, tokenizer, context, SAMPLED, do_sample=True)[0],
        retrieved=found.reply,
        cosine=found.cosine,
        true_reply=true_reply,
    )


def training_replies(prepared: Prepared, count: int | None = None) -> list[str]:
    """Texts of the training part's replies, or of `count` of them chosen by their row_id."""
    rows = choose_rows(np.asarray(prepared.train["row_id"][:]), count, SEED)
    return prepared.train.select(rows)["reply"][:]


def transcript(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, index: ReplyIndex, held_out: Any
) -> list[dict[str, Any]]:
    """Answers to `PROMPTS_IN_CARD` different held-out prompts, chosen by their row_id alone, unedited."""
    first = {prompt: row for row, prompt in reversed(list(enumerate(held_out["prompt"][:])))}
    different = held_out.select(sorted(first.values()))
    rows = different.select(choose_rows(np.asarray(different["row_id"][:]), PROMPTS_IN_CARD, SEED))
    pairs = zip(rows["prompt"], rows["reply"], strict=True)
    return [vars(answer(model, tokenizer, index, prompt, reply)) for prompt, reply in pairs]
