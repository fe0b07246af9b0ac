"""Fault x finding: what the doctor says of every planted fault, and of every healthy model.

    python -m tests.diagnose.table                            # each fault once, and the healthy set
    python -m tests.diagnose.table --architectures all        # each fault in every architecture it is planted in
    python -m tests.diagnose.table --seeds 3 --only "NaN"     # other seeds; names that contain a text
    python -m tests.diagnose.table --unseen --strangers       # faults and models that no check was calibrated on
    python -m tests.diagnose.table --family_faults --family_healthy   # of our dialogue and video models
    python -m tests.diagnose.table --json FILE --markdown     # rows that FILE has of other tasks stay in it
    python -m tests.diagnose.table --from FILE --markdown     # nothing is run: the tables of what FILE holds

A fault is found where a finding that names it says `fail`. The models are trained at the first run, and kept.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.common.records import package_versions

SETS = ("faults", "unseen", "conversion", "family_faults", "healthy", "strangers", "family_healthy")
WELL = ("healthy", "strangers", "family_healthy")
_PLACE = {False: "planted in", True: "parameters"}


@dataclass(frozen=True)
class Task:
    """One report to make: of a fault in an architecture, or of a healthy model."""

    of: str
    name: str
    architecture: str = ""
    seed: int = 0
    pretrained: str | None = None


@dataclass
class Row:
    """What came of it.

    Attributes:
        of, name, architecture, seed: of the task.
        expected: findings of which one must be a fail; of a healthy model all the fails that it may have.
        fails, notes: names of the findings.
        found: those of the expected that are fails.
        noted: those of the expected that are notes.
        right: found; or of a healthy model, exactly its fails.
        evidence: of the finding that named it, or of each false fail.
        parameters, seconds, cpu_seconds: of the report.
        problem: why there is no report.
    """

    of: str
    name: str
    architecture: str
    seed: int
    expected: list[str]
    fails: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    right: bool = False
    evidence: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    parameters: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    problem: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 where every fault was found and no healthy model was called ill."""
    options = _parser().parse_args(argv)
    if options.source:
        rows = read(options.source)
    else:
        rows = []
        for row in run(choose(options), options.workers, options.prepare):
            rows.append(row)
            print(told(row), file=sys.stderr, flush=True)
    if options.prepare:
        return 0
    if options.json:
        rows = write(rows, options.json)
    print(markdown(rows) if options.markdown else plain(rows))
    return 0 if all(row.right for row in rows) else 1


def read(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def write(rows: Sequence[Row], path: Path) -> list[Row]:
    """Keep the rows, in the place of those of the same tasks, and give all that are kept."""
    known = {_key(row): row for row in read(path)} if path.is_file() else {}
    known.update({_key(row): row for row in rows})
    order = {name: place for place, name in enumerate(_names())}
    kept = sorted(known.values(), key=lambda row: (SETS.index(row.of), order.get(row.name, len(order)), row.seed))
    content = {"summary": summary(kept), "versions": package_versions(), "rows": [asdict(row) for row in kept]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return kept


def choose(options: argparse.Namespace) -> list[Task]:
    """The tasks that the flags ask for, in the order of the tables."""
    from tests.diagnose.family_faults import FAMILY_HEALTHY
    from tests.diagnose.faults import ROUND
    from tests.diagnose.healthy import HEALTHY, STRANGERS

    sets = [name for name in SETS if getattr(options, name)] or ["faults", "healthy"]
    tasks = []
    for of, faults in _faults().items():
        for fault in faults if of in sets else ():
            taken = fault.architectures if options.architectures == "all" else fault.architectures[:1]
            for count in range(options.seeds):
                tasks += [
                    Task(of, fault.name, name, fault.seed + place + ROUND * count) for place, name in enumerate(taken)
                ]
    for of, models in (("healthy", HEALTHY), ("strangers", STRANGERS), ("family_healthy", FAMILY_HEALTHY)):
        tasks += [Task(of, healthy.name) for healthy in models if of in sets]
    if "healthy" in sets and options.pretrained:
        tasks.append(Task("healthy", Path(options.pretrained).name, pretrained=options.pretrained))
    number, of_parts = (int(part) for part in options.part.split("/"))
    return [task for task in tasks if options.only.lower() in task.name.lower()][number - 1 :: of_parts]


def run(tasks: Sequence[Task], workers: int, prepare: bool = False) -> Iterable[Row]:
    """A row per task, in their order, each made in one of some processes of one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_prepare if prepare else examine, tasks)


def examine(task: Task) -> Row:
    """Make the model, ask the doctor, compare."""
    expected, case = _made(task)
    row = Row(task.of, task.name, task.architecture, task.seed, sorted(expected))
    began, cpu = time.monotonic(), time.process_time()
    try:
        report = case.examine()
    except Exception as error:  # the table goes on, and says so
        row.problem = f"{type(error).__name__}: {error}"
        return row
    row.seconds, row.cpu_seconds = round(time.monotonic() - began, 1), round(time.process_time() - cpu, 1)
    row.fails, row.parameters, row.remarks = sorted(report.fails()), report.parameters, report.notes
    row.notes = sorted({finding.check for finding in report.of("note")})
    row.found = [name for name in row.expected if name in row.fails]
    row.noted = [name for name in row.expected if name in row.notes]
    row.right = row.fails == row.expected if task.of in WELL else bool(row.found)
    shown = set(row.fails) if task.of in WELL else set(row.expected)
    row.evidence = {f.check: {"verdict": f.verdict, **f.evidence} for f in report.findings if f.check in shown}
    return row


def told(row: Row) -> str:
    """One line about a row."""
    what = "right" if row.right else row.problem or "WRONG"
    others = ", ".join(name for name in row.fails if name not in row.expected)
    where = f"{row.name} [{row.architecture} {row.seed}]"
    return f"{what:6} {row.of} {where} {row.found or row.noted} + {others} {row.seconds}s"


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The counts that the requirement names."""
    told: dict[str, Any] = {}
    for of in SETS:
        own = [row for row in rows if row.of == of]
        if own:
            told[of] = {"reports": len(own), "right": sum(row.right for row in own)}
    missed = {row.name for row in rows if row.of == "faults" and not row.right}
    names = {row.name for row in rows if row.of == "faults"}
    return {
        **told,
        "faults_found_wherever_planted": len(names - missed),
        "faults_planted": len(names),
        "longest_report_seconds": max((row.seconds for row in rows), default=0.0),
        "longest_report_cpu_seconds": max((row.cpu_seconds for row in rows), default=0.0),
    }


def plain(rows: Sequence[Row]) -> str:
    """The table as text."""
    return "\n".join([*map(told, rows), json.dumps(summary(rows), indent=1)])


def markdown(rows: Sequence[Row]) -> str:
    """The tables of docs/doctor.md, one for each set that has rows."""
    return "\n\n".join(markdown_of(rows, of) for of in SETS if any(row.of == of for row in rows))


def markdown_of(rows: Sequence[Row], of: str) -> str:
    """The table of one set, and how many of its rows are right."""
    own = [row for row in rows if row.of == of]
    if not own:
        return "Not measured yet."
    first, second = ("healthy model", "fails") if of in WELL else ("fault", "found by")
    lines = [f"| {first} | {_PLACE[of in WELL]} | {second} | other fails | CPU s |", "|---|---|---|---|---|"]
    right, longest = sum(row.right for row in own), max(row.cpu_seconds for row in own)
    how = "have exactly the fails that they should have" if of in WELL else "found"
    lines += [*map(_line, own), "", f"{right} of {len(own)} {how}. The longest report took {longest:.0f} CPU seconds."]
    return "\n".join(lines)


def _line(row: Row) -> str:
    found = ", ".join(f"`{name}`" for name in row.found) or "none"
    if row.of not in WELL and not row.found:
        found = f"**not found**{' (a note: ' + ', '.join(row.noted) + ')' if row.noted else ''}"
    others = ", ".join(f"`{name}`" for name in row.fails if name not in row.found)
    planted = row.architecture or f"{row.parameters:,}"
    return f"| {row.name} | {planted} | {found} | {others} | {row.cpu_seconds:.0f} |"


def _key(row: Row) -> tuple[str, str, str, int]:
    return row.of, row.name, row.architecture, row.seed


def _names() -> list[str]:
    """Of all faults and models, in the order of the tables."""
    from tests.diagnose.family_faults import FAMILY_HEALTHY
    from tests.diagnose.healthy import HEALTHY, STRANGERS

    planted = [fault for faults in _faults().values() for fault in faults]
    return [each.name for each in (*planted, *HEALTHY, *STRANGERS, *FAMILY_HEALTHY)]


def _faults() -> dict[str, Sequence[Any]]:
    """The planted ones, by set."""
    from tests.diagnose.conversion_faults import CONVERSION
    from tests.diagnose.family_faults import FAMILY_FAULTS
    from tests.diagnose.faults import FAULTS
    from tests.diagnose.unseen_faults import UNSEEN

    return {"faults": FAULTS, "unseen": UNSEEN, "conversion": CONVERSION, "family_faults": FAMILY_FAULTS}


def _made(task: Task) -> tuple[Sequence[str], Any]:
    """The expected findings, and what is handed to the doctor."""
    import torch

    from tests.diagnose.family_faults import FAMILY_HEALTHY
    from tests.diagnose.healthy import HEALTHY, STRANGERS, pretrained

    torch.set_num_threads(1)
    if task.of not in WELL:
        fault = next(fault for fault in _faults()[task.of] if fault.name == task.name)
        return fault.expected, fault.make(task.architecture, task.seed)
    own = (*HEALTHY, *STRANGERS, *FAMILY_HEALTHY, *([pretrained(Path(task.pretrained))] if task.pretrained else []))
    healthy = next(healthy for healthy in own if healthy.name == task.name)
    return sorted(healthy.fails), healthy.make()


def _prepare(task: Task) -> Row:
    began = time.process_time()
    try:
        expected, _ = _made(task)
    except Exception as error:  # the others can still be made
        return Row(task.of, task.name, task.architecture, task.seed, [], problem=f"{type(error).__name__}: {error}")
    seconds = round(time.process_time() - began, 1)
    return Row(task.of, task.name, task.architecture, task.seed, list(expected), right=True, seconds=seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.diagnose.table", description=__doc__.splitlines()[0])
    for name in SETS:
        parser.add_argument(f"--{name}", action="store_true", help=f"only this set ({', '.join(SETS)}) [two of them]")
    parser.add_argument("--architectures", choices=("first", "all"), default="first", help="of each fault [first]")
    parser.add_argument("--seeds", type=int, default=1, help="rounds with other seeds [1]")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults and models whose name holds this text")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every Nth of the rows, from the Kth on [1/1]")
    parser.add_argument("--pretrained", metavar="FOLDER", help="published weights as one more healthy model")
    parser.add_argument("--workers", type=int, default=2, help="processes, each of one thread [2]")
    parser.add_argument("--prepare", action="store_true", help="train what is needed, and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="take what such a FILE holds")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/doctor.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
