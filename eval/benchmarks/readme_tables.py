"""The tables of results on README.md and docs/results/*.md, from `model_cards/results/*.json`.

    python -m eval.benchmarks.readme_tables

rewrites what stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->` on these pages: no number there is
typed by hand.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.benchmarks import dialogue_collapse
from eval.benchmarks.comparison import markdown
from eval.benchmarks.dialogue_twin import shown_difference
from eval.benchmarks.generator_arms import shown_number, shown_ratio

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs" / "results").glob("*.md"))]
RESULTS = CHECKOUT / "model_cards" / "results"
_BLOCK = re.compile(r"(<!-- results:(?P<name>\w+) -->\n).*?(<!-- /results:(?P=name) -->)", re.DOTALL)
_TWIN_NAMES = {
    "ours": "ours: cosines over the whole vocabulary",
    "softmax": "its twin: the same with a softmax head",
    "bert": "`BertForMaskedLM` of this size",
    "prototype": "the first prototype's recipe",
    "prototype_tuned": "the same with its rate tuned",
    "prototype_all_gradients": "the same with a gradient into the negatives' rows",
    "prototype_no_gradient": "the same without any gradient into its targets",
}

_GENERATOR_NAMES = {
    "ours": "ours, stage 0 (Muon)",
    "ours_adamw": "the same with AdamW",
    "gpt2": "`GPT2LMHeadModel` (AdamW)",
    "llama": "`LlamaForCausalLM` (AdamW)",
    "llama_muon": "the same with Muon",
}

_DIALOGUE_NAMES = {
    "ours": "ours, latent and context",
    "ours_latent": "ours, the latent alone",
    "bi_encoder": "a bi-encoder",
    "seq2seq": "encoder and decoder, no latent",
    "no_latent": "the decoder alone",
}

_PRETRAINED_NAMES = {
    "latent": "the model behind the predicted latents",
    "no_latent": "the same behind learned constants",
    "as_it_came": "the model as it came",
}


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
    text, language, dialogue, video = map(_record, ("text_twin", "generator_twin", "dialogue_twin", "mnist_small"))

    def top1(arm: str) -> str:
        return f"{list(text['arms'][arm]['at'].values())[-1]['top1']['mean']:.3f}"

    def perplexity(arm: str) -> str:
        return f"{language['arms'][arm]['at'][str(language['steps'])]['perplexity']['mean']:.1f}"

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


def text_twin_rows(record: dict[str, Any]) -> list[list[str]]:
    """Arms by steps, means over seeds with their spread."""
    rows = [["arm", "steps", "seeds", "top-1", "MRR", "median rank", "top-1 minus the twin's", "CPU s", "MiB"]]
    for name, arm in record["arms"].items():
        last = list(arm["at"])[-1]
        for step, figures in arm["at"].items():
            pair = record["against_twin"].get(name, {}).get(step, {}).get("top1")
            versus = f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]" if pair else ""
            costs = ["", ""]
            if step == last:
                memory = arm["training_peak_memory_bytes"]["mean"] / 2**20
                costs = [f"{arm['training_cpu_seconds']['mean']:,.0f}", f"{memory:,.0f}"]
            shown = [_spread(figures[metric]) for metric in ("top1", "mrr")]
            median = f"{figures['median_rank']['mean']:.1f}"
            label = f"{_TWIN_NAMES[name]} (rate {arm['learning_rate']:g})"
            rows.append([label, f"{int(step):,}", str(len(arm["seeds"])), *shown, median, versus, *costs])
    unigram = record["unigram"]
    guess = [f"{unigram['top1']:.3f}", f"{unigram['mrr']:.3f}", f"{unigram['median_rank']:.1f}"]
    return [*rows, ["unigram guess", "", "", *guess, "", "", ""]]


def text_ablation_rows(record: dict[str, Any]) -> list[list[str]]:
    """All arms, one seed."""
    rows = [["masking, target table, protection", "top-1", "MRR", "median rank", "effective rank", "pairwise cosine"]]
    for name, figures in record["arms"].items():
        shown = [f"{figures['top1']:.3f}", f"{figures['mrr']:.3f}", f"{figures['median_rank']:.1f}"]
        rows.append([name, *shown, f"{figures['effective_rank']:.1f}", f"{figures['mean_pairwise_cosine']:.2f}"])
    return rows


def text_probe_rows(record: dict[str, Any]) -> list[list[str]]:
    """Accuracies of the frozen encoders and of what stands beside them."""
    return [["encoder", "accuracy"], *([name, f"{value:.3f}"] for name, value in record["accuracy"].items())]


def staged_quickstart_rows(record: dict[str, Any]) -> list[list[str]]:
    """Stages of one chain of runs, beside the guessers."""
    rows = [["", "perplexity", "per word", "bits per byte", "greedy accuracy", "leak gap, nats"]]
    figures = {f"stage {stage}": score["metrics"] for stage, score in record["stages"].items()}
    last = list(record["stages"].values())[-1]
    for name, found in {**figures, **last["baselines"]}.items():
        gap = found.get("leak_gap")
        shown = [f"{found[metric]:,.1f}" for metric in ("perplexity", "word_perplexity")]
        shown += [f"{found['bits_per_byte']:.3f}", f"{found['greedy_accuracy']:.3f}"]
        rows.append([name, *shown, "" if gap is None else f"{gap:.1e}"])
    return rows


def generator_twin_rows(record: dict[str, Any]) -> list[list[str]]:
    """Arms at the end of their runs, means over seeds."""
    header = ["arm", "seeds", "rate", "perplexity", "per word", "bits per byte", "greedy accuracy"]
    rows = [[*header, "times GPT-2's", "times Llama's", "tokens per CPU s", "MiB", "leak gap, nats"]]
    last = str(record["steps"])
    for name, arm in record["arms"].items():
        figures = arm["at"][last]
        versus = [
            shown_ratio(record["ratios"].get(other, {}).get(name, {}).get(last, {}).get("perplexity"))
            for other in ("gpt2", "llama")
        ]
        costs = [f"{arm['tokens_per_second']['mean']:,.0f}"]
        costs += [f"{arm['training_peak_memory_bytes']['mean'] / 2**20:,.0f}", f"{figures['leak_gap']['mean']:.1e}"]
        rate = f"{arm['learning_rate']:g}"
        rows.append([_GENERATOR_NAMES[name], str(len(arm["seeds"])), rate, *_language(figures), *versus, *costs])
    return rows


def generator_optimizers_rows(record: dict[str, Any]) -> list[list[str]]:
    """Arms by rate after the short runs that choose it, one seed, on the validation part."""
    rates = sorted({rate for tried in record["perplexity_by_rate"].values() for rate in tried}, key=float)
    rows = [[f"perplexity after {record['steps']} steps, at a rate of", *rates]]
    for name, tried in record["perplexity_by_rate"].items():
        rows.append([_GENERATOR_NAMES[name], *(f"{tried[rate]:,.1f}" if rate in tried else "" for rate in rates)])
    return rows


def generator_stages_rows(record: dict[str, Any]) -> list[list[str]]:
    """Branches at the end of their runs, means over seeds."""
    header = ["branch", "seeds", "loss, nats", "perplexity", "per word", "bits per byte", "greedy accuracy"]
    rows = [[*header, "times stage 0's", "times stage 1's", "tokens per CPU s", "MiB"]]
    last = str(record["steps"])
    for name, arm in record["arms"].items():
        figures = arm["at"][last]
        versus = [
            shown_ratio(record["ratios"].get(other, {}).get(name, {}).get(last, {}).get("perplexity"))
            for other in ("stage 0", "stage 1")
        ]
        costs = [f"{arm['tokens_per_second']['mean']:,.0f}"]
        costs += [f"{arm['training_peak_memory_bytes']['mean'] / 2**20:,.0f}"]
        loss = shown_number(figures["loss"], ".3f")
        rows.append([name, str(len(arm["seeds"])), loss, *_language(figures), *versus, *costs])
    return rows


def dialogue_twin_rows(record: dict[str, Any]) -> list[list[str]]:
    """Arms at the end of their runs, means over seeds, and the guessers."""
    header = [
        "arm",
        "seeds",
        "rate",
        "perplexity",
        "usage ratio",
        "hits@1 of 20",
        "hits@5",
        "MRR",
        "distinct-2",
        "rank",
    ]
    rows = [[*header, "times seq2seq's", "times the decoder's alone", "hits@1 minus the bi-encoder's", "CPU s"]]
    for name, arm in record["arms"].items():
        versus = [
            *(shown_ratio(record["perplexity_ratios"].get(other, {}).get(name)) for other in ("seq2seq", "no_latent")),
            shown_difference(record["retrieval_differences"].get(name, {}).get("hits_at_1")),
        ]
        label, seconds = [_DIALOGUE_NAMES[name], str(len(arm["seeds"]))], arm["training_cpu_seconds"]["mean"]
        rows.append([*label, f"{arm['learning_rate']:g}", *_replies(arm["figures"]), *versus, f"{seconds:,.0f}"])
    for name, found in record["baselines"].items():
        figures = {metric: {"mean": value, "sd": None} for metric, value in found.items()}
        rows.append([name.replace("_", " "), "", "", *_replies(figures), "", "", "", ""])
    return rows


def dialogue_score_rows(record: dict[str, Any]) -> list[list[str]]:
    """One scored dialogue model beside the guessers."""
    header = ["", "perplexity", "usage ratio", "hits@1 of 20", "hits@5", "MRR", "distinct-2", "effective rank"]
    scores = {"model": record["metrics"], **record["baselines"]}
    rows = [
        [name.replace("_", " "), *_replies({metric: {"mean": value, "sd": None} for metric, value in found.items()})]
        for name, found in scores.items()
    ]
    return [header, *rows]


def pretrained_decoder_rows(record: dict[str, Any]) -> list[list[str]]:
    """A pretrained model with latents and without, means over seeds, and the unigram guess."""
    header = ["", "seeds", "perplexity", "usage ratio", "hits@1 of 20", "hits@5", "MRR", "distinct-2", "rank"]
    rows = [[*header, "times that of the constants", "times that of the model as it came", "CPU s"]]
    for name, arm in record["arms"].items():
        others = (record["perplexity_ratios"].get(other, {}).get(name) for other in ("no_latent", "as_it_came"))
        seconds = f"{arm['training_cpu_seconds']['mean']:,.0f}"
        label = [_PRETRAINED_NAMES[name], str(len(arm["seeds"]))]
        rows.append([*label, *_replies(arm["figures"]), *map(shown_ratio, others), seconds])
    names = ("perplexity", "latent_usage_ratio", "hits_at_1", "hits_at_5", "mrr", "distinct_2", "effective_rank")
    guess = {name: {"mean": record["baselines"]["unigram"].get(name), "sd": None} for name in names}
    return [*rows, ["unigram", "", *_replies(guess), "", "", ""]]


def video_objectives_rows(record: dict[str, Any]) -> list[list[str]]:
    """Arms at the end of their runs, means over seeds, and the guessers."""
    rows = [["", "seeds", "MSE", "PSNR", "SSIM", "MSE minus future's", "MSE of frame 1", "of frame 10", "CPU s"]]
    for name, arm in record["arms"].items():
        versus = shown_difference(arm["mse_difference"], 1)
        ends = [shown_number(arm["per_frame_mse"][place], ".0f") for place in (0, -1)]
        seconds = f"{arm['training_cpu_seconds']['mean']:,.0f}"
        rows.append([name, str(len(arm["seeds"])), *_clips(arm["figures"]), versus, *ends, seconds])
    for name, found in record["baselines"].items():
        figures = {metric: {"mean": value, "sd": None} for metric, value in found.items()}
        rows.append([name.replace("_", " "), "", *_clips(figures), "", "", "", ""])
    return rows


def video_score_rows(record: dict[str, Any]) -> list[list[str]]:
    """One scored video model beside the guessers."""
    rows = [["", "MSE", "PSNR, dB", "SSIM", "MAE", "MSE of frame 1", "of frame 10", "sampled MSE", "sampled SSIM"]]
    for name, found in {"model": record["metrics"], **record["baselines"]}.items():
        by_frame = found["per_frame"]["mse"]
        figures = [f"{found['mse']:.1f}", f"{found['psnr']:.2f}", f"{found['ssim']:.3f}", f"{found['mae']:.0f}"]
        figures += [f"{by_frame[0]:.0f}", f"{by_frame[-1]:.0f}"]
        rows.append([name.replace("_", " "), *figures, f"{found['sampled_mse']:.1f}", f"{found['sampled_ssim']:.3f}"])
    return rows


RENDERERS: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
    "dailydialog_cpu": dialogue_score_rows,
    "dialogue_collapse": dialogue_collapse.table_rows,
    "dialogue_twin": dialogue_twin_rows,
    "generator_optimizers": generator_optimizers_rows,
    "mnist_small": video_score_rows,
    "pretrained_decoder": pretrained_decoder_rows,
    "prototype_32": video_score_rows,
    "generator_stages": generator_stages_rows,
    "generator_twin": generator_twin_rows,
    "staged_quickstart": staged_quickstart_rows,
    "text_probe": text_probe_rows,
    "text_twin": text_twin_rows,
    "text_ablation": text_ablation_rows,
    "video_objectives": video_objectives_rows,
    "video_quickstart": video_score_rows,
    "video_training": video_objectives_rows,
}


def _record(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _language(figures: dict[str, dict[str, float | None]]) -> list[str]:
    """What language models are compared by."""
    forms = {"perplexity": ",.1f", "word_perplexity": ",.0f", "bits_per_byte": ".3f", "greedy_accuracy": ".3f"}
    return [shown_number(figures[name], form) for name, form in forms.items()]


def _replies(figures: dict[str, dict[str, float | None]]) -> list[str]:
    """What dialogue models are compared by."""
    forms = {"perplexity": ",.1f", "latent_usage_ratio": ".2f", "hits_at_1": ".3f", "hits_at_5": ".3f", "mrr": ".3f"}
    forms |= {"distinct_2": ".3f", "effective_rank": ".1f"}
    return [shown_number(figures[name], form) for name, form in forms.items()]


def _clips(figures: dict[str, dict[str, float | None]]) -> list[str]:
    """What video models are compared by."""
    return [shown_number(figures[name], form) for name, form in {"mse": ".1f", "psnr": ".2f", "ssim": ".3f"}.items()]


def _spread(figure: dict[str, float | None]) -> str:
    spread = "" if figure["sd"] is None else f" ± {figure['sd']:.3f}"
    return f"{figure['mean']:.3f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
