"""What a recipe's `data` and `masking` sections may hold.

Nothing here imports torch, so that a typo is found at once.
"""

import math
from dataclasses import dataclass, field

from training.common.errors import InputError

# What a clip of a video model is trained for; `mixed` draws one of them for each clip.
OBJECTIVES = ("future", "joint", "individual")
# Clips of valid and of test: as many as the published test set has. Who scores takes some of them.
HELD_OUT_CLIPS = 10_000
TRAINED_TOKENIZERS = ("word", "bpe")  # made from the training part; any other name is that of a given one


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class SourceSettings:
    """What every family's `data` section holds: the source, the tokenizer, and how much of it. See `locate`."""

    data: str = field(
        default="builtin:sotu",
        metadata=_help(
            "where the rows come from: builtin:NAME, a file (txt, tsv, jsonl, csv, parquet), a folder with train.*, "
            "valid.* and test.*, or hub:ID[:CONFIG][:SPLIT]"
        ),
    )
    split: str | None = field(
        default=None,
        metadata=_help(
            "use only this named split of a folder or Hub data set, cut into train, valid and test by row hash"
        ),
    )
    text_column: str | None = field(
        default=None, metadata=_help("the column that holds the text (default: `text`, or the only text column)")
    )
    tokenizer: str = field(
        default="bpe",
        metadata=_help("`bpe` (byte-level, trained on the training part), or a tokenizer's path or Hub id"),
    )
    lowercase: bool = field(default=False, metadata=_help("lower-case the text (not for a given tokenizer)"))
    max_vocab: int = field(default=8000, metadata=_help("entries of a trained vocabulary, special tokens included"))
    max_rows: int | None = field(
        default=None, metadata=_help("a seeded subset of at most this many rows of each of train, valid and test")
    )
    max_bad_share: float = field(
        default=0.01, metadata=_help("stop when a larger share of the rows is undecodable, wrongly typed or missing")
    )

    streaming: bool = field(
        default=False,
        metadata=_help(
            "read the shards of a corpus as training goes on, in bounded memory: a folder with train-*.jsonl, .txt or "
            ".parquet, a pattern, or hub:ID"
        ),
    )
    stream_window: int = field(
        default=8192, metadata=_help("streaming: rows that are shuffled together, in memory at a time")
    )
    stream_sample: int = field(
        default=50_000,
        metadata=_help("streaming: rows read beforehand, for the vocabulary, the token counts and the held-out rows"),
    )

    @property
    def line_sides(self) -> str:
        """What of a text file's line is read: `whole`, or of a line with a TAB or ||| its `left` side, or
        `both` as two phrases, or the `pair` of a prompt and its reply.
        """
        return "whole"

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        _at_least("max_vocab", self.max_vocab, 8)
        if self.max_rows is not None:
            _at_least("max_rows", self.max_rows, 1)
        _share("max_bad_share", self.max_bad_share)
        _at_least("stream_window", self.stream_window, 1)
        _at_least("stream_sample", self.stream_sample, 100)
        if self.streaming and self.max_rows is not None:
            raise InputError(f"max_rows: got {self.max_rows} with streaming; leave one of them out")
        if not self.data.strip():
            raise InputError("data: is empty; give builtin:NAME, a file, a folder or hub:ID")


@dataclass
class DataSettings(SourceSettings):
    """The `data` section of a recipe that trains on phrases. `validate()` raises InputError."""

    sides: str = field(
        default="left",
        metadata=_help("of lines with a TAB or |||: `left` takes the left side, `both` both sides as two phrases"),
    )
    tokenizer: str = field(
        default="word",
        metadata=_help("`word`, `bpe` (byte-level, trained on the training part), or a tokenizer's path or Hub id"),
    )
    pre_tokenizer: str = field(
        default="words",
        metadata=_help(
            "for `word`: `words` splits punctuation off, `whitespace` is for corpora that are tokenized already"
        ),
    )
    lowercase: bool = field(default=True, metadata=_help("lower-case the text (not for a given tokenizer)"))
    split_sentences: bool = field(default=False, metadata=_help("split every row into sentences"))
    long_rows: str = field(
        default="windows",
        metadata=_help(
            "rows longer than the model: `windows` (overlapping by a quarter) or `cut`; counted either way"
        ),
    )
    min_words: int = field(default=2, metadata=_help("leave out rows with fewer words; counted"))
    max_words: int | None = field(default=None, metadata=_help("leave out rows with more words; counted"))
    drop_headings: bool = field(default=False, metadata=_help("leave out headings such as ` = Title = `; counted"))

    @property
    def line_sides(self) -> str:
        """See `SourceSettings`."""
        return self.sides

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        _one_of("sides", self.sides, ("left", "both"))
        _one_of("pre_tokenizer", self.pre_tokenizer, ("words", "whitespace"))
        _one_of("long_rows", self.long_rows, ("windows", "cut"))
        _at_least("min_words", self.min_words, 1)
        if self.max_words is not None:
            _at_least("max_words", self.max_words, self.min_words, because="it may not be below min_words")
        super().validate()


@dataclass
class GeneratorDataSettings(SourceSettings):
    """The `data` section of a recipe that trains on documents, packed into blocks. `validate()` raises InputError."""

    documents: str = field(
        default="rows",
        metadata=_help(
            "what a document is, beyond which nothing is attended: `rows` (each row), `headings` (rows in sequence; a "
            "heading ` = Title = ` between blank lines begins the next one) or `file` (the whole file, or each text "
            "of a built-in source)"
        ),
    )
    max_rows: int | None = field(
        default=None, metadata=_help("a seeded subset of at most this many documents of each of train, valid and test")
    )

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        _one_of("documents", self.documents, ("rows", "headings", "file"))
        if self.tokenizer == "word":
            raise InputError(
                "tokenizer: got 'word', which forgets spaces and line ends, so that it generates no text; use bpe, "
                "or a tokenizer's path or Hub id"
            )
        if self.streaming and self.documents != "rows":
            raise InputError(
                f"documents: got {self.documents!r} with streaming, where a document is a row; use rows, or leave "
                "streaming out"
            )
        super().validate()


@dataclass
class DialogueDataSettings(SourceSettings):
    """The `data` section of a recipe that trains on replies and what came before them. `validate()` raises
    InputError.
    """

    data: str = field(
        default="builtin:chatterbot",
        metadata=_help(
            "where the dialogues come from: builtin:chatterbot, a file (txt: `prompt TAB reply` or `prompt ||| "
            "reply`; jsonl, csv, parquet: columns `prompt` and `reply`, or a list of `turns`), a folder with train.*, "
            "valid.* and test.*, or hub:ID[:CONFIG][:SPLIT]"
        ),
    )
    text_column: str | None = field(
        default=None, metadata=_help("the column that holds a dialogue's list of turns (default: `turns`)")
    )
    context_turns: int = field(
        default=3, metadata=_help("turns before a reply that are its context, at most; each turn after a first is one")
    )
    tokenizer: str = field(
        default="bpe",
        metadata=_help("`word`, `bpe` (byte-level, trained on the training part), or a tokenizer's path or Hub id"),
    )
    pre_tokenizer: str = field(
        default="words",
        metadata=_help(
            "for `word`: `words` splits punctuation off, `whitespace` is for corpora that are tokenized already"
        ),
    )
    lowercase: bool = field(default=True, metadata=_help("lower-case the text (not for a given tokenizer)"))
    join_punctuation: bool = field(
        default=True,
        metadata=_help("undo the spaces that corpora have before punctuation and in `I ' m`, which no user types"),
    )
    max_rows: int | None = field(
        default=None, metadata=_help("a seeded subset of at most this many dialogues of each of train, valid and test")
    )
    min_reply_words: int = field(default=1, metadata=_help("leave out replies with fewer words; counted"))

    @property
    def line_sides(self) -> str:
        """See `SourceSettings`."""
        return "pair"

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        _one_of("pre_tokenizer", self.pre_tokenizer, ("words", "whitespace"))
        _at_least("context_turns", self.context_turns, 1)
        _at_least("min_reply_words", self.min_reply_words, 1)
        if self.streaming:
            raise InputError("streaming: replies are not streamed; leave it out, or take fewer dialogues by max_rows")
        super().validate()


@dataclass
class VideoDataSettings:
    """The `data` section of a recipe that trains on clips of moving digits. `validate()` raises InputError.

    The clips' length and size are the model's (`max_position_embeddings`, `frame_size`).
    """

    digits: str = field(
        default="builtin:digits",
        metadata=_help(
            "where the digits come from: builtin:digits (scikit-learn's), a folder with the idx files of MNIST, one "
            "idx file of pictures, hub:mnist or hub:ID[:CONFIG]"
        ),
    )
    num_digits: int = field(default=2, metadata=_help("digits in each clip"))
    num_clips: int = field(
        default=100_000,
        metadata=_help("different training clips; each is made when it is needed, so many cost nothing"),
    )
    clip_seed: int = field(default=0, metadata=_help("decides the clips of every part; not the run's seed"))
    code_levels: list[int] = field(
        default_factory=lambda: [8, 8, 4],
        metadata=_help(
            "frame_codes=patch: levels of the quantiser's dimensions, whose product is the number of codes; "
            "frame_codes=grey: the number of greys alone"
        ),
    )
    flip: bool = field(default=False, metadata=_help("mirror half of the training clips, left to right"))
    rotation: float = field(
        default=0.0, metadata=_help("turn each training digit by up to so many degrees, either way")
    )
    brightness: float = field(
        default=0.0, metadata=_help("multiply a training clip's brightness by up to 1 plus or minus this (0 to 1)")
    )
    contrast: float = field(
        default=0.0, metadata=_help("multiply a training clip's contrast by up to 1 plus or minus this (0 to 1)")
    )

    @property
    def data(self) -> str:
        """The source, under the name that it has in the other families."""
        return self.digits

    @property
    def max_vocab(self) -> int:
        """The number of codes."""
        return math.prod(self.code_levels)

    @property
    def tokenizer(self) -> str:
        """What makes tokens of the data: nothing that a recipe chooses."""
        return "frames"

    @property
    def streaming(self) -> bool:
        """Clips are made, not streamed."""
        return False

    def validate(self) -> None:
        """Raise InputError where a value is out of range."""
        if not self.digits.strip():
            raise InputError("digits: is empty; give builtin:digits, a folder with idx files, or hub:mnist")
        _at_least("num_digits", self.num_digits, 1)
        _at_least("num_clips", self.num_clips, 1)
        _at_least("clip_seed", self.clip_seed, 0)
        if not self.code_levels or min(self.code_levels) < 2 or self.max_vocab > 65_536:
            raise InputError(
                f"code_levels: got {self.code_levels}; use whole numbers of at least 2 whose product is at most "
                "65,536, such as 8 8 4"
            )
        if not 0 <= self.rotation <= 180:
            raise InputError(f"rotation: got {self.rotation}; use 0 to 180 degrees (10 is usual)")
        _share("brightness", self.brightness)
        _share("contrast", self.contrast)


@dataclass
class MaskingSettings:
    """The `masking` section of a recipe. `validate()` raises InputError."""

    masking: str = field(
        default="rate",
        metadata=_help("`single` (one hole), `rate` (a share of the tokens) or `span` (a few runs of tokens)"),
    )
    mask_rate: float = field(default=0.3, metadata=_help("`rate`: share of the tokens that become holes"))
    mask_rate_final: float | None = field(
        default=None,
        metadata=_help("`rate`: the share at the last step, reached in a straight line (default: constant)"),
    )
    max_spans: int = field(default=3, metadata=_help("`span`: at most this many spans in a phrase"))
    max_span_length: int = field(default=32, metadata=_help("`span`: at most this many tokens in a span"))
    max_span_share: float = field(
        default=0.25, metadata=_help("`span`: at most this share of the phrase (but always one hole)")
    )
    mask_token_share: float = field(default=0.8, metadata=_help("share of the holes that become the mask token"))
    random_token_share: float = field(
        default=0.1, metadata=_help("share of the holes that become a random token; the rest stays as it is")
    )

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        _one_of("masking", self.masking, ("single", "rate", "span"))
        _open_share("mask_rate", self.mask_rate)
        if self.mask_rate_final is not None:
            _open_share("mask_rate_final", self.mask_rate_final)
        _at_least("max_spans", self.max_spans, 1)
        _at_least("max_span_length", self.max_span_length, 1)
        _open_share("max_span_share", self.max_span_share)
        _share("mask_token_share", self.mask_token_share)
        _share("random_token_share", self.random_token_share)
        if self.mask_token_share + self.random_token_share > 1:
            raise InputError(
                f"mask_token_share + random_token_share: {self.mask_token_share} + {self.random_token_share} is more "
                "than 1; what they leave of 1 stays as it is, so lower one of them"
            )


@dataclass
class VideoMaskingSettings:
    """The `masking` section of a recipe that trains on clips. `validate()` raises InputError."""

    objective: str = field(
        default="mixed",
        metadata=_help(
            "`future` (the first frames are clean, later ones hidden; a frame sees the past), `joint` (all frames are "
            "masked and see each other), `individual` (each frame alone), or `mixed`"
        ),
    )
    future_share: float = field(default=0.5, metadata=_help("`mixed`: share of the clips with the objective `future`"))
    joint_share: float = field(default=0.4, metadata=_help("`mixed`: share of `joint`"))
    individual_share: float = field(default=0.1, metadata=_help("`mixed`: share of `individual`; the three make 1"))
    context_frames: int | None = field(
        default=None,
        metadata=_help("`future`: clean frames (default: drawn for each clip, from 1/4 to 3/4 of its length)"),
    )
    mask_ratio_start: float = field(
        default=0.5,
        metadata=_help("share of the codes that are hidden, at the first step; of the later frames, or of all"),
    )
    mask_ratio_end: float = field(
        default=1.0,
        metadata=_help(
            "that share at the last step, reached in a straight line; `joint` and `individual` stop at 0.95"
        ),
    )
    curriculum_frames: list[int] = field(
        default_factory=list,
        metadata=_help(
            "lengths of the clips as training goes on, such as 5 10 15 20 (default: the whole length always)"
        ),
    )
    curriculum_share: float = field(
        default=0.5, metadata=_help("share of the steps over which these lengths follow each other; then the last one")
    )

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of `OBJECTIVES`, with `mixed`."""
        return self.future_share, self.joint_share, self.individual_share

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        _one_of("objective", self.objective, (*OBJECTIVES, "mixed"))
        for name, share in zip(OBJECTIVES, self.shares, strict=True):
            _share(f"{name}_share", share)
        if abs(sum(self.shares) - 1) > 1e-6:
            raise InputError(
                f"future_share + joint_share + individual_share: {' + '.join(map(str, self.shares))} is not 1; "
                "change one of them"
            )
        if self.context_frames is not None:
            _at_least("context_frames", self.context_frames, 1)
        for name in ("mask_ratio_start", "mask_ratio_end", "curriculum_share"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise InputError(f"{name}: got {value}; use a share above 0 and at most 1")
        lengths = self.curriculum_frames
        if lengths and (lengths[0] < 2 or sorted(set(lengths)) != lengths):
            raise InputError(
                f"curriculum_frames: got {lengths}; use growing lengths of 2 frames or more, such as 5 10 15 20"
            )


@dataclass
class NoMaskingSettings:
    """The `masking` section of a family whose labels are its own next tokens: it has no keys."""

    def validate(self) -> None:
        """Nothing to check."""


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name}: got {value!r}; use one of {', '.join(allowed)}")


def _at_least(name: str, value: int, low: int, because: str = "") -> None:
    if value < low:
        raise InputError(f"{name}: got {value}; use {low} or more{f' ({because})' if because else ''}")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name}: got {value}; use a share from 0 to 1")


def _open_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name}: got {value}; use a share above 0 and below 1 (such as 0.3)")
