"""Documents of a source, verbatim: what a causal language model trains on, and what it is scored on.

A document is a row, all rows from one top-level heading to the next, or a whole file (`documents` of the settings).
Text files are taken as they are, blank lines included, each line ended by one line end.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, tee, zip_longest

from training.common.errors import InputError
from training.data.settings import GeneratorDataSettings
from training.data.sources.locate import HELD_OUT_SHARE, OpenedSplit, Part, belongs_to, locate, open_split
from training.data.sources.rows import RawRow, RowReport, check_bad_share, count_bad, subset

_LINE_END = "\n"
_NEAR = 2_000  # characters
_HEADING = re.compile(r"\s*= (?!= ).* =\s*")


@dataclass(frozen=True)
class Documents:
    """The documents of one split.

    Attributes:
        texts: one text per document, as it stands in the source.
        report: what was read, kept, left out and rejected; `kept` counts documents.
    """

    texts: list[str]
    report: RowReport

    @cached_property
    def size(self) -> "TextSize":
        """What scores per word and per byte divide by."""
        return size_of(self.texts)


@dataclass(frozen=True)
class TextSize:
    """How much text there is.

    Attributes:
        documents: of them.
        words: runs of characters without white space.
        line_ends: lines; the last one of a document counts whether it ends in a line end or with the document.
        bytes: in UTF-8.
    """

    documents: int
    words: int
    line_ends: int
    bytes: int


def size_of(texts: Iterable[str]) -> TextSize:
    r"""Documents, words, line ends and bytes.

    >>> size_of(["one two\n\nthree\n", "four"])
    TextSize(documents=2, words=4, line_ends=4, bytes=20)
    """
    documents = words = line_ends = number_of_bytes = 0
    for text in texts:
        documents += 1
        words += len(text.split())
        line_ends += text.count("\n") + (not text.endswith("\n"))
        number_of_bytes += len(text.encode("utf-8"))
    return TextSize(documents, words, line_ends, number_of_bytes)


def load_documents(settings: GeneratorDataSettings, split: str) -> Documents:
    """The documents of one split, in the order of the source.

    What the source lacks of valid and test is cut from its training part: whole documents by hash, and the last
    shares of a text that is one single document.

    Args:
        split: "train", "valid", "test", or "all" for every document of the source.

    Raises:
        InputError: the source cannot be found or read, has no text column, too many bad rows, or no document left.
    """
    documents = documents_of(settings)
    is_one_text = documents == "file" and not settings.data.startswith("builtin:")
    held_out = "text, its end," if is_one_text else "documents, chosen by hash,"
    opened = open_split(settings, split, "documents", held_out)
    texts = [text for part in opened.parts for text in _texts_of(opened, part, documents)]
    if settings.documents == "auto":
        what = "a file" if is_one_text else "a row" if documents == "rows" else "each text of the source"
        otherwise = "" if settings.streaming else " (--documents says otherwise)"
        opened.report.notes.append(f"a document is {what}{otherwise}")
    if len(texts) == 1 and split == "train":
        opened.report.notes.append("warning: the training part is one single document")
    texts = [texts[index] for index in subset(texts, settings.max_rows, opened.report)]
    check_bad_share(opened.report, settings, opened.where)
    if not texts:
        raise InputError(_why_none(opened, documents))
    return Documents(texts, opened.report)


def documents_of(settings: GeneratorDataSettings) -> str:
    """What a document is: `rows`, `headings` or `file`; where the settings leave it open, by the source's kind."""
    if settings.documents != "auto":
        return settings.documents
    return "file" if not settings.streaming and locate(settings).is_text else "rows"


def join_rows(rows: Iterable[RawRow], documents: str, report: RowReport, where: str) -> Iterator[RawRow]:
    """Documents that are not blank, each a row of one text; rows that cannot be used are left out, and counted.

    Args:
        documents: `rows`, `headings` or `file`, see `GeneratorDataSettings`. A row with another `group` or file begins
            a document in any case.
    """
    usable = _usable(rows, report, where)
    joined = map(_alone, usable) if documents == "rows" else _in_sequence(usable, by_heading=documents == "headings")
    for document in joined:
        if _is_blank(document):
            report.blank_lines += 1
        else:
            yield document


def _usable(rows: Iterable[RawRow], report: RowReport, where: str) -> Iterator[RawRow]:
    for row in rows:
        report.read += row.problem is not None or not _is_blank(row)
        if row.problem is None:
            yield row
        else:
            count_bad(row, report, where)


def _alone(row: RawRow) -> RawRow:
    """A row as a document: what a list column holds are its lines."""
    return row._replace(texts=("\n".join(row.texts),))


def _in_sequence(rows: Iterable[RawRow], by_heading: bool) -> Iterator[RawRow]:
    """Rows joined to documents, each row a line.

    A heading counts where it stands between blank lines: tables are full of what looks like one.
    """
    lines: list[str] = []
    first: RawRow | None = None
    has_content = False
    for row, following in _with_the_next(rows):
        opens = by_heading and has_content and not lines[-1].strip() and _is_heading(row, following)
        if first is not None and (opens or (row.group, row.where) != (first.group, first.where)):
            yield first._replace(texts=("".join(lines),))
            lines, first, has_content = [], None, False
        first = first or row
        lines += [f"{text.removesuffix(_LINE_END)}{_LINE_END}" for text in row.texts]
        has_content = has_content or not _is_blank(row)
    if first is not None:
        yield first._replace(texts=("".join(lines),))


def _is_heading(row: RawRow, following: RawRow | None) -> bool:
    return bool(_HEADING.fullmatch("".join(row.texts))) and (following is None or _is_blank(following))


def _is_blank(row: RawRow) -> bool:
    return not any(text.strip() for text in row.texts)


def _with_the_next(rows: Iterable[RawRow]) -> Iterator[tuple[RawRow, RawRow | None]]:
    these, following = tee(rows)
    return zip_longest(these, islice(following, 1, None))


def _texts_of(opened: OpenedSplit, part: Part, documents: str) -> Iterator[str]:
    """The texts of one part of a source that belong to a split."""
    is_cut, source = opened.is_cut(part), opened.source
    for document in join_rows(part.read(), documents, opened.report, part.where):
        text = document.texts[0]
        if is_cut and documents == "file" and document.group is None:
            text = _cut_by_place(text, source.missing, opened.split)
        elif is_cut and not belongs_to(document, source, opened.split):
            continue
        if text.strip():
            opened.report.kept += 1
            yield text


def _cut_by_place(text: str, missing: tuple[str, ...], split: str) -> str:
    """A split of a single text: what is missing of valid and test are its last shares, beginning at a line."""
    sides = ("train", *missing)
    shares = [1 - HELD_OUT_SHARE * len(missing), *(HELD_OUT_SHARE for _ in missing)]
    begin = 0
    for number, side in enumerate(sides):
        aim = int(len(text) * sum(shares[: number + 1]))
        end = len(text) if number + 1 == len(sides) else _cut_near(text, begin, aim)
        if side == split:
            return text[begin : max(begin, end)]
        begin = max(begin, end)
    raise ValueError(f"{split} is none of {sides}")


def _cut_near(text: str, begin: int, aim: int) -> int:
    """The begin of a line before `aim`, of a word where a line is very long."""
    line = text.rfind("\n", begin, aim) + 1
    return line if aim - max(line, begin) < _NEAR else (text.rfind(" ", begin, aim) + 1 or aim)


def _why_none(opened: OpenedSplit, documents: str) -> str:
    if opened.is_held_out_here and opened.report.read:
        return (
            f"data: {opened.where} has so few documents (documents: {documents}) that none is held out for "
            f"{opened.split}; give more text, or a folder with train.*, valid.* and test.*"
        )
    return f"data: no usable text in {opened.where} [{opened.split}] ({opened.report.summary()}); give another source"
