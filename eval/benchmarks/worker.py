"""One cell in a process of its own: reads {arm, seed, key, path} as JSON from its input, writes the result to path."""

import json
import sys

from eval.benchmarks.cells import Arm, run_one
from training.common.records import write_json


def main() -> int:
    """Compute and write; an error ends the process with its traceback, which the runner keeps."""
    request = json.load(sys.stdin)
    arm = Arm(**{**request["arm"], "data": tuple(request["arm"]["data"])})
    result = run_one(arm, request["seed"], request["key"])
    write_json(result, request["path"], indent=None)  # one entry per test example: a line each would be long
    return 0


if __name__ == "__main__":
    sys.exit(main())
