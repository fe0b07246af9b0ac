"""What training needs to know about the staged generator, beyond what all families share."""

from dataclasses import replace
from functools import cache
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from configuration_jepa import StagedGeneratorConfig
from eval.generate import sample_line, training_words
from eval.loading import checked_name
from eval.rules import PASSES_OF_A_CORPUS, Range, Verdict, judge_generator_size, readable, token_size_range
from eval.scorers.causal import held_out_figures
from eval.scorers.text_jepa import MAX_ROWS
from modeling_jepa import StagedGeneratorForCausalLM
from training.common.errors import InputError
from training.common.layout import TEMPLATES
from training.common.manifest import read_run
from training.data.prepared import Prepared
from training.family import CardStyle, Family, Sample, Scorer
from training.init_from.growing import OF_A_TEXT, own_start
from training.optim.credit import CreditRules
from training.optim.optimizers import BY_PART, ONE_PART, Grouping
from training.run.examples import count_examples, mean_length
from training.run.run import Run
from training.settings.schema import keys_of_config


def _card_extras(recipe: dict[str, Any], score: dict[str, Any] | None) -> dict[str, Any]:
    edges = (score["metrics"]["edge_mass"] if score else None) or {}
    return {
        "edges": ", ".join(f"{kind} {share:.1%}" for kind, share in edges.items()),
    }


class StagedGenerator(Family):
    """The staged generator."""

    name = "staged_generator"
    config_class = StagedGeneratorConfig
    model_class = StagedGeneratorForCausalLM
    auto_class = AutoModelForCausalLM
    perplexity_of = "cross_entropy"
    card = CardStyle(
        template=TEMPLATES / "template_staged_generator.md",
        task="text-generation",
        claimed=("perplexity", "word_perplexity", "bits_per_byte"),
        figures=("perplexity", "word_perplexity", "bits_per_byte", "greedy_accuracy", "leak_gap"),
        milestone_figures=("loss", "perplexity", "bits_per_byte", "greedy_accuracy", "unigram_accuracy"),
        extras=_card_extras,
        unit="blocks",
        scored_rows=MAX_ROWS,
    )

    def with_files(self, run: Run) -> Run:
        """Where the recipe names no size, model and vocabulary are those of the checkpoint of `init_from`."""
        start = own_start(run) or run.init_from
        if start is None or "hidden_size" in run.model:
            return run
        try:
            origin = AutoConfig.from_pretrained(checked_name(start))
        except (OSError, ValueError):  # refused by name, with all else that can be wrong with it
            return run
        if not isinstance(origin, StagedGeneratorConfig):
            return run
        taken = {key.name: getattr(origin, key.name) for key in keys_of_config(StagedGeneratorConfig)}
        before = (read_run(start) or {}).get("recipe", {}).get("data", {})
        usual = type(run.data)()
        words = {name: before[name] for name in OF_A_TEXT if name in before}
        data = {name: value for name, value in words.items() if getattr(run.data, name) == getattr(usual, name)}
        stage = max(run.stage or 0, origin.stage)
        return replace(run, stage=stage).with_settings(model={**taken, **run.model}, data=data)

    def score_held_out(self, model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
        """Perplexity and its kin, and what the blocks of the model say of themselves."""
        figures = held_out_figures(model, prepared.tokenizer, prepared.valid, max_rows)
        return {**figures, **model.block_figures()}

    def scores_beside(self, run: Run, prepared: Prepared) -> Scorer:
        """Perplexity and greedy accuracy on the held-out blocks of the text to keep, by the run's tokenizer."""
        if run.evaluation.keep is None:
            return super().scores_beside(run, prepared)
        settings = replace(run.data, data=run.evaluation.keep, streaming=False)
        try:
            kept = self.data.prepare(settings, self.config_class(**run.config_fields), prepared.tokenizer).valid
        except InputError as error:
            raise InputError(f"keep: {str(error).removeprefix('data: ')}") from None

        def score(model: PreTrainedModel) -> dict[str, Any]:
            figures = held_out_figures(model, prepared.tokenizer, kept, run.evaluation.eval_rows)
            return {f"keep_{name}": figures[name] for name in ("perplexity", "greedy_accuracy")}

        return score

    def make_sample(self, prepared: Prepared) -> Sample:
        """A prompt's continuations, greedily and by top-k."""

        @cache
        def words() -> frozenset[str] | None:  # the whole training text is read, where a sample is asked for at all
            return training_words(prepared.settings)

        return lambda model, tokenizer, phrase: sample_line(model, tokenizer, phrase, words=words())

    def new_parameters(self, stage: int) -> tuple[str, ...]:
        """As the model says."""
        return self.model_class.new_parameters(stage)

    def credit(self, run: Run) -> CreditRules | None:
        """By the recipe, and by the stage where it says `auto`."""
        settings, mode = run.training, run.training.credit_mode(run.stage)
        if mode == "off":
            return None
        return CreditRules(
            steps=settings.credit_steps,
            siblings=settings.credit_siblings,
            rest=0.0 if mode == "adapt" else settings.credit_rest,
            floor=0.0 if mode == "adapt" else settings.credit_floor,
            scales=mode in ("scale", "adapt"),
            freezes=mode == "adapt",
            measure=settings.credit_measure,
            control=settings.credit_control,
            seed=settings.seed,
        )

    def grouping(self, run: Run) -> Grouping:
        """Credit needs each part's parameters in groups of their own; gates have a rate of their own."""
        settings = run.training

        def rate(name: str) -> float:
            return settings.learning_rate * (settings.gate_rate if name.endswith(".gate") else 1.0)

        return replace(ONE_PART if self.credit(run) is None else BY_PART, rate=rate)

    def more_facts(self, run: Run, prepared: Prepared) -> dict[str, Any]:
        """Tokens per block, and what credit leaves of an update."""
        credit = self.credit(run)
        scaled = credit is not None and credit.scales and not credit.freezes  # what is frozen starves by intent
        rest = max(credit.rest, credit.floor) if credit is not None and scaled else None
        return {"holes_per_row": mean_length(prepared), "credit_rest": rest}

    def own_phrases(self, prepared: Prepared) -> list[str]:
        """How held-out blocks begin."""
        begins = (
            prepared.tokenizer.decode(ids[:8], skip_special_tokens=True) for ids in prepared.valid[:20]["input_ids"]
        )
        return [text for text in dict.fromkeys(begin.strip() for begin in begins) if text][:2]

    def describe_data(self, prepared: Prepared) -> str:
        """Tokens, blocks and vocabulary."""
        return (
            f"{readable(count_examples(prepared))} tokens to predict in {len(prepared.train):,} blocks of "
            f"{prepared.max_length:,}: {len(prepared.tokenizer):,} tokens in the vocabulary"
        )

    def passes_line(self, run: Run, prepared: Prepared, rows_per_step: int, how: str = "") -> str:
        """With the tokens of a step."""
        tokens = readable(rows_per_step * mean_length(prepared))
        return f"{super().passes_line(run, prepared, rows_per_step)}, {tokens} tokens"

    def suits(self, prepared: Prepared) -> Range:
        """By the tokens."""
        return token_size_range(count_examples(prepared))

    def rows_wanted(self, run: Run, prepared: Prepared) -> float:
        """Some passes: further ones teach little."""
        return PASSES_OF_A_CORPUS * len(prepared.train)

    def judge(self, run: Run, prepared: Prepared, trainable: int, rows_per_step: int) -> list[Verdict]:
        """The size alone: a corpus is seldom seen twice."""
        return judge_generator_size(trainable, count_examples(prepared))
