"""Publishing a checkpoint: what is sent, what is refused, and what a repeat does."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from eval.load_as_stranger import StrangerError
from training.common.errors import InputError
from training.common.manifest import verify_manifest
from training.publish import __main__ as command
from training.publish.__main__ import main
from training.publish.publication import is_pickle, prepare
from training.publish.sending import publish
from training.run_folder.checkpoints import list_checkpoints

pytestmark = pytest.mark.xdist_group("hub")

CODE = {"configuration_text_jepa.py", "modeling_text_jepa.py", "modeling_base.py", "layers.py", "latent_head.py"}
MODEL = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "modules.json"}
FIGURES = {"README.md", "results/score.json", "results/milestones.json", "plots/loss.png", "run.json", "manifest.json"}


def opens(folder: Path) -> None:
    """In the place of the clean process, which takes seconds: tests/hub/test_round_trip.py has it."""


@pytest.fixture
def copy(text_run, tmp_path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(text_run, tmp_path / "tiny", ignore=shutil.ignore_patterns("checkpoint-*", ".lock*")))


@pytest.fixture
def publication(text_run):
    return prepare(text_run, "user/tiny", opens)


def files_of(hub, revision="main"):
    return hub.store.find("models", "user/tiny").at(revision).files


# ---- what is sent ----


def test_a_dry_run_lists_every_file_whole_with_its_size_and_the_card_without_token_or_network(
    text_run, hub, monkeypatch, capsys
):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(command, "prepare", lambda checkpoint, repo_id: prepare(checkpoint, repo_id, opens))
    long = text_run / "results" / f"{'a_long_name_' * 15}.json"
    long.write_text("{}", encoding="utf-8")
    try:
        assert main([str(text_run), "user/tiny", "--private", "--tag", "v1", "--dry_run"]) == 0
    finally:
        long.unlink()
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[-1]: int(line.split()[0].replace(",", "")) for line in lines[1 : lines.index("")]}
    assert CODE | MODEL | FIGURES | {f"results/{long.name}"} <= set(listed)
    assert listed["model.safetensors"] == (text_run / "model.safetensors").stat().st_size
    assert lines[0] == f"user/tiny: private, tag v1, {len(listed)} files, {sum(listed.values()):,} bytes"
    assert "# tiny-text_jepa" in lines
    assert hub.asked == []


def test_all_of_it_goes_in_one_commit_with_its_tag(hub, publication):
    done = publish(publication, private=True, tag="v1")
    repository = hub.store.find("models", "user/tiny")
    assert repository.private
    assert [commit.title for commit in repository.commits.values()] == ["initial commit", "Publish text_jepa"]
    assert repository.tags == {"v1": done.commit}
    assert set(files_of(hub)) == CODE | MODEL | FIGURES | set(publication.files) | {".gitattributes"}


def test_nothing_that_serves_a_resume_or_names_this_machine_is_sent(hub, publication, text_run, repository):
    publish(publication)
    assert not [name for name in files_of(hub) if name.endswith((".pt", ".pth", ".bin", ".jsonl", ".lock"))]
    assert not [name for name in files_of(hub) if name.startswith(("checkpoint-", "trainer_state", "run_state"))]
    for name, file in files_of(hub).items():
        content = hub.store.content(file.sha256).read_bytes()
        assert str(Path.home()).encode() + b"/" not in content, name
        assert str(repository).encode() not in content, name
        assert str(text_run.parent).encode() not in content, name
    score = json.loads(hub.store.content(files_of(hub)["results/score.json"].sha256).read_text(encoding="utf-8"))
    assert score["checkpoint"] == f"PATH/TO/{text_run.name}"


def test_nothing_that_is_published_is_a_pickle(hub, publication):
    publish(publication)
    paths = [hub.store.content(file.sha256) for file in files_of(hub).values()]
    assert not [path for path in paths if is_pickle(path)]


def test_the_card_names_the_repository(publication):
    assert 'from_pretrained("user/tiny"' in publication.card
    assert "PATH_OR_REPOSITORY" not in publication.card


def test_what_comes_down_has_the_hashes_of_its_manifest(hub, publication, tmp_path):
    publish(publication)
    folder = HfApi(endpoint=hub.url).snapshot_download("user/tiny", local_dir=tmp_path / "down")
    verify_manifest(Path(folder))
    named = set(json.loads((tmp_path / "down" / "manifest.json").read_text())["files"])
    assert named == set(publication.files) - {"README.md", "manifest.json"}


def test_a_checkpoint_of_a_run_is_published_without_what_a_resume_needs(text_run, copy):
    checkpoint = Path(shutil.copytree(list_checkpoints(text_run)[-1], copy / "checkpoint-6", dirs_exist_ok=True))
    if not (checkpoint / "README.md").exists():
        shutil.copyfile(text_run / "README.md", checkpoint / "README.md")
    names = set(prepare(checkpoint, "user/tiny", opens).files)
    assert names >= CODE | MODEL
    assert not names & {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "run_state.json"}


# ---- once more ----


def test_the_same_again_makes_no_commit_and_says_so(hub, publication):
    first = publish(publication)
    asked = len(hub.asked)
    again = publish(publication, tag="v1")
    assert (again.commit, again.sent) == (first.commit, None)
    assert "unchanged" in again.line("v1")
    assert not [path for method, path in hub.asked[asked:] if "/commit/" in path or method == "PUT"]
    assert hub.store.find("models", "user/tiny").tags == {"v1": first.commit}
    assert publish(publication, tag="v1").sent is None


def test_a_new_version_takes_the_place_of_the_old_one_and_leaves_what_others_put_there(hub, publication, copy):
    (copy / "results" / "of_before.json").write_text("{}", encoding="utf-8")
    publish(prepare(copy, "user/tiny", opens))
    api = HfApi(endpoint=hub.url)
    api.upload_file(path_or_fileobj=b"a picture", path_in_repo="picture.txt", repo_id="user/tiny")
    assert publish(publication).sent == 2  # without the file of before, and with another manifest
    assert "results/of_before.json" not in files_of(hub)
    assert "picture.txt" in files_of(hub)


def test_a_tag_that_names_another_state_is_refused_and_nothing_is_sent(hub, publication, copy):
    first = publish(publication, tag="v1")
    (copy / "results" / "more.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="tag: v1 is there already, for another state of user/tiny"):
        publish(prepare(copy, "user/tiny", opens), tag="v1")
    assert hub.store.find("models", "user/tiny").branches["main"] == first.commit


def test_a_repository_that_holds_something_else_is_refused(hub, publication, run_of):
    api = HfApi(endpoint=hub.url)
    api.create_repo("user/tiny")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="data.csv", repo_id="user/tiny")
    with pytest.raises(InputError, match=r"user/tiny is there and holds other files \(data.csv\)"):
        publish(publication)
    api.upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id="user/tiny")
    with pytest.raises(InputError, match="holds a bert model, and this is a text_jepa model; choose another name"):
        publish(publication)


def test_a_public_repository_is_not_taken_for_a_private_one(hub, publication):
    publish(publication)
    with pytest.raises(InputError, match="private: user/tiny is there and public"):
        publish(publication, private=True)


# ---- what is refused ----


def without(name):
    return lambda folder: (folder / name).unlink()


def damage(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")


def not_finite(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    tensors[min(tensors)].view(-1)[0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def truncated(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def pickled(folder: Path) -> None:
    (folder / "results" / "figures.json").write_bytes(pickle.dumps({"top1": 1.0}))


def with_text(name: str, text: str, hurt: str) -> Any:
    def write(folder: Path) -> None:
        (folder / "manifest.json").unlink()
        (folder / name).write_text(text, encoding="utf-8")

    write.__name__ = hurt
    return write


def without_code(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "modeling_text_jepa.py").unlink()


def needing_the_package(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    code = (folder / "layers.py").read_text(encoding="utf-8")
    needing = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from modeling_jepa.layers import MLP\n"
    (folder / "layers.py").write_text(code + needing, encoding="utf-8")


@pytest.mark.parametrize(
    ("hurt", "line"),
    [
        (without("README.md"), "is incomplete: no README.md; give the folder of a finished run"),
        (without("config.json"), "is no checkpoint: it holds no config.json"),
        (without("tokenizer.json"), "is damaged: tokenizer.json missing or changed since saving"),
        (without_code, "is incomplete: no modeling_text_jepa.py"),
        (needing_the_package, "layers.py imports modeling_jepa, which is not there where it is opened from the Hub"),
        (with_text("config.json", "{", "configuration"), "config.json is damaged .Expecting"),
        (with_text("run.json", "{", "run"), "run.json is damaged .Expecting"),
        (with_text("README.md", "---\nlicense: [\n---\n", "card"), "README.md is damaged .*; take another checkpoint"),
        (damage, "is damaged: model.safetensors missing or changed since saving"),
        (truncated, "model.safetensors is damaged"),
        (not_finite, "model.safetensors holds numbers that are not finite"),
        (pickled, r"holds pickles \(results/figures.json\)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_checkpoint_that_is_not_whole_is_refused_in_one_line(hub, copy, hurt, line, capsys):
    hurt(copy)
    assert main([str(copy), "user/tiny"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    with pytest.raises(InputError, match=line):
        prepare(copy, "user/tiny", opens)
    assert hub.asked == []


def test_code_that_does_not_open_in_a_clean_process_is_refused(copy):
    def does_not(folder: Path) -> None:
        assert {path.name for path in folder.iterdir()} >= CODE | MODEL
        raise StrangerError(f"{folder} does not open:\nTraceback\nImportError: no layers")

    with pytest.raises(InputError, match="tiny does not open without this package: ImportError: no layers"):
        prepare(copy, "user/tiny", does_not)


def test_a_pickle_is_known_by_its_content(tmp_path):
    contents = {
        "a.bin": pickle.dumps([1, 2]),
        "b.json": pickle.dumps({"x": "y"}, protocol=5),
        "c.txt": pickle.dumps(Path, protocol=0),
        "d.md": b"# a card\n",
        "e.json": b'{"top1": 0.5}',
        "f.png": b"\x89PNG\r\n\x1a\n",
        "g.gif": b"GIF89a",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "h.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    torch.save({"a": torch.ones(2)}, tmp_path / "i.dat")
    found = {path.name for path in tmp_path.iterdir() if is_pickle(path)}
    assert found == {"a.bin", "b.json", "c.txt", "h.bin", "i.dat"}


@pytest.mark.parametrize(
    ("repo_id", "line"),
    [
        ("tiny", "repository: 'tiny' names no owner; use OWNER/NAME, such as me/tiny"),
        ("user/a name", "repository: 'user/a name' is no id of a repository"),
        ("a/b/c", "repository: 'a/b/c' is no id of a repository"),
    ],
)
def test_an_id_that_is_none_is_refused_before_anything_else(tmp_path, repo_id, line, capsys):
    assert main([str(tmp_path / "not-there"), repo_id]) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


@pytest.mark.parametrize("tag", ["v 1", "-v1", "", "v1..2", "a/b", "v1.lock", "v~1"])
def test_a_tag_that_is_none_is_refused_before_anything_else(tmp_path, tag, capsys):
    assert main([str(tmp_path / "not-there"), "user/tiny", f"--tag={tag}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: tag: {tag!r} is no name of a tag")
