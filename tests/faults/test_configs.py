"""Every field of every configuration with a wrong type, out of range, misspelt: one line, exit 2, nothing touched."""

import contextlib
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
from configuration_jepa.configuration_base import own_fields
from training import train
from training.run.arguments import _UNIVERSAL, keys_of_family
from training.settings.common import TRACKERS
from training.settings.recipes import family_names
from training.settings.schema import SECTIONS, Key

# What families share word for word is tried with the first of them.
KEYS: dict[tuple[str, str], Key] = {}
for _family in family_names():
    for _key in keys_of_family(_family).values():
        if _key not in KEYS.values():
            KEYS[_family, _key.name] = _key
CONFIGS = (TextJepaConfig, StagedGeneratorConfig, DialogueJepaConfig, VideoJepaConfig)

# What each number may be: lowest, highest (None: no limit, for whole ones below 2 ** 32), and whether those may.
AT_LEAST_0, AT_LEAST_1 = (0, None, True, True), (1, None, True, True)
SHARE, OPEN_SHARE, BELOW_1, ABOVE_0 = (
    (0, 1, True, True),
    (0, 1, False, False),
    (0, 1, True, False),
    (0, None, False, True),
)
RANGES = {
    **dict.fromkeys("hidden_size num_hidden_layers num_attention_heads intermediate_size".split(), AT_LEAST_1),
    **dict.fromkeys("rope_theta norm_eps initializer_range temperature gate_rate num_train_epochs".split(), ABOVE_0),
    **dict.fromkeys(
        "dropout attention_dropout teacher_momentum adam_beta1 adam_beta2 best_smoothing".split(), BELOW_1
    ),
    **dict.fromkeys("ranking_weight alignment_weight auxiliary_weight collapse_weight bag_weight".split(), AT_LEAST_0),
    **dict.fromkeys("predictor_layers weight_decay max_grad_norm dataloader_num_workers".split(), AT_LEAST_0),
    **dict.fromkeys("warmup_steps milestones early_stopping_patience".split(), AT_LEAST_0),
    **dict.fromkeys(
        "num_negatives num_candidates min_words max_words max_rows max_spans max_span_length".split(), AT_LEAST_1
    ),
    **dict.fromkeys("max_steps per_device_train_batch_size gradient_accumulation_steps".split(), AT_LEAST_1),
    **dict.fromkeys("logging_steps save_steps save_total_limit eval_steps eval_rows score_rows".split(), AT_LEAST_1),
    **dict.fromkeys("stream_window stream_sample".split(), AT_LEAST_1),
    **dict.fromkeys(
        "max_bad_share mask_token_share random_token_share constant_share full_ranking_share".split(), SHARE
    ),
    **dict.fromkeys("mask_rate mask_rate_final max_span_share".split(), OPEN_SHARE),
    "learning_rate": OPEN_SHARE,
    "final_learning_rate": (0, 1, True, False),
    "max_position_embeddings": (2, None, True, True),
    "max_vocab": (8, None, True, True),
    "seed": AT_LEAST_0,
    # of the staged generator
    **dict.fromkeys(
        "embedding_size num_semantic_blocks routing_occurrences credit_steps sample_steps".split(), AT_LEAST_1
    ),
    **dict.fromkeys("routing_window routing_blocks".split(), AT_LEAST_0),
    **dict.fromkeys("block_decorrelation_weight z_loss_weight".split(), AT_LEAST_0),
    **dict.fromkeys("label_smoothing muon_momentum".split(), BELOW_1),
    **dict.fromkeys("credit_siblings credit_rest credit_floor".split(), SHARE),
    # of the dialogue model
    **dict.fromkeys("context_turns min_reply_words decoder_layers num_latents prefix_length".split(), AT_LEAST_1),
    **dict.fromkeys("reply_weight lora_rank".split(), AT_LEAST_0),
    "decoder_learning_rate": OPEN_SHARE,
    "max_reply_length": (2, None, True, True),
    "time_dim": (1, None, True, True),
    "routing_code_bits": (1, 30, True, True),
    "stage": (0, 3, True, True),
    # of the video model
    **dict.fromkeys(
        "frame_size patch_size code_size latent_size num_digits num_clips context_frames".split(), AT_LEAST_1
    ),
    **dict.fromkeys("brightness contrast future_share joint_share individual_share".split(), SHARE),
    **dict.fromkeys("mask_ratio_start mask_ratio_end curriculum_share".split(), (0, 1, False, True)),
    "clip_seed": AT_LEAST_0,
    "code_levels": (2, 65_536, True, True),
    "curriculum_frames": (2, None, True, True),
    "rotation": (0, 180, True, True),
}
CHOICES = (
    *(
        "hidden_act",
        "head",
        "ranking",
        "negative_sampling",
        "logit_scale",
        "target_table",
        "collapse_protection",
        "target_gradient",
    ),
    *("sides", "pre_tokenizer", "long_rows", "masking", "on_non_finite", "report_to", "best_metric"),
    *("semantic_blocks", "documents", "optimizer", "credit", "credit_measure", "credit_control", "decay_source"),
    *("context_access", "decoder_latent", "ranking_target", "frame_codes", "objective", "problem_type"),
)
FREE = (
    "data",
    "digits",
    "split",
    "text_column",
    "label_column",
    "prompt_column",
    "reply_column",
    "clips",
    "tokenizer",
    "run_name",
    "keep",
    "sample_phrases",
    "pretrained_decoder",
    "routing_edges",
)
SPECIAL_IDS = ("pad_token_id", "unk_token_id", "mask_token_id", "bos_token_id", "eos_token_id")

few = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def fields(test: Any = lambda key: True) -> Any:
    chosen = [(name, key) for name, key in KEYS.items() if test(key)]
    return pytest.mark.parametrize(("family", "key"), [pytest.param(n[0], k, id=f"{n[0]}-{n[1]}") for n, k in chosen])


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for a recipe. Whoever goes on to data and model with it fails the test."""

    def touched(run: Any) -> int:
        raise AssertionError("data and model were touched")

    monkeypatch.setattr(train, "train", touched)
    yield tmp_path / "recipe.yaml"
    assert [path.name for path in tmp_path.iterdir()] in ([], ["recipe.yaml"])


def refused(recipe: Path, family: str, sections: dict[str, Any], *flags: str) -> str:
    """The one line that the command line ends with; json is YAML as well."""
    recipe.write_text(json.dumps({"family": family, **sections}), encoding="utf-8", errors="surrogatepass")
    return ended(str(recipe), *flags)


def ended(*argv: str) -> str:
    """The one line on stderr with which the command line ends, with code 2 and a silent stdout."""
    errors, output = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        assert train.main(list(argv)) == 2
    assert output.getvalue() == ""
    (line,) = errors.getvalue().splitlines()
    assert line.startswith("error: ")
    assert len(line) < 2000
    return line


def is_optional(key: Key) -> bool:
    return "None" in str(key.type)


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except (ValueError, OverflowError):
        return False


def wrong_types(key: Key) -> st.SearchStrategy[Any]:
    """Values that no reading makes a `key.type` of."""
    kind = str(key.type)
    nested = st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
    if kind.startswith("list"):
        inside = st.sampled_from([None, [1], {"a": 1}, True]) | (words() if "int" in kind else st.nothing())
        return nested | st.lists(inside, min_size=1, max_size=3) | st.just(True)
    values = nested | st.lists(st.integers(), max_size=3)
    if not is_optional(key):
        values |= st.none()
    if "bool" in kind:
        return values | words() | st.integers(2, 9) | st.floats(1.5, 9)
    values |= st.booleans()
    if "str" in kind:
        return values
    values |= words() | st.sampled_from([math.inf, -math.inf, math.nan, 10**400, "1e999", "nan", ""])
    if "float" not in kind:
        values |= st.floats(-1e6, 1e6).filter(lambda value: value != int(value))
    return values


def words() -> st.SearchStrategy[str]:
    """Text that is no number, no truth value and no null."""
    known = ("true", "false", "yes", "no", "null", "none")
    return st.text(max_size=20).filter(lambda text: text.lower() not in known and not is_number(text))


def outside(key: Key) -> st.SearchStrategy[float]:
    """Numbers of the right type out of the key's range."""
    low, high, low_may, high_may = RANGES[key.name]
    if "float" not in str(key.type):
        return st.integers(max_value=low - 1) | st.integers(min_value=2**32)
    too_low = st.floats(max_value=low, exclude_max=low_may, allow_infinity=False)
    if high is None:
        return too_low
    return too_low | st.floats(min_value=high, exclude_min=high_may, allow_infinity=False)


def typos(name: str) -> st.SearchStrategy[str]:
    """One letter lost, doubled, swapped with the next, or another."""
    places = st.integers(0, len(name) - 2)
    return st.one_of(
        places.map(lambda i: name[:i] + name[i + 1 :]),
        places.map(lambda i: name[:i] + name[i] + name[i:]),
        places.map(lambda i: name[:i] + name[i + 1] + name[i] + name[i + 2 :]),
        st.tuples(places, st.sampled_from("aeiosnt_")).map(lambda it: name[: it[0]] + it[1] + name[it[0] + 1 :]),
    ).filter(lambda typo: typo not in {key.name for key in KEYS.values()} | {*_UNIVERSAL, "recipe", "help"})


def test_every_field_is_in_one_of_the_tables_here() -> None:
    for key in KEYS.values():
        places = (key.name in RANGES, key.name in CHOICES, key.name in FREE, key.type is bool)
        assert sum(places) == 1, key.name


@fields()
@few
@given(data=st.data())
def test_a_wrong_type_is_refused(recipe: Path, family: str, key: Key, data: st.DataObject) -> None:
    value = data.draw(wrong_types(key))
    assert key.name in refused(recipe, family, {key.section: {key.name: value}})
    if isinstance(value, str) and "\0" not in value:
        assert key.name in refused(recipe, family, {}, f"--{key.name}={value}")


@fields(lambda key: key.name in RANGES)
@few
@given(data=st.data())
def test_a_number_out_of_range_is_refused(recipe: Path, family: str, key: Key, data: st.DataObject) -> None:
    value = data.draw(outside(key))
    given_as = [value] if "list" in str(key.type) else value
    assert key.name in refused(recipe, family, {key.section: {key.name: given_as}})
    assert key.name in refused(recipe, family, {}, f"--{key.name}={value!r}")


@fields(lambda key: key.name in CHOICES)
@few
@given(value=words())
def test_a_choice_that_is_none_is_refused(recipe: Path, family: str, key: Key, value: str) -> None:
    assume(value not in re.findall(r"[\w-]+", key.help))  # words that the code knows are drawn as well
    assert key.name in refused(recipe, family, {key.section: {key.name: value}})
    assert key.name in refused(recipe, family, {}, f"--{key.name}={value}")


@fields()
@few
@given(data=st.data())
def test_a_misspelt_name_is_refused_and_named(recipe: Path, family: str, key: Key, data: st.DataObject) -> None:
    typo = data.draw(typos(key.name))
    line = refused(recipe, family, {key.section: {typo: key.default}})
    assert f"{key.section}: unknown key {typo!r}" in line
    assert "did you mean" in line
    line = refused(recipe, family, {}, f"--{typo}={key.default}")
    assert f"unknown flag --{typo}" in line
    assert "did you mean --" in line


@fields()
def test_a_field_in_another_section_is_refused(recipe: Path, family: str, key: Key) -> None:
    other = SECTIONS[(SECTIONS.index(key.section) + 1) % len(SECTIONS)]
    assert f"{key.name}: belongs in section `{key.section}`" in refused(
        recipe, family, {other: {key.name: key.default}}
    )


@pytest.mark.parametrize("section", ["family", *SECTIONS])
@few
@given(data=st.data())
def test_a_misspelt_section_is_refused(recipe: Path, section: str, data: st.DataObject) -> None:
    typo = data.draw(typos(section).filter(lambda name: name not in SECTIONS))
    assert "unknown section" in refused(recipe, "text_jepa", {typo: {}})


@pytest.mark.parametrize("section", SECTIONS)
@few
@given(value=st.integers(1) | st.text(min_size=1) | st.lists(st.integers(), min_size=1) | st.just(True))
def test_a_section_that_holds_no_keys_is_refused(recipe: Path, section: str, value: Any) -> None:
    assert f"{section}: the section" in refused(recipe, "text_jepa", {section: value})


@few
@given(family=st.text() | st.integers() | st.none() | st.lists(st.text()))
def test_an_unknown_family_is_refused(recipe: Path, family: Any) -> None:
    assert "error: family: got " in refused(recipe, family, {})


@pytest.mark.parametrize("flag", _UNIVERSAL)
@few
@given(data=st.data())
def test_a_misspelt_universal_flag_is_refused(recipe: Path, flag: str, data: st.DataObject) -> None:
    typo = data.draw(typos(flag))
    assert f"unknown flag --{typo}" in refused(recipe, "text_jepa", {}, f"--{typo}=1")


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("device", words()),
        ("stage", words()),
        ("stage", st.integers()),
        ("threads", words().filter(lambda text: text != "auto")),
        ("threads", st.integers(max_value=0)),
        ("threads", st.floats()),
        ("diagnose_steps", words()),
        ("diagnose_steps", st.integers(max_value=0)),
    ],
)
@few
@given(data=st.data())
def test_a_universal_flag_with_a_bad_value_is_refused(
    recipe: Path, flag: str, values: st.SearchStrategy, data: st.DataObject
) -> None:
    assert flag in refused(recipe, "text_jepa", {}, f"--{flag}={data.draw(values)}")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--hidden_size 12 --num_attention_heads 4", "hidden_size=12 is not a multiple"),
        ("--max_words 3 --min_words 4", "max_words: got 3"),
        ("--mask_token_share 0.8 --random_token_share 0.3", "is more than 1"),
        ("--learning_rate 1e-4 --final_learning_rate 1e-3", "final_learning_rate"),
        ("--max_steps 10 --warmup_steps 10", "warmup_steps=10 must be below max_steps=10"),
        ("--bf16 --fp16", "exclude each other"),
        ("--ranking_weight 0 --alignment_weight 0", "leave nothing to learn"),
        ("--ranking sampled --num_negatives 60 --max_vocab 60", "num_negatives=60 is more than"),
        ("--head softmax --target_table ema", "needs head='cosine'"),
        ("--report_to none,wandb", "report_to: got 'none,wandb'"),
        ("--data=", "data: is empty"),
        ("--seed", "expected one argument"),
        ("more", "unknown flag more"),
        ("--output_dir " + "long/" * 1000, "output_dir: long/"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(recipe: Path, flags: str, said: str) -> None:
    assert said in refused(recipe, "text_jepa", {}, *flags.split(" "))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "holds no keys"),
        (b"- a\n- b\n", "holds no keys"),
        (b"text_jepa", "holds no keys"),
        (b"family: text_jepa\n\ttraining: 1\n", "is no YAML"),
        (b"family: 'text_jepa\n", "is no YAML"),
        (b"family: t\xe9xt_jepa\n", "is no YAML"),
        (b"family: text\0jepa\n", "is no YAML"),
        (b"family: !!python/object/apply:os.getcwd []\n", "is no YAML"),
        (b"family: 2024-99-99\n", "is no YAML"),
        (b"family: " + b"9" * 5000, "is no YAML"),
        (b"family: " + b"[" * 5000, "is no YAML"),
        (b"family: text_jepa\n? [a]\n: 1\n", "is no YAML"),
        (b"family: text_jepa\n1: 2\n", "unknown section 1"),
        (b"family: text_jepa\ntraining:\n  seed: 1\n  seed: 2\n", "the key 'seed' stands twice"),
        (b"family: text_jepa\nmodel: {}\nmodel: {}\n", "the key 'model' stands twice"),
        (b"family: text_jepa\nevaluation:\n  milestones: &a [*a]\n", "milestones: got"),
    ],
)
def test_a_recipe_that_is_none_is_refused(recipe: Path, text: bytes, said: str) -> None:
    recipe.write_bytes(text)
    assert said in ended(str(recipe))


@pytest.mark.parametrize("path", ["absent.yaml", "", "x" * 5000, "a\nb.yaml", "tests"])
def test_a_recipe_that_is_not_there_is_refused(recipe: Path, path: str) -> None:
    assert "recipe" in ended(path)


@few
@given(text=st.text(max_size=40))
def test_any_text_as_a_recipe_ends_in_one_line(recipe: Path, text: str) -> None:
    recipe.write_text(text, encoding="utf-8", errors="surrogatepass")
    ended(str(recipe))


def test_the_trackers_are_the_librarys() -> None:
    assert set(TRACKERS) - {"none", "all"} == set(INTEGRATION_TO_CALLBACK)


# ---- the configurations themselves, as a program makes them ----


def config_fields(kind: type | None = None) -> Any:
    chosen = [
        (config, field)
        for config in CONFIGS
        for field in config.__dataclass_fields__.values()
        if field.name in own_fields(config) and (kind is None or field.type is kind)
    ]
    return pytest.mark.parametrize(
        ("config", "field"), [pytest.param(c, f, id=f"{c.model_type}-{f.name}") for c, f in chosen]
    )


def refusal(config: type, **values: Any) -> str:
    with pytest.raises((ValueError, StrictDataclassError)) as caught:
        config(**values)
    return str(caught.value.__cause__ or caught.value)


@config_fields()
@few
@given(data=st.data())
def test_a_configuration_refuses_a_wrong_type(config: type, field: Any, data: st.DataObject) -> None:
    key = Key(field.name, "model", field.type, field.default, "")
    numbers = {bool: st.integers(), str: st.integers() | st.booleans()}.get(field.type, st.booleans() | st.text())
    values = (
        numbers | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=2), st.none(), max_size=1)
    )
    if not is_optional(key):
        values |= st.none()
    assert field.name in refusal(config, **{field.name: data.draw(values)})


@config_fields()
@few
@given(data=st.data())
def test_a_configuration_refuses_what_is_out_of_range(config: type, field: Any, data: st.DataObject) -> None:
    key = Key(field.name, "model", field.type, field.default, "")
    if field.name in CHOICES:
        values: st.SearchStrategy[Any] = words()
    elif field.name in SPECIAL_IDS:
        values = st.integers(max_value=-1) | st.integers(min_value=config().vocab_size)
    elif field.name == "vocab_size":
        values = st.integers(max_value=4)
    elif field.name == "decoder_config":
        values = st.just({"hidden_size": 16})
    elif field.name == "routing_edges":
        values = st.lists(words(), max_size=2)
    elif field.type is bool:
        values = st.integers()
    else:
        values = outside(key) | (st.sampled_from([math.nan, math.inf]) if "float" in str(field.type) else st.nothing())
    said = refusal(config, **{field.name: data.draw(values)})
    assert field.name in said or field.name == "vocab_size"


@config_fields()
@few
@given(data=st.data())
def test_a_configuration_refuses_a_misspelt_field(config: type, field: Any, data: st.DataObject) -> None:
    typo = data.draw(typos(field.name).filter(lambda name: name not in config.__dataclass_fields__))
    said = refusal(config, **{typo: field.default})
    assert repr(typo) in said
    assert "did you mean" in said


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_of_defaults_is_sound(config: type) -> None:
    assert config().to_dict()["model_type"] == config.model_type
