"""The wheel: what `pip install jepa-lm` puts on somebody's machine."""

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the checkout without a network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(repository)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = out.glob("jepa_lm-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_two_shipped_packages_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"configuration_jepa", "modeling_jepa"}


@pytest.mark.parametrize("package", ["configuration_jepa", "modeling_jepa"])
def test_the_wheel_holds_every_file_of_a_shipped_package(wheel, repository, package):
    here = {f"{package}/{path.name}" for path in (repository / package).glob("*.py")}
    assert {name for name in wheel.namelist() if name.startswith(package)} == here


def test_the_wheel_names_its_licence_and_carries_the_text(wheel):
    metadata = _metadata(wheel)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


def test_installing_the_wheel_brings_no_training_library(wheel):
    required = [line for line in _metadata(wheel).get_all("Requires-Dist") if "extra ==" not in line]
    assert {line.split(">")[0].split("<")[0] for line in required} == {
        "huggingface-hub",
        "safetensors",
        "torch",
        "transformers",
    }


def _metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))
