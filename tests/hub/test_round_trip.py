"""Every family published and opened in a clean process with an empty cache: the same answers, bit for bit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig

from tests.hub.answers_of_models import answers_of
from tests.hub.client import use_hub
from tests.hub.server import HubServer, running
from training.publish.publication import is_pickle, prepare
from training.publish.sending import publish

# Four runs and a process that opens them all are one fixture, which a busy machine takes minutes for.
pytestmark = [pytest.mark.xdist_group("hub"), pytest.mark.timeout(900)]

FAMILIES = ("text_jepa", "staged_generator", "dialogue_jepa", "video_jepa")
SCRIPT = Path(__file__).with_name("answers_of_models.py")


@dataclass(frozen=True)
class Opened:
    """What a stranger's process said.

    Attributes:
        answers: `repository revision class-or-pipeline` -> its answer.
        printed: repository -> what the snippets of its card print.
        revisions: repository -> the revisions that were opened: the newest state, a tag.
        contents: every file that was published.
    """

    answers: dict[str, torch.Tensor]
    printed: dict[str, str]
    revisions: dict[str, list[str | None]]
    contents: list[Path]


@pytest.fixture(scope="module")
def opened(run_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """All families in one process: trained here, published by command and by the library's own call."""
    folder = tmp_path_factory.mktemp("stranger")
    with running(folder / "hub") as hub:
        with pytest.MonkeyPatch.context() as patch:
            use_hub(hub, patch, folder / "own-cache")
            revisions = {repo_id: revisions for family in FAMILIES for repo_id, revisions in sent(hub, run_of(family))}
        (folder / "asked.json").write_text(json.dumps(revisions), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        command = [sys.executable, "-I", str(SCRIPT), str(folder / "asked.json"), str(folder / "answers.safetensors")]
        environment = {**kept, **hub.environment(folder / "cache")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        printed = json.loads(done.stdout.splitlines()[-1])
        contents = list((folder / "hub" / "contents").iterdir())
    return Opened(load_file(folder / "answers.safetensors"), printed, revisions, contents)


def sent(hub: HubServer, run: Path) -> list[tuple[str, list[str | None]]]:
    """Publish a run in both ways; the repositories, and what to open of them."""
    family = AutoConfig.from_pretrained(run).model_type
    publish(prepare(run, f"user/{family}", lambda folder: None), private=True, tag="v1")
    learner = list(AutoConfig.from_pretrained(run).auto_map)[-1]
    getattr(transformers, learner).from_pretrained(run).push_to_hub(f"user/{family}-plain")
    return [(f"user/{family}", [None, "v1"]), (f"user/{family}-plain", [None])]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["", "-plain"])
def test_a_stranger_gets_the_same_answers_by_id_and_by_tag(opened, run_of, family, way):
    place = f"user/{family}{way}"
    here = answers_of(str(run_of(family)))
    for revision in opened.revisions[place]:
        there = {
            name.split()[-1]: value
            for name, value in opened.answers.items()
            if name.startswith(f"{place} {revision} ")
        }
        assert set(there) == set(here)
        for name, answer in here.items():
            assert torch.equal(there[name], answer), f"{name} of {place} at {revision}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_snippets_of_a_card_run_as_they_stand(opened, family):
    for way in ("", "-plain"):
        assert opened.printed[f"user/{family}{way}"].strip()


def test_nothing_that_was_published_is_a_pickle(opened):
    assert len(opened.contents) > 40
    assert not [path.name for path in opened.contents if is_pickle(path)]
