"""What training needs to know about the latent text model, beyond what all families share."""

import json
import shlex
from typing import Any

from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from configuration_jepa import TextJepaConfig
from eval.fill_blank import fill_blank
from eval.rules import (
    Verdict,
    judge_steps,
    judge_text_size,
    readable,
    rows_per_example,
    rows_to_draw,
)
from eval.scorers.text_jepa import MAX_ROWS, score_rows
from modeling_jepa import TextJepaForMaskedLM
from training.common.errors import InputError
from training.common.layout import TEMPLATES
from training.data.prepared import Prepared
from training.data.sources.rows import WITHOUT_SPACES
from training.family import CardStyle, Family, Sample
from training.run.examples import count_examples, holes_per_row, mean_length
from training.run.run import Run

_LOOKED_AT, _SHORTEST, _PHRASES = 200, 5, 3


def _fill_phrase(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, phrase: str) -> str:
    try:
        guesses = fill_blank(model, tokenizer, phrase).guesses
    except InputError as error:  # a word that this vocabulary lacks is no reason to stop a run
        return f"{phrase}: {error}"
    return f"{phrase}: {', '.join(guess.token for guess in guesses)}"


def _holes(run: Run, prepared: Prepared) -> float:
    return holes_per_row(run.masking, mean_length(prepared))


def _card_extras(recipe: dict[str, Any], score: dict[str, Any] | None) -> dict[str, Any]:
    tokens = score["metrics"]["most_predicted"][:5] if score else []
    phrases = [*recipe["evaluation"]["sample_phrases"], "the _ of the"]
    phrase = next(phrase for phrase in phrases if "_" in phrase)
    before, after = json.dumps(phrase.replace("{", "{{").replace("}", "}}"), ensure_ascii=False).split("_", 1)
    return {
        "phrase_with_hole": f"f{before}{{fill.tokenizer.mask_token}}{after}",
        "phrase_without_hole": json.dumps(" ".join(phrase.replace("_", " ").split()), ensure_ascii=False),
        "phrase_as_asked": shlex.quote(phrase),
        "most_predicted": ", ".join(f"`{token}` {share:.1%}" for token, share in tokens),
    }


class TextJepa(Family):
    """The latent text model."""

    name = "text_jepa"
    config_class = TextJepaConfig
    model_class = TextJepaForMaskedLM
    auto_class = AutoModelForMaskedLM
    card = CardStyle(
        template=TEMPLATES / "template_text_jepa.md",
        task="fill-mask",
        claimed=("top1", "mrr"),
        figures=("top1", "top5", "top10", "mrr", "median_rank", "mean_rank", "cosine", "share_cos_above_0_9"),
        milestone_figures=("loss", "top1", "top10", "mrr", "median_rank", "effective_rank"),
        extras=_card_extras,
        scored_rows=MAX_ROWS,
    )

    def score_held_out(self, model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
        """Ranks of the true tokens at blanks, beside those of the most frequent ones."""
        scores = score_rows(model, prepared.tokenizer, prepared.valid, model.token_counts, max_rows=max_rows)
        unigram = scores.baselines["unigram"]
        return {
            **scores.metrics,
            "unigram_top1": unigram["top1"],
            "unigram_mrr": unigram["mrr"],
            "top_token_share": scores.metrics["most_predicted"][0][1],
        }

    def make_sample(self, prepared: Prepared) -> Sample:
        """The best guesses for a phrase's blank."""
        return _fill_phrase

    def own_phrases(self, prepared: Prepared) -> list[str]:
        """Held-out rows without the token in their middle."""
        tokenizer, phrases = prepared.tokenizer, []
        for ids in prepared.valid[:_LOOKED_AT]["input_ids"]:
            known = [token for token in ids if token not in tokenizer.all_special_ids]
            middle = len(known) // 2
            if len(known) < _SHORTEST or tokenizer.unk_token_id in ids:
                continue
            before, after = tokenizer.decode(known[:middle]), tokenizer.decode(known[middle + 1 :])
            gap = "" if WITHOUT_SPACES.search(before[-1:]) else " "
            phrases.append(f"{before.strip()}{gap}_{gap}{after.strip()}".replace("\ufffd", ""))
        return phrases[:_PHRASES]

    def more_facts(self, run: Run, prepared: Prepared) -> dict[str, Any]:
        """How many rows there are, and how many holes they have."""
        rows = prepared.reports["train"]["rows"]
        kept, left_out = rows["kept"], sum(rows["filtered"].values()) + sum(rows["bad"].values())
        if run.data.streaming:  # only a sample is known: 0 says so
            kept = left_out = 0
        return {"holes_per_row": _holes(run, prepared), "rows_read": kept + left_out, "rows_kept": kept}

    def describe_data(self, prepared: Prepared) -> str:
        """Rows, effective examples and vocabulary."""
        return (
            f"{len(prepared.train):,} rows of {mean_length(prepared):.1f} tokens: "
            f"{readable(count_examples(prepared))} effective examples (row and position), "
            f"{len(prepared.tokenizer):,} tokens in the vocabulary"
        )

    def passes_line(self, run: Run, prepared: Prepared, rows_per_step: int, how: str = "") -> str:
        """With the number of holes."""
        how = f", each time with {_holes(run, prepared):.1f} holes"
        return super().passes_line(run, prepared, rows_per_step, how)

    def rows_wanted(self, run: Run, prepared: Prepared) -> float:
        """By the effective examples."""
        return rows_to_draw(count_examples(prepared), _holes(run, prepared))

    def judge(self, run: Run, prepared: Prepared, trainable: int, rows_per_step: int) -> list[Verdict]:
        """Both against the effective examples."""
        examples = count_examples(prepared)
        per_example = rows_per_example(run.training.max_steps, rows_per_step, examples)
        return [judge_text_size(trainable, examples), judge_steps(per_example, _holes(run, prepared))]
