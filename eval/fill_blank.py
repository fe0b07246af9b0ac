"""Ask a latent text model for the missing word of a phrase.

python -m eval.fill_blank outputs/quickstart "the people of the _ states" --answer united
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from eval.command import add_checkpoint, new_parser, run_command
from eval.decoding.token_scores import evaluating
from eval.loading import open_model, open_tokenizer
from eval.scorers.text_jepa import pessimistic_ranks, shown_token
from training.common.errors import InputError, NonFiniteError
from training.data.sources.rows import WITHOUT_SPACES

# A run of underscores that is no part of a word such as snake_case; in a script without spaces it stands anywhere.
_LETTER = rf"[^\W_{WITHOUT_SPACES.pattern[1:-1]}]"
BLANK = re.compile(rf"(?<!{_LETTER})_+(?!{_LETTER})")


@dataclass(frozen=True)
class Guess:
    """One candidate: its token, its cosine with the prediction (None without a latent) and its score (a logit)."""

    token: str
    cosine: float | None
    score: float


@dataclass(frozen=True)
class FillBlankResult:
    """`guesses` best first; `answer_rank` 1..vocab_size (ties against it), None where no answer was given."""

    phrase: str
    guesses: list[Guess]
    answer: Guess | None
    answer_rank: int | None
    vocab_size: int


def fill_blank(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    phrase: str,
    answer: str | None = None,
    top_k: int = 5,
) -> FillBlankResult:
    """The `top_k` tokens nearest to what the model predicts at the blank `_`, and the rank of an answer.

    Candidates are ordered as in scoring (by logit: cosine times scale, with the bias if the model has one).

    Raises:
        InputError: not exactly one blank, nothing beside it, a word outside the vocabulary, a phrase longer than the
            model, an answer that is not one token, top_k out of range.
        NonFiniteError: the model scores NaN.
    """
    if not 1 <= top_k <= model.config.vocab_size:
        raise InputError(f"top_k must lie between 1 and the vocabulary's {model.config.vocab_size}, was given {top_k}")
    input_ids, position = _encode(phrase, model, tokenizer)
    answer_id = None if answer is None else _answer_id(answer, phrase, tokenizer)
    with evaluating(model):
        scores, cosines = _ask(model, input_ids.to(model.device), position)
    if torch.isnan(scores).any():
        raise NonFiniteError(f"the model scores NaN for {phrase!r}: its weights are broken, use an earlier checkpoint")

    def guess(token_id: int) -> Guess:
        cosine = None if cosines is None else float(cosines[token_id])
        return Guess(shown_token(tokenizer, token_id), cosine, float(scores[token_id]))

    best = torch.topk(scores, top_k).indices.tolist()
    rank = None if answer_id is None else int(pessimistic_ranks(scores[None], torch.tensor([answer_id]))[0])
    return FillBlankResult(
        phrase, [guess(i) for i in best], None if answer_id is None else guess(answer_id), rank, len(scores)
    )


def guess_rows(result: FillBlankResult) -> list[list[str]]:
    """Place, token, cosine and score of each guess, as text."""
    return [
        [str(place), guess.token, "-" if guess.cosine is None else f"{guess.cosine:.3f}", f"{guess.score:.2f}"]
        for place, guess in enumerate(result.guesses, start=1)
    ]


def rank_line(result: FillBlankResult, answer: str) -> str:
    """Where the answer that was given stands, in one line."""
    assert result.answer is not None
    cosine = "" if result.answer.cosine is None else f", cosine {result.answer.cosine:.3f}"
    return f"{answer}: rank {result.answer_rank:,} of {result.vocab_size:,}{cosine}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for bad input, 3 for a model that gives NaN."""
    return run_command(_parser(), _fill, argv)


def _fill(arguments: argparse.Namespace) -> None:
    tokenizer = open_tokenizer(arguments.checkpoint)
    model = open_model(arguments.checkpoint, AutoModelForMaskedLM, arguments.device)
    result = fill_blank(model, tokenizer, arguments.phrase, arguments.answer, arguments.top_k)
    _print(result, arguments.answer)


def _encode(phrase: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[torch.Tensor, int]:
    """input_ids (1, T) with the mask token at the blank, and its position."""
    _check_blank(phrase, tokenizer)
    text = BLANK.sub(lambda _: tokenizer.mask_token, phrase)
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids = encoding["input_ids"]
    unknown = [
        text[start:end]
        for i, (start, end) in zip(ids, encoding["offset_mapping"], strict=True)
        if i == tokenizer.unk_token_id and end > start
    ]
    if unknown:
        raise InputError(
            f"outside the vocabulary of {len(tokenizer):,} tokens: {', '.join(map(repr, unknown))}; use other words"
        )
    longest = model.config.max_position_embeddings
    if len(ids) > longest:
        raise InputError(f"phrase is {len(ids)} tokens long, the model takes {longest}: shorten it")
    return torch.tensor([ids]), ids.index(tokenizer.mask_token_id)


def _check_blank(phrase: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError unless the phrase has one blank and something beside it."""
    if not phrase.strip():
        raise InputError("phrase is empty: write one with a blank, for example: the people of the _ states")
    count = len(BLANK.findall(phrase)) + phrase.count(tokenizer.mask_token)
    if count != 1 or tokenizer.mask_token in phrase:
        raise InputError(
            f"phrase must hold exactly one blank, written _, but {phrase!r} holds {count or 'none'}"
            f"{f' ({tokenizer.mask_token} counts as one)' if tokenizer.mask_token in phrase else ''}; "
            f"for example: the people of the _ states"
        )
    if not BLANK.sub(" ", phrase).strip():
        raise InputError(f"phrase {phrase!r} is nothing but a blank: write some words around it")


def _answer_id(answer: str, phrase: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The one token that `answer` is at this place of the phrase."""
    # Byte-level vocabularies know a word with and without the space before it; the phrase says which is meant.
    spaced = BLANK.split(phrase)[0].endswith(" ")
    tokens = tokenizer(f" {answer}" if spaced else answer, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise InputError("answer is empty: give the word to rank, or leave it out")
    if tokenizer.unk_token_id in tokens:
        raise InputError(f"answer {answer!r} is outside the vocabulary of {len(tokenizer):,} tokens; try another word")
    if len(tokens) > 1:
        pieces = ", ".join(repr(shown_token(tokenizer, token)) for token in tokens)
        raise InputError(f"answer {answer!r} is {len(tokens)} tokens ({pieces}), a blank holds one; try another word")
    return tokens[0]


def _ask(model: PreTrainedModel, input_ids: torch.Tensor, position: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scores (V,) of all tokens at a position, and their cosines (V,) with the prediction where it has a latent."""
    output = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    scores = output.logits[0, position].float().cpu()
    if model.config.model_type != "text_jepa":
        return scores, None
    prediction = torch.nn.functional.normalize(output.predictions[0, position].float(), dim=-1)
    return scores, (model.table_directions().float() @ prediction).cpu()


def _print(result: FillBlankResult, answer: str | None) -> None:
    """The candidates as a table, and the answer's rank in one line."""
    table = Table("", "token", "cosine", "score", title=Text(result.phrase), title_justify="left")
    for place, token, *figures in guess_rows(result):
        table.add_row(place, Text(token), *figures)
    console = Console()
    console.print(table)
    if answer is not None:
        console.print(rank_line(result, answer), highlight=False, markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("eval.fill_blank", __doc__)
    add_checkpoint(parser)
    parser.add_argument("phrase", help="a phrase with one blank, written _")
    parser.add_argument("--answer", help="a word whose rank is wanted")
    parser.add_argument("--top_k", type=int, default=5, help="candidates to print (default: 5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
