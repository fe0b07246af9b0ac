"""From what stands in a column of labels to numbers: one class, several at once, or a number to predict."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np

from training.common.errors import InputError

ONE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"
PROBLEM_TYPES = (ONE, SEVERAL, NUMBER)
_SHOWN = 5


@dataclass(frozen=True)
class LabelScheme:
    """What labels are, found in the training part.

    Attributes:
        problem_type: one of `PROBLEM_TYPES`, the library's names.
        names: of the classes, in the order of their numbers; of a regression the column's name.
    """

    problem_type: str
    names: tuple[str, ...]

    @classmethod
    def found_in(cls, values: Sequence[Any], column: str, problem_type: str = "auto") -> "LabelScheme":
        """The scheme of the training part's labels.

        Args:
            values: as they stand in the source, one for each row: text, whole numbers, fractions, or lists of these.
            problem_type: one of `PROBLEM_TYPES`, or `auto`: lists are several labels, fractions numbers to predict,
                anything else a class.

        Raises:
            InputError: labels of mixed kinds, of a single class, or nearly as many classes as rows; naming examples.
        """
        kinds = {_kind(value): value for value in values}
        if len(kinds) > 1:
            shown = " and ".join(f"{kind} ({_short(value)})" for kind, value in sorted(kinds.items()))
            raise InputError(f"label_column: {column!r} holds {shown}; give labels of one kind")
        numbers = [_number(value) for value in values]
        if problem_type == "auto":
            is_fraction = None not in numbers and not all(number.is_integer() for number in numbers)
            problem_type = NUMBER if is_fraction else SEVERAL if "lists" in kinds else ONE
        if problem_type == NUMBER:
            if None in numbers:
                odd = values[numbers.index(None)]
                raise InputError(f"problem_type: regression needs numbers, and {column!r} holds {_short(odd)}")
            return cls(NUMBER, (column,))
        counts = Counter(name for value in values for name in _names(value))
        names = tuple(sorted(counts, key=lambda name: (_number(name) is None, _number(name) or 0.0, name)))
        if len(names) < 2:
            found = f"the one class {_short(names[0])}" if names else "no class at all"
            raise InputError(f"label_column: {column!r} has {found} in the training part; there is nothing to learn")
        if len(names) > max(2, len(values) // 2):
            raise InputError(
                f"label_column: {column!r} has {len(names):,} different labels in {len(values):,} rows "
                f"({', '.join(map(_short, names[:_SHOWN]))}, ...): it looks like no class; choose another column, or "
                "--problem_type regression for numbers"
            )
        return cls(problem_type, names)

    def encoded(self, values: Sequence[Any], split: str) -> np.ndarray:
        """Labels as the model takes them: `(rows,)` int64 classes or float32 numbers, or `(rows, classes)` float32.

        Raises:
            InputError: a label that the training part lacks, or that is no number.
        """
        if self.problem_type == NUMBER:
            numbers = [_number(value) for value in values]
            if None in numbers:
                odd = values[numbers.index(None)]
                raise InputError(f"label_column: {self.names[0]!r} of {split} holds {_short(odd)}, which is no number")
            return np.array(numbers, dtype=np.float32)
        place = {name: index for index, name in enumerate(self.names)}
        unknown = Counter(name for value in values for name in _names(value) if name not in place)
        if unknown:
            shown = ", ".join(f"{_short(name)} ({count:,} rows)" for name, count in unknown.most_common(_SHOWN))
            raise InputError(
                f"label_column: {split} has labels that the training part lacks: {shown}; leave these rows out, or "
                "give training rows of them"
            )
        if self.problem_type == ONE:
            return np.array([place[_names(value)[0]] for value in values], dtype=np.int64)
        found = np.zeros((len(values), len(self.names)), dtype=np.float32)
        for row, value in enumerate(values):
            found[row, [place[name] for name in _names(value)]] = 1.0
        return found

    def config_fields(self) -> dict[str, Any]:
        """Of the model's configuration."""
        ids = dict(enumerate(self.names))
        return {"problem_type": self.problem_type, "id2label": ids, "label2id": {v: k for k, v in ids.items()}}


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "lists"
    return "numbers" if isinstance(value, int | float) and not isinstance(value, bool) else "texts"


def _number(value: Any) -> float | None:
    """A finite number, also one that is written as text; a truth value is none."""
    if isinstance(value, bool | list | tuple):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _names(value: Any) -> list[str]:
    """Names of the classes of a row; a whole number has one name, however it is written."""
    if isinstance(value, list | tuple):
        return [name for item in value for name in _names(item)]
    number = _number(value)
    return [str(value).strip() if number is None or not number.is_integer() else str(int(number))]


def _short(value: Any) -> str:
    return repr(shorten(str(value), 40, placeholder="..."))
