"""What the generator's stages cost: a step of training, and one more token after many.

    python -m eval.benchmarks.generator_cost

Whole models, untrained, at one thread, on random tokens: forward and backward over 2,048 tokens in rows of 256, then
over one row of each further length; and the next token after a row that is cached. Arms take turns in one process, so
that ratios hold on a machine whose speed changes; run it with nothing beside it. Exit codes: 0; 1 what is required
does not hold; 2 bad input.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from configuration_jepa import StagedGeneratorConfig
from eval.benchmarks.columns import Column, Record, Row, of_arm
from eval.benchmarks.comparison import Benchmark
from modeling_jepa import StagedGeneratorForCausalLM
from training.common.errors import InputError
from training.common.records import package_versions

DENSE, FORGETS, ROUTED, WINDOW = "stage 0", "stage 1", "stage 3", "stage 3, window of 32"
ARMS: dict[str, dict[str, Any]] = {
    DENSE: {"stage": 0},
    FORGETS: {"stage": 1},
    ROUTED: {"stage": 3},
    WINDOW: {"stage": 3, "routing_window": 32},
}
SHORT, ROWS = 256, 8
LENGTHS, CACHED = (SHORT, 1024, 4096, 8192, 16384, 32768), (1024, 16384)
FITTED_FROM, LARGEST_EXPONENT = 8192, 1.1
# (mode, tokens, arm) -> share of stage 0's time.
REQUIRED = {
    ("train", SHORT, FORGETS): 1.08,
    ("train", SHORT, ROUTED): 1.2,
    ("train", 8192, WINDOW): 0.5,
    ("decode", 16384, WINDOW): 0.2,
}
NOTE = (
    "Medians of CPU milliseconds at one thread, float32, and in parentheses the share of stage 0's. `train`: forward "
    "and backward; `decode`: one token with all before it cached. Beyond 8,192 tokens of training only the window is "
    "timed, whose cost must grow with the tokens."
)


class GeneratorCost(Benchmark):
    """See the module."""

    name = "generator_cost"
    heading = "mode, tokens"
    note = NOTE
    columns: tuple[Column, ...] = tuple(of_arm(name, lambda point, name=name: _shown(point, name)) for name in ARMS)

    def parser(self) -> argparse.ArgumentParser:
        """The options."""
        parser = super().parser()
        parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
        parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="tokens of training")
        parser.add_argument("--cached", nargs="*", type=int, default=list(CACHED), help="tokens before a further one")
        parser.add_argument("--repetitions", type=int, default=9, help="of each arm and length, after one to warm up")
        parser.add_argument("--layers", type=int, default=6, help="of the models")
        parser.add_argument("--hidden_size", type=int, default=256, help="their width; a head is 32 wide")
        return parser

    def measure(self, options: argparse.Namespace) -> tuple[Record, bool]:
        """Every length, one after another. Raises InputError."""
        if min(*options.lengths, *options.cached, options.repetitions) < 1:
            raise InputError("lengths, cached and repetitions: use 1 or more")
        torch.set_num_threads(1)
        longest = max([*options.lengths, *options.cached]) + options.repetitions + 1
        models = {name: build(fields, longest, options) for name, fields in ARMS.items()}
        points = {}
        for mode, lengths, step in (("train", options.lengths, training), ("decode", options.cached, decoding)):
            for length in sorted(set(lengths)):
                timed = [name for name in ARMS if mode == "decode" or length <= FITTED_FROM or name == WINDOW]
                found = alternate({name: step(models[name], length) for name in timed}, options.repetitions)
                points[f"{mode}, {length}"] = {"mode": mode, "length": length, "seconds": found}
        window = [point for point in points.values() if point["mode"] == "train" and point["length"] >= FITTED_FROM]
        grows = exponent([(point["length"], point["seconds"][WINDOW]) for point in window])
        record = {
            "schema_version": 1,
            "command": f"python -m eval.benchmarks.{self.name} --repetitions {options.repetitions}",
            "layers": options.layers,
            "hidden_size": options.hidden_size,
            "points": points,
            "exponent_of_the_window": grows,
            "required": required(points, grows),
            "note": NOTE,
            "versions": package_versions(),
        }
        return record, False

    def rows(self, record: Record) -> list[Row]:
        """A row per mode and length."""
        return [Row(name, f"{p['mode']}, {p['length']:,}", {}, p) for name, p in record["points"].items()]

    def evidence(self, record: Record) -> list[str]:
        """How the window's time grows."""
        grows = record["exponent_of_the_window"]
        return [] if grows is None else [f"- training with a window: time grows with tokens^{grows:.2f}"]


def build(fields: dict[str, Any], longest: int, options: argparse.Namespace) -> StagedGeneratorForCausalLM:
    """A model of the recipe's kind; gates are opened, so that nothing is skipped."""
    torch.manual_seed(0)
    config = StagedGeneratorConfig(
        vocab_size=8000,
        hidden_size=options.hidden_size,
        embedding_size=options.hidden_size // 2,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 32,
        max_position_embeddings=longest,
        **fields,
    )
    model = StagedGeneratorForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(weight, 0.1)
    return model


def training(model: StagedGeneratorForCausalLM, length: int) -> Callable[[], None]:
    """Forward and backward."""
    ids = tokens(ROWS if length == SHORT else 1, length)

    def step() -> None:
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    return step


def decoding(model: StagedGeneratorForCausalLM, length: int) -> Callable[[], None]:
    """The next token; every call adds one to the cache."""
    model.eval().zero_grad()
    ids = tokens(1, length)
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    return partial(torch.inference_mode()(model), input_ids=ids[:, :1], past_key_values=cache, use_cache=True)


def tokens(rows: int, length: int) -> torch.Tensor:
    """Tokens with the frequencies of a text (Zipf)."""
    frequencies = torch.arange(1, 7990, dtype=torch.double) ** -1
    generator = torch.Generator().manual_seed(length)
    return 8 + torch.multinomial(frequencies, rows * length, replacement=True, generator=generator).view(rows, length)


def alternate(steps: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Median CPU seconds of each, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repetitions + 1):
        for name, step in steps.items():
            started = time.process_time()
            step()
            times[name].append(time.process_time() - started)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def exponent(points: list[tuple[int, float]]) -> float | None:
    """Slope of log seconds over log tokens, by least squares; None of fewer than two points."""
    return None if len(points) < 2 else float(np.polyfit(*np.log(np.array(points)).T, 1)[0])


def required(points: dict[str, dict[str, Any]], grows: float | None) -> dict[str, bool]:
    """What must hold, as far as it was measured."""
    held = {} if grows is None else {f"{WINDOW}: exponent at most {LARGEST_EXPONENT}": grows <= LARGEST_EXPONENT}
    for (mode, length, name), largest in REQUIRED.items():
        if point := points.get(f"{mode}, {length}"):
            share = point["seconds"][name] / point["seconds"][DENSE]
            held[f"{mode}, {length:,} tokens, {name}: at most {largest} of stage 0's time"] = share <= largest
    return held


def _shown(point: dict[str, Any], name: str) -> str:
    seconds = point["seconds"].get(name)
    if seconds is None:
        return "-"
    dense = point["seconds"].get(DENSE)
    share = "" if dense is None or name == DENSE else f" ({seconds / dense:.3f})"
    return f"{1000 * seconds:,.1f}{share}"


BENCHMARK = GeneratorCost()
main = BENCHMARK.main


if __name__ == "__main__":
    sys.exit(main())
