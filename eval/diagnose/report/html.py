"""A report as one HTML page that opens from the disk alone: no script, nothing fetched, light and dark."""

from html import escape

from eval.diagnose.report.pictures import Picture, pictures
from eval.diagnose.report.report import FAIL, NOTE, PASS, Finding, Report
from eval.diagnose.report.text import MOST_FIGURES, counts, evidence_text, facts, follows_text, gathered, shown

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f8fa; --ink: #1b1f24; --muted: #57606a;
  --grid: #d8dee4; --series: #2563eb; --second: #b45309; --bad: #c62828; --note: #9a6700; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --card: #161b22; --ink: #e6edf3; --muted: #9198a1;
  --grid: #30363d; --series: #58a6ff; --second: #f0883e; --bad: #ff7b72; --note: #d29922; --good: #3fb950; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .25rem 0; } .muted { color: var(--muted); }
code { font: .875em ui-monospace, monospace; }
.badge { display: inline-block; padding: 0 .6em; border-radius: 1em; color: var(--page); font-weight: 600; }
.fail { --of: var(--bad); } .note { --of: var(--note); } .pass { --of: var(--good); } .badge { background: var(--of); }
.finding { margin: .75rem 0; padding: .75rem 1rem; background: var(--card); border-left: 4px solid var(--of);
  border-radius: 4px; }
dl { display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr; gap: .25rem 1rem; margin: .5rem 0 0; }
dt { color: var(--muted); } dd { margin: 0; }
@media (max-width: 36rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; } }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .75rem; background: var(--card); border-radius: 4px; }
figcaption { font-size: .875rem; color: var(--muted); margin-top: .5rem; }
svg { display: block; width: 100%; height: auto; }
summary { cursor: pointer; padding: .25rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
td { border-top: 1px solid var(--grid); padding: .35rem .5rem .35rem 0; vertical-align: top; }
"""


def report_html(report: Report) -> str:
    """The whole page. Everything that came from outside is escaped."""
    sections = [
        _heading(report),
        _section("What is wrong", _findings(report, FAIL)),
        _section("What may be wrong", _findings(report, NOTE)),
        _section("Plots", _plots(pictures(report.figures))),
        _section("What is right", _passes(report.of(PASS))),
        _details(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.model)}: {report.verdict}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _heading(report: Report) -> str:
    return (
        f'<header class="{report.verdict}"><h1>{escape(report.model)} <span class="badge">{report.verdict}</span></h1>'
        f'<p>{escape(counts(report))}</p><p class="muted">{escape(facts(report))}</p></header>'
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>" if body else ""


def _findings(report: Report, verdict: str) -> str:
    return "\n".join(_finding(one, follows_text(report.consequences(one))) for one in report.causes(verdict))


def _finding(finding: Finding, follows: str) -> str:
    rows = {
        "cause": escape(finding.cause),
        "what to do": escape(finding.remedy),
        "evidence": escape(evidence_text(finding.evidence, MOST_FIGURES)),
        "follows": escape(follows),
        "right is": escape(finding.threshold),
        "see again": f"<code>{escape(finding.again)}</code>" if finding.again else "",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows.items() if text)
    return (
        f'<article class="finding {finding.verdict}"><h3><span class="badge">{finding.verdict}</span> '
        f"<code>{escape(finding.check)}</code></h3><dl>{listed}</dl></article>"
    )


def _plots(drawn: list[Picture]) -> str:
    if not drawn:
        return ""
    figures = "\n".join(
        f"<figure><h3>{escape(picture.heading)}</h3>{picture.svg}<figcaption>{escape(picture.reading)}</figcaption>"
        "</figure>"
        for picture in drawn
    )
    return f'<div class="plots">{figures}</div>'


def _passes(findings: list[Finding]) -> str:
    if not findings:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(finding.check)}</code></td><td>{escape(evidence_text(finding.evidence))}</td>"
        f'<td class="muted">{escape(finding.threshold)}</td></tr>'
        for finding in findings
    )
    return f"<details><summary>{len(findings)} findings</summary><table>{rows}</table></details>"


def _details(report: Report) -> str:
    """What was cut down, and with which versions."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in gathered(report.notes))
    versions = ", ".join(f"{name} {shown(version)}" for name, version in report.versions.items())
    cut = f"<h2>How it was looked at</h2><ul>{notes}</ul>" if notes else ""
    return f'<footer>{cut}<p class="muted">{escape(versions)}</p></footer>'
