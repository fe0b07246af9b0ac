"""Multi-query associative recall: does a model say the value that stood after a key, however far back?

    python -m eval.benchmarks.associative_recall --seeds 3 --workers 2

The task of Zoology (Arora et al., 2023, arXiv:2312.04927): a row begins with pairs of a key and its value, then each
key comes once more, after a gap drawn from a power law, among random tokens; the token asked for is its value. Rows of
64 to 256 tokens are trained on, longer ones are asked. Nothing is read: rows are made by the seed. Finished cells are
kept, `--table` collects what is there. Exit codes: 0; 1 a cell failed, or what is required does not hold; 2 bad input.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configuration_jepa import StagedGeneratorConfig
from eval.benchmarks.cells import Arm, collect, plan_cells, run_cells
from eval.benchmarks.columns import Column, Record, figure
from eval.benchmarks.comparison import Benchmark
from eval.benchmarks.statistics import over_seeds
from modeling_jepa import StagedGeneratorForCausalLM
from training.common.records import package_versions

VOCABULARY, TOKENS_PER_PAIR, POWER = 8192, 16, 0.01
TRAINED, ASKED = (64, 128, 256), (256, 512, 1024, 2048)
TOKENS, ASKED_ROWS = 4096, 64  # of a batch; of each length
WIDTH = {"hidden_size": 64, "embedding_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LONGEST = str(8 * TRAINED[-1])
GATE_RATE = 8  # as in the recipes
_SHUT = "shut"
DENSE, WINDOW, ROUTED, WINDOW_ROUTED = "dense", "window of 32", "dense and far edges", "window of 32 and far edges"
ARMS: dict[str, dict[str, Any]] = {
    DENSE: {"stage": 0},
    WINDOW: {"stage": 3, "routing_window": 32, _SHUT: True},
    ROUTED: {"stage": 3},
    WINDOW_ROUTED: {"stage": 3, "routing_window": 32},
}
REQUIRED = 0.95
NOTE = (
    "Share of the asked values that are the best of 8,192 tokens, over seeds. 2 layers, 64 wide; trained on rows of "
    "64, 128 and 256 tokens, a pair for every 16 tokens. The window alone has the parameters of far edges, with their "
    "gates shut. Each arm has the rate that was best on rows of 256 tokens with seed 0."
)


def rows_of(count: int, length: int, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and labels `(count, length)`, int64: the value at the place after its key's second coming, -100 elsewhere.

    Keys are of the lower half of the vocabulary, values of the upper; token 0 is none of them. The token after a key
    that is asked for is a random one: the answer is nowhere in the row but at its first place.
    """
    pairs, half = length // TOKENS_PER_PAIR, VOCABULARY // 2
    ids = generator.integers(1, VOCABULARY, (count, length))
    labels = np.full((count, length), -100)
    places = (length - 2 * pairs) // 2  # where a key may come again: every other one
    gaps = np.arange(1, places + 1)
    chances = POWER * gaps ** (POWER - 1)
    for row in range(count):
        keys = 1 + generator.choice(half - 1, pairs, replace=False)
        values = generator.integers(half, VOCABULARY, pairs)
        ids[row, : 2 * pairs : 2], ids[row, 1 : 2 * pairs : 2] = keys, values
        asked = 2 * pairs + 2 * generator.choice(places, pairs, replace=False, p=chances / chances.sum())
        ids[row, asked] = keys
        labels[row, asked + 1] = values
    return torch.from_numpy(ids), torch.from_numpy(labels)


def learn_and_recall(settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train one model and ask it; `settings`: `model` (fields of its configuration), `steps`, `learning_rate`."""
    fields = dict(settings["model"])
    shut = fields.pop(_SHUT, False)
    torch.manual_seed(seed)
    model = StagedGeneratorForCausalLM(
        StagedGeneratorConfig(
            vocab_size=VOCABULARY, max_position_embeddings=max(ASKED), num_semantic_blocks=4, **WIDTH, **fields
        )
    )
    gates = [weight for name, weight in model.named_parameters() if name.endswith("far.gate")]
    for gate in gates:
        gate.requires_grad_(not shut)
    chosen = {id(gate) for gate in gates}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    rate, steps = settings["learning_rate"], settings["steps"]
    groups = [{"params": rest, "lr": rate}, {"params": [] if shut else gates, "lr": GATE_RATE * rate}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.1)
    falling = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps, pct_start=0.05
    )
    generator = np.random.default_rng(seed)
    model.train()
    for step in range(steps):
        length = TRAINED[step % len(TRAINED)]
        ids, labels = rows_of(TOKENS // length, length, generator)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        falling.step()
    asked = np.random.default_rng(1_000_000 + seed)
    return {"metrics": {str(length): recalled(model.eval(), length, asked) for length in ASKED}}


@torch.inference_mode()
def recalled(model: StagedGeneratorForCausalLM, length: int, generator: np.random.Generator) -> float:
    """Share of the values that the model says first, from 0 to 1."""
    right = total = 0
    step = max(1, TOKENS // length)
    for _ in range(0, ASKED_ROWS, step):
        ids, labels = rows_of(step, length, generator)
        said = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
        wanted = labels[:, 1:]
        kept = wanted != -100
        right, total = right + int((said == wanted)[kept].sum()), total + int(kept.sum())
    return right / total


class AssociativeRecall(Benchmark):
    """See the module."""

    name = "associative_recall"
    note = NOTE
    columns: tuple[Column, ...] = tuple(figure(f"{length:,} tokens", str(length), ".3f") for length in ASKED)

    def parser(self) -> argparse.ArgumentParser:
        """The options."""
        parser = super().parser()
        parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 (default: %(default)s)")
        parser.add_argument("--steps", type=int, default=1500, help="of training (default: %(default)s)")
        parser.add_argument("--rates", type=float, nargs="+", default=[3e-3], help="learning rates (default: 3e-3)")
        parser.add_argument("--workers", type=int, default=1, help="one-thread processes at a time (default: 1)")
        parser.add_argument("--out", default=f"outputs/benchmarks/{self.name}", help="folder of the cells")
        parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="arms (default: all)")
        parser.add_argument("--table", action="store_true", help="run nothing: collect what is there")
        return parser

    def measure(self, options: argparse.Namespace) -> tuple[Record, bool]:
        """Every arm, at the best of the rates by what it recalls of the trained lengths' longest with seed 0."""
        function = f"{__name__ if __name__ != '__main__' else 'eval.benchmarks.associative_recall'}:learn_and_recall"

        def cells(name: str, rate: float, seeds: range) -> list[Any]:
            settings = {"model": ARMS[name], "steps": options.steps, "learning_rate": rate}
            return plan_cells([Arm(f"{name} {rate:g}", settings, function)], seeds, options.out)

        failed, results, chosen = False, {}, {}
        for name in options.arms:
            tried = {rate: cells(name, rate, range(1)) for rate in options.rates}
            for one in [] if options.table else tried.values():
                failed |= bool(run_cells(one, options.workers, progress=True).failed)
            scores = {
                rate: found[0]["metrics"][str(TRAINED[-1])]
                for rate, one in tried.items()
                for found in collect(one).values()
            }
            if not scores:
                continue
            chosen[name] = max(scores, key=lambda rate: scores[rate])
            wanted = cells(name, chosen[name], range(options.seeds))
            failed |= not options.table and bool(run_cells(wanted, options.workers, progress=True).failed)
            results[name] = next(iter(collect(wanted).values()))
        figures = {
            name: over_seeds([one["metrics"] for one in found], list(map(str, ASKED)))
            for name, found in results.items()
        }
        held = {
            f"{name}: {REQUIRED:.0%} at 8 times the trained length": figures[name][LONGEST]["mean"] >= REQUIRED
            for name in (ROUTED, WINDOW_ROUTED)
            if name in figures
        }
        rates = " ".join(f"{rate:g}" for rate in options.rates)
        given = f"--seeds {options.seeds} --steps {options.steps} --rates {rates}"
        record = {
            "schema_version": 1,
            "command": f"python -m eval.benchmarks.associative_recall {given}",
            "arms": {
                name: {
                    "figures": figures[name],
                    "learning_rate": chosen[name],
                    "seeds": [one["seed"] for one in found],
                }
                for name, found in results.items()
            },
            "required": held,
            "note": NOTE,
            "versions": package_versions(),
        }
        return record, failed


BENCHMARK = AssociativeRecall()
main = BENCHMARK.main


if __name__ == "__main__":
    sys.exit(main())
