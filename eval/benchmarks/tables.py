"""A comparison's table: mean and spread over seeds, and the interval of the difference to one arm."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from eval.benchmarks.statistics import Interval, paired_interval
from training.common.errors import InputError

Results = dict[str, list[dict]]


def comparison_table(results: Results, metrics: Sequence[str], against: str | None) -> Table:
    """The comparison for the terminal; see `comparison_rows`."""
    header, *rows = comparison_rows(results, metrics, against)
    table = Table(header[0])
    for heading in header[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def comparison_markdown(results: Results, metrics: Sequence[str], against: str | None) -> str:
    """The comparison as a Markdown table; see `comparison_rows`."""
    header, *rows = comparison_rows(results, metrics, against)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)) + "\n"


def comparison_rows(results: Results, metrics: Sequence[str], against: str | None) -> list[list[str]]:
    """Header and one row per arm: seeds, `mean (sd)` of each metric, its difference to `against`, CPU seconds.

    A difference with its 95 % interval stands where both arms kept results per example, for the seeds that both have.

    Raises:
        InputError: `against` is no arm, or two arms answered different examples.
    """
    if against is not None and results and against not in results:
        raise InputError(f"against={against!r} is no arm with results; there are {', '.join(results)}")
    versus = [] if against is None else [f"{name} - {against}" for name in metrics]
    rows = [["arm", "seeds", *metrics, *versus, "CPU s"]]
    for arm, cells in results.items():
        row = [arm, str(len(cells)), *(_mean_and_spread(cells, name) for name in metrics)]
        if against is not None:
            row += [_shown(None if arm == against else difference(cells, results[against], name)) for name in metrics]
        rows.append([*row, f"{np.mean([cell['cpu_seconds'] for cell in cells]):,.0f}"])
    return rows


def difference(first: Sequence[dict], second: Sequence[dict], metric: str) -> Interval | None:
    """Interval of a metric's paired difference, or None where an arm kept no results per example.

    Raises:
        InputError: the two arms answered different examples.
    """
    left, right = ({cell["seed"]: cell.get("examples", {}) for cell in cells} for cells in (first, second))
    seeds = [seed for seed in left if seed in right and metric in left[seed] and metric in right[seed]]
    if not seeds:
        return None
    ids = left[seeds[0]]["ids"]
    if any(side[seed]["ids"] != ids for side in (left, right) for seed in seeds):
        raise InputError(f"{metric}: arms answered different test examples and cannot be paired; use one test set")
    pair = (np.array([side[seed][metric] for seed in seeds], dtype=np.float64) for side in (left, right))
    clusters = left[seeds[0]].get("clusters")
    return paired_interval(*pair, clusters=None if clusters is None else np.array(clusters))


def _mean_and_spread(cells: Sequence[dict], metric: str) -> str:
    """Mean over seeds, with the sample standard deviation from two seeds on."""
    values = [cell["metrics"].get(metric) for cell in cells]
    if any(value is None for value in values):
        return "-"
    spread = f" ({np.std(values, ddof=1):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _shown(interval: Interval | None) -> str:
    """A difference with its interval."""
    if interval is None:
        return "-"
    return f"{interval.difference:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
