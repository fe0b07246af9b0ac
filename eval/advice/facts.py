"""What the log patterns want to know of one of our runs, from its `run.json` and its log alone."""

from typing import Any

from transformers import PreTrainedConfig

from configuration_jepa import DialogueJepaConfig, VideoJepaConfig
from eval.advice.record import TrainingRecord
from eval.advice.run_log import RunFacts

_PARTS = ("ranking", "alignment", "auxiliary")
_PARTS_OF_REPLIES = ("reply", "alignment", "ranking", "bag")
_CREDIT = "credit_rate/"
_AT_PEAK = 0.99


def facts_of(record: TrainingRecord, config: PreTrainedConfig) -> RunFacts | None:
    """The facts; None of a run that is not ours, or has lost its `run.json`.

    How many holes a row has, and how many rows were left out, does not stand there: patterns that need it are silent.

    Args:
        config: of the model.
    """
    if record.run is None:
        return None
    recipe, training = record.run["recipe"], record.run["recipe"]["training"]
    rows = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    generates = any("cross_entropy" in row for row in record.rows)
    answers = config.model_type == DialogueJepaConfig.model_type
    loss = recipe["loss"]
    return RunFacts(
        max_steps=training["max_steps"],
        warmup_steps=_end_of_warmup(record),
        learning_rate=training["learning_rate"],
        logging_steps=training["logging_steps"],
        rows_per_step=rows * record.run.get("num_processes", 1),
        num_negatives=loss.get("num_negatives", RunFacts.num_negatives),
        hidden_size=config.hidden_size * (config.num_latents if answers else 1),
        vocab_size=config.vocab_size,
        temperature=loss.get("temperature", RunFacts.temperature),
        table_head=recipe["model"].get("head") == "cosine",
        weights=_weights(loss, generates, answers),
        stage=record.run.get("stage"),
        from_nothing=record.run.get("init_from") is None,
        generates=generates,
        answers=answers,
        predicts_frames=config.model_type == VideoJepaConfig.model_type,
        credit_rest=_credit_rest(record, training),
    )


def _end_of_warmup(record: TrainingRecord) -> int:
    """The first logged step at full rate."""
    steps, rates = record.values("learning_rate")
    full = [step for step, rate in zip(steps, rates, strict=True) if rate >= _AT_PEAK * max(rates)]
    return min(full, default=0)


def _weights(loss: dict[str, Any], generates: bool, answers: bool) -> dict[str, float]:
    if generates:
        return {"cross_entropy": 1.0, "block_decorrelation": float(loss.get("block_decorrelation_weight", 0.0))}
    parts = _PARTS_OF_REPLIES if answers else _PARTS
    weights = {name: float(loss.get(f"{name}_weight", 0.0)) for name in parts}
    if loss.get("collapse_protection", "none") != "none":
        weights["collapse"] = float(loss.get("collapse_weight", 0.0))
    return weights


def _credit_rest(record: TrainingRecord, training: dict[str, Any]) -> float | None:
    """Share that a part gets at least, where updates were scaled by credit."""
    has_credit = any(name.startswith(_CREDIT) for row in record.rows for name in row)
    return training.get("credit_rest") if has_credit else None
