"""What training needs to know about the dialogue model, beyond what all families share."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from configuration_jepa import DialogueJepaConfig, TextJepaConfig
from eval.advice.run_log import RunFacts
from eval.loading import open_model, open_tokenizer
from eval.metrics.ngrams import Unigram
from eval.metrics.representation import mean_pairwise_cosine
from eval.replies.index import ReplyIndex
from eval.rules import Verdict, judge_steps, judge_text_size, passes_over_data, readable, readable_ratio
from eval.score import write_json
from eval.scorers.dialogue import MAX_PAIRS, answer_pairs, figures, latent_ranks, read_pairs
from modeling_jepa import DialogueJepaForConditionalGeneration
from training.common.layout import TEMPLATES, TRANSCRIPT_FILE
from training.common.wording import max_rows_flag
from training.data.families import FAMILIES
from training.data.prepared import Prepared
from training.families.dialogue_answers import Answerer, training_replies, transcript
from training.family import CardStyle, Family, Origin
from training.optim.optimizers import Grouping, MuonWithAdamW, grouped_adamw
from training.run.run import Run

# What a line of held-out figures begins with.
_LEADING = (
    "perplexity",
    "latent_usage_ratio",
    "hits_at_1",
    "mrr",
    "accuracy",
    "effective_rank",
    "target_effective_rank",
)
_TRUNK = r"\blayers\.\d+\.|\breader\.attention\.|\bpredictor\.|\bdecoder\.(latent|context|word)_proj\.|\bbag_head\."
_OF_DECODER = ("decoder.", "lm_head.")
_OF_ENCODER = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "rope_theta"),
    *("norm_eps", "qk_norm", "gated_mlp", "scale_embeddings"),
)
_PRETRAINED = "decoder.language_model."


def _score_held_out(model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
    pairs = read_pairs(prepared.valid, max_rows)
    answers = answer_pairs(model, prepared.tokenizer, pairs)
    found = {**figures(answers), **latent_ranks(answers)}
    return {
        **{name: found[name] for name in _LEADING},
        **found,
        "mean_pairwise_cosine": mean_pairwise_cosine(answers.predicted.flatten(1)) if len(pairs) > 1 else None,
        "unigram_perplexity": _unigram_perplexity(model, np.concatenate(pairs.labels)),
    }


def _unigram_perplexity(model: PreTrainedModel, labels: np.ndarray) -> float | None:
    """By the training replies' counts; None for a model that was never told them."""
    counts = model.token_counts.cpu().numpy()
    return float(np.exp(Unigram(counts).nll[labels].mean())) if counts.any() else None


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
    weights = {name: float(getattr(config, f"{name}_weight")) for name in ("reply", "alignment", "ranking", "bag")}
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


def _put_in(model: PreTrainedModel, run: Run) -> None:
    if run.training.pretrained_decoder is not None:
        from training.init_from.pretrained_decoder import put_in

        put_in(model, run)


def _with_files(run: Run) -> Run:
    if run.training.pretrained_decoder is None:
        return run
    from training.init_from.pretrained_decoder import with_pretrained_decoder  # and with it peft, which takes a second

    return with_pretrained_decoder(run)


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
    return {"max_rows": max_rows_flag(recipe["evaluation"]["score_rows"], MAX_PAIRS)}


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
        unit="pairs",
    ),
    make_optimizer=_make_optimizer,
    with_files=_with_files,
    start=_put_in,
    origins={
        TextJepaConfig.model_type: Origin(
            auto_class=AutoModelForMaskedLM,
            part_of=lambda text: text.model,
            place_in=lambda dialogue: dialogue.model.reader.encoder,
            fields=_OF_ENCODER,
        )
    },
    at_end=_at_end,
)
