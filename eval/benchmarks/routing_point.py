"""Times one point of the cost of routing, in a process of its own: reads a request as JSON, writes the figures.

Shapes: T tokens, R width of a routing vector, N heads, D head dimension; one row, no padding, one document.
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
from modeling_jepa.graph_routing import (
    Neighbours,
    Rules,
    fibonacci_distances,
    find_neighbours,
    gathered_attention,
    routing_vectors,
)

_PIECE = 256


@dataclass(frozen=True)
class Point:
    """What is timed.

    Attributes:
        length: tokens T, and the model's length, which decides the shortcuts.
        mode: `train`, forward and backward over T tokens; `decode`, one token after T - 1 cached ones.
        kind: `graph` or `dense`.
        heads, head_dim: of one attention layer.
        routing_size: R, the width of the token table.
        window, top_k, candidates: of the routing.
        threads: of torch.
        repetitions, seconds: at most so many after one to warm up, and no further one after so many seconds.
    """

    length: int
    mode: str
    kind: str
    heads: int
    head_dim: int
    routing_size: int
    window: int
    top_k: int
    candidates: int
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
    embeddings = torch.randn(1, point.length, point.routing_size)
    shapes = (queries, point.length, point.length)
    states = [torch.randn(1, point.heads, places, point.head_dim) for places in shapes]
    if point.mode == "train":
        states = [each.requires_grad_() for each in states]
    search = _search(point, embeddings)
    held = psutil.Process().memory_info().rss
    routing, neighbours = 0.0, None
    runs = {"routing": 0, "attention": 0}
    if point.kind == "graph":
        neighbours = search()
        routing, runs["routing"] = _median(point, search)
    attention, runs["attention"] = _median(point, _step(point, states, neighbours))
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


def _search(point: Point, embeddings: torch.Tensor) -> Callable[[], Neighbours]:
    """Finding the neighbours as a forward pass does: of all tokens, or of the last with the others' vectors cached."""
    distances = fibonacci_distances(point.window, point.length)
    rules = Rules(point.window, point.top_k, point.candidates, distances)
    if point.mode == "train":

        def all_of_them() -> Neighbours:
            vectors = routing_vectors(embeddings)
            return find_neighbours(vectors, vectors, 0, rules)

        return all_of_them
    # In pieces, as a cache fills: what is made on the way must not be the peak.
    cached = torch.cat([routing_vectors(few) for few in embeddings.split(_PIECE, dim=1)], dim=1)

    def last_one() -> Neighbours:
        return find_neighbours(routing_vectors(embeddings[:, -1:]), cached, point.length - 1, rules)

    return last_one


def _step(point: Point, states: list[torch.Tensor], neighbours: Neighbours | None) -> Callable[[], Any]:
    """One layer's attention as the model calls it."""
    query, key, value = states
    scaling, training = point.head_dim**-0.5, point.mode == "train"

    def attend() -> torch.Tensor:
        if neighbours is None:
            return scaled_dot_product_attention(query, key, value, is_causal=training, scale=scaling)
        return gathered_attention(query, key, value, neighbours, scaling, with_probabilities=not training)[0]

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
