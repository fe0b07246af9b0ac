"""What stage 3 of the generator costs against dense attention, from 1k to 32k tokens.

    python -m eval.benchmarks.routing_cost --threads 1

Counted is what the two roads do differently in a forward and backward pass over one row, and in decoding one token
with all before it cached: finding the edges, once for all layers, plus each layer's attention in a window and along
far edges to successors; against each layer's causal `scaled_dot_product_attention` without a mask, its fastest form.
Not counted is what both do alike: projections, rotary positions, MLPs, the output, the copying of a growing cache.
Every point has a process of its own (`routing_point.py`); run it on a quiet machine. Exit codes: 0; 1 what is
required does not hold; 2 bad input.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from eval.benchmarks.cells import CHECKOUT
from eval.benchmarks.columns import Column, Record, Row, of_arm
from eval.benchmarks.comparison import Benchmark
from eval.benchmarks.routing_point import Point
from training.common.errors import InputError
from training.common.records import package_versions

MODES, KINDS = ("train", "decode"), ("graph", "dense")
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
# glibc gives blocks of 64 KiB and more back as soon as they are freed.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
FITTED_FROM = 8192
LARGEST_EXPONENT = 1.1
LARGEST_RATIOS = {"train": (8192, 0.5), "decode": (16384, 0.2)}
NOTE = (
    "One row, one document, float32. `train`: forward and backward over all tokens; `decode`: one token after all "
    "others. Routing is found once for all layers; a layer's attention is timed by itself, and the model's figure is "
    "routing plus as many times that as there are layers. Dense: causal sdpa without a mask. Medians of CPU time at "
    "one thread, else of the clock's; the first run warms up. Memory: the peak of another process, which keeps "
    "nothing that is freed, above what it held with the inputs made; with one layer. Exponents: slope of log time "
    "over log tokens from 8k on."
)


class RoutingCost(Benchmark):
    """See the module."""

    name = "routing_cost"
    width = 180
    heading = "mode, tokens"

    def parser(self) -> argparse.ArgumentParser:
        """The options."""
        return _parser()

    def measure(self, options: argparse.Namespace) -> tuple[Record, bool]:
        """Every point, one after another."""
        if any(length < 2 for length in options.lengths):
            raise InputError(f"lengths: got {min(options.lengths)}; use 2 tokens or more")
        return summarise([run_point(point) for point in points(options)], options), False

    def rows(self, record: Record) -> list[Row]:
        """A row per mode and length."""
        return [
            Row(mode, f"{mode}, {int(length):,}", {}, point)
            for mode, found in record["modes"].items()
            for length, point in found["points"].items()
        ]

    def columns_of(self, record: Record) -> list[Column]:
        """Times in milliseconds, ratios and memory."""
        layers = record["layers"]
        return [
            of_arm("routing", lambda point: _milliseconds(point["graph"]["routing"])),
            *(of_arm(f"{kind}, a layer", partial(_layers_of, kind, None)) for kind in KINDS),
            *(of_arm(f"{kind}, {layers} layers", partial(_layers_of, kind, layers)) for kind in KINDS),
            of_arm("ratio", lambda point: f"{point['ratio']:.3f}"),
            of_arm("ratio of one layer", lambda point: f"{point['ratio_of_one_layer']:.3f}"),
            of_arm("graph MiB", lambda point: f"{point['graph']['memory_bytes'] / 2**20:,.0f}"),
            of_arm("dense MiB", lambda point: f"{point['dense']['memory_bytes'] / 2**20:,.0f}"),
        ]

    def evidence(self, record: Record) -> list[str]:
        """Exponents and crossing points."""
        lines = []
        for mode, found in record["modes"].items():
            for kind, exponent in found["exponents"].items():
                time, memory = ("-" if value is None else f"{value:.2f}" for value in exponent.values())
                lines.append(f"- {mode}, {kind}: time grows with tokens^{time}, memory with tokens^{memory}")
            below = found["dense_is_faster_below"]
            shown = "everywhere" if below is None else f"below {below:,.0f} tokens" if below else "nowhere"
            lines.append(f"- {mode}: dense is faster {shown}, at {record['layers']} layers")
        return lines


def points(options: argparse.Namespace) -> list[Point]:
    """All points, the short ones first."""
    shared = {
        name: getattr(options, name)
        for name in ("heads", "head_dim", "vocabulary", "window", "occurrences", "threads")
    }
    return [
        Point(length, mode, kind, **shared, repetitions=options.repetitions, seconds=options.seconds)
        for length in sorted(set(options.lengths))
        for mode in options.modes
        for kind in KINDS
    ]


def run_point(point: Point) -> dict[str, Any]:
    """The point's fields and figures. Raises `InputError` where it fails.

    Time and memory are measured in two processes, as the C library's way of keeping freed memory makes the one faster
    and hides the other.
    """
    found = _in_a_process(point, {})
    alone = _in_a_process(replace(point, repetitions=0), _GIVE_BACK)
    name = f"{point.kind}, {point.mode}, {point.length:,} tokens"
    print(f"{name}: routing {found['routing']:.4f} s, attention {found['attention']:.4f} s", file=sys.stderr)
    return {**asdict(point), **found, "memory_bytes": alone["memory_bytes"]}


def _in_a_process(point: Point, environment: dict[str, str]) -> dict[str, Any]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(point.threads))
    python_path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.run(
        [sys.executable, "-m", "eval.benchmarks.routing_point"],
        input=json.dumps(asdict(point)),
        env={**os.environ, **threads, **environment, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        last = (process.stderr.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise InputError(f"{point.kind}, {point.mode}, {point.length:,} tokens: {last}; use other --lengths")
    return json.loads(process.stdout)


def summarise(measured: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """The record: every point, and what follows from them for a model of so many layers."""
    kept = ("routing", "attention", "memory_bytes", "runs")
    modes = {}
    for mode in options.modes:
        rows = {kind: {p["length"]: p for p in measured if (p["mode"], p["kind"]) == (mode, kind)} for kind in KINDS}
        modes[mode] = {
            "points": {
                str(length): {
                    **{kind: {name: rows[kind][length][name] for name in kept} for kind in KINDS},
                    "ratio": _total(rows["graph"][length], options.layers)
                    / _total(rows["dense"][length], options.layers),
                    "ratio_of_one_layer": _total(rows["graph"][length], 1) / _total(rows["dense"][length], 1),
                }
                for length in rows["graph"]
            },
            "exponents": exponents(rows, options.layers),
            "dense_is_faster_below": crossing(rows, options.layers),
        }
    return {
        "schema_version": 1,
        "command": _shown_command(options),
        "layers": options.layers,
        **{name: getattr(options, name) for name in ("heads", "head_dim", "vocabulary", "threads")},
        "edges": {name: getattr(options, name) for name in ("window", "occurrences")},
        "modes": modes,
        "required": requirements(modes),
        "note": NOTE,
        "processor": platform.processor() or platform.machine(),
        "versions": package_versions(),
    }


def exponents(rows: dict[str, dict[int, dict]], layers: int) -> dict[str, dict[str, float | None]]:
    """Of time and of memory for each kind: least-squares slope of the logarithms over the long lengths; None below
    two of them.
    """
    found = {}
    for kind, by_length in rows.items():
        chosen = [length for length in by_length if length >= FITTED_FROM]
        times = [_total(by_length[length], layers) for length in chosen]
        memory = [by_length[length]["memory_bytes"] for length in chosen]
        found[kind] = {"time": slope(chosen, times), "memory": slope(chosen, memory)}
    return found


def slope(lengths: Sequence[float], values: Sequence[float]) -> float | None:
    """The exponent b of value = a length^b, fitted to the logarithms; None where it cannot be said."""
    if len(lengths) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def crossing(rows: dict[str, dict[int, dict]], layers: int) -> float | None:
    """Tokens from which the graph stays faster, between two points in a straight line of the logarithms; 0 where it
    is faster everywhere, None where it is slower at the longest.
    """
    lengths = sorted(rows["graph"])
    logs = [
        float(np.log(_total(rows["graph"][length], layers) / _total(rows["dense"][length], layers)))
        for length in lengths
    ]
    if logs[-1] >= 0:
        return None
    slower = [place for place, value in enumerate(logs) if value >= 0]
    if not slower:
        return 0.0
    last = slower[-1]
    share = logs[last] / (logs[last] - logs[last + 1])
    return float(np.exp(np.log(lengths[last]) + share * np.log(lengths[last + 1] / lengths[last])))


def requirements(modes: dict[str, Any]) -> dict[str, bool]:
    """What must hold, as far as it was measured."""
    held: dict[str, bool] = {}
    if "train" in modes:
        for name, exponent in modes["train"]["exponents"]["graph"].items():
            if exponent is not None:
                held[f"exponent of {name} at most {LARGEST_EXPONENT}"] = exponent <= LARGEST_EXPONENT
    for mode, (length, largest) in LARGEST_RATIOS.items():
        judged = modes.get(mode, {"points": {}})["points"].get(str(length))
        if judged is not None:
            held[f"{mode}, {length:,} tokens: at most {largest} of dense time"] = judged["ratio"] <= largest
    return held


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.2f}"


def _layers_of(kind: str, layers: int | None, point: dict[str, Any]) -> str:
    """The time of so many layers with their routing; of None, of one layer's attention alone."""
    return _milliseconds(point[kind]["attention"] if layers is None else _total(point[kind], layers))


def _total(point: dict[str, Any], layers: int) -> float:
    return point["routing"] + layers * point["attention"]


def _shown_command(options: argparse.Namespace) -> str:
    parser = _parser()
    given = [
        f"--{name} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in vars(options).items()
        if name != "json" and value != parser.get_default(name)
    ]
    return " ".join(["python -m eval.benchmarks.routing_cost", *given])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.benchmarks.routing_cost",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--json", default="model_cards/results/routing_cost.json", help="result file")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="tokens")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="what is timed")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--layers", type=int, default=6, help="layers that share the routing")
    parser.add_argument("--heads", type=int, default=8, help="heads of a layer")
    parser.add_argument("--head_dim", type=int, default=32, help="width of a head")
    parser.add_argument("--vocabulary", type=int, default=8000, help="different tokens")
    parser.add_argument("--window", type=int, default=32, help="nearest tokens")
    parser.add_argument("--occurrences", type=int, default=8, help="latest occurrences whose successors are far edges")
    parser.add_argument("--repetitions", type=int, default=5, help="at most, of each timing")
    parser.add_argument("--seconds", type=float, default=20.0, help="after which a timing is not repeated again")
    return parser


BENCHMARK = RoutingCost()
main = BENCHMARK.main


if __name__ == "__main__":
    sys.exit(main())
