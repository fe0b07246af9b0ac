"""`python -m eval.diagnose`: what it prints and writes, its exit codes, and what it refuses."""

import importlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from eval.diagnose import diagnose
from eval.diagnose.__main__ import main, newest_model
from eval.diagnose.checks.check import Check
from eval.diagnose.opening import open_checkpoint
from eval.diagnose.probes.anatomy import learning_batch, trained_copy
from eval.diagnose.report.report import FAIL, NOTE, PASS, Finding
from eval.diagnose.subject.sample import turned
from eval.diagnose.subject.subject import Subject
from tests.diagnose.own_model import train_tokenizer

examine = importlib.import_module("eval.diagnose.examine")  # the package's own `examine` is the function
TEXTS = ["The people of the United States want peace and work.", "The state of the union is strong."] * 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with its tokenizer and a text, untrained. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    tokenizer = train_tokenizer(TEXTS)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder.parent / "text.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def text(checkpoint: Path) -> str:
    return str(checkpoint.parent / "text.txt")


def look(subject: Subject) -> list[Finding]:
    """One of each verdict, with figures of all kinds and a series for a plot."""
    subject.figures["loss_vs_lnv"] = {"loss": 5.0, "ln_v": 6.0, "unigram": float("nan")}
    subject.notes.append("one thing was cut down")
    return [
        Finding("fake.right", PASS, {"loss": 0.5}, "below 1"),
        Finding("fake.odd", NOTE, {"shares": [0.25, 0.5]}, "above 0.9", "a <b>bold</b> guess", "look again"),
        Finding("fake.broken", FAIL, {"rank": np.int64(7), "nan": float("nan")}, "rank 1", "it is broken", "mend it"),
    ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor has one check."""
    set_checks(monkeypatch, [Check("look", look)])


def set_checks(monkeypatch: pytest.MonkeyPatch, checks: Sequence[Check]) -> None:
    monkeypatch.setattr(examine, "checks_of", lambda group, kind="": tuple(checks) if group == "leak" else ())


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_report_leads_with_the_verdict_and_the_fails_then_the_notes_then_one_line_of_passes(
    fake: None, checkpoint: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "--data", text, "--device", "cpu"]) == 1
    lines = printed(capsys)
    joined = "\n".join(lines)
    assert ": fail (1 fail, 1 note, 1 pass)" in joined
    assert "causal, " in joined
    places = [
        next(i for i, line in enumerate(lines) if line.startswith(start)) for start in ("fail ", "note ", "pass ")
    ]
    assert places == sorted(places)
    for said in ("rank 7", "rank 1", "it is broken", "mend it", "shares [0.25, 0.5]", "one thing was cut down"):
        assert said in joined
    assert f"python -m eval.diagnose {checkpoint} --data {text} --only fake" in " ".join(joined.split())


def test_json_holds_the_agreed_keys_the_worst_first_and_never_nan(
    fake: None, checkpoint: Path, text: str, tmp_path: Path
) -> None:
    target = tmp_path / "deep" / "report.json"
    assert main([str(checkpoint), "--data", text, "--json", str(target)]) == 1
    report = json.loads(target.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (report["model"], report["verdict"], report["kind"]) == (str(checkpoint), "fail", "causal")
    assert [finding["verdict"] for finding in report["findings"]] == ["fail", "note", "pass"]
    keys = {"check", "verdict", "evidence", "threshold", "cause", "remedy", "again", "because"}
    assert all(set(finding) == keys for finding in report["findings"])
    assert report["findings"][0]["evidence"] == {"rank": 7, "nan": None}


def test_html_is_written(fake: None, checkpoint: Path, text: str, tmp_path: Path) -> None:
    assert main([str(checkpoint), "--data", text, "--html", str(tmp_path / "report.html")]) == 1
    assert "fake.broken" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("verdict", "code"), [(NOTE, 0), (FAIL, 1)])
def test_only_a_fail_makes_the_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, text: str, verdict: str, code: int
) -> None:
    finding = Finding("fake.one", verdict, {}, "none", "because", "do that")
    set_checks(monkeypatch, [Check("one", lambda subject: finding)])
    assert main([str(checkpoint), "--data", text]) == code


def test_the_folder_of_a_run_brings_its_log_and_its_newest_checkpoint(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for step in (5, 10):
        folder = shutil.copytree(checkpoint, run / f"checkpoint-{step}")
        log = [{"step": step, "loss": 4.0, "learning_rate": 1e-3}]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
    seen = []

    def remember(subject: Subject) -> Finding:
        seen.append(subject.record)
        return Finding("fake.run", PASS, {}, "none")

    set_checks(monkeypatch, [Check("run", remember, needs="record")])
    assert newest_model(str(run)) == str(run / "checkpoint-10")
    assert main([str(run), "--data", text]) == 0
    assert seen[0].learning_rate == 1e-3
    assert "its newest checkpoint was examined" in " ".join(printed(capsys))


def test_another_seed_looks_at_other_passages(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    source = tmp_path / "other.txt"
    source.write_text("\n".join(f"text number {number} of many" for number in range(50)), encoding="utf-8")
    seen = []

    def remember(subject: Subject) -> Finding:
        seen.append(subject.batch(2, 16).input_ids.tolist())
        return Finding("fake.text", PASS, {}, "none")

    set_checks(monkeypatch, [Check("text", remember)])
    for seed in ("0", "1", "1"):
        assert main([str(checkpoint), "--data", str(source), "--seed", seed]) == 0
    assert seen[0] != seen[1] == seen[2]
    assert turned(TEXTS, 0) == TEXTS
    assert turned([], 3) == []


def test_without_data_a_built_in_sample_serves_and_the_report_says_so(
    fake: None, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint)]) == 1
    assert "a built-in sample (builtin:sotu), as no data was given" in " ".join(printed(capsys))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{tmp}/nowhere/at-all"], "no checkpoint"),
        (["{tmp}"], "holds no config.json"),
        (["{tmp}/encoder"], "the doctor examines causal, masked and sequence-to-sequence language models"),
        (["{checkpoint}", "--data", "{tmp}/missing.txt"], "missing.txt"),
        (["{checkpoint}", "--data", "{tmp}/empty.txt"], "empty.txt"),
        (["{checkpoint}", "--run", "{tmp}"], "run: "),
        (["{checkpoint}", "--json", "{tmp}"], "cannot be written"),
        (["{checkpoint}", "--html", "{tmp}"], "cannot be written"),
        (["{checkpoint}", "--only", "leaks"], "leaks"),
        (["{checkpoint}", "--tokenizer", "{tmp}"], "holds no config.json|tokenizer"),
        (["{checkpoint}", "--device", "abacus"], "abacus"),
        (["{checkpoint}", "--seconds", "0"], "--seconds"),
        (["{checkpoint}", "--seconds", "soon"], "--seconds"),
        (["{checkpoint}", "--seed", "-1"], "--seed"),
        (["{checkpoint}", "--sed", "1"], "--sed"),
        ([], "MODEL"),
        (["{checkpoint}", "--only", "leak", "--skip", "leak"], "nothing is left to look at"),
        (["{checkpoint}", "--seconds", "soon"], "got soon; use a number above 0"),
        (["{checkpoint}", "--seed", "one"], "got one; use a whole number"),
        (["{tmp}/unknown-activation"], "cannot be opened as a language model: KeyError: 'none-such'"),
        (["{tmp}/torn-tokenizer"], "tokenizer: .* holds none that can be opened"),
        (["{tmp}/masked"], "BertForMaskedLM fills masks, and there is no tokenizer"),
        (["{tmp}/masked", "--tokenizer", "{checkpoint}"], "its tokenizer has no mask token"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it_and_code_2(
    arguments: list[str], named: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    (tmp_path / "empty.txt").write_text("")
    changed(checkpoint, tmp_path / "unknown-activation", activation_function="none-such")
    (changed(checkpoint, tmp_path / "torn-tokenizer") / "tokenizer.json").write_text("{")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=99, **sizes)).save_pretrained(tmp_path / "masked")
    capsys.readouterr()  # what saving showed
    assert main([argument.format(tmp=tmp_path, checkpoint=checkpoint) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(named, error), error


def changed(checkpoint: Path, folder: Path, **settings: object) -> Path:
    """A copy with another configuration."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def test_layers_that_the_configuration_does_not_build_are_named(checkpoint: Path, text: str, tmp_path: Path) -> None:
    config = GPT2Config.from_pretrained(checkpoint, n_layer=3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "three")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, tmp_path / "three")
    arguments = ["--data", text, "--only", "training", "--json", str(tmp_path / "report.json")]
    assert main([str(tmp_path / "three"), *arguments]) == 0
    assert main([str(changed(tmp_path / "three", tmp_path / "two", n_layer=2)), *arguments]) == 1
    found = json.loads((tmp_path / "report.json").read_text())["findings"][0]
    assert found["check"] == "parity.unused_layers"
    assert all(".2." in name for name in found["evidence"]["unused"])


def test_a_folder_without_a_tokenizer_is_examined_on_random_ids(
    fake: None, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = changed(checkpoint, tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    assert main([str(bare)]) == 1
    assert "random token ids, as there is no tokenizer" in " ".join(printed(capsys))


def test_the_sample_is_of_the_held_out_text_that_a_folder_has_and_none_is_cut_from_its_training_part(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text("\n".join(f"learnt row {number}" for number in range(200)), encoding="utf-8")
    (tmp_path / "valid.txt").write_text("\n".join(f"new row {number}" for number in range(20)), encoding="utf-8")
    seen = []

    def remember(subject: Subject) -> Finding:
        seen.append(subject)
        return Finding("fake.text", PASS, {}, "none")

    set_checks(monkeypatch, [Check("text", remember)])
    assert main([str(checkpoint), "--data", str(tmp_path)]) == 0
    assert set(seen[0].parts) == {"train", "valid"}
    assert all("new row" in row for row in seen[0].sample.texts)


def test_what_does_not_fit_into_memory_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))

    def train(subject: Subject) -> Finding:
        trained_copy(subject, learning_batch(subject), 1, 1e-3)
        return Finding("fake.trained", PASS, {}, "none")

    set_checks(monkeypatch, [Check("trained", train)])
    assert main([str(checkpoint), "--data", text, "--device", "cpu"]) == 0
    said = " ".join(printed(capsys))
    assert "left out, as training a copy of" in said
    assert "fake.trained" not in said


def test_a_group_that_has_nothing_to_look_at_says_so(
    checkpoint: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "--data", text, "--only", "training"]) == 0
    assert "nothing was looked at: training needs" in " ".join(printed(capsys))


def test_out_of_memory_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("eval.diagnose.opening.open_checkpoint", full)
    assert main([str(checkpoint)]) == 2
    assert capsys.readouterr().err == "error: out of memory while opening the model: no room\n"


def test_no_family_is_named_outside_of_its_own_files_and_the_table_of_families() -> None:
    folder = Path(examine.__file__).parent
    own = {folder / "subject" / "families.py", folder / "checks" / "dialogue.py", *(folder / "video").glob("*.py")}
    general = {path: path.read_text(encoding="utf-8") for path in set(folder.rglob("*.py")) - own}
    family = re.compile(r"JepaConfig|diagnose\.video|\bVIDEO\b")
    named = {path.name for path, code in general.items() if family.search(code)}
    assert named == set()


def test_every_check_stands_once_under_its_name_and_in_its_group() -> None:
    for kind in ("causal", "masked", "seq2seq", "video"):
        assert all(check.group == group for group in examine.GROUPS for check in examine.checks_of(group, kind))
        names = [(group, check.name) for group in examine.GROUPS for check in examine.checks_of(group, kind)]
        twice = {name for name in names if names.count(name) > 1}
        assert twice <= {("collapse", "predictor_idle")}  # of a text model, and of a dialogue model
        assert len(names) > 20


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of a LoRA adapter over the tiny GPT-2."""
    model = get_peft_model(
        GPT2LMHeadModel.from_pretrained(checkpoint),
        LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_folder_of_an_adapter_opens_over_its_base(adapter: Path, checkpoint: Path, text: str, capsys) -> None:
    assert main([str(adapter), "--only", "leak", "parity", "--data", text]) == 0
    assert "parity.reload" in capsys.readouterr().out
    model, tokenizer, _ = open_checkpoint(str(adapter), device="cpu")
    base = GPT2LMHeadModel.from_pretrained(checkpoint)
    ids = torch.arange(8)[None]
    assert tokenizer is not None
    assert not torch.allclose(model(input_ids=ids).logits, base(input_ids=ids).logits)


def test_an_adapted_model_is_examined_with_its_adapter_and_left_as_it_was(adapter: Path, checkpoint: Path) -> None:
    model = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(checkpoint), adapter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = diagnose(model, AutoTokenizer.from_pretrained(checkpoint), TEXTS, only=("leak", "parity", "gradient"))
    assert report.fails() == set()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_adapter_that_names_no_base_is_refused(adapter: Path, capsys) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": None}))
    assert main([str(adapter)]) == 2
    assert "base_model_name_or_path" in capsys.readouterr().err
