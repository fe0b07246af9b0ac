"""What the doctor says: findings, and the report that holds them. Pure data, no torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

PASS, NOTE, FAIL = "pass", "note", "fail"
VERDICTS = (PASS, NOTE, FAIL)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: `group.name`, such as `leak.future_tokens`; names what was found.
        verdict: `pass`; `note`, what may be intended; `fail`, what must be wrong.
        evidence: what was measured: finite numbers, words, short lists of them.
        threshold: what is right, with its figure.
        cause: the likely cause; empty for a pass.
        remedy: what to do; empty for a pass.
        again: the command that shows it again.
        because: the failed finding that explains this one; empty where none does.
    """

    check: str
    verdict: str
    evidence: dict[str, Any]
    threshold: str
    cause: str = ""
    remedy: str = ""
    again: str = ""
    because: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict!r} is not possible: use one of {', '.join(VERDICTS)}")
        if self.verdict != PASS and not (self.cause and self.remedy):
            raise ValueError(f"{self.check}: a {self.verdict} says its cause and a remedy")

    @property
    def group(self) -> str:
        """The group of checks that it belongs to."""
        return self.check.split(".")[0]


@dataclass(frozen=True)
class Rule:
    """What is right, under the name of a finding: the verdicts of one check are made by it.

    Attributes:
        check, threshold: as of `Finding`.
    """

    check: str
    threshold: str

    def passed(self, evidence: dict[str, Any]) -> Finding:
        """It is right."""
        return Finding(self.check, PASS, evidence, self.threshold)

    def noted(self, evidence: dict[str, Any], cause: str, remedy: str) -> Finding:
        """It is not, and may be intended."""
        return self.found(NOTE, evidence, cause, remedy)

    def failed(self, evidence: dict[str, Any], cause: str, remedy: str) -> Finding:
        """It must be wrong."""
        return self.found(FAIL, evidence, cause, remedy)

    def found(self, verdict: str, evidence: dict[str, Any], cause: str, remedy: str) -> Finding:
        """Fail or note."""
        return Finding(self.check, verdict, evidence, self.threshold, cause, remedy)

    def but(self, threshold: str) -> "Rule":
        """The same finding, held against something else: what only the subject decides."""
        return replace(self, threshold=threshold)

    def named(self, check: str) -> "Rule":
        """The same threshold, and a finding that is named after what was found."""
        return replace(self, check=check)


@dataclass
class Report:
    """All findings of one look, causes before what follows from them.

    Attributes:
        model: its name.
        kind: see `Subject`.
        findings: see `Finding`.
        parameters: number of them.
        data: where the text came from.
        notes: what was cut down, left out or could not be done.
        seconds: wall time.
        figures: series for the plots.
        versions: of the packages that the figures hang on.
    """

    model: str
    kind: str
    findings: list[Finding]
    parameters: int
    data: str
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst verdict of its findings."""
        return max((finding.verdict for finding in self.findings), key=VERDICTS.index, default=PASS)

    @property
    def exit_code(self) -> int:
        """0 without a fail, 1 with one."""
        return 1 if self.verdict == FAIL else 0

    def of(self, verdict: str) -> list[Finding]:
        """The findings of one verdict, causes first."""
        return [finding for finding in self.findings if finding.verdict == verdict]

    def causes(self, verdict: str) -> list[Finding]:
        """Those of them that no other finding explains."""
        return [finding for finding in self.of(verdict) if not finding.because]

    def consequences(self, cause: Finding) -> list[Finding]:
        """What a finding explains."""
        return [finding for finding in self.findings if finding.because == cause.check]

    def fails(self) -> set[str]:
        """Names of what must be wrong."""
        return {finding.check for finding in self.of(FAIL)}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python for JSON, the worst findings first."""
        findings = sorted(self.findings, key=lambda finding: -VERDICTS.index(finding.verdict))
        return {**asdict(self), "verdict": self.verdict, "findings": [asdict(finding) for finding in findings]}


def said_by(error: BaseException, most: int = 300) -> str:
    """An error in one line: `KeyError: 'name'`."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


def as_list(found: Finding | Sequence[Finding]) -> list[Finding]:
    """What a check gave, as a list."""
    return [found] if isinstance(found, Finding) else list(found)
