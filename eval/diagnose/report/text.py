"""A report as text: the verdict, what must be wrong, cause first, what may be, and one line of what is right."""

import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from eval.diagnose.report.report import FAIL, NOTE, PASS, Finding, Report

STYLES = {FAIL: "bold red", NOTE: "bold yellow", PASS: "bold green"}
_DIGITS = 4
MOST_FIGURES = 5
_LONGEST_LIST = 8


def report_text(report: Report) -> RenderableType:
    """The whole report for a terminal. `Text` throughout: a token such as [bold] is no markup."""
    parts: list[RenderableType] = [_headline(report)]
    for verdict in (FAIL, NOTE):
        for finding in report.causes(verdict):
            parts += [Text(), _finding(finding, report.consequences(finding))]
    right = ", ".join(finding.check for finding in report.of(PASS))
    if right:
        parts += [Text(), Text.assemble(("pass ", STYLES[PASS]), right)]
    if report.notes:
        parts += [Text(note, style="dim") for note in ["", *gathered(report.notes)]]
    return Group(*parts)


def gathered(notes: Sequence[str]) -> list[str]:
    """Notes, those that say the same of several checks as one: `left out, ...: leak.cache, leak.padding`."""
    by_text: dict[str, list[str]] = {}
    for note in notes:
        name, found, text = note.partition(": ")
        is_check = bool(found) and bool(re.fullmatch(r"[a-z]+\.\w+", name))
        by_text.setdefault(text if is_check else note, []).extend([name] * is_check)
    return [f"{text}: {', '.join(names)}" if names else text for text, names in by_text.items()]


def evidence_text(evidence: dict[str, Any], most: int | None = None) -> str:
    """Figures in words: `loss 5.21, ln v 8.32, offsets 1: 9.1, 2: 0.4`.

    Args:
        most: figures; the others stand in the JSON.
    """
    some = list(evidence.items())[:most]
    told = ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in some) or "none"
    left = len(evidence) - len(some)
    return f"{told}; {left} more in the JSON" if left else told


def follows_text(consequences: Sequence[Finding]) -> str:
    """What a finding explains, in one line."""
    return ", ".join(f"{finding.check} ({finding.verdict})" for finding in consequences)


def shown(value: Any) -> str:
    """A value of the evidence as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10**_DIGITS else f"{value:.{_DIGITS}g}"
    if isinstance(value, dict):
        return _cut([f"{name}: {shown(item)}" for name, item in value.items()])
    if isinstance(value, list | tuple):
        return f"[{_cut([shown(item) for item in value])}]"
    return str(value)


def counts(report: Report) -> str:
    """`1 fail, 2 notes, 30 pass`."""
    notes = len(report.of(NOTE))
    return f"{len(report.of(FAIL))} fail, {notes} note{'s' * (notes != 1)}, {len(report.of(PASS))} pass"


def facts(report: Report) -> str:
    """What was examined, and how long it took."""
    return f"{report.kind}, {report.parameters:,} parameters, on {report.data}, {report.seconds:.0f} s"


def print_report(report: Report, console: Console | None = None) -> None:
    """Show a report; a pipe has no width of its own, and gets one at which its lines can be read."""
    console = console or Console(highlight=False)
    console.width = max(console.width, 110) if not console.is_terminal else console.width
    console.print(report_text(report), highlight=False, soft_wrap=False)


def _headline(report: Report) -> Text:
    return Text.assemble(
        (f"{report.model}: ", "bold"),
        (report.verdict, STYLES[report.verdict]),
        f" ({counts(report)})\n",
        (facts(report), "dim"),
    )


def _finding(finding: Finding, consequences: Sequence[Finding]) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    lines = {
        "cause": finding.cause,
        "evidence": evidence_text(finding.evidence, MOST_FIGURES),
        "right is": finding.threshold,
        "what to do": finding.remedy,
        "follows": follows_text(consequences),
        "see again": finding.again,
    }
    for label, text in lines.items():
        if text:
            rows.add_row(label, Text(text))
    heading = Text.assemble((f"{finding.verdict} ", STYLES[finding.verdict]), (finding.check, "bold"))
    return Group(heading, Padding(rows, (0, 0, 0, 5)))


def _cut(items: list[str]) -> str:
    return ", ".join(
        items[:_LONGEST_LIST] + ([f"and {len(items) - _LONGEST_LIST} more"] if len(items) > _LONGEST_LIST else [])
    )
