"""Columns of a benchmark's table, for the terminal, the Markdown beside a record, and the pages of `docs/results`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eval.benchmarks.statistics import Figure, shown_number, shown_ratio

Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        name, label: of the arm or guesser; the label is what is shown.
        figures: metric -> mean and spread.
        arm: its part of the record; None for a guesser.
        step: at which the figures were taken, where the record says.
        ends: whether it is the arm's last line, which shows what the whole run cost.
    """

    name: str
    label: str
    figures: dict[str, Figure]
    arm: Record | None = None
    step: str | None = None
    ends: bool = True


@dataclass(frozen=True)
class Column:
    """A heading, and (record, row) -> what stands under it."""

    heading: str
    show: Callable[[Record, Row], str]


def alone(value: Any) -> Figure:
    """A figure that no other seed stands beside."""
    return {"mean": value, "sd": None}


def guess_rows(guesses: dict[str, dict[str, Any]]) -> list[Row]:
    """A row per guesser or scored model, of values without a spread."""
    return [
        Row(name, name.replace("_", " "), {metric: alone(value) for metric, value in found.items()})
        for name, found in guesses.items()
    ]


def figure(heading: str, metric: str, form: str) -> Column:
    """A metric over seeds; a dash where it is not known."""
    return Column(heading, lambda record, row: shown_number(row.figures.get(metric, alone(None)), form))


def figures(forms: dict[str, str]) -> tuple[Column, ...]:
    """Metrics under their own names."""
    return tuple(figure(metric.replace("_", " "), metric, form) for metric, form in forms.items())


def of_arm(heading: str, show: Callable[[Record], str]) -> Column:
    """What holds for an arm at every step."""
    return Column(heading, lambda record, row: "" if row.arm is None else show(row.arm))


def cost(heading: str, show: Callable[[Record], str]) -> Column:
    """What is said once of an arm, in its last line."""
    return Column(heading, lambda record, row: "" if row.arm is None or not row.ends else show(row.arm))


def versus(heading: str, *path: str, show: Callable[[Any], str] = shown_ratio) -> Column:
    """What the record holds under a path of keys, with {name} and {step} of the row; empty if it is not there."""

    def found(record: Record, row: Row) -> str:
        place: Any = record
        for key in path:
            place = place.get(key.format(name=row.name, step=row.step), {})
        return show(place)

    return Column(heading, found)


def reach(heading: str, key: str) -> Column:
    """How soon an arm's curve reached a value, see `statistics.reaching`."""

    def show(arm: Record) -> str:
        found = arm[key]
        if found["step"] is None:
            return "-"
        after = f"{found['step']:,.0f} steps, {found['cpu_seconds']:,.0f} s"
        everywhere = found["seeds_that_reached_it"] == found["of"]
        return after if everywhere else f"{after} ({found['seeds_that_reached_it']} of {found['of']} seeds)"

    return cost(heading, show)


SEEDS = of_arm("seeds", lambda arm: str(len(arm["seeds"])))
RATE = of_arm(
    "rate", lambda arm: f"{arm['learning_rate']:g}" + (" (edge)" if arm.get("rate_at_the_grids_edge") else "")
)
SPEED = cost("tokens/CPU s", lambda arm: f"{arm['tokens_per_second']['mean']:,.0f}")
SECONDS = cost("CPU s", lambda arm: f"{arm['training_cpu_seconds']['mean']:,.0f}")
MEMORY = cost("peak MiB", lambda arm: f"{arm['training_peak_memory_bytes']['mean'] / 2**20:,.0f}")
PARAMETERS = cost("parameters", lambda arm: f"{arm['num_parameters']:,}")
