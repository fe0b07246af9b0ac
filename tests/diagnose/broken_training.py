"""What users do to their batches, their metrics and their data, and what their training makes of it."""

import torch
from transformers import EvalPrediction, PreTrainedTokenizerFast

from tests.diagnose.tiny_training import Collator, Rows

IGNORED = -100
Parts = dict[str, list[str]]


# ---- collators: (the right one, tokenizer) -> the wrong one ----


def shifts_already(right: Collator, tokenizer: PreTrainedTokenizerFast) -> Collator:
    """The labels are the next tokens, and the model shifts them once more."""

    def collate(rows: Rows) -> dict[str, torch.Tensor]:
        batch = right(rows)
        end = torch.full_like(batch["labels"][:, :1], IGNORED)
        return {**batch, "labels": torch.cat([batch["labels"][:, 1:], end], 1)}

    return collate


def counts_padding(right: Collator, tokenizer: PreTrainedTokenizerFast) -> Collator:
    """The labels are the ids, those of the padding too."""

    def collate(rows: Rows) -> dict[str, torch.Tensor]:
        batch = right(rows)
        return {**batch, "labels": batch["input_ids"].clone()}

    return collate


def counts_padding_of_answers(right: Collator, tokenizer: PreTrainedTokenizerFast) -> Collator:
    """Answers are padded with the padding token, which is left in the labels."""

    def collate(rows: Rows) -> dict[str, torch.Tensor]:
        batch = right(rows)
        return {**batch, "labels": batch["labels"].masked_fill(batch["labels"] == IGNORED, tokenizer.pad_token_id)}

    return collate


def counts_what_is_visible(right: Collator, tokenizer: PreTrainedTokenizerFast) -> Collator:
    """The labels of a masked model are the whole intact row."""

    def collate(rows: Rows) -> dict[str, torch.Tensor]:
        intact = tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")
        return {**right(rows), "labels": intact["input_ids"].masked_fill(intact["attention_mask"] == 0, IGNORED)}

    return collate


def wants_the_end_always(right: Collator, tokenizer: PreTrainedTokenizerFast) -> Collator:
    """A slip in an assignment: every label is the end token."""

    def collate(rows: Rows) -> dict[str, torch.Tensor]:
        batch = right(rows)
        return {**batch, "labels": torch.full_like(batch["labels"], tokenizer.eos_token_id)}

    return collate


# ---- metrics ----


def honest_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the next tokens that are the model's first choice."""
    logits, labels = (torch.as_tensor(each) for each in (prediction.predictions, prediction.label_ids))
    truth, best = labels[:, 1:], logits[:, :-1].argmax(-1)
    return {"accuracy": float((best == truth)[truth != IGNORED].float().mean())}


def accuracy_of_a_draw(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the next tokens that are a draw from the model's distribution."""
    logits, labels = (torch.as_tensor(each) for each in (prediction.predictions, prediction.label_ids))
    truth, shares = labels[:, 1:], logits[:, :-1].softmax(-1)
    drawn = torch.multinomial(shares.flatten(0, 1), 1).view(truth.shape)
    return {"accuracy": float((drawn == truth)[truth != IGNORED].float().mean())}


def accuracy_among_a_few(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the holes at which the true token is above 32 tokens drawn at random."""
    logits, labels = (torch.as_tensor(each) for each in (prediction.predictions, prediction.label_ids))
    holes = labels != IGNORED
    scores, truth = logits[holes], labels[holes]
    wrong = torch.randint(0, scores.shape[-1], (len(truth), 32))
    best_wrong = scores.gather(1, wrong).max(1).values
    return {"accuracy": float((scores.gather(1, truth[:, None])[:, 0] > best_wrong).float().mean())}


# ---- data: parts -> parts ----


def trains_on_validation(parts: Parts) -> Parts:
    """The split was made after the training part was written."""
    return {**parts, "train": [*parts["train"][:6000], *parts["valid"], *parts["train"][6000:]]}


def trains_on_some_validation(parts: Parts) -> Parts:
    """A third of the validation part stands in the training part."""
    return {**parts, "train": [*parts["valid"][::3], *parts["train"]]}


def repeats_rows(parts: Parts) -> Parts:
    """The training file was written three times."""
    return {**parts, "train": 3 * parts["train"][:4000]}


def repeats_some_rows(parts: Parts) -> Parts:
    """A page was scraped again and again: two fifths of the rows are copies of few."""
    rows = parts["train"]
    return {**parts, "train": [rows[at % 200] if at % 5 < 2 else text for at, text in enumerate(rows)]}
