"""The page "My model writes gibberish": the findings and groups that it names exist."""

import re
from pathlib import Path

from eval.diagnose.examine import GROUPS, choose_groups

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "gibberish.md").read_text(encoding="utf-8")


def test_every_finding_that_the_page_names_is_one_that_a_check_can_give():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "eval" / "diagnose").rglob("*.py"))
    named = set(re.findall(rf"`((?:{'|'.join(GROUPS)})\.\w+)`", PAGE))
    assert len(named) > 25
    # A name stands whole in the source, or its last part does, where one check gives several findings.
    assert {name for name in named if name not in source and f'"{name.split(".")[1]}"' not in source} == set()


def test_every_group_that_the_page_names_exists():
    for flags in re.findall(r"`--only ([a-z ]+)`", PAGE):
        assert choose_groups(flags.split())
