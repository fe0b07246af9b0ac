"""The README's snippets are run, and what it names exists. CONTRIBUTING says what the marks mean."""

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from eval.benchmarks.readme_tables import filled
from tests.faults.harness import forget_earlier_runs, fork, import_everything

# Snippets build on one another's run folders.
pytestmark = pytest.mark.xdist_group("README")

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"(?:<!-- test: (?P<mark>[^\n]+?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
SMALL_RUN = (
    "--max_steps 2 --warmup_steps 1 --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2"
    " --max_rows {rows} --max_vocab 300 --eval_rows 5 --score_rows 5"
)
HIDE_THE_PACKAGES = "import sys; sys.modules.update(dict.fromkeys(['configuration_jepa', 'modeling_jepa']))\n"


class Snippet(NamedTuple):
    """A fenced block of the README."""

    mark: str | None
    language: str
    code: str
    line: int


def snippets(text: str) -> list[Snippet]:
    """All `bash` and `python` blocks, with the line on which each begins."""
    return [
        Snippet(found["mark"], found["language"], found["code"], text.count("\n", 0, found.start()) + 1)
        for found in BLOCK.finditer(text)
    ]


def marked(kind: str) -> list:
    """Parameters for the blocks whose mark begins with `kind`."""
    found = [s for s in snippets(README.read_text(encoding="utf-8")) if (s.mark or "").split()[:1] == [kind]]
    return [pytest.param(snippet, id=f"line-{snippet.line}") for snippet in found]


@pytest.fixture(scope="module")
def folder(repository, tmp_path_factory) -> Path:
    """Looks like a checkout in which `make quickstart` has been run, with a model of two steps."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("training", "eval"):
        (folder / name).symlink_to(repository / name)
    run(small("python training/train.py training/recipes/text_jepa/quickstart.yaml"), folder)
    return folder


@pytest.mark.parametrize("snippet", marked("run"))
def test_the_snippet_runs(snippet, folder, request):
    assert "PYTEST_XDIST_WORKER" not in os.environ or request.node.nodeid.endswith("@README")  # all in one process
    if snippet.language == "python":
        hide = HIDE_THE_PACKAGES if snippet.mark == "run without the package" else ""
        run([sys.executable, "-I", "-c", hide + snippet.code], folder)
    for command in commands(snippet) if snippet.language == "bash" else []:
        run(small(command) if snippet.mark == "run small" else command, folder)


@pytest.mark.parametrize("snippet", marked("check"))
def test_the_targets_files_and_extras_of_a_snippet_exist(snippet, repository):
    for command in commands(snippet):
        if command.startswith("make "):
            subprocess.run(["make", "-n", *command.split()[1:]], cwd=repository, check=True, capture_output=True)
        for name in re.findall(r"[\w/]+\.(?:txt|toml|py|yaml)\b", command):
            assert (repository / name).is_file(), f"{name} in {command!r}"
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"\.\[(\w+)\]", snippet.code)) <= set(project["optional-dependencies"])


def test_every_snippet_says_how_it_is_tested():
    unmarked = [s.line for s in snippets(README.read_text(encoding="utf-8")) if s.mark is None]
    assert unmarked == []


def test_every_file_and_folder_that_the_page_names_exists(repository):
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"`((?:configuration_jepa|modeling_jepa|training|eval|tests)/[\w/.]*)`", text)
    linked = re.findall(r"\]\(([\w./]+)\)", text)
    assert len(named) > 5
    assert len(linked) > 2
    assert [name for name in [*named, *linked] if not (repository / name).exists()] == []


def test_the_page_stays_within_the_recipes_that_exist(repository):
    """Each recipe stands in the table, and the table names no other (that they exist is tested above)."""
    text = README.read_text(encoding="utf-8")
    recipes = {str(path.relative_to(repository)) for path in (repository / "training/recipes").rglob("*.yaml")}
    assert {name for name in recipes if f"| `{name}` |" not in text} == set()


def test_make_help_lists_every_target(repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    # Inside `make test` this is a make within a make, which would announce its folder.
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout
    assert [line.split()[1] for line in shown.splitlines()] == phony


def commands(snippet: Snippet) -> list[str]:
    """The lines of a `bash` block without their comments."""
    return [line for line in (line.split(" # ")[0].strip() for line in snippet.code.splitlines()) if line]


def small(command: str) -> str:
    """A training command with flags that make it a run of two steps."""
    rows = 40 if "staged_generator" in command else 300  # its rows are whole speeches, the text model's are sentences
    return f"{command} {SMALL_RUN.format(rows=rows)}"


def run(command: str | list[str], folder: Path) -> None:
    """Run a shell line or an argument list with this environment's programs first; its output is the failure."""
    words = shlex.split(command) if isinstance(command, str) else command
    if words[0] == "python":
        import_everything()
        done = fork(lambda: run_here(words[1:], folder), timeout=280)
        assert done.code == 0, f"{command}\n{done.out[-2000:]}\n{done.err[-3000:]}"
        return
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def run_here(words: list[str], folder: Path) -> int:
    """`python *words` in a process that has imported everything; its exit code."""
    forget_earlier_runs()
    os.chdir(folder)
    as_module = words[0] == "-m"
    sys.argv = words[as_module:]
    sys.path.insert(0, str(folder if as_module else folder / Path(words[0]).parent))
    try:
        if as_module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def test_tables_of_results_are_those_of_their_json():
    page = README.read_text(encoding="utf-8")
    assert page.count("<!-- results:") > 1
    assert filled(page) == page
