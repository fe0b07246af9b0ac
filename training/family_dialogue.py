"""What training needs to know about the dialogue model, beyond what all families share."""

import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from configuration_jepa import DialogueJepaConfig
from eval.loading import open_model, open_tokenizer
from eval.retrieval import ReplyIndex
from eval.rules import Verdict, judge_steps, judge_text_size, passes_over_data, readable, readable_ratio
from eval.run_log import RunFacts
from eval.score import write_json
from eval.scorers.text_jepa import MAX_ROWS
from modeling_jepa import DialogueJepaForConditionalGeneration
from training.arguments import Run
from training.cards import TEMPLATES, CardStyle, max_rows_flag
from training.data.families import FAMILIES
from training.data.prepared import Prepared
from training.dialogue_answers import Answerer, training_replies, transcript
from training.dialogue_figures import held_out_figures
from training.families import Family
from training.layout import TRANSCRIPT_FILE
from training.optimizers import Grouping, MuonWithAdamW, grouped_adamw

_TRUNK = r"\blayers\.\d+\.|\breader\.attention\.|\bpredictor\.|\bdecoder\.latent_proj\."
_OF_DECODER = ("decoder.", "lm_head.")
_PRETRAINED = "decoder.language_model."


def _score_held_out(model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
    return held_out_figures(model, prepared.valid, max_rows)


def _make_sample(prepared: Prepared) -> Callable[[PreTrainedModel, PreTrainedTokenizerBase, str], str]:
    return Answerer(prepared).line


def _is_matrix_of_trunk(name: str, parameter: nn.Parameter) -> bool:
    """Muon's: those that start from nothing. A pretrained decoder was made by Adam, and goes on with it."""
    return parameter.ndim == 2 and not name.startswith(_PRETRAINED) and re.search(_TRUNK, name) is not None


def _make_optimizer(model: PreTrainedModel, run: Run) -> Optimizer:
    settings = run.training
    grouping = Grouping(
        rate=lambda name: settings.decoder_rate if name.startswith(_OF_DECODER) else settings.learning_rate,
        is_matrix_of_trunk=_is_matrix_of_trunk,
    )
    return (MuonWithAdamW if settings.optimizer == "muon" else grouped_adamw)(model, settings, grouping)


def _facts(run: Run, config: DialogueJepaConfig, prepared: Prepared, rows_per_step: int) -> RunFacts:
    weights = {name: float(getattr(config, f"{name}_weight")) for name in ("reply", "alignment", "ranking")}
    if config.collapse_protection != "none":
        weights["collapse"] = float(config.collapse_weight)
    return RunFacts(
        max_steps=run.training.max_steps,
        warmup_steps=run.training.num_warmup_steps,
        learning_rate=run.training.learning_rate,
        logging_steps=run.training.logging_steps,
        rows_per_step=rows_per_step,
        hidden_size=config.hidden_size * config.num_latents,
        vocab_size=config.vocab_size,
        temperature=config.temperature,
        table_head=False,
        weights=weights,
        from_nothing=run.init_from is None,
        answers=True,
    )


def _data_lines(run: Run, prepared: Prepared) -> list[str]:
    pairs, tokens = len(prepared.train), int(prepared.counts.sum())
    return [
        f"data        {pairs:,} pairs, replies of {tokens / pairs:.1f} tokens: {readable(pairs)} effective examples "
        f"(pairs), {len(prepared.tokenizer):,} tokens in the vocabulary"
    ]


def _passes_line(run: Run, prepared: Prepared, rows_per_step: int) -> str:
    steps = run.training.max_steps
    passes = passes_over_data(steps, rows_per_step, len(prepared.train))
    seen = f"{readable_ratio(passes)} (every pair is seen so often)"
    return f"passes      {seen}: {steps:,} steps of {rows_per_step:,} pairs"


def _judge(run: Run, prepared: Prepared, trainable: int, rows_per_step: int) -> list[Verdict]:
    pairs = len(prepared.train)
    return [
        judge_text_size(trainable, pairs),
        judge_steps(passes_over_data(run.training.max_steps, rows_per_step, pairs)),
    ]


def _at_end(run: Run, prepared: Prepared) -> dict[str, Any]:
    """The index of the training replies goes beside the model, and what it answers into the card."""
    tokenizer = open_tokenizer(run.output_dir)
    model = open_model(run.output_dir, AutoModelForSeq2SeqLM, None if run.device == "auto" else run.device)
    index = ReplyIndex.build(model, tokenizer, training_replies(prepared))
    index.save(run.output_dir)
    answers = transcript(model, tokenizer, index, prepared.test)
    write_json({"answers": answers}, run.output_dir / TRANSCRIPT_FILE)
    return {"transcript": answers, "replies": len(index)}


def _card_extras(recipe: dict[str, Any], score: dict[str, Any] | None) -> dict[str, Any]:
    return {"max_rows": max_rows_flag(recipe["evaluation"]["score_rows"], MAX_ROWS)}


DIALOGUE_JEPA = Family(
    config_class=DialogueJepaConfig,
    model_class=DialogueJepaForConditionalGeneration,
    auto_class=AutoModelForSeq2SeqLM,
    data=FAMILIES[DialogueJepaConfig.model_type],
    score_held_out=_score_held_out,
    make_sample=_make_sample,
    facts=_facts,
    data_lines=_data_lines,
    passes_line=_passes_line,
    judge=_judge,
    card=CardStyle(
        template=TEMPLATES / "template_dialogue_jepa.md",
        task="text-generation",
        claimed=("perplexity", "hits_at_1", "mrr"),
        figures=(
            *("perplexity", "latent_usage_ratio", "hits_at_1", "hits_at_5", "mrr"),
            *("distinct_1", "distinct_2", "effective_rank"),
        ),
        milestone_figures=(
            "loss",
            "perplexity",
            "latent_usage_ratio",
            "hits_at_1",
            "mrr",
            "effective_rank",
            "target_effective_rank",
        ),
        extras=_card_extras,
    ),
    make_optimizer=_make_optimizer,
    at_end=_at_end,
)
