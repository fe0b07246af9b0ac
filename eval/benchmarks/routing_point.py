"""Times one point of the cost of routing, in a process of its own: reads a request as JSON, writes the figures.

Shapes: T tokens, N heads, D head dimension; one row, no padding, one document.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch.nn.functional import scaled_dot_product_attention

from eval.benchmarks.exams.memory import peak_memory
from modeling_jepa.graph_routing import Edges, ListedEdges, listed_edges, sorted_edges

_ZIPF = 1.0  # exponent of the tokens' frequencies


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


def main() -> int:
    """One request in, one result out."""
    print(json.dumps(measure(Point(**json.load(sys.stdin)))))
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
