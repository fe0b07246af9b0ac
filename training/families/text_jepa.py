"""What training needs to know about the latent text model, beyond what all families share."""

import json
import shlex
from typing import Any

from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from configuration_jepa import TextJepaConfig
from eval.advice.run_log import RunFacts
from eval.fill_blank import fill_blank
from eval.rules import (
    Verdict,
    judge_steps,
    judge_text_size,
    passes_over_data,
    readable,
    readable_ratio,
    rows_per_example,
)
from eval.scorers.text_jepa import MAX_ROWS, score_rows
from modeling_jepa import TextJepaForMaskedLM
from training.common.errors import InputError
from training.common.layout import TEMPLATES
from training.common.wording import max_rows_flag
from training.data.families import FAMILIES
from training.data.prepared import Prepared
from training.family import CardStyle, Family
from training.run.examples import count_examples, holes_per_row, mean_length, unknown_size
from training.run.run import Run


def _score_blanks(model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
    scores = score_rows(model, prepared.tokenizer, prepared.valid, model.token_counts, max_rows=max_rows)
    unigram = scores.baselines["unigram"]
    return {
        **scores.metrics,
        "unigram_top1": unigram["top1"],
        "unigram_mrr": unigram["mrr"],
        "top_token_share": scores.metrics["most_predicted"][0][1],
    }


def _fill_phrase(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, phrase: str) -> str:
    try:
        guesses = fill_blank(model, tokenizer, phrase).guesses
    except InputError as error:  # a word that this vocabulary lacks is no reason to stop a run
        return f"{phrase}: {error}"
    return f"{phrase}: {', '.join(guess.token for guess in guesses)}"


def _facts(run: Run, config: TextJepaConfig, prepared: Prepared, rows_per_step: int) -> RunFacts:
    return run_facts(run, config, prepared.reports["train"], rows_per_step, _holes(run, prepared))


def _data_lines(run: Run, prepared: Prepared) -> list[str]:
    line = (
        f"data        {len(prepared.train):,} rows of {mean_length(prepared):.1f} tokens: "
        f"{readable(count_examples(prepared))} effective examples (row and position), "
        f"{len(prepared.tokenizer):,} tokens in the vocabulary"
    )
    return [line, *unknown_size(run)]


def _passes_line(run: Run, prepared: Prepared, rows_per_step: int) -> str:
    steps = run.training.max_steps
    passes = passes_over_data(steps, rows_per_step, len(prepared.train))
    return (
        f"passes      {readable_ratio(passes)} (every row is seen so often, each time with "
        f"{_holes(run, prepared):.1f} holes): {steps:,} steps of {rows_per_step:,} rows"
    )


def _judge(run: Run, prepared: Prepared, trainable: int, rows_per_step: int) -> list[Verdict]:
    examples = count_examples(prepared)
    per_example = rows_per_example(run.training.max_steps, rows_per_step, examples)
    return [judge_text_size(trainable, examples), judge_steps(per_example, _holes(run, prepared))]


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
        "max_rows": max_rows_flag(recipe["evaluation"]["score_rows"], MAX_ROWS),
    }


TEXT_JEPA = Family(
    config_class=TextJepaConfig,
    model_class=TextJepaForMaskedLM,
    auto_class=AutoModelForMaskedLM,
    data=FAMILIES[TextJepaConfig.model_type],
    score_held_out=_score_blanks,
    make_sample=lambda prepared: _fill_phrase,
    facts=_facts,
    data_lines=_data_lines,
    passes_line=_passes_line,
    judge=_judge,
    card=CardStyle(
        template=TEMPLATES / "template_text_jepa.md",
        task="fill-mask",
        claimed=("top1", "mrr"),
        figures=("top1", "top5", "top10", "mrr", "median_rank", "mean_rank", "cosine", "share_cos_above_0_9"),
        milestone_figures=("loss", "top1", "top10", "mrr", "median_rank", "effective_rank"),
        extras=_card_extras,
    ),
)


def run_facts(run: Run, config: Any, report: dict[str, Any], rows_per_step: int, holes_per_row: float) -> RunFacts:
    """The facts of a run as the patterns want them.

    Args:
        config: the model's configuration.
        report: of the training part, see `Prepared.reports`.
        rows_per_step: over all processes and accumulation.
        holes_per_row: mean number of holes, see `training.run.examples`.
    """
    rows = report["rows"]
    weights = {name: getattr(config, f"{name}_weight") for name in ("ranking", "alignment", "auxiliary")}
    if config.collapse_protection != "none":
        weights["collapse"] = config.collapse_weight
    kept, left_out = rows["kept"], sum(rows["filtered"].values()) + sum(rows["bad"].values())
    if run.data.streaming:  # only a sample is known: 0 says so
        kept = left_out = 0
    return RunFacts(
        max_steps=run.training.max_steps,
        warmup_steps=run.training.num_warmup_steps,
        learning_rate=run.training.learning_rate,
        logging_steps=run.training.logging_steps,
        rows_per_step=rows_per_step,
        holes_per_row=holes_per_row,
        num_negatives=config.num_negatives,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        temperature=config.temperature,
        table_head=config.head == "cosine",
        weights=weights,
        rows_read=kept + left_out,
        rows_kept=kept,
        stage=run.stage,
        from_nothing=run.init_from is None,
    )
