"""What training needs to know about the staged generator, beyond what all families share."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from configuration_jepa import StagedGeneratorConfig
from eval.advice.run_log import RunFacts
from eval.generate import sample_line, training_words
from eval.rules import Verdict, judge_generator_size, passes_over_data, readable, readable_ratio
from eval.scorers.causal import held_out_figures
from eval.scorers.text_jepa import MAX_ROWS
from modeling_jepa import StagedGeneratorForCausalLM
from training.common.layout import TEMPLATES
from training.common.wording import max_rows_flag
from training.data.families import FAMILIES
from training.data.prepared import Prepared
from training.family import CardStyle, Family
from training.optim.credit import CreditRules
from training.optim.optimizers import BY_PART, ONE_PART, MuonWithAdamW, grouped_adamw
from training.run.examples import count_examples, unknown_size
from training.run.run import Run
from training.settings.staged_generator import credit_mode


def _score_held_out(model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
    return {
        **held_out_figures(model, prepared.tokenizer, prepared.valid, max_rows),
        **model.block_figures(),
    }


def _make_sample(prepared: Prepared) -> Callable[[PreTrainedModel, PreTrainedTokenizerBase, str], str]:
    @cache
    def words() -> frozenset[str] | None:  # the whole training text is read, where a sample is asked for at all
        return training_words(prepared.settings)

    def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, phrase: str) -> str:
        return sample_line(model, tokenizer, phrase, words=words())

    return sample


def _credit(run: Run) -> CreditRules | None:
    settings, mode = run.training, credit_mode(run.training, run.stage)
    if mode == "off":
        return None
    return CreditRules(
        steps=settings.credit_steps,
        siblings=settings.credit_siblings,
        rest=settings.credit_rest,
        floor=settings.credit_floor,
        scales=mode == "scale",
        measure=settings.credit_measure,
        control=settings.credit_control,
        seed=settings.seed,
    )


def _make_optimizer(model: PreTrainedModel, run: Run) -> Optimizer:
    make = MuonWithAdamW if run.training.optimizer == "muon" else grouped_adamw
    settings = run.training

    def rate(name: str) -> float:
        return settings.learning_rate * (settings.gate_rate if name.endswith(".gate") else 1.0)

    return make(model, settings, replace(ONE_PART if _credit(run) is None else BY_PART, rate=rate))


def _facts(run: Run, config: StagedGeneratorConfig, prepared: Prepared, rows_per_step: int) -> RunFacts:
    credit = _credit(run)
    return RunFacts(
        max_steps=run.training.max_steps,
        warmup_steps=run.training.num_warmup_steps,
        learning_rate=run.training.learning_rate,
        logging_steps=run.training.logging_steps,
        rows_per_step=rows_per_step,
        holes_per_row=count_examples(prepared) / max(1, len(prepared.train)),
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        table_head=False,
        weights={"cross_entropy": 1.0, "block_decorrelation": float(config.block_decorrelation_weight)},
        stage=run.stage,
        from_nothing=run.init_from is None,
        generates=True,
        credit_rest=max(credit.rest, credit.floor) if credit is not None and credit.scales else None,
    )


def _data_lines(run: Run, prepared: Prepared) -> list[str]:
    line = (
        f"data        {readable(count_examples(prepared))} tokens to predict in {len(prepared.train):,} blocks of "
        f"{prepared.max_length:,}: {len(prepared.tokenizer):,} tokens in the vocabulary"
    )
    return [line, *unknown_size(run)]


def _passes_line(run: Run, prepared: Prepared, rows_per_step: int) -> str:
    steps = run.training.max_steps
    passes = passes_over_data(steps, rows_per_step, len(prepared.train))
    tokens = readable(rows_per_step * count_examples(prepared) / max(1, len(prepared.train)))
    return (
        f"passes      {readable_ratio(passes)} (every block is seen so often): {steps:,} steps of {rows_per_step:,} "
        f"blocks, {tokens} tokens"
    )


def _judge(run: Run, prepared: Prepared, trainable: int, rows_per_step: int) -> list[Verdict]:
    return judge_generator_size(trainable, count_examples(prepared))


def _card_extras(recipe: dict[str, Any], score: dict[str, Any] | None) -> dict[str, Any]:
    edges = (score["metrics"]["edge_mass"] if score else None) or {}
    return {
        "edges": ", ".join(f"{kind} {share:.1%}" for kind, share in edges.items()),
        "max_rows": max_rows_flag(recipe["evaluation"]["score_rows"], MAX_ROWS),
    }


STAGED_GENERATOR = Family(
    config_class=StagedGeneratorConfig,
    model_class=StagedGeneratorForCausalLM,
    auto_class=AutoModelForCausalLM,
    data=FAMILIES[StagedGeneratorConfig.model_type],
    score_held_out=_score_held_out,
    make_sample=_make_sample,
    facts=_facts,
    data_lines=_data_lines,
    passes_line=_passes_line,
    judge=_judge,
    card=CardStyle(
        template=TEMPLATES / "template_staged_generator.md",
        task="text-generation",
        claimed=("perplexity", "word_perplexity", "bits_per_byte"),
        figures=("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy", "leak_gap"),
        milestone_figures=("loss", "perplexity", "bits_per_byte", "greedy_accuracy", "unigram_accuracy"),
        extras=_card_extras,
        unit="blocks",
    ),
    make_optimizer=_make_optimizer,
    credit=_credit,
    new_parameters=StagedGeneratorForCausalLM.new_parameters,
)
