"""The model card of a run, from measured JSON by its family's template: no number in it is typed by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATES = Path(__file__).resolve().parent.parent / "model_cards"
PLACE = "PATH_OR_REPOSITORY"  # stands in a card where its reader names the model, until it is published


@dataclass(frozen=True)
class CardStyle:
    """What the cards of a family show.

    Attributes:
        template: a file of `model_cards/`.
        task: the Hub's name of it, also the pipeline's.
        claimed: metrics that the Hub shows as the model's results.
        figures: columns of the table of results, beside its baselines.
        milestone_figures: columns of the table of milestones.
        extras: (recipe, Score JSON or None) -> more variables of the template.
    """

    template: Path
    task: str
    claimed: tuple[str, ...]
    figures: tuple[str, ...]
    milestone_figures: tuple[str, ...]
    extras: Callable[[dict[str, Any], dict[str, Any] | None], dict[str, Any]]


def render_card(
    description: dict[str, Any],
    score: dict[str, Any] | None,
    milestones: list[dict[str, Any]],
    model_facts: dict[str, Any],
    style: CardStyle,
    shown: dict[str, Any] | None = None,
) -> ModelCard:
    """The card of one run, in the style of its family.

    Args:
        description: the content of `run.json`.
        score: the Score JSON of the kept checkpoint, or None.
        milestones: rows of figures by step, see `RunState.milestones`.
        model_facts: `name`, `num_parameters`, `vocab_size`, `max_length`, `kept_step`, `source`, `licence`,
            `language`, `hub_dataset`, `growth` (a line, or None).
        shown: more variables of the template, see `Family.at_end`.
    """
    recipe = description["recipe"]
    training = recipe["training"]
    rows_per_step = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    rows_per_step *= description.get("num_processes", 1)
    return ModelCard.from_template(
        _card_data(description, score, model_facts, style),
        template_path=str(style.template),
        name=model_facts["name"],
        parameters=millions(model_facts["num_parameters"]),
        vocabulary=f"{model_facts['vocab_size']:,}",
        max_length=model_facts["max_length"],
        source=model_facts["source"],
        licence=model_facts["licence"],
        kept_step=model_facts["kept_step"],
        recipe=recipe,
        recipe_name=description["recipe_name"],
        rows_per_step=rows_per_step,
        score=score,
        figures=style.figures,
        rows=_result_rows(score, style.figures),
        milestone_figures=style.milestone_figures,
        milestones=[_milestone(row, style.milestone_figures) for row in milestones],
        samples=milestones[-1]["samples"] if milestones else [],
        stage=description.get("stage"),
        growth=model_facts["growth"],
        **style.extras(recipe, score),
        **(shown or {}),
    )


def with_repository(card_text: str, repo_id: str) -> str:
    """A card whose snippets and commands name the repository that it is published in.

    Args:
        card_text: the whole card, its metadata included.
        repo_id: such as `user/name`.
    """
    return card_text.replace(PLACE, repo_id)


def millions(parameters: int) -> str:
    """A number of parameters in millions with two decimals (`0.99M`); a small one is never `0M`."""
    return f"{parameters / 1e6:.2f}M" if parameters >= 10_000 else f"{parameters:,}"


def max_rows_flag(score_rows: int | None, default: int) -> str:
    """What the score command needs to score as many rows as the run did."""
    return "" if score_rows == default else f" --max_rows {'all' if score_rows is None else score_rows}"


def _card_data(
    description: dict[str, Any], score: dict[str, Any] | None, model_facts: dict[str, Any], style: CardStyle
) -> ModelCardData:
    results = None
    if score is not None:
        results = [
            EvalResult(
                task_type=style.task,
                dataset_type=model_facts["hub_dataset"] or score["data"],
                dataset_name=model_facts["source"],
                dataset_split=score["split"],
                metric_type=name,
                metric_name=name,
                metric_value=round(score["metrics"][name], 4),
            )
            for name in style.claimed
            if score["metrics"][name] is not None  # such as a word perplexity beyond all numbers
        ]
    return ModelCardData(
        model_name=model_facts["name"],
        library_name="transformers",
        pipeline_tag=style.task,
        language=model_facts["language"],
        datasets=model_facts["hub_dataset"],
        tags=["jepa", description["family"], "custom_code"],
        eval_results=results,
    )


def _milestone(row: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Step, figures and the first sample, as cells of a table."""
    figures = [_shown(row.get(name), name) for name in names]
    sample = row["samples"][0].replace("|", "\\|") if row["samples"] else "-"
    return [f"{row['step']:,}", *figures, sample]


def _result_rows(score: dict[str, Any] | None, names: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    if score is None:
        return []
    named = [("this model", score["metrics"]), *score["baselines"].items()]
    return [(label, [_shown(figures[name], name) for name in names]) for label, figures in named]


def _shown(value: float | None, name: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}" if name.endswith(("rank", "perplexity")) else f"{value:.3f}"
