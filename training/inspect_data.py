"""What would be read of a source, before a run: columns, rows or documents, lengths, unknown words, repeats, leaks.

    python -m training.inspect_data --data PATH/TO/tickets.csv --text_column body
    python -m training.inspect_data --data PATH/TO/chat.jsonl --family dialogue_jepa

It reads as a run of that family does by default, and trains the same vocabulary. Exit codes: 0, or 2 for bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from eval.command import new_parser, run_command

_COLUMNS = ("text_column", "prompt_column", "reply_column")
_GIVEN = ("data", "split", *_COLUMNS, "documents", "tokenizer", "max_vocab")
_EXAMPLES, _SHOWN = 5, 100


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_command(_parser(), _inspect, argv)


def _inspect(arguments: argparse.Namespace) -> None:
    import numpy as np  # and with what follows every library that reads

    from training.common.errors import InputError
    from training.data.families import FAMILIES
    from training.data.text_overlap import Words, repeated
    from training.families import load_family
    from training.runtime.outputs import show_notes

    given = {name: getattr(arguments, name) for name in _GIVEN if getattr(arguments, name) is not None}
    of_texts = {name: data for name, data in FAMILIES.items() if data.unit is not None}
    fitting = [name for name, data in of_texts.items() if all(hasattr(data.data_settings, key) for key in given)]
    family = arguments.family or next(iter(fitting), next(iter(of_texts)))
    if family not in of_texts:
        raise InputError(f"family: got {family!r}, which reads no texts; use {', '.join(of_texts)}")
    data = of_texts[family]
    for name in given:
        if not hasattr(data.data_settings, name):
            raise InputError(f"{name}: {family} has no such setting; leave it out, or give another --family")
    show_notes()
    print(f"read as     {family} reads it (--family says otherwise)")
    settings: Any = data.data_settings
    preparation = data.preparation(settings(**given, allow_unknown=True), load_family(family).config_class())
    preparation.prepare()
    texts = list(preparation.texts(preparation.load("train")))
    lengths = np.array([len(text.split()) for text in texts])
    least, middle, most = (int(np.percentile(lengths, share)) for share in (5, 50, 95))
    print(f"lengths     {len(texts):,} {data.unit} of {lengths.mean():.1f} words: 5 % up to {least:,}, half up to "
          f"{middle:,}, 95 % up to {most:,}, the longest {lengths.max():,}")  # fmt: skip
    found = repeated(Words.of(texts, most=1_000_000), 1)
    repeats = f"{found.hits:,} of {found.texts:,} {data.unit} stand there before ({found.exact:.0%} of the words)"
    print(f"repeats     {repeats}")
    for text in texts[:: max(1, len(texts) // _EXAMPLES)][:_EXAMPLES]:
        print(f"example     {shorten(text, _SHOWN, placeholder=' ...')}")


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("training.inspect_data", __doc__)
    parser.add_argument("--data", required=True, help="a file, folder, pattern, hub:ID or builtin:NAME")
    parser.add_argument("--family", help="who would read it (default: the first that takes what is given)")
    parser.add_argument("--split", help="only this named split of a folder or Hub data set")
    for name in _COLUMNS:
        parser.add_argument(f"--{name}", help="see `training/train.py RECIPE --help`")
    parser.add_argument("--documents", choices=("auto", "rows", "headings", "file"), help="what a document is")
    parser.add_argument("--tokenizer", help="word, bpe, or a tokenizer's folder (default: the family's)")
    parser.add_argument("--max_vocab", type=int, help="entries of a trained vocabulary")
    return parser


if __name__ == "__main__":
    sys.exit(main())
