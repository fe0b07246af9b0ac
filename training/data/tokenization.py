"""Vocabularies, and rows as token ids.

A word-level or byte-level BPE vocabulary is trained with `tokenizers` on the training part only; a given tokenizer is
used as it is, with the special tokens it lacks added. All are saved as one `tokenizer.json` that `AutoTokenizer` opens
without this package.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.common.errors import InputError
from training.data.settings import TRAINED_TOKENIZERS, DataSettings, DialogueDataSettings, SourceSettings
from training.data.sources.readers import first_line
from training.data.sources.rows import WITHOUT_SPACES, text_hash
from training.data.unknown import unknown_id

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
}
ENDED = "{begin} $A {end}"  # a text with its begin and end
WINDOW_OVERLAP = 0.25
_WORD = r"\d+(?:[.,]\d+)+|\w+(?:['’]\w+)*|[^\w\s]"
_NUM_BYTES = 256
_BATCH = 2000
_SAMPLED = 500  # texts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenIds:
    """What masking must know of a tokenizer.

    Attributes:
        vocab_size: entries of the vocabulary.
        mask_token_id: replaces holes.
        special_ids: never a hole, a replacement or a negative; the unknown token is one of them.
    """

    vocab_size: int
    mask_token_id: int
    special_ids: tuple[int, ...]

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerFast) -> "TokenIds":
        """Raise InputError for a tokenizer without a mask token."""
        if tokenizer.mask_token_id is None:
            raise InputError("tokenizer: it has no mask token; use one made by this package or add [MASK] to it")
        return cls(len(tokenizer), tokenizer.mask_token_id, tuple(sorted(set(tokenizer.all_special_ids))))


@dataclass(frozen=True)
class Encoded:
    """Rows as token ids.

    Attributes:
        dataset: columns `input_ids` (list of int32, with the tokenizer's begin and end) and `row_id` (int64).
        report: counts: `rows`, `tokens` (no special ones but the unknown), `unknown` of them, `long_rows`, `windows`,
            `tokens_cut`, `nothing_to_predict`.
    """

    dataset: datasets.Dataset
    report: dict[str, int] = field(default_factory=dict)


def build_tokenizer(
    settings: DataSettings | DialogueDataSettings, texts: Iterable[str], max_length: int | None = None
) -> PreTrainedTokenizerFast:
    """The tokenizer that the settings ask for.

    Args:
        texts: the training part; not looked at when `settings.tokenizer` names a given tokenizer.
        max_length: the model's length, special tokens included; becomes `model_max_length`.

    Raises:
        InputError: no such tokenizer, or `max_vocab` too small for byte-level BPE.
    """
    if settings.tokenizer in TRAINED_TOKENIZERS:
        if settings.tokenizer == "word":
            texts = texts if isinstance(texts, list) else list(texts)
            _refuse_without_spaces(texts)
        train = _train_words if settings.tokenizer == "word" else train_bpe
        return wrap(train(settings, texts), own_names(), max_length, ENDED, "{begin} $A {end} $B:1 {end}:1")
    tokenizer = _given(settings.tokenizer)
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer


def encode_rows(
    dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, max_length: int, long_rows: str = "windows"
) -> Encoded:
    """Texts as ids; rows beyond `max_length` become windows that overlap by a quarter, or are cut.

    Each window begins and ends as the tokenizer begins and ends a text. The first keeps the row's `row_id`, the others
    get one derived from it. Rows with nothing to predict (only unknown or special tokens) are left out and counted.

    Args:
        dataset: columns `text` and `row_id`.
        max_length: tokens of the longest row, special tokens included.
    """
    room = max_length - tokenizer.num_special_tokens_to_add()
    if room < 2:
        raise InputError(f"max_position_embeddings: {max_length} leaves room for {room} tokens of text; use 4 or more")
    names = ("rows", "tokens", "unknown", "long_rows", "windows", "tokens_cut", "nothing_to_predict")
    report = dict.fromkeys(names, 0)
    chunks = [
        _encode_batch(batch, tokenizer, max_length, int(room * WINDOW_OVERLAP), long_rows, report)
        for batch in dataset.iter(_BATCH)
    ]
    empty = {"input_ids": pa.array([], pa.list_(pa.int32())), "row_id": pa.array([], pa.int64())}
    table = pa.concat_tables(chunks) if chunks else pa.table(empty)
    return Encoded(datasets.Dataset(table.combine_chunks()), report)


def count_tokens(dataset: datasets.Dataset, vocab_size: int, special_ids: tuple[int, ...] = ()) -> np.ndarray:
    """How often each token occurs in `input_ids`, shape (vocab_size,), int64; `special_ids` count as 0."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for batch in dataset.with_format("arrow").iter(100_000):
        counts += np.bincount(batch["input_ids"].combine_chunks().flatten().to_numpy(), minlength=vocab_size)
    counts[list(special_ids)] = 0
    return counts


def _refuse_without_spaces(texts: list[str]) -> None:
    """Raise InputError where most of a text is written without spaces between words."""
    sample = "".join(texts[:: max(1, len(texts) // _SAMPLED)][:_SAMPLED])
    unspaced = len(WITHOUT_SPACES.findall(sample)) / max(1, len(sample))
    if unspaced > 0.3:
        raise InputError(
            f"tokenizer: got 'word', but {unspaced:.0%} of the text is in a script without spaces between words, "
            "where it would take whole sentences for words; use --tokenizer bpe"
        )


def _train_words(settings: DataSettings | DialogueDataSettings, texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = _normalizer(settings)
    if settings.pre_tokenizer == "whitespace":
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=settings.max_vocab, special_tokens=special_tokens(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_bpe(settings: SourceSettings, texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of `max_vocab` entries, the special tokens first, without a template of begin and end."""
    smallest = _NUM_BYTES + len(SPECIAL_TOKENS)
    if settings.max_vocab < smallest:
        raise InputError(f"max_vocab: got {settings.max_vocab}; byte-level BPE needs {smallest} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normalizer(settings)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # what is decoded is what was written
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.max_vocab,
        special_tokens=special_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _normalizer(settings: SourceSettings) -> normalizers.Normalizer:
    steps = [normalizers.NFC(), normalizers.Lowercase()] if settings.lowercase else [normalizers.NFC()]
    return normalizers.Sequence(steps)


def wrap(
    backend: Tokenizer,
    names: dict[str, Any],
    max_length: int | None,
    single: str,
    pair: str,
    padding_side: str = "right",
) -> PreTrainedTokenizerFast:
    """A tokenizer that begins and ends texts as a model of ours reads them.

    Args:
        names: its special tokens, such as `bos_token`; where it has only one of begin and end, that one is both.
        max_length: the model's length.
        single, pair: templates of one and of two texts, `$A` and `$B`, with the places `{begin}` and `{end}`.
    """
    begin = str(names.get("bos_token", names.get("eos_token")))
    end = str(names.get("eos_token", names.get("bos_token")))
    used = [token for place, token in (("{begin}", begin), ("{end}", end)) if place in single]
    backend.post_processor = processors.TemplateProcessing(
        single=single.format(begin=begin, end=end),
        pair=pair.format(begin=begin, end=end),
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(used)],
    )
    backend.no_truncation()
    backend.no_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length or int(1e30),
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side=padding_side,
        **names,
    )


def own_names() -> dict[str, AddedToken]:
    """The special tokens of a trained vocabulary under the names that the library has for them."""
    return dict(zip(SPECIAL_TOKENS, special_tokens(), strict=True))


def special_tokens() -> list[AddedToken]:
    """Those of a trained vocabulary, in the order of their ids.

    What stands for a word takes the space before it along: byte-level BPE would make a token of that space.
    """
    return [_added(name) for name in SPECIAL_TOKENS]


def _added(name: str) -> AddedToken:
    return AddedToken(SPECIAL_TOKENS[name], lstrip=name in ("unk_token", "mask_token"), special=True, normalized=False)


def open_given(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or Hub id, as it is. Raises InputError where there is none that is fast."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"tokenizer: {name!r} could not be opened ({first_line(error)}); use word, bpe, or a tokenizer's folder "
            "or Hub id"
        ) from None
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer: {name!r} has no tokenizer.json; convert it to a fast tokenizer first")
    return tokenizer


def open_with_ends(name: str) -> tuple[Tokenizer, dict[str, str]]:
    """A given tokenizer and the names of its special tokens; begin and end are added where it has neither."""
    given = open_given(name)
    names = {name: token for name in SPECIAL_TOKENS if (token := given.special_tokens_map.get(name)) is not None}
    backend = Tokenizer.from_str(given.backend_tokenizer.to_str())
    if "bos_token" not in names and "eos_token" not in names:
        own = {name: SPECIAL_TOKENS[name] for name in ("bos_token", "eos_token")}
        backend.add_special_tokens([token for token in special_tokens() if token.content in own.values()])
        names |= own
    names.setdefault("pad_token", names.get("eos_token", names.get("bos_token")))
    return backend, names


def _given(name: str) -> PreTrainedTokenizerFast:
    tokenizer = open_given(name)
    present = tokenizer.special_tokens_map
    needed = {name: _added(name) for name in ("pad_token", "mask_token") if name not in present}
    if needed:
        tokenizer.add_special_tokens(needed)
        logger.info("tokenizer %s lacks %s: added", name, ", ".join(str(token) for token in needed.values()))
    tokenizer.padding_side = "right"
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def _encode_batch(
    batch: dict[str, list],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    overlap: int,
    long_rows: str,
    report: dict[str, int],
) -> pa.Table:
    texts, token = batch["text"], tokenizer.unk_token
    if token is not None and token != SPECIAL_TOKENS["unk_token"]:
        texts = [text.replace(SPECIAL_TOKENS["unk_token"], token) for text in texts]
    encoded = tokenizer(
        texts,
        truncation=True,
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_attention_mask=False,
    )
    pieces, origin = encoded["input_ids"], np.asarray(encoded["overflow_to_sample_mapping"], dtype=np.int64)
    number = np.arange(len(origin)) - np.searchsorted(origin, origin)
    report["rows"] += len(texts)
    report["long_rows"] += int((number == 1).sum())
    keep = np.ones(len(origin), dtype=bool)
    if long_rows == "cut":
        keep = number == 0
        added = tokenizer.num_special_tokens_to_add() + overlap
        report["tokens_cut"] += sum(len(pieces[index]) - added for index in np.flatnonzero(~keep))
    else:
        report["windows"] += int((number > 0).sum())
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    flat = np.fromiter((token for piece in pieces for token in piece), dtype=np.int32, count=int(lengths.sum()))
    unknown = flat == unknown_id(tokenizer)
    report["unknown"] += int(unknown.sum())
    report["tokens"] += int((unknown | ~np.isin(flat, tokenizer.all_special_ids)).sum())
    keep = _with_something_to_predict(flat, lengths, tokenizer, keep, report)
    ids = pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), flat)
    row_id = [_window_id(batch["row_id"][row], window) for row, window in zip(origin, number, strict=True)]
    return pa.table({"input_ids": ids, "row_id": pa.array(row_id, pa.int64())}).filter(pa.array(keep))


def _with_something_to_predict(
    flat: np.ndarray, lengths: np.ndarray, tokenizer: PreTrainedTokenizerFast, keep: np.ndarray, report: dict[str, int]
) -> np.ndarray:
    predictable = np.concatenate([[0], np.cumsum(~np.isin(flat, tokenizer.all_special_ids))])
    ends = np.cumsum(lengths)
    usable = predictable[ends] > predictable[ends - lengths]
    report["nothing_to_predict"] += int((keep & ~usable).sum())
    return keep & usable


def _window_id(row_id: int, window: int) -> int:
    return row_id if window == 0 else text_hash(f"{row_id} window {window}")
