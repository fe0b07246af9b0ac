"""The tables of results on README.md and docs/results/*.md, from `model_cards/results/*.json`.

    python -m eval.benchmarks.readme_tables

rewrites what stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->` on these pages: no number there is
typed by hand.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmarks import (
    dialogue_collapse,
    dialogue_twin,
    generator_cost,
    generator_stages,
    generator_twin,
    pretrained_decoder,
    text_ablation,
    text_probe,
    text_twin,
    video_objectives,
)
from eval.benchmarks.columns import Column, figure, figures, guess_rows
from eval.benchmarks.statistics import markdown

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs" / "results").glob("*.md"))]
RESULTS = CHECKOUT / "model_cards" / "results"
_BLOCK = re.compile(r"(<!-- results:(?P<name>\w+) -->\n).*?(<!-- /results:(?P=name) -->)", re.DOTALL)
_CLIPS = (
    *(figure("MSE", "mse", ".1f"), figure("PSNR, dB", "psnr", ".2f"), figure("SSIM", "ssim", ".3f")),
    *(figure("MAE", "mae", ".0f"), figure("MSE of frame 1", "first", ".0f"), figure("of frame 10", "last", ".0f")),
    *(figure("sampled MSE", "sampled_mse", ".1f"), figure("sampled SSIM", "sampled_ssim", ".3f")),
)


def main() -> int:
    """Command line; see the module."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def filled(page: str) -> str:
    """The page with every block made anew from its JSON."""
    return _BLOCK.sub(lambda found: f"{found[1]}{render(found['name'])}{found[3]}", page)


def render(name: str) -> str:
    """One block: a table, and the command that makes its JSON."""
    if name == "headlines":
        return f"{markdown(headline_rows())}\n"
    record = _record(name)
    return f"{markdown(RENDERERS[name](record))}\n`{record['command']}`\n"


def headline_rows() -> list[list[str]]:
    """One figure per family and what stands beside it, each from the last step of its comparison."""
    names = ("text_twin", "generator_twin", "dialogue_twin", "mnist_small", "generator_grown")
    text, language, dialogue, video, grown = map(_record, names)

    def top1(arm: str) -> str:
        return f"{list(text['arms'][arm]['at'].values())[-1]['top1']['mean']:.3f}"

    def perplexity(arm: str) -> str:
        return f"{language['arms'][arm]['at'][str(language['steps'])]['perplexity']['mean']:.1f}"

    def after_growing(arm: str, figure: str) -> str:
        return f"{list(grown['arms'][arm]['at'].values())[-1][figure]['mean']:.1f}"

    def first_of_20(arm: str) -> str:
        return f"{dialogue['arms'][arm]['figures']['hits_at_1']['mean']:.3f}"

    overlap, guesses = dialogue["baselines"]["word_overlap"]["hits_at_1"], video["baselines"]
    return [
        ["family", "figure", "ours", "beside it"],
        [
            "`text_jepa`",
            "share of WikiText-2 blanks whose word is named first",
            top1("ours"),
            f"{top1('bert')} BERT of this size, {top1('softmax')} the same network with a softmax head",
        ],
        [
            "`staged_generator`",
            "WikiText-2 test perplexity, lower is better",
            perplexity("ours"),
            f"{perplexity('llama')} Llama and {perplexity('gpt2')} GPT-2 of this size, both with AdamW",
        ],
        [
            "`staged_generator`, grown to stage 3",
            "the same in a shorter training, after 300 steps more",
            after_growing("stage 3", "perplexity"),
            f"{after_growing('stage 0', 'perplexity')} stage 0 after as many; with 4,096 tokens of context "
            f"{after_growing('stage 3', 'perplexity_at_4096')} and {after_growing('stage 0', 'perplexity_at_4096')}",
        ],
        [
            "`dialogue_jepa`",
            "DailyDialog: share of true replies ranked first of 20",
            first_of_20("ours"),
            f"{first_of_20('bi_encoder')} a bi-encoder, {overlap:.3f} BM25",
        ],
        [
            "`video_jepa`",
            "moving MNIST digits: squared error of a predicted frame, lower is better",
            f"{video['metrics']['mse']:.1f}",
            f"{guesses['mean_frame']['mse']:.1f} the mean frame, {guesses['black']['mse']:.1f} a black one",
        ],
    ]


def score_rows(columns: Sequence[Column], record: dict[str, Any]) -> list[list[str]]:
    """A scored model, or one per stage, beside the guessers."""
    scores = {f"stage {stage}": score for stage, score in record.get("stages", {}).items()} or {"model": record}
    found = {name: score["metrics"] for name, score in scores.items()}
    found |= list(scores.values())[-1]["baselines"]
    return [
        ["", *(column.heading for column in columns)],
        *([row.label, *(column.show(record, row) for column in columns)] for row in guess_rows(found)),
    ]


def video_rows(record: dict[str, Any]) -> list[list[str]]:
    """A scored video model beside the guessers, with the errors of the first and the last predicted frame."""

    def with_ends(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "first": found["per_frame"]["mse"][0], "last": found["per_frame"]["mse"][-1]}

    baselines = {name: with_ends(found) for name, found in record["baselines"].items()}
    return score_rows(_CLIPS, {"metrics": with_ends(record["metrics"]), "baselines": baselines})


def optimizer_rows(record: dict[str, Any]) -> list[list[str]]:
    """Arms by rate after the short runs that choose it, one seed, on the validation part."""
    rates = sorted({rate for tried in record["perplexity_by_rate"].values() for rate in tried}, key=float)
    rows = [[f"perplexity after {record['steps']} steps, at a rate of", *rates]]
    for name, tried in record["perplexity_by_rate"].items():
        label = generator_twin.COMPARISON.names[name]
        rows.append([label, *(f"{tried[rate]:,.1f}" if rate in tried else "" for rate in rates)])
    return rows


_BENCHMARKS = [
    *(text_twin.COMPARISON, text_ablation.COMPARISON, text_probe.BENCHMARK),
    *(generator_twin.COMPARISON, generator_stages.COMPARISON, generator_cost.BENCHMARK),
    *(dialogue_twin.COMPARISON, dialogue_collapse.COMPARISON, pretrained_decoder.COMPARISON),
    video_objectives.COMPARISON,
]
RENDERERS: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
    **{benchmark.name: partial(benchmark.table, on_page=True) for benchmark in _BENCHMARKS},
    "generator_grown": partial(generator_stages.COMPARISON.table, on_page=True),
    "video_training": partial(video_objectives.COMPARISON.table, on_page=True),
    "dailydialog_cpu": partial(score_rows, figures(dialogue_twin.METRICS)),
    "staged_quickstart": partial(score_rows, figures(generator_twin.METRICS)),
    "generator_optimizers": optimizer_rows,
    **dict.fromkeys(("mnist_small", "prototype_32", "video_quickstart"), video_rows),
}


def _record(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
