"""Reading a checkpoint to go on from it: a file that is missing, or that cannot be taken, is one line and the end."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from training.data.errors import InputError

# Weights are read from these alone, never from a pickle.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def refuse_lacking(checkpoint: Path, needed: list[str]) -> None:
    """The library goes on without a file that is not there, and the run is another one. Raises `InputError`."""
    lacking = [name for name in needed if not (checkpoint / name).is_file()]
    if "optimizer.pt" in needed and not any((checkpoint / name).is_file() for name in _WEIGHTS):
        lacking.append(_WEIGHTS[0])
    if lacking:
        raise InputError(f"resume: {checkpoint} lacks {', '.join(lacking)}; take another checkpoint")


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """One line for whatever the libraries say of a file that they cannot take. Raises `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"resume: {checkpoint} cannot be taken: {said[:300]}; take another checkpoint") from error
