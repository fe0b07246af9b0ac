"""Paragraphs into sentences, by rule: no model, no download.

Made for English prose, plain ("He came. She left.") or tokenized already ("he came . she left ."). A boundary is a
run of `.`, `!` or `?` with the quotes and brackets that close after it, followed by white space, unless the word
before the dot is a known abbreviation or an initial, or the next word starts in lower case. A mark standing alone
always ends a sentence: already tokenized text keeps its abbreviations in one piece. A semicolon ends none.
"""

import re

_BOUNDARY = re.compile(r"([.!?…]+)[\"”’')\]]*(?=\s)")
_LONE_QUOTE = re.compile(r"\s+(\"|''|”)(?=\s|$)")
_LAST_WORD = re.compile(r"\S+$")
_ABBREVIATIONS = re.compile(
    r"(mr|mrs|ms|messrs|dr|prof|rev|hon|gen|col|maj|capt|lt|sgt|gov|sen|rep|pres|st|mt|ft|jr|sr|esq|inc|ltd|co|corp|bros"
    r"|ed|eds|vs|cf|viz|etc|e\.g|i\.e|a\.m|p\.m|u\.s|u\.n|u\.k|d\.c|ph\.d|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec)"
)
_BEFORE_NUMBERS = re.compile(r"nos?|vols?|pp?|figs?|art|sec|ch")
_OPEN = "\"“‘'([`"


def split_sentences(text: str) -> list[str]:
    """The sentences of a paragraph, in order, without the white space between them.

    >>> split_sentences('Mr. Brown left. "Why?" she asked. Nobody knew!')
    ['Mr. Brown left.', '"Why?" she asked.', 'Nobody knew!']
    >>> split_sentences('he came . " she left . " nobody knew')
    ['he came .', '" she left . "', 'nobody knew']
    """
    sentences, start = [], 0
    for match in _BOUNDARY.finditer(text):
        if match.start() >= start and _ends_sentence(text, start, match):
            end = _end_of_quote(text, start, match.end())
            sentences.append(text[start:end].strip())
            start = end
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    mark = match.start(1)
    if mark == start or text[mark - 1].isspace():
        return not _opens_here(text, start, match)
    following = text[match.end() : match.end() + 8].lstrip().lstrip(_OPEN)[:1]
    if following.islower():
        return False
    if match.group(1) != ".":
        return True
    word_match = _LAST_WORD.search(text, start, mark)
    word = word_match.group().lstrip(_OPEN) if word_match else ""
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    is_numbering = following.isdigit() and _BEFORE_NUMBERS.fullmatch(word.lower())
    return not (is_initial or is_numbering or _ABBREVIATIONS.fullmatch(word.lower()))


def _end_of_quote(text: str, start: int, end: int) -> int:
    """Moves `end` behind a quote that stands alone, if that closes one opened in this sentence."""
    lone = _LONE_QUOTE.match(text, end)
    if lone is None or (lone.group(1) == '"' and text.count('"', start, end) % 2 == 0):
        return end
    return lone.end()


def _opens_here(text: str, start: int, match: re.Match[str]) -> bool:
    """A mark at the very beginning of a sentence closes nothing."""
    return not text[start : match.start(1)].strip()
