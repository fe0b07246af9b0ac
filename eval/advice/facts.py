"""What the log patterns want to know of one of our runs, beside its log."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from eval.advice.record import TrainingRecord
from eval.advice.run_log import RunFacts

_CREDIT = "credit_rate/"
_AT_PEAK = 0.99
_WEIGHT = "_weight"


def make_facts(
    config: PreTrainedConfig, training: Mapping[str, Any], *, rows_per_step: int, warmup_steps: int, **more: Any
) -> RunFacts:
    """The facts of a run, whoever asks for them.

    Args:
        config: of the model.
        training: the `training` section of the run's recipe.
        rows_per_step: over all processes and accumulation.
        more: further fields of `RunFacts`.
    """
    known = config.to_dict()
    return RunFacts(
        family=more.pop("family", config.model_type),
        max_steps=training["max_steps"],
        warmup_steps=warmup_steps,
        learning_rate=training["learning_rate"],
        logging_steps=training["logging_steps"],
        rows_per_step=rows_per_step,
        num_negatives=known.get("num_negatives", RunFacts.num_negatives),
        hidden_size=config.hidden_size * known.get("num_latents", 1),
        vocab_size=config.vocab_size,
        temperature=known.get("temperature", RunFacts.temperature),
        table_head=known.get("head") == "cosine",
        weights=_weights(known),
        **more,
    )


def facts_of(record: TrainingRecord, config: PreTrainedConfig) -> RunFacts | None:
    """The facts of one of our runs, from its `run.json` and its log alone; None of another's, or without `run.json`.

    How many holes a row has, and how many rows were left out, does not stand there: patterns that need it are silent.

    Args:
        config: of the model.
    """
    if record.run is None:
        return None
    training = record.run["recipe"]["training"]
    rows = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    return make_facts(
        config,
        training,
        rows_per_step=rows * record.run.get("num_processes", 1),
        warmup_steps=_end_of_warmup(record),
        stage=record.run.get("stage"),
        from_nothing=record.run.get("init_from") is None,
        credit_rest=_credit_rest(record, training),
    )


def _end_of_warmup(record: TrainingRecord) -> int:
    """The first logged step at full rate."""
    steps, rates = record.values("learning_rate")
    full = [step for step, rate in zip(steps, rates, strict=True) if rate >= _AT_PEAK * max(rates)]
    return min(full, default=0)


def _weights(known: dict[str, Any]) -> dict[str, float]:
    """Part of the loss -> its weight, of a configuration as a dictionary."""
    weights = {name.removesuffix(_WEIGHT): float(value) for name, value in known.items() if name.endswith(_WEIGHT)}
    if known.get("collapse_protection", "none") == "none":
        weights.pop("collapse", None)
    return weights


def _credit_rest(record: TrainingRecord, training: dict[str, Any]) -> float | None:
    """Share that a part gets at least, where updates were scaled by credit."""
    has_credit = any(name.startswith(_CREDIT) for row in record.rows for name in row)
    return training.get("credit_rest") if has_credit else None
