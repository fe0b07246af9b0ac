"""What every test gets: no network, caches of its own, one thread, fixed seeds.

The environment is set while this file is imported, which is before any library reads it, and is inherited by the
subprocesses that tests start.
"""

import logging
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

_CACHES = Path(tempfile.mkdtemp(prefix="jepa-lm-tests-"))

os.environ.update(
    {
        "HF_HOME": str(_CACHES / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "JEPA_CACHE": str(_CACHES / "jepa-lm"),
        # Runs that ask for bfloat16 compute in it on every machine: what is tested of it must not hang on the CPU.
        "JEPA_EMULATE_BFLOAT16": "1",
        "MPLBACKEND": "Agg",
        # The suite runs one process per core, so more threads than one would only get in each other's way.
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
# A cache folder set by name would win over HF_HOME.
for _name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_METRICS_CACHE", "TRANSFORMERS_CACHE"):
    os.environ.pop(_name, None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the caches of this process."""
    shutil.rmtree(_CACHES, ignore_errors=True)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """A file's content as a parameter is named by its size: what it holds may differ from one process to the next (a
    gzip header holds the second in which it was made), and workers must collect the same names."""
    if isinstance(val, bytes) and len(val) > 40:
        return f"{argname}-of-{len(val)}-bytes"
    return None


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Each test starts from the same random state, whichever ran before it in its process."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _own_notes() -> Iterator[None]:
    """A command line that ran in this process shows its notes; the next test's are its own again."""
    yield
    notes = logging.getLogger("training")
    notes.handlers, notes.propagate = [], True
    notes.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def quick_pictures() -> Iterator[None]:
    """Frame tokenizers that runs make for themselves learn their pictures in a fifteenth of the steps; children that
    are forked meanwhile do so too."""
    from training.data.video_jepa import frame_tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_tokenizer, "learn_pictures", partial(frame_tokenizer.learn_pictures, steps=100))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
