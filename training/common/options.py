"""Fields of settings that carry their help and their range, and the one place where ranges are checked."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from training.common.errors import InputError


@dataclass(frozen=True)
class Allowed:
    """The values that a setting may have, as a rule and in words (`use ...`)."""

    fits: Callable[[Any], bool]
    words: str


SHARE = Allowed(lambda value: 0 <= value <= 1, "a share from 0 to 1")
OPEN_SHARE = Allowed(lambda value: 0 < value < 1, "a share above 0 and below 1 (such as 0.3)")
POSITIVE_SHARE = Allowed(lambda value: 0 < value <= 1, "a share above 0 and at most 1")


def at_least(low: float) -> Allowed:
    """Numbers from `low` on."""
    return Allowed(lambda value: value >= low, f"{low} or more")


def one_of(*choices: str) -> Allowed:
    """These names alone."""
    return Allowed(lambda value: value in choices, f"one of {', '.join(choices)}")


def option(default: Any, words: str, allowed: Allowed | None = None) -> Any:
    """A dataclass field with its help; a list is copied for each instance."""
    metadata = {"help": words, "allowed": allowed}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_options(settings: Any) -> None:
    """Raise InputError where a field of a settings dataclass is outside its range; None is never."""
    for item in fields(settings):
        value, allowed = getattr(settings, item.name), item.metadata.get("allowed")
        if value is not None and allowed is not None and not allowed.fits(value):
            raise InputError(f"{item.name}: got {value!r}; use {allowed.words}")
