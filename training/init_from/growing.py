"""Starting a run from another run's checkpoint: is it the same model, and do its logits stay the same?

A family that grows by stages starts stage k from a checkpoint of any earlier stage, or of the same one. What that
checkpoint has is loaded; what is new starts at zero, so that the logits do not change. That is measured.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import kl_div
from transformers import AutoConfig, PreTrainedModel

from configuration_jepa import JepaConfig
from configuration_jepa.configuration_base import own_fields
from eval.decoding.token_scores import evaluating
from eval.loading import checked_name, open_model
from training.common.errors import InputError
from training.common.manifest import read_run
from training.data.prepared import Prepared
from training.data.settings import TRAINED_TOKENIZERS
from training.family import Family, Origin
from training.run.run import Run
from training.run_folder.checkpoints import find_resumable

_SAMPLE_BLOCKS, _SAMPLE_TOKENS = 4, 128
_SAME = 1e-4  # rounding of float32 logits of some tens
OF_A_TEXT = ("tokenizer", "lowercase", "max_vocab")
_SHOWN = 4


@dataclass(frozen=True)
class Growth:
    """How the first logits differ from those of the checkpoint that the run starts from.

    Attributes:
        origin: the checkpoint's name, without its folder.
        from_stage, to_stage: None for a family without stages.
        largest_change: of any logit.
        mean_kl: of the checkpoint's next-token distributions to ours, nats per token.
        tokens: on which it was measured.
    """

    origin: str
    from_stage: int | None
    to_stage: int | None
    largest_change: float
    mean_kl: float
    tokens: int

    def line(self) -> str:
        """For the screen."""
        here = f"stage {self.to_stage} starts from stage {self.from_stage} in {self.origin}"
        where = f"on {self.tokens:,} held-out tokens"
        if self.largest_change <= _SAME:
            return f"{here}: same logits {where} (largest change {self.largest_change:.2g})"
        return (
            f"{here}: its logits change by at most {self.largest_change:.3g} {where}, the next-token distributions by "
            f"{self.mean_kl:.3g} nats (mean KL divergence)"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def own_start(run: Run) -> Path | None:
    """The checkpoint that a run goes on from whose origin is no longer there: it has all that was taken from it.

    None where the origin is there, or is needed because nothing was trained yet.

    Raises:
        NoWholeCheckpointError: all that was trained is damaged.
    """
    if run.init_from is None or run.resume == "never" or Path(run.init_from).exists():
        return None
    return find_resumable(run.output_dir).path if run.resume == "auto" else Path(run.resume)


def check_origin(run: Run, family: Family) -> None:
    """Refuse a checkpoint that this run cannot start from, before data and model are touched.

    Raises:
        InputError: `init_from` is no checkpoint, or of another family, a later stage, another size or tokenizer.
    """
    if run.init_from is None or own_start(run) is not None:
        return
    origin = _config_of(run.init_from)
    if origin.model_type in family.origins:
        _refuse_adapters(run, f"is a {origin.model_type} model, a part of this one")
        _refuse_unlike(run, family, origin)
        return
    if origin.model_type != run.family:
        others = "".join(f", or of {name}" for name in family.origins)
        raise InputError(
            f"init_from: {run.init_from} is a {origin.model_type} model, and this recipe trains a {run.family}; "
            f"give a checkpoint of that family{others}"
        )
    if not isinstance(origin, family.config_class) or run.stage is None:
        return
    if _stage_of(origin) > run.stage:
        raise InputError(
            f"init_from: {run.init_from} is of stage {_stage_of(origin)}, and this run trains stage {run.stage}; give "
            f"a checkpoint of stage {run.stage} or below, or --stage {_stage_of(origin)}"
        )
    if _stage_of(origin) < run.stage:
        _refuse_adapters(run, f"is of stage {_stage_of(origin)}, and this run trains stage {run.stage}")
    _refuse_another_size(run, family, origin)
    _refuse_another_tokenizer(run)


def take_weights(model: PreTrainedModel, family: Family, run: Run) -> None:
    """Load what the checkpoint has. What is new at this stage keeps its start.

    Raises:
        InputError: `init_from` cannot be opened, or has other tensors than the model.
    """
    kind = _config_of(run.init_from).model_type
    if kind in family.origins:
        _take_part(model, family.origins[kind], run)
        return
    source = _open(run.init_from, family)
    new = _new_parameters(family, _stage_of(source.config), run.stage)
    try:
        missing, unexpected = model.load_state_dict(source.state_dict(), strict=False)
    except RuntimeError as error:
        raise InputError(_other_tensors(run, " ".join(str(error).split())[:300])) from None
    wrong = [*(name for name in missing if not any(part in name for part in new)), *unexpected]
    if wrong:
        raise InputError(_other_tensors(run, ", ".join(wrong[:_SHOWN])))


def _take_part(model: PreTrainedModel, origin: Origin, run: Run) -> None:
    """Load what a checkpoint of another family has for this one."""
    source = open_model(_named(run.init_from), origin.auto_class, "cpu")
    try:
        origin.place_in(model).load_state_dict(origin.part_of(source).state_dict())
    except RuntimeError as error:
        raise InputError(_other_tensors(run, " ".join(str(error).split())[:300])) from None


def measure_growth(run: Run, family: Family, prepared: Prepared, model: PreTrainedModel) -> Growth:
    """Compare the model's logits with those of the checkpoint it was started from, on a fixed held-out sample."""
    source = _open(run.init_from, family)
    inputs, kept = _sample(run, family, prepared, model.config)
    with evaluating(model):
        ours, theirs = (each(**inputs).logits[kept].float() for each in (model, source))
    logs = [logits.log_softmax(-1) for logits in (ours, theirs)]
    return Growth(
        origin=Path(run.init_from).name,  # a card tells nothing of where it was made
        from_stage=_stage_of(source.config),
        to_stage=run.stage,
        largest_change=(ours - theirs).abs().max().item(),
        mean_kl=kl_div(*logs, reduction="batchmean", log_target=True).clamp_min(0).item(),
        tokens=int(kept.sum()),
    )


def _sample(
    run: Run, family: Family, prepared: Prepared, config: JepaConfig
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The first held-out rows as the model's inputs, cut short, and which places hold a token."""
    rows = family.data.make_dataset(prepared.valid)
    batch = family.data.make_collator(prepared.tokenizer)(
        [rows[index, 0] for index in range(min(_SAMPLE_BLOCKS, len(rows)))]
    )
    masker = family.data.make_masker(
        run.masking, prepared.tokenizer, seed=run.training.seed, config=config, token_counts=prepared.counts
    )
    inputs = {name: tensor[:, :_SAMPLE_TOKENS] for name, tensor in masker(batch, 0.0).items() if name != "labels"}
    return inputs, inputs["attention_mask"] > 0


def _open(checkpoint: str, family: Family) -> PreTrainedModel:
    return open_model(_named(checkpoint), family.auto_class, "cpu")


def _named(checkpoint: str) -> str | Path:
    return Path(checkpoint) if Path(checkpoint).exists() else checkpoint


def _config_of(checkpoint: str) -> Any:
    try:
        return AutoConfig.from_pretrained(checked_name(checkpoint))
    except (OSError, ValueError) as error:
        raise InputError(f"init_from: {checkpoint} cannot be opened: {' '.join(str(error).split())}") from error


def _stage_of(config: Any) -> int | None:
    return config.to_dict().get("stage")


def _new_parameters(family: Family, from_stage: int | None, to_stage: int | None) -> tuple[str, ...]:
    """What the names of parameters contain that a checkpoint of an earlier stage does not have."""
    if from_stage is None or to_stage is None:
        return ()
    return tuple(part for stage in range(from_stage + 1, to_stage + 1) for part in family.new_parameters(stage))


def _refuse_unlike(run: Run, family: Family, origin: Any) -> None:
    """A checkpoint of another family fits where the shared part is the same in both."""
    ours = family.config_class(**run.config_fields)
    differing = [
        name for name in family.origins[origin.model_type].fields if getattr(origin, name) != getattr(ours, name)
    ]
    if differing:
        shown = ", ".join(f"{name} {getattr(origin, name)} there and {getattr(ours, name)} here" for name in differing)
        raise InputError(
            f"init_from: {run.init_from} is another encoder ({shown}); take its values, or train without --init_from"
        )


def _refuse_adapters(run: Run, what: str) -> None:
    """What is new in this run's model would not learn beside adapters."""
    if run.training.adapts_checkpoint:
        raise InputError(
            f"lora_rank={run.training.lora_rank}: init_from {run.init_from} {what}; adapters need a whole model "
            "of the same kind: train without lora_rank first"
        )


def _refuse_another_size(run: Run, family: Family, origin: JepaConfig) -> None:
    """Compare names and shapes of all tensors, on models that take no memory."""
    ours = family.config_class(**run.config_fields, **_tokens_of(origin))
    here, there = _shapes(family, ours), _shapes(family, origin)
    new = _new_parameters(family, _stage_of(origin), run.stage)
    added = [name for name in here.keys() - there.keys() if not any(part in name for part in new)]
    if not added and all(here.get(name) == shape for name, shape in there.items()):
        return
    fields = {**run.config_fields, **_tokens_of(origin)}
    deciding = [name for name in sorted(own_fields(type(ours))) if _decides_shapes(family, fields, here, name, origin)]
    shown = ", ".join(
        f"{name} {getattr(origin, name)} there and {getattr(ours, name)} here" for name in deciding[:_SHOWN]
    )
    raise InputError(
        f"init_from: {run.init_from} has another size ({shown}); take its values, or train without --init_from"
    )


def _decides_shapes(
    family: Family, fields: dict[str, Any], here: dict[str, tuple[int, ...]], name: str, origin: JepaConfig
) -> bool:
    """Whether our model would have other shapes with the origin's value of a field."""
    if name in origin.universal_fields or fields.get(name) == getattr(origin, name):
        return False
    try:
        return _shapes(family, family.config_class(**{**fields, name: getattr(origin, name)})) != here
    except ValueError:  # the value alone contradicts the others
        return True


def _tokens_of(config: JepaConfig) -> dict[str, Any]:
    return {
        name: getattr(config, name)
        for name in ("vocab_size", *(f"{kind}_token_id" for kind in ("pad", "unk", "mask", "bos", "eos")))
    }


def _shapes(family: Family, config: JepaConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in family.model_class(config).state_dict().items()}


def _refuse_another_tokenizer(run: Run) -> None:
    """The checkpoint's tokenizer is used; a recipe that asks for another is no continuation of it."""
    before = (read_run(run.init_from) or {}).get("recipe", {}).get("data", {})
    differing = [name for name in OF_A_TEXT if name in before and before[name] != getattr(run.data, name)]
    if run.data.tokenizer not in TRAINED_TOKENIZERS:  # a given one has its vocabulary and its case
        differing = [name for name in differing if name == "tokenizer"]
    if differing:
        shown = ", ".join(f"{name} {before[name]!r} there and {getattr(run.data, name)!r} here" for name in differing)
        raise InputError(
            f"init_from: {run.init_from} has another tokenizer ({shown}); take its values, or train without "
            "--init_from"
        )


def _other_tensors(run: Run, which: str) -> str:
    return f"init_from: {run.init_from} has other tensors than this recipe's model: {which}"
