"""Help and a wrong flag are answered before the libraries that take seconds are loaded."""

import subprocess
import sys

import pytest

PROGRAM = """
import runpy, sys
sys.argv = {argv!r}
try:
    runpy.run_module({name!r}, run_name="__main__", alter_sys=True)
except SystemExit as ended:
    print("code", ended.code)
print("loaded", sorted({{"torch", "transformers", "datasets"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("name", ["eval.score", "eval.diagnose"])
@pytest.mark.parametrize(("flags", "code"), [(["--help"], 0), (["outputs/run", "--no_such_flag"], 2)])
def test_nothing_slow_is_loaded_to_say_how_a_command_is_used(name: str, flags: list[str], code: int) -> None:
    program = PROGRAM.format(argv=[name, *flags], name=name)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-2:] == [f"code {code}", "loaded []"], said.stderr
    assert "no_such_flag" in said.stderr or code == 0
