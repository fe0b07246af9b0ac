"""Numbers, sizes and durations as people read them."""

import re
import unicodedata

_MIB = 2**20


def duration(seconds: float) -> str:
    """Seconds as people say them: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def millions(parameters: int) -> str:
    """A number of parameters in millions with two decimals (`0.99M`); a small one is never `0M`."""
    return f"{parameters / 1e6:.2f}M" if parameters >= 10_000 else f"{parameters:,}"


def max_rows_flag(score_rows: int | None, default: int) -> str:
    """What the score command needs to score as many rows as the run did."""
    return "" if score_rows == default else f" --max_rows {'all' if score_rows is None else score_rows}"


def readable_bytes(amount: float) -> str:
    """`1 MiB` at least; `12.3 GiB` from 8 GiB on."""
    return f"{max(1.0, amount / _MIB):,.0f} MiB" if amount < 2**33 else f"{amount / 2**30:,.1f} GiB"


def one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    r"""The text with its control characters and line separators escaped (`\x11`), and byte sequences that were cut
    marked: git and grep take a file with such characters for a binary one. Line ends and tabs stay.
    """
    shown = [
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in "\n\t"
        else character
        for character in text
    ]
    return re.sub("\ufffd+", "[cut bytes]", "".join(shown))
