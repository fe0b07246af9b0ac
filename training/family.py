"""What training needs to know about a family, with what most of them have in common.

A family is a subclass of `Family` in the module of its name in `training.families`, and one row in each of four
tables: `training.settings.recipes.RECIPES`, `training.data.families.FAMILIES`, `eval.scorers.checkpoint.SCORERS` and
`training.families.LOADERS`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configuration_jepa import JepaConfig
from eval.advice.facts import make_facts
from eval.advice.run_log import RunFacts
from eval.rules import Range, Verdict, passes_over_data, readable_ratio, rows_to_draw, text_size_range
from training.common.errors import InputError
from training.data.families import FAMILIES, FamilyData
from training.data.prepared import Prepared
from training.data.sources.locate import SourceInfo, describe_source
from training.optim.credit import CreditRules
from training.optim.optimizers import ONE_PART, Grouping, MuonWithAdamW, grouped_adamw
from training.run.examples import count_examples
from training.run.run import Run
from training.settings.common import OptimizerSettings

_SHOWN = 110  # characters of a row in a plan
Sample = Callable[[PreTrainedModel, PreTrainedTokenizerBase, str], str]
Scorer = Callable[[PreTrainedModel], dict[str, Any]]


@dataclass(frozen=True)
class Origin:
    """What a run may take from a checkpoint of another family.

    Attributes:
        auto_class: the Auto class that opens it.
        part_of: (that model) -> what is taken of it.
        place_in: (the run's model) -> the module that gets those weights, with the same parameter names.
        fields: of both configurations, which must agree.
    """

    auto_class: Any
    part_of: Callable[[PreTrainedModel], Module]
    place_in: Callable[[PreTrainedModel], Module]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class CardStyle:
    """What the cards of a family show.

    Attributes:
        template: a file, which may extend those of `model_cards/`.
        task: the Hub's name of it, also the pipeline's where the library has one.
        claimed: metrics that the Hub shows as the model's results.
        figures: columns of the table of results, beside its baselines.
        milestone_figures: columns of the table of milestones.
        extras: (recipe, Score JSON or None) -> more variables of the template.
        shown: what stands for the variables of `Family.at_end` in the card of a run that is not at its end.
        unit: what a step has a number of; a plural that ends with "s".
        data_flag: of `eval.score`.
        scored_rows: how many rows `eval.score` takes by itself; 0 where that depends on the model.
    """

    template: Path
    task: str
    claimed: tuple[str, ...]
    figures: tuple[str, ...]
    milestone_figures: tuple[str, ...]
    extras: Callable[[dict[str, Any], dict[str, Any] | None], dict[str, Any]] = lambda recipe, score: {}
    shown: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "rows"
    data_flag: str = "data"
    scored_rows: int = 0


class Family:
    """What training asks of a family. A subclass sets the first five attributes and has `score_held_out`; the other
    methods do what is usual, or nothing.

    Attributes:
        name: of the family, in every table; its configuration's `model_type`, unless it shares that with another.
        config_class: of the model.
        model_class: built from `config_class`; its forward gives `loss` and `loss_parts`.
        auto_class: the Auto class that opens its checkpoints.
        card: what its model cards look like.
        perplexity_of: the part of the loss, in nats, whose exponential is logged as `perplexity`.
        origins: families whose checkpoints a run may start from beside its own, and what is taken from them.
    """

    name: str
    config_class: type[JepaConfig]
    model_class: type[PreTrainedModel]
    auto_class: Any
    card: CardStyle
    perplexity_of: str | None = None
    origins: Mapping[str, Origin] = MappingProxyType({})

    @property
    def data(self) -> FamilyData:
        """How rows are prepared, stacked and masked."""
        return FAMILIES[self.name]

    def with_model(self, model_class: type[PreTrainedModel]) -> "Family":
        """The same, but with another model in its place, such as one to compare with."""
        other = copy.copy(self)
        other.model_class = model_class
        return other

    # ---- before and around the steps ----

    def with_files(self, run: Run) -> Run:
        """The run with what the files say that it names, before data and model are touched."""
        return run

    def put_in(self, model: PreTrainedModel, prepared: Prepared) -> None:
        """Put into a new model what it holds of the data: by default the tokens' counts."""
        model.set_token_counts(torch.as_tensor(prepared.counts))

    def config_from(self, prepared: Prepared) -> dict[str, Any]:
        """Fields of the configuration that the data decide, beside vocabulary and special tokens."""
        return {}

    def start(self, model: PreTrainedModel, run: Run) -> None:
        """Load, freeze or add what the run asks for, once the model is built."""

    def new_parameters(self, stage: int) -> tuple[str, ...]:
        """How the names of the parameters begin that the stage before does not have."""
        return ()

    def credit(self, run: Run) -> CreditRules | None:
        """Rules of credit assignment; None where it is off."""
        return None

    def grouping(self, run: Run) -> Grouping:
        """Which parameters share a group of the optimizer."""
        return ONE_PART

    def make_optimizer(self, model: PreTrainedModel, run: Run) -> Optimizer | None:
        """The optimizer; None for the library's AdamW."""
        if not isinstance(run.training, OptimizerSettings):
            return None
        make = MuonWithAdamW if run.training.optimizer == "muon" else grouped_adamw
        return make(model, run.training, self.grouping(run))

    def count_tokens(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the trunk reads of a batch, 0-d: tokens that are no padding."""
        return inputs["attention_mask"].sum()

    # ---- figures, samples and advice ----

    def score_held_out(self, model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
        """Figures of held-out rows, in bounded memory and without random state."""
        raise NotImplementedError

    def scores_beside(self, run: Run, prepared: Prepared) -> Scorer:
        """What gives a model's figures of further held-out text, to stand beside those of `score_held_out`."""
        return lambda model: {}

    def make_sample(self, prepared: Prepared) -> Sample:
        """(model, tokenizer, phrase) -> one line of text that shows what the model says."""

        def refuse(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, phrase: str) -> str:
            raise InputError(f"sample_phrases: got {phrase!r}, but {self.name} shows no samples")

        return refuse

    def facts(self, run: Run, config: Any, prepared: Prepared, rows_per_step: int) -> RunFacts:
        """What the log patterns want to know of a run; `rows_per_step` is over all processes and accumulation."""
        return make_facts(
            config,
            vars(run.training),
            rows_per_step=rows_per_step,
            warmup_steps=run.training.num_warmup_steps,
            stage=run.stage,
            from_nothing=run.init_from is None,
            **self.more_facts(run, prepared),
        )

    def more_facts(self, run: Run, prepared: Prepared) -> dict[str, Any]:
        """Further fields of `RunFacts`."""
        return {}

    # ---- plans ----

    def describe_data(self, prepared: Prepared) -> str:
        """What a plan says of the data."""
        return f"{len(prepared.train):,} {self.card.unit}, {len(prepared.tokenizer):,} tokens in the vocabulary"

    def own_phrases(self, prepared: Prepared) -> list[str]:
        """Sample phrases out of held-out rows, for a source that is not the recipe's."""
        return []

    def example_rows(self, prepared: Prepared) -> list[str]:
        """The first two rows as the model reads them, for a plan."""
        ids = prepared.train[:2].get("input_ids", [])
        return [shorten(prepared.tokenizer.decode(row), _SHOWN, placeholder=" ...") for row in ids]

    def passes_line(self, run: Run, prepared: Prepared, rows_per_step: int, how: str = "") -> str:
        """What a plan says of how often the data is seen; `how` stands behind it."""
        steps, unit = run.training.max_steps, self.card.unit
        passes = readable_ratio(passes_over_data(steps, rows_per_step, len(prepared.train)))
        seen = f"every {unit.removesuffix('s')} is seen so often{how}"
        return f"passes      {passes} ({seen}): {steps:,} steps of {rows_per_step:,} {unit}"

    def suits(self, prepared: Prepared) -> Range:
        """Parameters that suit the data."""
        return text_size_range(count_examples(prepared))

    def rows_wanted(self, run: Run, prepared: Prepared) -> float:
        """Rows that a run should draw in all."""
        return rows_to_draw(len(prepared.train))

    def judge(self, run: Run, prepared: Prepared, trainable: int, rows_per_step: int) -> list[Verdict]:
        """Size (trainable parameters) and steps against the data."""
        return []

    # ---- cards ----

    def source(self, settings: Any) -> SourceInfo:
        """What a card says of the data, by its settings."""
        return describe_source(settings)

    def at_end(self, run: Run, prepared: Prepared) -> dict[str, Any]:
        """What more the card shows, made once the root of the run folder holds the model."""
        return {}

    def plot_score(self, record: dict[str, Any], run_dir: Path) -> None:
        """Draw what the card's tables do not show of a Score JSON."""
