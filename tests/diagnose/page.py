"""Puts the measured tables into docs/doctor.md, from what `table` and `rivals` have written.

python -m tests.diagnose.page
"""

import json
import re
from pathlib import Path

from tests.diagnose import rivals, table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "doctor.md"
RESULTS = ROOT / "model_cards" / "results"
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The page with every table as its results have it."""
    return _PLACE.sub(lambda found: f"{found[1]}{_table(found[2])}\n{found[3]}", text)


def _table(name: str) -> str:
    if name != "rivals":
        return table.markdown_of(table.read(RESULTS / "doctor.json"), name)
    told = json.loads((RESULTS / "doctor_rivals.json").read_text(encoding="utf-8"))
    return rivals.markdown([rivals.Verdicts(**verdicts) for verdicts in told])


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
