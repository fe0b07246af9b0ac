"""Rows on their way in: what a reader yields, what a filter leaves out, and the count of both."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from training.common.errors import InputError
from training.data.settings import DataSettings, SourceSettings
from training.data.sources.sentences import split_sentences

EXAMPLES_KEPT = 5
LONG_ROW, _PIECE = 20_000, 1_000  # characters
NOT_UTF8 = "not valid UTF-8"
MAX_ROW_CHARACTERS = 1_000_000
TOO_LONG = f"longer than {MAX_ROW_CHARACTERS:,} characters"
# What to do about rows that cannot be used for such a reason.
REMEDIES = {
    NOT_UTF8: "of Latin-1 text: iconv -f LATIN1 -t UTF-8 FILE > NEW (of Windows text -f CP1252)",
    TOO_LONG: "cut a text that long into lines: fold -s -w 10000 FILE > NEW",
}
# Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which put no space between words.
WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_HEADING = re.compile(r"=+ .* =+")
_SPLIT_SALT = "row side"
_SUBSET_SALT = "row subset"


class RawRow(NamedTuple):
    """One row as a reader found it.

    Attributes:
        texts: the phrases in it: one, or several where a list column is flattened or both sides of a line are used.
        place: line (or row) number in the file, from 1.
        problem: why the row cannot be used; None for a sound one.
        group: what decides the side in a split by hash, such as a film's id; None means the row's own text.
        where: the file, where a part has several.
        roles: who says each of the texts, where the source tells.
        label: what stands in the column of labels, where one is asked for.
    """

    texts: tuple[str, ...]
    place: int
    problem: str | None = None
    group: str | None = None
    where: str | None = None
    roles: tuple[str, ...] | None = None
    label: Any = None


@dataclass
class RowReport:
    """What became of the rows of one part of a source.

    Attributes:
        read: rows looked at, blank lines apart.
        kept: phrases that went on. Sentences and flattened lists count one by one.
        blank_lines: separators between the rows of a text file; not rows.
        filtered: what the settings leave out, counted by reason; never an error.
        bad: rows that cannot be used, counted by reason; more than `max_bad_share` of them is an error.
        bad_examples: the first few bad rows with file and line.
        notes: what else the user should know, one line each.
        unit: what `kept` counts: "rows", or "documents".
    """

    source: str
    split: str
    kept: int = 0
    blank_lines: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    bad_examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    read: int = 0
    unit: str = "rows"

    @property
    def num_bad(self) -> int:
        """Rows that cannot be used."""
        return sum(self.bad.values())

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """One line for the screen."""
        parts = [f"{self.source} [{self.split}]: {self.kept:,} {self.unit}"]
        parts += [f"{count:,} left out ({reason})" for reason, count in self.filtered.items()]
        parts += [f"{count:,} unusable ({reason})" for reason, count in self.bad.items()]
        if self.bad_examples:
            parts.append(f"first: {self.bad_examples[0]}")
        return "; ".join(parts)


def short_rows(row: RawRow) -> Iterator[RawRow]:
    """A row; one of a very long text, such as a book on one line, in pieces of some sentences each."""
    if row.group is not None or len(row.texts) != 1 or len(row.texts[0]) <= LONG_ROW:
        yield row
        return
    text, begin = row.texts[0], 0
    while begin < len(text):
        most = begin + _PIECE
        end = text.rfind(". ", begin, most) + 1 or text.rfind(" ", begin, most) + 1 or most
        end = len(text) if most >= len(text) else end
        yield row._replace(texts=(text[begin:end].strip(),))
        begin = end


def text_hash(text: str, salt: str = "") -> int:
    """A 63-bit number that depends on the text (and salt) alone."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt.encode()[:16]).digest()
    return int.from_bytes(digest, "little") >> 1


def side_of(row: RawRow, missing: tuple[str, ...], share: float) -> str:
    """The side of a split by hash on which a row lies; rows with the same group or text always share a side.

    Args:
        missing: the sides that the source lacks, such as ("valid", "test"); each gets `share` of the rows.
    """
    key = row.group if row.group is not None else "\n".join(row.texts)
    position = text_hash(key, _SPLIT_SALT) / 2**63
    for number, side in enumerate(missing, start=1):
        if position < number * share:
            return side
    return "train"


def collect(
    rows: Iterable[RawRow],
    settings: DataSettings,
    report: RowReport,
    where: str,
    is_cut: bool = False,
    labels: list[Any] | None = None,
) -> list[str]:
    """The phrases that pass the filters; everything else is counted in `report`.

    Args:
        is_cut: the split is not stored apart, but cut from the source by row hash.
        labels: gets the label of each phrase's row.

    Raises:
        InputError: more than `max_bad_share` of the rows are bad, or none is left.
    """
    kept = []
    for row, phrase in sift(rows, settings, report, where):
        kept.append(phrase)
        if labels is not None:
            labels.append(row.label)
    chosen = subset(kept, settings.max_rows, report)
    kept = [kept[index] for index in chosen]
    if labels is not None:
        labels[:] = [labels[index] for index in chosen]
    check_bad_share(report, settings, where)
    _check_any_left(report, where, is_cut)
    return kept


def sift(
    rows: Iterable[RawRow], settings: DataSettings, report: RowReport, where: str
) -> Iterator[tuple[RawRow, str]]:
    """(row, phrase of it) for each phrase that passes the filters; everything is counted in `report` on the way."""
    for row in rows:
        if row.problem is None and not row.texts:
            report.blank_lines += 1
            continue
        report.read += 1
        if row.problem is not None:
            count_bad(row, report, where)
            continue
        for phrase in _phrases(row.texts, settings):
            reason = _reason_to_leave_out(phrase, settings)
            if reason is None:
                report.kept += 1
                yield row, phrase.replace("<unk>", "[UNK]")
            else:
                _count(report.filtered, reason)


def count_bad(row: RawRow, report: RowReport, where: str) -> None:
    """Count a row with a problem, and keep the first few with file and line."""
    _count(report.bad, str(row.problem).split(":")[0])
    if len(report.bad_examples) < EXAMPLES_KEPT:
        report.bad_examples.append(f"{row.where or where} line {row.place}: {row.problem}")


def check_bad_share(report: RowReport, settings: SourceSettings, where: str) -> None:
    """Raise InputError where more than `max_bad_share` of the rows are bad."""
    if report.num_bad > settings.max_bad_share * report.read:
        hint = next((f"; {said}" for reason, said in REMEDIES.items() if reason in report.bad), "")
        raise InputError(
            f"data: {report.num_bad:,} of {report.read:,} rows of {where} cannot be used (allowed: max_bad_share "
            f"{settings.max_bad_share:g}); {report.bad_examples[0]}; repair the file or raise max_bad_share{hint}"
        )


def row_ids(phrases: list[str]) -> list[int]:
    """A number for each row that depends on its text and on how often that text came before, not on its place."""
    seen: Counter[str] = Counter()
    ids = []
    for phrase in phrases:
        ids.append(text_hash(phrase if phrase not in seen else f"{phrase}\0{seen[phrase]}"))
        seen[phrase] += 1
    return ids


def _phrases(texts: tuple[str, ...], settings: DataSettings) -> Iterator[str]:
    for text in texts:
        stripped = text.strip()
        if settings.split_sentences and not _HEADING.fullmatch(stripped):
            yield from split_sentences(stripped)
        else:
            yield stripped


def count_words(text: str) -> int:
    """Words between spaces; of a script that has none between words, such as Japanese or Thai, characters.

    >>> count_words("one two"), count_words("\u732b\u306f\u5b66\u6821\u3067\u3002")
    (2, 6)
    """
    unspaced = len(WITHOUT_SPACES.findall(text))
    return len(text.split()) if 2 * unspaced < len(text) else len("".join(text.split()))


def _reason_to_leave_out(phrase: str, settings: DataSettings) -> str | None:
    if settings.drop_headings and _HEADING.fullmatch(phrase):
        return "headings"
    words = count_words(phrase)
    if words == 0:
        return "empty"
    if words < settings.min_words:
        return f"fewer than {settings.min_words} words"
    if settings.max_words is not None and words > settings.max_words:
        return f"more than {settings.max_words} words"
    return None


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1


def subset(phrases: list[str], max_rows: int | None, report: RowReport) -> Sequence[int]:
    """Places of at most `max_rows` phrases, chosen by hash (files are often sorted by label), ascending."""
    if max_rows is None or len(phrases) <= max_rows:
        return range(len(phrases))
    report.filtered["beyond max_rows"] = len(phrases) - max_rows
    report.kept = max_rows
    order = sorted(range(len(phrases)), key=lambda index: (text_hash(phrases[index], _SUBSET_SALT), index))
    return sorted(order[:max_rows])


def _check_any_left(report: RowReport, where: str, is_cut: bool) -> None:
    if is_cut and report.split != "train" and not report.read:
        raise InputError(
            f"data: {where} has so few different rows that its hash puts none into {report.split}; give more text, or "
            "a folder with train.*, valid.* and test.*"
        )
    if not report.kept:
        reasons = "; ".join(f"{count:,} left out: {reason}" for reason, count in report.filtered.items())
        raise InputError(
            f"data: no usable row in {where} [{report.split}] ({reasons or 'it is empty'}); "
            "give another source or loosen the filters (min_words, max_words, drop_headings)"
        )
