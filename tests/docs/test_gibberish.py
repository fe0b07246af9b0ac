"""The page "My model writes gibberish": the findings that it names exist, and its commands can be given."""

import importlib.util
import re
from pathlib import Path

import pytest

from eval.diagnose.__main__ import _parser
from eval.diagnose.examine import GROUPS, choose_groups
from training.run.arguments import parse_arguments

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "gibberish.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_every_finding_that_the_page_names_is_one_that_a_check_can_give():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "eval" / "diagnose").glob("*.py"))
    named = set(re.findall(rf"`((?:{'|'.join(GROUPS)})\.\w+)`", PAGE))
    assert len(named) > 25
    # A name stands whole in the source, or its last part does, where one check gives several findings.
    assert {name for name in named if name not in source and f'"{name.split(".")[1]}"' not in source} == set()


def test_every_group_that_the_page_names_exists():
    for flags in re.findall(r"`--only ([a-z ]+)`", PAGE):
        assert choose_groups(flags.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_can_be_given(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    words = command.split(";")[0].split()
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None
    if words[2] == "eval.diagnose":
        _parser().parse_args(words[3:])
    if words[1] == "training/train.py":
        assert parse_arguments(words[2:]).diagnose
