"""A card's text, from its record by the template of its family."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.cards.record import CardRecord
from training.common.layout import CURVES_FILE, KEPT, PICTURES, TEMPLATES
from training.common.wording import max_rows_flag, millions, printable
from training.family import CardStyle
from training.runtime.hardware import hardware_line

PLACE = "PATH_OR_REPOSITORY"  # stands in a card where its reader names the model, until it is published

OWN_LICENCE = "apache-2.0"
# Of data that asks for more than credit: what its licence begins with -> the Hub's name of it.
BINDING_LICENCES = {
    "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
    "CC-BY-SA-3.0": "cc-by-sa-3.0",
    "CDLA-Sharing-1.0": "cdla-sharing-1.0",
}
_HEADINGS = {"top1": "top-1", "top5": "top-5", "top10": "top-10", "share_cos_above_0_9": "cosine above 0.9"}
_ABBREVIATIONS = ("mrr", "mse", "mae", "psnr", "ssim")
_FREE_LICENCES = ("MIT", "BSD", "Apache", "PSF", "CC BY 4.0", "CC0", "public domain")


def render_card(record: CardRecord, style: CardStyle, pictures: str = PICTURES) -> ModelCard:
    """The card of one run, in the style of its family; no path of this machine stands in it.

    Args:
        pictures: the folder beside the card that holds those of a finished run.
    """
    record = record.without_places()
    text = (
        templates(style.template.parent)
        .get_template(style.template.name)
        .render(**_variables(record, style, pictures))
    )
    whole = printable(f"---\n{_card_data(record, style).to_yaml()}\n---\n\n{text}")
    return ModelCard(whole, ignore_metadata_errors=False)


@cache
def templates(folder: Path) -> Environment:
    """Those in a folder, which may extend those of ours; compiled once, a run renders one with every checkpoint."""
    return Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,
    )


def with_repository(card_text: str, repo_id: str) -> str:
    """A card whose snippets and commands name the repository that it is published in.

    Args:
        card_text: the whole card, its metadata included.
        repo_id: such as `user/name`.
    """
    return card_text.replace(PLACE, repo_id)


def licence_id(licence: str | None) -> str:
    """The licence of a checkpoint, as the Hub names it: that of the data where it asks for more than credit, else the
    code's. Data whose terms are not known, or not among those of the Hub, make it `other`.
    """
    if licence is None:
        return "other"
    if licence.startswith(_FREE_LICENCES):
        return OWN_LICENCE
    return next((name for start, name in BINDING_LICENCES.items() if licence.startswith(start)), "other")


def _variables(record: CardRecord, style: CardStyle, pictures: str) -> dict[str, Any]:
    """Everything that a template may name."""
    run, facts, score = record.run, record.facts, record.score
    recipe, training = run["recipe"], run["recipe"]["training"]
    shown = milestone_figures(style, record.milestones)
    rows_per_step = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    return {
        "name": facts["name"],
        "parameters": millions(facts["num_parameters"]),
        "vocabulary": f"{facts['vocab_size']:,}",
        "max_length": facts["max_length"],
        "source": facts["source"],
        "licence": facts["licence"],
        "licence_id": licence_id(facts["licence"]),
        "kept_step": facts["kept_step"],
        "growth": facts["growth"],
        "data_notes": " ".join(facts.get("data_notes", [])),
        "base": run["init_from"],
        "lora_rank": training.get("lora_rank", 0),
        "finished": record.finished,
        "recipe": recipe,
        "recipe_name": run["recipe_name"],
        "recipe_yaml": _recipe_yaml(run),
        "flags": _flags(run),
        "data_hash": run["data_hash"],
        "versions": {**run["versions"], "python": run["python"]},
        "hardware": hardware_line(record.machine, run),
        "rows_per_step": rows_per_step * run.get("num_processes", 1),
        "unit": style.unit,
        "data_flag": style.data_flag,
        "data": None if score is None else score["data"],
        "score": score,
        "figures": [_heading(name) for name in style.figures],
        "rows": _result_rows(score, style.figures),
        "milestone_figures": [_heading(name) for name in shown],
        "milestones": [_milestone(row, shown) for row in record.milestones],
        "samples": record.milestones[-1]["samples"] if record.milestones else [],
        "samples_step": f"{record.milestones[-1]['step']:,}" if record.milestones else None,
        "stage": run.get("stage"),
        "pictures": pictures,
        "curves": f"{pictures}/{Path(CURVES_FILE).name}" if record.finished else None,
        "max_rows": max_rows_flag(recipe["evaluation"]["score_rows"], style.scored_rows),
        **style.extras(recipe, score),
        **style.shown,
        **record.shown,
    }


def _recipe_yaml(run: dict[str, Any]) -> str:
    """The recipe with all defaults, as a file that `training/train.py` takes."""
    sections = {name: content for name, content in run["recipe"].items() if content}
    return yaml.safe_dump({"family": run["family"], **sections}, sort_keys=False, allow_unicode=True, width=110)


def _flags(run: dict[str, Any]) -> str:
    """What a run was told beside its recipe."""
    given = {"stage": run.get("stage"), "init_from": run["init_from"]}
    return "".join(f" --{name} {value}" for name, value in given.items() if value is not None)


def _card_data(record: CardRecord, style: CardStyle) -> ModelCardData:
    facts, score = record.facts, record.score
    results = None
    if score is not None:
        results = [
            EvalResult(
                task_type=style.task,
                dataset_type=facts["hub_dataset"] or _plain_id(score["data"]),
                dataset_name=facts["source"],
                dataset_split=score["split"],
                metric_type=name,
                metric_name=_heading(name),
                metric_value=score["metrics"][name],
            )
            for name in style.claimed
            if score["metrics"][name] is not None  # such as a word perplexity beyond all numbers
        ]
    licence = licence_id(facts["licence"])
    return ModelCardData(
        model_name=facts["name"],
        library_name="transformers",
        pipeline_tag=style.task,
        license=licence,
        license_name="terms-of-the-training-data" if licence == "other" else None,
        language=facts["language"],
        datasets=[facts["hub_dataset"]] if facts["hub_dataset"] else None,
        tags=["jepa", record.family, "custom_code"],
        eval_results=results or None,
    )


def _plain_id(data: str) -> str:
    """A source as the Hub takes it for the id of a data set: `builtin:sotu` is `builtin-sotu`."""
    return re.sub(r"[^\w.]+", "-", data, flags=re.ASCII).strip("-.") or "data"


def _heading(name: str) -> str:
    words = (word.upper() if word in _ABBREVIATIONS else word for word in name.split("_"))
    return _HEADINGS.get(name) or " ".join(words)


def milestone_figures(style: CardStyle, rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Columns of the table of milestones: the family's, and those of a text that was to be kept."""
    return (*style.milestone_figures, *(name for name in KEPT if any(name in row for row in rows)))


def _milestone(row: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Step, figures and the first sample, as cells of a table."""
    figures = [_shown(row.get(name), name) for name in names]
    sample = row["samples"][0].replace("|", "\\|") if row["samples"] else "-"
    return [f"{row['step']:,}", *figures, sample]


def _result_rows(score: dict[str, Any] | None, names: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    if score is None:
        return []
    # A baseline that could not be measured on so few rows says nothing.
    measured = {name: of for name, of in score["baselines"].items() if any(of[figure] is not None for figure in names)}
    named = {"this model": score["metrics"]} | {name.replace("_", " "): of for name, of in measured.items()}
    return [(label, [_shown(figures[name], name) for name in names]) for label, figures in named.items()]


def _shown(value: float | None, name: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}" if name.endswith(("rank", "perplexity")) else f"{value:.3f}"
