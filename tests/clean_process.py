"""Programs in processes that cannot import this project's packages, forked from one that has imported the library.

    done = run_clean(["script.py", "argument"], cwd=folder, modules=folder / "modules")

The server is a program of its own, started with `-I` when it is first needed; what it forks has nothing of ours, and
an empty cache of modules.
"""

import atexit
import json
import os
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path

OWN_PACKAGES = ("configuration_jepa", "modeling_jepa", "training", "eval", "tests")


def run_clean(words: list[str], cwd: Path, modules: Path) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run(["python", "-I", *words])` in the folder `cwd`, where `words` begin with a script or with -c.

    Args:
        modules: an empty folder, for the code that checkpoints bring along.
    """
    said = [modules.with_name(f"{modules.name}.{name}") for name in ("out", "err")]
    request = {"words": list(map(str, words)), "cwd": str(cwd), "modules": str(modules), "said": list(map(str, said))}
    server = _server()
    print(json.dumps(request), file=server.stdin, flush=True)
    code = int(server.stdout.readline())
    return subprocess.CompletedProcess(words, code, *(path.read_text(encoding="utf-8") for path in said))


@cache
def _server() -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", __file__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    atexit.register(lambda: (process.stdin.close(), process.wait()))  # the end of its input ends it
    return process


def main() -> None:
    """Import once, then fork for each line of the input; the exit code of each goes to the output."""
    sys.modules.update(dict.fromkeys(OWN_PACKAGES))  # None there makes an import fail as if it were not installed
    import torch
    import transformers

    assert torch.__version__
    assert transformers.AutoModel
    assert transformers.pipeline
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(request: dict) -> None:
    """In the fork: be that program, and end."""
    import runpy

    from transformers import dynamic_module_utils

    code = 1
    try:
        for number, path in enumerate(request["said"], start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(request["cwd"])
        os.environ["HF_MODULES_CACHE"] = dynamic_module_utils.HF_MODULES_CACHE = request["modules"]
        first, *rest = request["words"]
        sys.argv = ["-c", *rest[1:]] if first == "-c" else [first, *rest]
        if first == "-c":
            exec(rest[0], {"__name__": "__main__"})
        else:
            runpy.run_path(first, run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
