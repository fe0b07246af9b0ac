"""Publishing a checkpoint or an adapter: `python -m training.publish`."""

from training.publish.publication import prepare
from training.publish.sending import check_access, publish

__all__ = ["check_access", "prepare", "publish"]
