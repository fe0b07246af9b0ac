"""What a recipe's `data` and `masking` sections may hold.

Nothing here imports torch, so that a typo is found at once.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from training.common.errors import InputError
from training.common.options import OPEN_SHARE, POSITIVE_SHARE, SHARE, Allowed, at_least, check_options, one_of, option

# What a clip of a video model is trained for; `mixed` draws one of them for each clip.
OBJECTIVES = ("future", "joint", "individual")
# Clips of valid and of test: as many as the published test set has. Who scores takes some of them.
HELD_OUT_CLIPS = 10_000
TRAINED_TOKENIZERS = ("word", "bpe")  # made from the training part; any other name is that of a given one


class Labelled(NamedTuple):
    """The columns of a text (None: to be found) and of its label."""

    text: str | None
    label: str


# Of a table: the column of its text (None: to be found), those of prompt and reply, or of text and label.
Asked = str | tuple[str, str] | Labelled | None


def asking_flag(asked: Asked) -> tuple[str, str]:
    """The flag that names columns, and what it names, for a message."""
    if isinstance(asked, tuple):
        return ("label_column", asked[1]) if isinstance(asked, Labelled) else ("prompt_column", asked[0])
    return "text_column", str(asked)


@dataclass
class SourceSettings:
    """What every family's `data` section holds: the source, the tokenizer, and how much of it. See `locate`."""

    data: str = option(
        "builtin:sotu",
        "where the rows come from: builtin:NAME, a file (txt, md, tsv, csv, json, jsonl, parquet, arrow), a folder "
        "with train.*, valid.* and test.*, any folder or pattern of such files, what `save_to_disk` wrote, or "
        "hub:ID[:CONFIG][:SPLIT]",
    )
    split: str | None = option(
        None, "use only this named split of a folder or Hub data set, cut into train, valid and test by row hash"
    )
    text_column: str | None = option(None, "the column that holds the text (default: `text`, or the only text column)")
    tokenizer: str = option("bpe", "`bpe` (byte-level, trained on the training part), or a tokenizer's path or Hub id")
    lowercase: bool = option(False, "lower-case the text (not for a given tokenizer)")
    max_vocab: int = option(8000, "entries of a trained vocabulary, special tokens included", at_least(8))
    max_rows: int | None = option(
        None, "a seeded subset of at most this many rows of each of train, valid and test", at_least(1)
    )
    max_bad_share: float = option(
        0.01, "stop when a larger share of the rows is undecodable, wrongly typed or missing", SHARE
    )
    allow_unknown: bool = option(
        False, "go on with a text of which the tokenizer does not know the half; its share is said in any case"
    )

    streaming: bool = option(
        False,
        "read the shards of a corpus as training goes on, in bounded memory: a folder with train-*.jsonl, .txt or "
        ".parquet, a pattern, or hub:ID",
    )
    stream_window: int = option(8192, "streaming: rows that are shuffled together, in memory at a time", at_least(1))
    stream_sample: int = option(
        50_000,
        "streaming: rows read beforehand, for the vocabulary, the token counts and the held-out rows",
        at_least(100),
    )

    @property
    def asked_columns(self) -> Asked:
        """The column of a table that is asked for, or the two of prompts and replies, or of texts and labels."""
        return self.text_column

    @property
    def line_sides(self) -> str:
        """What of a text file's line is read: `whole`, or of a line with a TAB or ||| its `left` side, or
        `both` as two phrases, or the `pair` of a prompt and its reply.
        """
        return "whole"

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        check_options(self)
        if self.streaming and self.max_rows is not None:
            raise InputError(f"max_rows: got {self.max_rows} with streaming; leave one of them out")
        if not self.data.strip():
            raise InputError("data: is empty; give builtin:NAME, a file, a folder or hub:ID")


@dataclass
class DataSettings(SourceSettings):
    """The `data` section of a recipe that trains on phrases. `validate()` raises InputError."""

    sides: str = option(
        "left",
        "of lines with a TAB or |||: `left` takes the left side, `both` both sides as two phrases",
        one_of("left", "both"),
    )
    tokenizer: str = option(
        "word", "`word`, `bpe` (byte-level, trained on the training part), or a tokenizer's path or Hub id"
    )
    pre_tokenizer: str = option(
        "words",
        "for `word`: `words` splits punctuation off, `whitespace` is for corpora that are tokenized already",
        one_of("words", "whitespace"),
    )
    lowercase: bool = option(True, "lower-case the text (not for a given tokenizer)")
    split_sentences: bool = option(False, "split every row into sentences")
    long_rows: str = option(
        "windows",
        "rows longer than the model: `windows` (overlapping by a quarter) or `cut`; counted either way",
        one_of("windows", "cut"),
    )
    min_words: int = option(2, "leave out rows with fewer words; counted", at_least(1))
    max_words: int | None = option(None, "leave out rows with more words; counted")
    drop_headings: bool = option(False, "leave out headings such as ` = Title = `; counted")

    @property
    def line_sides(self) -> str:
        """See `SourceSettings`."""
        return self.sides

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        super().validate()
        if self.max_words is not None and self.max_words < self.min_words:
            raise InputError(
                f"max_words: got {self.max_words}; use {self.min_words} or more (it may not be below min_words)"
            )


@dataclass
class LabelledDataSettings(DataSettings):
    """The `data` section of a recipe that trains a classifier. `validate()` raises InputError."""

    label_column: str = option(
        "label", "the column of the labels: classes by name or number, lists of them, or numbers to predict"
    )
    problem_type: str = option(
        "auto",
        "what labels are: `single_label_classification`, `multi_label_classification` (lists), `regression` "
        "(fractions), or `auto`",
        one_of("auto", "single_label_classification", "multi_label_classification", "regression"),
    )
    long_rows: str = option("cut", "rows longer than the model are cut; counted", one_of("cut"))
    min_words: int = option(1, "leave out rows with fewer words; counted", at_least(1))

    @property
    def asked_columns(self) -> Labelled:
        """See `SourceSettings`."""
        return Labelled(self.text_column, self.label_column)

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        super().validate()
        if self.streaming:
            raise InputError("streaming: labelled rows are not streamed; leave it out, or take fewer by max_rows")
        if self.split_sentences:
            raise InputError("split_sentences: true, but a label is of its whole row; leave it out")


@dataclass
class GeneratorDataSettings(SourceSettings):
    """The `data` section of a recipe that trains on documents, packed into blocks. `validate()` raises InputError."""

    documents: str = option(
        "auto",
        "what a document is, beyond which nothing is attended: `rows` (each row), `headings` (rows in sequence; a "
        "heading ` = Title = ` between blank lines begins the next one), `file` (each whole file, or each text "
        "of a built-in source) or `auto` (rows of tables, else files)",
        one_of("auto", "rows", "headings", "file"),
    )
    max_rows: int | None = option(
        None, "a seeded subset of at most this many documents of each of train, valid and test", at_least(1)
    )

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        if self.tokenizer == "word":
            raise InputError(
                "tokenizer: got 'word', which forgets spaces and line ends, so that it generates no text; use bpe, "
                "or a tokenizer's path or Hub id"
            )
        if self.streaming and self.documents not in ("auto", "rows"):
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

    data: str = option(
        "builtin:chatterbot",
        "where the dialogues come from: builtin:chatterbot, a file (txt: `prompt TAB reply` or `prompt ||| "
        "reply`; jsonl, csv, parquet: columns `prompt` and `reply`, or a list of `turns`, `messages` or "
        "`conversations`), a folder with train.*, valid.* and test.*, or hub:ID[:CONFIG][:SPLIT]",
    )
    text_column: str | None = option(
        None, "the column that holds a dialogue's list of turns (default: `turns`, `messages`, `conversations`)"
    )
    prompt_column: str | None = option(None, "the column of the prompts, with reply_column")
    reply_column: str | None = option(None, "the column of the replies, with prompt_column")
    context_turns: int = option(
        3, "turns before a reply that are its context, at most; each turn after a first is one", at_least(1)
    )
    tokenizer: str = option(
        "bpe", "`word`, `bpe` (byte-level, trained on the training part), or a tokenizer's path or Hub id"
    )
    pre_tokenizer: str = option(
        "words",
        "for `word`: `words` splits punctuation off, `whitespace` is for corpora that are tokenized already",
        one_of("words", "whitespace"),
    )
    lowercase: bool = option(True, "lower-case the text (not for a given tokenizer)")
    join_punctuation: bool = option(
        True, "undo the spaces that corpora have before punctuation and in `I ' m`, which no user types"
    )
    max_rows: int | None = option(
        None, "a seeded subset of at most this many dialogues of each of train, valid and test", at_least(1)
    )
    min_reply_words: int = option(1, "leave out replies with fewer words; counted", at_least(1))

    @property
    def line_sides(self) -> str:
        """See `SourceSettings`."""
        return "pair"

    @property
    def asked_columns(self) -> Asked:
        """See `SourceSettings`."""
        if self.prompt_column is None or self.reply_column is None:
            return self.text_column
        return self.prompt_column, self.reply_column

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        if (self.prompt_column is None) != (self.reply_column is None):
            missing = "reply_column" if self.reply_column is None else "prompt_column"
            raise InputError(f"{missing}: is missing; give --prompt_column and --reply_column together")
        if self.prompt_column is not None and self.text_column is not None:
            raise InputError("text_column: got it beside prompt_column and reply_column; leave one of them out")
        if self.streaming:
            raise InputError("streaming: replies are not streamed; leave it out, or take fewer dialogues by max_rows")
        super().validate()


@dataclass
class VideoDataSettings:
    """The `data` section of a recipe that trains on clips of moving digits. `validate()` raises InputError.

    The clips' length and size are the model's (`max_position_embeddings`, `frame_size`).
    """

    digits: str = option(
        "builtin:digits",
        "where the digits come from: builtin:digits (scikit-learn's), a folder with the idx files of MNIST, one "
        "idx file of pictures, hub:mnist or hub:ID[:CONFIG]",
    )
    clips: str | None = option(
        None,
        "clips of your own in place of made ones: a .npy or .npz of (N, T, H, W) or (N, T, H, W, 3), bytes or floats, "
        "or a folder of GIFs or of arrays, where one may be one clip",
    )
    num_digits: int = option(2, "digits in each clip", at_least(1))
    num_clips: int = option(
        100_000, "different training clips; each is made when it is needed, so many cost nothing", at_least(1)
    )
    clip_seed: int = option(0, "decides the clips of every part; not the run's seed", at_least(0))
    code_levels: list[int] = option(
        [8, 8, 4],
        "frame_codes=patch: levels of the quantiser's dimensions, whose product is the number of codes; "
        "frame_codes=grey: the number of greys alone",
    )
    flip: bool = option(False, "mirror half of the training clips, left to right")
    rotation: float = option(
        0.0,
        "turn each training digit by up to so many degrees, either way",
        Allowed(lambda value: 0 <= value <= 180, "0 to 180 degrees (10 is usual)"),
    )
    brightness: float = option(
        0.0, "multiply a training clip's brightness by up to 1 plus or minus this (0 to 1)", SHARE
    )
    contrast: float = option(0.0, "multiply a training clip's contrast by up to 1 plus or minus this (0 to 1)", SHARE)

    @property
    def data(self) -> str:
        """The source, under the name that it has in the other families."""
        return self.digits if self.clips is None else self.clips

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
        check_options(self)
        if self.clips is not None and self.rotation:
            raise InputError(f"rotation: got {self.rotation} with clips; it turns digits of made clips, leave it out")
        if not self.digits.strip():
            raise InputError("digits: is empty; give builtin:digits, a folder with idx files, or hub:mnist")
        if not self.code_levels or min(self.code_levels) < 2 or self.max_vocab > 65_536:
            raise InputError(
                f"code_levels: got {self.code_levels}; use whole numbers of at least 2 whose product is at most "
                "65,536, such as 8 8 4"
            )


@dataclass
class MaskingSettings:
    """The `masking` section of a recipe. `validate()` raises InputError."""

    masking: str = option(
        "rate",
        "`single` (one hole), `rate` (a share of the tokens) or `span` (a few runs of tokens)",
        one_of("single", "rate", "span"),
    )
    mask_rate: float = option(0.3, "`rate`: share of the tokens that become holes", OPEN_SHARE)
    mask_rate_final: float | None = option(
        None, "`rate`: the share at the last step, reached in a straight line (default: constant)", OPEN_SHARE
    )
    max_spans: int = option(3, "`span`: at most this many spans in a phrase", at_least(1))
    max_span_length: int = option(32, "`span`: at most this many tokens in a span", at_least(1))
    max_span_share: float = option(0.25, "`span`: at most this share of the phrase (but always one hole)", OPEN_SHARE)
    mask_token_share: float = option(0.8, "share of the holes that become the mask token", SHARE)
    random_token_share: float = option(
        0.1, "share of the holes that become a random token; the rest stays as it is", SHARE
    )

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        check_options(self)
        if self.mask_token_share + self.random_token_share > 1:
            raise InputError(
                f"mask_token_share + random_token_share: {self.mask_token_share} + {self.random_token_share} is more "
                "than 1; what they leave of 1 stays as it is, so lower one of them"
            )


@dataclass
class VideoMaskingSettings:
    """The `masking` section of a recipe that trains on clips. `validate()` raises InputError."""

    objective: str = option(
        "mixed",
        "`future` (the first frames are clean, later ones hidden; a frame sees the past), `joint` (all frames are "
        "masked and see each other), `individual` (each frame alone), or `mixed`",
        one_of(*OBJECTIVES, "mixed"),
    )
    future_share: float = option(0.5, "`mixed`: share of the clips with the objective `future`", SHARE)
    joint_share: float = option(0.4, "`mixed`: share of `joint`", SHARE)
    individual_share: float = option(0.1, "`mixed`: share of `individual`; the three make 1", SHARE)
    context_frames: int | None = option(
        None, "`future`: clean frames (default: drawn for each clip, from 1/4 to 3/4 of its length)", at_least(1)
    )
    mask_ratio_start: float = option(
        0.5, "share of the codes that are hidden, at the first step; of the later frames, or of all", POSITIVE_SHARE
    )
    mask_ratio_end: float = option(
        1.0,
        "that share at the last step, reached in a straight line; `joint` and `individual` stop at 0.95",
        POSITIVE_SHARE,
    )
    curriculum_frames: list[int] = option(
        [], "lengths of the clips as training goes on, such as 5 10 15 20 (default: the whole length always)"
    )
    curriculum_share: float = option(
        0.5, "share of the steps over which these lengths follow each other; then the last one", POSITIVE_SHARE
    )

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of `OBJECTIVES`, with `mixed`."""
        return self.future_share, self.joint_share, self.individual_share

    def validate(self) -> None:
        """Raise InputError where a value is out of range or contradicts another."""
        check_options(self)
        if abs(sum(self.shares) - 1) > 1e-6:
            raise InputError(
                f"future_share + joint_share + individual_share: {' + '.join(map(str, self.shares))} is not 1; "
                "change one of them"
            )
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
