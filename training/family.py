"""The contract of a family: what training needs to know about it. Each is a module of `training.families`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configuration_jepa import JepaConfig

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from eval.advice.run_log import RunFacts
    from eval.rules import Verdict
    from training.data.families import FamilyData
    from training.data.prepared import Prepared
    from training.data.sources.locate import SourceInfo
    from training.optim.credit import CreditRules
    from training.run.run import Run


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
    part_of: Callable[["PreTrainedModel"], "Module"]
    place_in: Callable[["PreTrainedModel"], "Module"]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """What training needs to know about a family.

    Attributes:
        model_class: built from `config_class`; its forward gives `loss` and `loss_parts`.
        auto_class: the Auto class that opens its checkpoints.
        data: how rows are prepared, stacked and masked.
        score_held_out: (model, prepared data, max_rows) -> figures; bounded memory, no random state.
        make_sample: (prepared data) -> (model, tokenizer, phrase) -> one line of text that shows what the model says.
        facts: (run, configuration, prepared data, rows per step) -> what the log patterns want to know of a run.
        data_lines: (run, prepared data) -> what a plan says of the data.
        passes_line: (run, prepared data, rows per step) -> what a plan says of how often the data is seen.
        judge: (run, prepared data, trainable parameters, rows per step) -> size and steps against the data.
        card: what its model cards look like.
        make_optimizer: (model, run) -> the optimizer; None for the library's AdamW.
        credit: (run) -> rules of credit assignment, or None where it is off.
        new_parameters: (stage) -> what the names of the parameters contain that the stage before does not have.
        put_in: (model, prepared data) -> what of the data, beside the tokens' counts, the model holds.
        source: (data settings) -> what a card says of the data; None for sources of text.
        with_files: (run) -> the run with what the files say that it names, before data and model are touched.
        start: (model, run) -> what is loaded, frozen or added once the model is built.
        origins: families whose checkpoints a run may start from beside its own, and what is taken from them.
        at_end: (run, prepared data), once the root of the run folder holds the model -> what more its card shows.
        plot_score: (Score JSON, run folder), draws what the card's tables do not show.
    """

    config_class: type[JepaConfig]
    model_class: type["PreTrainedModel"]
    auto_class: Any
    data: "FamilyData"
    score_held_out: Callable[["PreTrainedModel", "Prepared", int], dict[str, Any]]
    make_sample: Callable[["Prepared"], Callable[["PreTrainedModel", "PreTrainedTokenizerBase", str], str]]
    facts: Callable[["Run", Any, "Prepared", int], "RunFacts"]
    data_lines: Callable[["Run", "Prepared"], list[str]]
    passes_line: Callable[["Run", "Prepared", int], str]
    judge: Callable[["Run", "Prepared", int, int], list["Verdict"]]
    card: "CardStyle"
    make_optimizer: Callable[["PreTrainedModel", "Run"], "Optimizer"] | None = None
    credit: Callable[["Run"], "CreditRules | None"] | None = None
    new_parameters: Callable[[int], tuple[str, ...]] | None = None
    put_in: Callable[["PreTrainedModel", "Prepared"], None] | None = None
    source: Callable[[Any], "SourceInfo"] | None = None
    with_files: Callable[["Run"], "Run"] | None = None
    start: Callable[["PreTrainedModel", "Run"], None] | None = None
    origins: Mapping[str, "Origin"] = field(default_factory=dict)
    at_end: Callable[["Run", "Prepared"], dict[str, Any]] | None = None
    plot_score: Callable[[dict[str, Any], Path], None] | None = None


@dataclass(frozen=True)
class CardStyle:
    """What the cards of a family show.

    Attributes:
        template: a file of `model_cards/`.
        task: the Hub's name of it, also the pipeline's where the library has one.
        claimed: metrics that the Hub shows as the model's results.
        figures: columns of the table of results, beside its baselines.
        milestone_figures: columns of the table of milestones.
        extras: (recipe, Score JSON or None) -> more variables of the template.
        unit: what a step has a number of.
        data_flag: of `eval.score`.
    """

    template: Path
    task: str
    claimed: tuple[str, ...]
    figures: tuple[str, ...]
    milestone_figures: tuple[str, ...]
    extras: Callable[[dict[str, Any], dict[str, Any] | None], dict[str, Any]]
    unit: str = "rows"
    data_flag: str = "data"
