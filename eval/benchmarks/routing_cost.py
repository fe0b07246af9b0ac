"""What stage 3 of the generator costs against dense attention, from 1k to 32k tokens.

    python -m eval.benchmarks.routing_cost --threads 1

Counted is what the two roads do differently in a forward and backward pass over one row, and in decoding one token
with all before it cached: finding the edges, once for all layers, plus each layer's attention in a window and along
far edges to successors; against each layer's causal `scaled_dot_product_attention` without a mask, its fastest form.
Not counted is what both do alike: projections, rotary positions, MLPs, the output, the copying of a growing cache.
Every point has a process of its own; run it on a quiet machine. Exit codes: 0; 1 what is
required does not hold; 2 bad input.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from torch.nn.functional import scaled_dot_product_attention

from eval.benchmarks.cells import CHECKOUT
from eval.benchmarks.columns import Column, Record, Row, of_arm
from eval.benchmarks.comparison import Benchmark
from eval.benchmarks.exams.memory import peak_memory
from modeling_jepa.graph_routing import Edges, ListedEdges, listed_edges, sorted_edges
from training.common.errors import InputError
from training.common.records import package_versions

MODES, KINDS = ("train", "decode"), ("graph", "dense")
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
_ZIPF = 1.0  # exponent of the tokens' frequencies
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


@dataclass(frozen=True)
class Point:
    """What is timed.

    Attributes:
        length: tokens T.
        mode: `train`, forward and backward over T tokens; `decode`, one token after T - 1 cached ones.
        kind: `graph` or `dense`.
        heads, head_dim: of one attention layer.
        vocabulary: different tokens, whose frequencies are those of a text (Zipf).
        window, occurrences: of the routing, whose far edges lead to successors.
        threads: of torch.
        repetitions, seconds: at most so many after one to warm up, and no further one after so many seconds.
    """

    length: int
    mode: str
    kind: str
    heads: int
    head_dim: int
    vocabulary: int
    window: int
    occurrences: int
    threads: int
    repetitions: int
    seconds: float


class RoutingCost(Benchmark):
    """See the module."""

    name = "routing_cost"
    width = 180
    heading = "mode, tokens"

    def parser(self) -> argparse.ArgumentParser:
        """The options."""
        parser = super().parser()
        parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
        parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="tokens")
        parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="what is timed")
        parser.add_argument("--threads", type=int, default=1, help="threads of torch")
        parser.add_argument("--layers", type=int, default=6, help="layers that share the routing")
        parser.add_argument("--heads", type=int, default=8, help="heads of a layer")
        parser.add_argument("--head_dim", type=int, default=32, help="width of a head")
        parser.add_argument("--vocabulary", type=int, default=8000, help="different tokens")
        parser.add_argument("--window", type=int, default=32, help="nearest tokens")
        parser.add_argument(
            "--occurrences", type=int, default=8, help="latest occurrences whose successors are far edges"
        )
        parser.add_argument("--repetitions", type=int, default=5, help="at most, of each timing")
        parser.add_argument("--seconds", type=float, default=20.0, help="after which a timing is not repeated again")
        return parser

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
        [sys.executable, "-c", "from eval.benchmarks.routing_cost import answer; answer()"],
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
    parser = BENCHMARK.parser()
    given = [
        f"--{name} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in vars(options).items()
        if name != "json" and value != parser.get_default(name)
    ]
    return " ".join(["python -m eval.benchmarks.routing_cost", *given])


# ---- one point, in its process; T tokens, N heads, D head dimension; one row, no padding, one document ----


def measure(point: Point) -> dict[str, Any]:
    """Medians in seconds (of CPU at one thread, else of the clock): `routing` (once per forward pass; 0 for dense) and
    `attention` (of one layer); `runs` of each; `memory_bytes`, the peak above what was held with the inputs made.
    """
    torch.set_num_threads(point.threads)
    torch.manual_seed(0)
    queries = 1 if point.mode == "decode" else point.length
    shapes = (queries, point.length, point.length)
    states = [torch.randn(1, point.heads, places, point.head_dim) for places in shapes]
    if point.mode == "train":
        states = [each.requires_grad_() for each in states]
    search = _search(point)
    held = psutil.Process().memory_info().rss
    routing, edges = 0.0, None
    runs = {"routing": 0, "attention": 0}
    if point.kind == "graph":
        edges = search()
        routing, runs["routing"] = _median(point, search)
    attention, runs["attention"] = _median(point, _step(point, states, edges))
    return {
        "routing": routing,
        "attention": attention,
        "runs": runs,
        "memory_bytes": max(0, peak_memory() - held),
    }


def answer() -> None:
    """What the process of a point does: a request in as JSON, the figures out."""
    print(json.dumps(measure(Point(**json.load(sys.stdin)))))


def _search(point: Point) -> Callable[[], tuple[Edges, Edges]]:
    """Finding near and far edges as a forward pass does: of all tokens, or of the last with the others cached."""
    frequencies = torch.arange(1, point.vocabulary + 1, dtype=torch.double) ** -_ZIPF
    tokens = torch.multinomial(frequencies, point.length, replacement=True)[None]
    place = torch.arange(point.length)
    following = (place + 1).clamp_max(point.length - 1)[None]

    def all_of_them() -> tuple[Edges, Edges]:
        near = sorted_edges(torch.zeros_like(tokens), point.window, lowest=0)
        return near, sorted_edges(tokens, point.occurrences, targets=following)

    def last_one() -> tuple[Edges, Edges]:
        window = place[-point.window - 1 :][None, None]
        near = ListedEdges(window, torch.ones_like(window, dtype=torch.bool))
        return near, listed_edges(tokens, point.length - 1, 1, point.occurrences, following)

    return all_of_them if point.mode == "train" else last_one


def _step(point: Point, states: list[torch.Tensor], edges: tuple[Edges, Edges] | None) -> Callable[[], Any]:
    """One layer's attention as the model calls it."""
    query, key, value = states
    scaling, training = point.head_dim**-0.5, point.mode == "train"
    null_key = torch.zeros(point.heads, point.head_dim)

    def attend() -> torch.Tensor:
        if edges is None:
            return scaled_dot_product_attention(query, key, value, is_causal=training, scale=scaling)
        near, far = edges
        return near.attend(query, key, value, scaling) + far.attend(query, key, value, scaling, null_key)

    if not training:
        return torch.inference_mode()(attend)
    upstream = torch.randn_like(attend().detach())

    def learn() -> None:
        for each in states:
            each.grad = None
        attend().backward(upstream)

    return learn


def _median(point: Point, step: Callable[[], Any]) -> tuple[float, int]:
    """Median seconds of the repetitions, and how many there were; the first is to warm up, unless it is all there
    is time for.
    """
    # One thread's CPU seconds are the same on a loaded machine.
    clock = time.process_time if point.threads == 1 else time.perf_counter
    times: list[float] = []
    began = time.perf_counter()
    while len(times) <= point.repetitions:
        start = clock()
        step()
        times.append(clock() - start)
        if time.perf_counter() - began > point.seconds:
            break
    counted = times[1:] or times
    return statistics.median(counted), len(counted)


BENCHMARK = RoutingCost()
main = BENCHMARK.main


if __name__ == "__main__":
    sys.exit(main())
