"""One flat list of everything a recipe or the command line may set: name, section, type, default, help.

It is read from the dataclasses themselves, so a new field of a configuration or of the settings is a new key and a
new flag, with its help, and nothing else has to be touched.
"""

import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any

from configuration_jepa import JepaConfig
from training.common.errors import InputError

SECTIONS = ("model", "data", "masking", "loss", "training", "evaluation")

_NULLS = ("null", "none", "None")

# The tokenizer decides these; a recipe cannot.
_FROM_TOKENIZER = ("vocab_size", "pad_token_id", "unk_token_id", "mask_token_id", "bos_token_id", "eos_token_id")


@dataclass(frozen=True)
class Key:
    """One key of a recipe, and the flag of the same name."""

    name: str
    section: str
    type: Any
    default: Any
    help: str

    def convert(self, value: Any) -> Any:
        """`value` (from YAML or from the command line) as this key's type. Raises `InputError`."""
        try:
            return _convert(value, self.type)
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{self.name}: got {shortened(value)}; use {type_name(self.type)}") from None


def keys_of_settings(section: str, settings_class: type) -> list[Key]:
    """The keys of a settings dataclass (help in each field's metadata)."""
    hints = typing.get_type_hints(settings_class)
    return [
        Key(item.name, section, hints[item.name], _default(item), item.metadata["help"])
        for item in fields(settings_class)
    ]


def keys_of_config(config_class: type) -> list[Key]:
    """The keys of a family's configuration, in the sections `model` and `loss` (help from the docstrings)."""
    # The library's base has fields too, and they are no keys of a recipe.
    own = [base for base in reversed(config_class.__mro__) if issubclass(base, JepaConfig)]
    hints = {name: hint for base in own for name, hint in inspect.get_annotations(base).items()}
    help_texts = {name: text for base in own for name, text in _documented_arguments(base).items()}
    defaults = {item.name: _default(item) for item in fields(config_class)}
    no_keys = {*_FROM_TOKENIZER, *config_class.universal_fields}
    return [
        Key(name, "loss" if name in config_class.loss_fields else "model", hints[name], defaults[name], text)
        for name in hints
        if name in defaults and name not in no_keys and (text := help_texts.get(name, ""))
    ]


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """`"; did you mean X?"` where something near is allowed, else an empty string."""
    near = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def shortened(value: Any) -> str:
    """A value as an error shows it."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def type_name(hint: Any) -> str:
    """A type in words, for help and errors."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if typing.get_origin(hint) is list:
        return "a list, each item " + type_name(typing.get_args(hint)[0])
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = typing.get_args(hint)
        return " or ".join(type_name(option) for option in options if not (option is int and float in options))
    return names[hint]


def _default(item: Any) -> Any:
    return item.default if item.default is not MISSING else item.default_factory()


def _convert(value: Any, hint: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = typing.get_args(hint)
        # A list's flag gives what stands behind it as a list.
        if type(None) in options and (value is None or value in (*_NULLS, *([null] for null in _NULLS))):
            return None
        plain = [option for option in options if option is not type(None)]
        return _convert(value, float if float in plain else plain[0])
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        return [_convert(item, inner) for item in (value if isinstance(value, list) else [value])]
    if hint is bool:
        return _as_bool(value)
    if value is None or isinstance(value, bool | list | dict):
        raise TypeError
    if hint is int:
        # 1e3 is how people write a thousand steps, and YAML reads it as text.
        number = float(value)
        if number != int(number):
            raise ValueError
        return int(value) if isinstance(value, int) or str(value).lstrip("+-").isdigit() else int(number)
    return hint(value)


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    spelled = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if not isinstance(value, str) or value.lower() not in spelled:
        raise ValueError
    return spelled[value.lower()]


def _documented_arguments(cls: type) -> dict[str, str]:
    """Name -> text of the `Args:` block of a docstring; `a, b: text` documents both."""
    block = re.search(r"\n\s*Args:\n(.*?)(?:\n\s*\n|\Z)", cls.__doc__ or "", flags=re.DOTALL)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in block.group(1).splitlines() if block else []:
        start = re.match(r"^\s+([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)$", line)
        if start:
            names = start.group(1).split(", ")
            found |= dict.fromkeys(names, start.group(2).strip())
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
