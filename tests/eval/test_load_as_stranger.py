"""The clean process really is clean, and a checkpoint of ours opens in it."""

import json
import shutil

import pytest

import eval.load_as_stranger
from eval.load_as_stranger import StrangerError, load_as_stranger, main
from tests.clean_process import run_clean
from tests.eval.causal_models import tiny_bpe, tiny_generator
from tests.eval.dialogue_models import tiny_checkpoint, tiny_words
from tests.eval.video_models import tiny_video_checkpoint

SCRIPT = eval.load_as_stranger.__file__


def test_a_checkpoint_opens_and_fills_blanks_where_the_packages_cannot_be_imported(checkpoint, capsys):
    assert main([str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    for name in (
        "AutoConfig",
        "AutoModel ",
        "AutoModelForMaskedLM",
        "AutoTokenizer",
        "fill-mask",
        "feature-extraction",
    ):
        assert name in printed
    assert printed.count("_") >= 5
    assert printed.count("(then ") == 5


def generator_checkpoint(folder):
    tokenizer = tiny_bpe()
    tiny_generator(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "opened"),
    [
        (
            generator_checkpoint,
            {
                "AutoModelForCausalLM",
                "AutoModelForSequenceClassification",
                "AutoTokenizer",
                "feature-extraction",
                "text-generation",
            },
        ),
        (
            lambda folder: tiny_checkpoint(folder, tiny_words()),
            {"AutoModelForSeq2SeqLM", "AutoTokenizer", "feature-extraction", "reply"},
        ),
        (tiny_video_checkpoint, {"frame-prediction"}),
    ],
    ids=["generator", "dialogue", "video"],
)
def test_the_other_families_open_and_answer_too(tmp_path, make, opened):
    make(tmp_path / "run")
    done = run_clean([SCRIPT, "--inside", tmp_path / "run", "we must work for _"], tmp_path, tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report["classes"]) == {"AutoConfig", "AutoModel"} | opened
    assert all(report["classes"].values())
    assert report["blanks"] == []


def test_code_that_needs_the_package_is_found_out(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    code = folder / "modeling_text_jepa.py"
    code.write_text(code.read_text().replace("from .configuration_text_jepa", "from configuration_jepa", 1))
    with pytest.raises(StrangerError, match="configuration_jepa"):
        load_as_stranger(folder, ["peace and _"])


def test_a_folder_without_code_is_bad_input(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main([str(tmp_path)]) == 2
    assert "auto_map" in capsys.readouterr().err
