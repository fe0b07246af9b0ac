"""Which words a generator can have learnt: those of its training text."""

import dataclasses

from eval.loading import read_run
from eval.metrics.generation import known_words
from training.data.documents import load_documents
from training.data.errors import InputError
from training.data.settings import GeneratorDataSettings


def training_words(settings: GeneratorDataSettings) -> frozenset[str] | None:
    """The words of the training part; None for a stream, which is more than is read, and where it cannot be read."""
    if settings.streaming:
        return None
    try:
        return known_words(load_documents(settings, "train").texts)
    except InputError:  # the text was moved, or this is another machine: a figure less, and no reason to stop
        return None


def words_of_run(checkpoint: str) -> frozenset[str] | None:
    """The words that a checkpoint's run was trained on; None where it does not say, or they cannot be read here."""
    section = (read_run(checkpoint) or {}).get("recipe", {}).get("data", {})
    known = {field.name for field in dataclasses.fields(GeneratorDataSettings)}
    if "data" not in section or not set(section) <= known:
        return None
    return training_words(GeneratorDataSettings(**section))
