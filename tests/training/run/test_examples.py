"""What is said of a run's rows before it trains."""

from dataclasses import replace
from pathlib import Path

import pytest

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig
from training.run.examples import batch_note
from training.run.run import Run
from training.settings.common import TrainingSettings


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (DialogueJepaConfig(), ("ranking", "collapse")),
        (DialogueJepaConfig(collapse_protection="none"), ("ranking",)),
        (DialogueJepaConfig(ranking_weight=0.0, collapse_protection="none"), ()),
        (TextJepaConfig(), ()),
        (TextJepaConfig(collapse_protection="vicreg", collapse_weight=0.1), ("collapse",)),
        (StagedGeneratorConfig(), ()),
    ],
)
def test_a_configuration_tells_which_parts_compare_the_rows_of_a_batch(config, parts: tuple[str, ...]) -> None:
    assert config.of_the_batch == parts


def test_parts_of_the_batch_are_said_to_be_of_a_micro_batch() -> None:
    training = TrainingSettings(per_device_train_batch_size=16, gradient_accumulation_steps=2)
    run = Run("dialogue_jepa", Path("recipe.yaml"), Path("out"), training=training)
    said = batch_note(run, ("ranking",), num_processes=2)
    assert said is not None
    assert "ranking" in said
    assert "the 16 rows of each micro-batch, not the 64 of a step" in said
    assert batch_note(run, (), num_processes=2) is None
    whole = replace(run, training=replace(training, gradient_accumulation_steps=1))
    assert batch_note(whole, ("ranking",), num_processes=1) is None
