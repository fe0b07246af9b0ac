"""The memory of this process. Imports nothing that would be counted."""

import resource
import sys


def peak_memory() -> int:
    """Bytes this process has held at most; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
