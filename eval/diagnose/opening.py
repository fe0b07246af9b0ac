"""From what a user names to what is examined: which model, of which kind, with which text."""

import copy
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import ADAPTER_CONFIG_NAME, is_peft_available

from eval.advice.record import TrainingRecord, read_record
from eval.diagnose.report.report import Finding, Rule, said_by
from eval.diagnose.subject.families import traits_of
from eval.diagnose.subject.sample import Sample
from eval.diagnose.subject.subject import Limits, Subject
from eval.loading import checked_name, choose_device
from training.common.errors import InputError
from training.data.dialogue_jepa.dialogues import BETWEEN_TURNS, load_dialogues
from training.data.settings import DataSettings, DialogueDataSettings, GeneratorDataSettings
from training.data.sources.locate import SPLITS, Source, load_rows, locate
from training.data.staged_generator.documents import load_documents

BUILT_IN, BUILT_IN_DIALOGUES = "builtin:sotu", "builtin:chatterbot"
MAX_TEXTS = 20_000  # of each part: what comparing parts may hold in memory
LONGEST_ASKED = 512
LARGE_MODEL = 30_000_000
_MAPPINGS = {
    "causal": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}
_AUTO_CLASSES = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}
_SUFFIXES = {
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
    "ForConditionalGeneration": "seq2seq",
    "MTModel": "seq2seq",
}
_PERMUTED = ("xlnet",)
_SAMPLED = "a built-in sample"
_DIGITS = re.compile(r"\d+")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
Texts = Sequence[str] | Mapping[str, Sequence[str]] | str
Data = Texts | Tensor  # clips, of a video model


def open_checkpoint(
    name: str, tokenizer: str | None = None, device: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, list[Finding]]:
    """A model in evaluation mode, its tokenizer if it has one, and what was wrong with its tensors.

    The folder of an adapter opens over its base, merged.

    Raises:
        InputError: no model there, one of an unsupported kind, a damaged file, a tokenizer for a video model.
    """
    base = _base_of_adapter(name)
    where, target = checked_name(base or name), choose_device(device)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
        traits = traits_of(config.model_type)
        auto_class = traits.auto_class or _AUTO_CLASSES[kind_of_config(config, name)]
        model, info = auto_class.from_pretrained(
            where,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=trust_remote_code,
        )
        model = model if base is None else _merged(_peft_model().from_pretrained(model, name))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a configuration may be wrong in any way, and model code of others may raise anything
        raise InputError(f"{name} cannot be opened as a language model: {_one_line(error)}") from error
    if not traits.subject:
        own = name if any((Path(name) / file).exists() for file in _TOKENIZER_FILES) else where
        opened = _open_tokenizer(tokenizer or own, tokenizer is not None, trust_remote_code)
    elif tokenizer is not None:
        raise InputError(f"tokenizer: got {tokenizer}; a {traits.kind} model has none, leave it out")
    else:
        opened = None
    return model.to(target).eval(), opened, [*missing_tensors(info), *unused_layers(model, info)]


def make_subject(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    data: Data | None = None,
    run: str | Path | None = None,
    trainer: Trainer | None = None,
    *,
    limits: Limits | None = None,
    name: str | None = None,
    text_column: str | None = None,
) -> Subject:
    """What `diagnose` examines, and its arguments. An adapted model of `peft` is examined with its adapter merged.

    Args:
        text_column: of a source.

    Raises:
        InputError: a source or folder that cannot be read, or a model that gives no logits over a vocabulary.
    """
    if is_peft_available() and isinstance(model, _peft_model()):
        model = _merged(copy.deepcopy(model))
    record = None if run is None else read_record(run)
    traits = traits_of(model.config.model_type)
    if traits.subject:
        if text_column is not None:
            raise InputError(f"text_column: got {text_column}; a {traits.kind} model reads no text, leave it out")
        module, _, function = traits.subject.partition(":")
        make_other = getattr(importlib.import_module(module), function)
        return make_other(model, data, record, trainer, limits=limits, name=name)
    if isinstance(data, Tensor):
        raise InputError(f"data: got a tensor, and {type(model).__name__} reads text; hand over strings or a source")
    kind = kind_of_model(model, tokenizer)
    parts, where = _find_texts(data, record, "dialogue" if traits.dialogues else kind, text_column)
    if tokenizer is None:
        where = "random token ids, as there is no tokenizer"
    sample = _make_sample(model, tokenizer, kind, _held_out(parts))
    subject = Subject(
        name=name or model.config._name_or_path or type(model).__name__,
        model=model,
        tokenizer=tokenizer,
        kind=kind,
        sample=sample,
        parts=parts if tokenizer is not None else {},
        data=where,
        limits=limits or Limits(),
        record=record,
        trainer=trainer,
        is_opened=name is not None or Path(model.config._name_or_path or " ").exists(),
        built_in_text=where.startswith(_SAMPLED),
    )
    _cut_down(subject)
    return subject


def kind_of_config(config: PreTrainedConfig, name: str) -> str:
    """The kind that a checkpoint was saved as; raises InputError for one that is neither language nor video model."""
    if own := traits_of(config.model_type).kind:
        return own
    for architecture in config.architectures or ():
        for suffix, kind in _SUFFIXES.items():
            if architecture.endswith(suffix):
                return kind
    if not config.architectures:
        for kind in ("seq2seq",) if config.is_encoder_decoder else ("causal", "masked"):
            if config.model_type in _MAPPINGS[kind]:
                return kind
    found = ", ".join(config.architectures or ()) or f"model_type {config.model_type!r}"
    raise InputError(
        f"{name} holds {found}: the doctor examines causal, masked and sequence-to-sequence language models "
        "(...ForCausalLM, ...LMHeadModel, ...ForMaskedLM, ...ForConditionalGeneration), and this package's video model"
    )


def kind_of_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """The kind of a model: its class's and configuration's first; where these leave it open, by what it does.

    Raises:
        InputError: it has no input table, fills masks and has no mask token, or refuses a row of tokens.
    """
    if model.get_input_embeddings() is None:
        raise InputError(f"{type(model).__name__} has no table of tokens: the doctor examines language models")
    if model.config.is_encoder_decoder:
        return "seq2seq"
    if model.config.model_type in _PERMUTED:
        raise InputError(
            f"{type(model).__name__} reads tokens in permuted orders and predicts none from those before it alone: "
            "the doctor examines causal, masked and sequence-to-sequence language models"
        )
    # Some classes are both, as XLM's, and a young encoder may look at nothing yet: there what it does tells.
    name, known = type(model).__name__, MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(model.config.model_type)
    fills_masks = name.endswith("ForMaskedLM") or name == known
    if model.can_generate() and not fills_masks:
        return "causal"
    if tokenizer is None or tokenizer.mask_token_id is None:
        if fills_masks and (not model.can_generate() or _looks_ahead(model)):
            lacks = "there is no tokenizer" if tokenizer is None else "its tokenizer has no mask token"
            raise InputError(f"{name} fills masks, and {lacks}; give one that has it (--tokenizer)")
        return "causal"
    sure = name.endswith("ForMaskedLM") and not getattr(model.config, "is_decoder", False)
    return "masked" if _looks_ahead(model) or sure else "causal"


def missing_tensors(info: Mapping[str, Any]) -> list[Finding]:
    """What loading could not place: such tensors are random numbers now."""
    fields = {"missing": "missing_keys", "unexpected": "unexpected_keys", "misshapen": "mismatched_keys"}
    found = {kind: sorted(map(str, info[field])) for kind, field in fields.items() if info[field]}
    if not found.keys() & {"missing", "misshapen"}:
        return []
    return [
        Rule("parity.missing_tensors", "every tensor of the model stands in the file, in its shape").failed(
            {**{kind: names[:5] for kind, names in found.items()}, **{f"num_{k}": len(n) for k, n in found.items()}},
            "the file holds another model, or a part of it was not saved: what is missing was filled with random "
            "numbers when it was opened",
            "save the whole model with save_pretrained, or open it with the class and config that it was saved with",
        )
    ]


def unused_layers(model: PreTrainedModel, info: Mapping[str, Any]) -> list[Finding]:
    """Layers that stand in the file and that the configuration does not build; heads of other tasks are none."""
    names = [name for name, _ in model.named_parameters()]
    names += [name.removeprefix(f"{model.base_model_prefix}.") for name in names]
    built = {_DIGITS.sub("N", name) for name in names}
    left = sorted(key for key in map(str, info["unexpected_keys"]) if _DIGITS.sub("N", key) in built)
    if not left:
        return []
    return [
        Rule("parity.unused_layers", "every layer in the file is built").failed(
            {"unused": left[:5], "num_unused": len(left)},
            "the file holds more layers than the configuration builds: the model runs without them, and what follows "
            "them reads what it was never trained on",
            "set the number of layers in config.json to that of the file, or take the config that it was saved with",
        )
    ]


def _peft_model() -> Any:
    """The class of adapted models; raises InputError where `peft` is not installed, which training brings."""
    if not is_peft_available():
        raise InputError("an adapter is opened with peft, which is not installed: pip install peft")
    return importlib.import_module("peft").PeftModel


def _merged(model: Any) -> PreTrainedModel:
    """The base with its adapter in its weights, all of them trainable."""
    return model.merge_and_unload().requires_grad_(True).eval()


def _base_of_adapter(name: str) -> str | None:
    """The model that an adapter's folder is for; None for another folder. Raises InputError where it does not say."""
    config = Path(name) / ADAPTER_CONFIG_NAME
    if not config.is_file() or (Path(name) / "config.json").is_file():
        return None
    try:
        base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{config} cannot be read: {error}") from error
    if not base:
        raise InputError(f"{config} does not name its base_model_name_or_path; merge the adapter, or put it there")
    return str(base)


def _open_tokenizer(name: str, required: bool, trust_remote_code: bool) -> PreTrainedTokenizerBase | None:
    """The tokenizer; None where the folder holds none: for some models the library then makes one without words."""
    try:
        opened = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        has_words = bool(set(opened.get_vocab()) - set(opened.all_special_tokens))
        return opened if has_words or required else None
    except Exception as error:  # the library raises anything for a damaged file
        if required or any((Path(name) / file).exists() for file in _TOKENIZER_FILES):
            raise InputError(
                f"tokenizer: {name} holds none that can be opened: {_one_line(error)}; name another (--tokenizer)"
            ) from error
        return None


@torch.no_grad()
def _looks_ahead(model: PreTrainedModel) -> bool:
    """Whether the last token moves logits before it, or no token moves any: then nothing says that it is causal."""
    ids = torch.arange(5, 13, device=model.device)[None] % model.config.vocab_size
    others = []
    for place in (-1, 0):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 7) % model.config.vocab_size
        others.append(other)
    try:
        first, later, earlier = (model(input_ids=each, return_dict=True).logits.float() for each in (ids, *others))
    except Exception as error:  # model code of others may raise anything
        raise InputError(f"{type(model).__name__} refuses a row of 8 tokens: {_one_line(error)}") from error
    if not first.isfinite().all():
        return True  # a broken one tells nothing; what continues text was told apart before
    same = 1e-4 * float(first.std())
    moves_before = not torch.allclose(first[:, :-1], later[:, :-1], rtol=0, atol=same)
    return moves_before or torch.allclose(first, earlier, rtol=0, atol=same)


def _find_texts(
    data: Texts | None, record: TrainingRecord | None, kind: str, text_column: str | None
) -> tuple[dict[str, list[str]], str]:
    """Texts by part, and where they come from."""
    if isinstance(data, str):
        return _read_source(data, kind, text_column), data
    if isinstance(data, Mapping):
        return _checked({part: list(texts) for part, texts in data.items()}), "texts that were handed over"
    if data is not None:
        return _checked({"all": list(data)}), "texts that were handed over"
    if record is not None:
        own = {"train": record.train_texts(), "valid": record.valid_texts()}
        known = {part: texts for part, texts in own.items() if texts}
        if known:
            return known, f"the run's own text ({record.folder})"
    own = BUILT_IN_DIALOGUES if kind == "dialogue" else BUILT_IN
    return {"all": _read_source(own, kind, None)["test"]}, f"{_SAMPLED} ({own}), as no data was given"


def _read_source(data: str, kind: str, text_column: str | None) -> dict[str, list[str]]:
    settings: Any = {"masked": DataSettings, "dialogue": DialogueDataSettings}.get(kind, GeneratorDataSettings)
    by_row = {"documents": "rows"} if settings is GeneratorDataSettings else {}  # many texts show more than one
    given = settings(data=data, text_column=text_column, **by_row)
    return _checked({split: _texts_of(given, split) for split in _splits(locate(given))})


def _splits(source: Source) -> Sequence[str]:
    """What is read of a source. One that has held-out text keeps to it: more would be cut from its training part, and
    a model that was trained elsewhere has seen that.
    """
    if source.is_whole:
        return ("all",)
    return tuple(source.parts) if len(source.parts) > 1 else SPLITS


def _texts_of(settings: Any, split: str) -> list[str]:
    if isinstance(settings, DialogueDataSettings):
        return [BETWEEN_TURNS.join(turns) for turns in load_dialogues(settings, split).turns[:MAX_TEXTS]]
    if isinstance(settings, GeneratorDataSettings):
        return load_documents(settings, split).texts[:MAX_TEXTS]
    return list(load_rows(settings, split).dataset[:MAX_TEXTS]["text"])


def _checked(parts: dict[str, list[str]]) -> dict[str, list[str]]:
    for part, texts in parts.items():
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise InputError(f"data: {part} holds {type(wrong).__name__} {str(wrong)[:40]!r}; hand over strings")
    kept = {part: [text for text in texts if text.strip()] for part, texts in parts.items()}
    if not any(kept.values()):
        raise InputError("data: it holds no text; hand over at least one string, or nothing for a built-in sample")
    return {part: texts for part, texts in kept.items() if texts}


def _held_out(parts: dict[str, list[str]]) -> list[str]:
    """The part that the sample is drawn from: one that the model was not trained on, where there is one."""
    return next((parts[part] for part in ("test", "valid", "all") if part in parts), next(iter(parts.values())))


def _make_sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, kind: str, texts: list[str]
) -> Sample:
    said = model.config.to_dict()  # a configuration need not have every id
    padding = (None if tokenizer is None else tokenizer.pad_token_id, said.get("pad_token_id"))
    pad = next((token for token in padding if token is not None), 0)
    start = None
    if kind == "seq2seq":
        begins = (said.get("decoder_start_token_id"), said.get("bos_token_id"), pad)
        start = next(token for token in begins if token is not None)
    return Sample(
        texts=texts,
        tokenizer=tokenizer,
        kind=kind,
        vocab_size=model.get_input_embeddings().weight.shape[0],
        context=_context(model, tokenizer),
        pad_id=pad,
        mask_id=None if tokenizer is None else tokenizer.mask_token_id,
        start_id=start,
    )


@torch.no_grad()
def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """The longest row that the model takes, up to `LONGEST_ASKED`: what it says of itself, checked by asking."""
    said = model.config.to_dict()
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions")
    lengths = [said[name] for name in names if isinstance(said.get(name), int) and said[name] > 0]
    if tokenizer is not None:
        lengths.append(tokenizer.model_max_length)
    wanted = int(min([LONGEST_ASKED, *lengths]))
    for length in (wanted, wanted - 2, wanted // 2, wanted // 4):
        if length >= 2 and _takes(model, length):
            return length
    raise InputError(
        f"{type(model).__name__} gives no logits (rows, tokens, vocabulary) for {max(2, wanted // 4)} tokens: the "
        "doctor examines language models"
    )


def _takes(model: PreTrainedModel, length: int) -> bool:
    """Whether a row of so many tokens gives logits of the right shape: tables of positions end in an index error."""
    rows = max(1, min(model.get_input_embeddings().weight.shape[0], 100))
    ids = torch.arange(length, device=model.device)[None] % rows
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True, **extra).get("logits")
    except (IndexError, ValueError, RuntimeError, TypeError):
        return False
    return logits is not None and logits.ndim == 3 and logits.shape[1] == length


def _cut_down(subject: Subject) -> None:
    """Fewer and shorter rows for large models."""
    if subject.parameters > LARGE_MODEL:
        subject.limits.rows = max(2, subject.limits.rows // 4)
        subject.limits.length = max(16, subject.limits.length // 2)
        subject.notes.append(
            f"{subject.parameters:,} parameters: looked at {subject.limits.rows} rows of {subject.limits.length} "
            "tokens instead of 16 of 64"
        )


def _one_line(error: Exception) -> str:
    said = said_by(error)
    # Of a KeyError, the message is no more than the key.
    return said.partition(": ")[2] if isinstance(error, OSError | ValueError | RuntimeError) else said
