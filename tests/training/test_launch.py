"""The configurations for `accelerate launch`, read as accelerate reads them."""

from argparse import Namespace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from modeling_jepa import layers

FILES = ("one_process", "one_gpu", "several_gpus", "fsdp2", "deepspeed_zero3", "two_cpu_processes")


def launched(repository: Path, name: str, *flags: str) -> Namespace:
    """What `accelerate launch` makes of a file."""
    path = str(repository / "training" / "launch" / f"{name}.yaml")
    args = launch_command_parser().parse_args(["--config_file", path, *flags, "training/train.py"])
    return _validate_launch_command(args)[0]


def test_every_file_is_checked_here(repository: Path) -> None:
    assert {path.stem for path in (repository / "training" / "launch").glob("*.yaml")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_the_file_and_the_page_says_whether_it_was_run(repository: Path, name: str) -> None:
    path = repository / "training" / "launch" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_machines == 1
    (row,) = [
        line
        for line in (repository / "docs/launching.md").read_text().splitlines()
        if line.startswith(f"| `{name}.yaml`")
    ]
    assert row.endswith(("| run by a test |", "| run |", "| not run |"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_names_itself_in_its_command(repository: Path, name: str) -> None:
    text = (repository / "training" / "launch" / f"{name}.yaml").read_text()
    assert f"accelerate launch --config_file training/launch/{name}.yaml" in text


@pytest.mark.parametrize("name", ["several_gpus", "two_cpu_processes"])
def test_several_processes_come_from_the_launcher_that_starts_several(repository: Path, name: str) -> None:
    args = launched(repository, name)
    assert (args.multi_gpu, args.cpu, args.num_processes) == (True, False, 2)
    assert launched(repository, name, "--num_processes", "4").num_processes == 4


@pytest.mark.parametrize("name", ["one_process", "one_gpu"])
def test_one_process_comes_from_the_plain_launcher(repository: Path, name: str) -> None:
    args = launched(repository, name)
    assert not any((args.multi_gpu, args.use_fsdp, args.use_deepspeed, args.cpu))
    assert args.num_processes == 1


def test_fsdp2_shards_our_block_and_saves_whole_weights(repository: Path) -> None:
    args = launched(repository, "fsdp2")
    assert args.use_fsdp
    assert int(args.fsdp_version) == 2
    assert args.fsdp_state_dict_type == "FULL_STATE_DICT"
    assert isinstance(getattr(layers, args.fsdp_transformer_layer_cls_to_wrap), type)


def test_deepspeed_is_stage_3_and_saves_whole_weights(repository: Path) -> None:
    args = launched(repository, "deepspeed_zero3")
    assert args.use_deepspeed
    assert args.zero_stage == 3
    assert args.zero3_save_16bit_model
