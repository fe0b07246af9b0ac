"""Several processes of one run: what ends one of them ends all, so that none waits forever for one that is gone."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState
from accelerate.utils import gather_object

from training.common.errors import InputError
from training.run_folder.checkpoints import FULL, DiskFullError
from training.runtime.processes import FirstProcessError


@contextmanager
def shared_fate() -> Iterator[None]:
    """An error that ends the block in one process ends it in all of them: the others raise `FirstProcessError`.

    Every process must come here, and the block may hold no collective operation of its own that one which failed
    would miss. With one process it does nothing.
    """
    if PartialState().num_processes == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    errors = gather_object([_portable(error)])
    if error is not None:
        raise error
    failed = [other for other in errors if other is not None]
    if failed:
        raise FirstProcessError(failed[0])


def _portable(error: Exception | None) -> Exception | None:
    """What the other processes are sent: its kind decides the exit code, and it must survive the way."""
    if error is None or isinstance(error, InputError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return DiskFullError(str(error))
    return RuntimeError(repr(error))
