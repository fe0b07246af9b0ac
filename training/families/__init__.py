"""Family name -> everything about it. A family is imported when it is asked for, as that imports torch."""

from collections.abc import Callable

from training.family import Family


def load_family(name: str) -> Family:
    """Everything about a family; imports torch, the models and the scorers."""
    return LOADERS[name]()


def _text_jepa() -> Family:
    from training.families.text_jepa import TextJepa

    return TextJepa()


def _text_classifier() -> Family:
    from training.families.text_classifier import TextClassifier

    return TextClassifier()


def _staged_generator() -> Family:
    from training.families.staged_generator import StagedGenerator

    return StagedGenerator()


def _dialogue_jepa() -> Family:
    from training.families.dialogue_jepa import DialogueJepa

    return DialogueJepa()


def _video_jepa() -> Family:
    from training.families.video_jepa import VideoJepa

    return VideoJepa()


LOADERS: dict[str, Callable[[], Family]] = {
    "text_jepa": _text_jepa,
    "text_classifier": _text_classifier,
    "staged_generator": _staged_generator,
    "dialogue_jepa": _dialogue_jepa,
    "video_jepa": _video_jepa,
}
