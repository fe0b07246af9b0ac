"""The pages' snippets are run or checked, and what they name exists. CONTRIBUTING says what the marks mean."""

import ast
import importlib
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from eval.benchmarks import readme_tables
from tests.clean_process import run_clean
from tests.faults.harness import accelerate_launch, completed, forget_earlier_runs, fork, import_everything
from training.run.arguments import parse_arguments

# Snippets build on one another's run folders.
pytestmark = pytest.mark.xdist_group("pages")

ROOT = Path(__file__).resolve().parents[2]
README, RECIPES = ROOT / "README.md", ROOT / "training" / "recipes" / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), RECIPES]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
LARGEST_README = 16_000
every_page = pytest.mark.parametrize("name", TEXTS)
BLOCK = re.compile(r"(?:<!-- test: (?P<mark>[^\n]+?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
SMALL_RUN = (
    "--max_steps 2 --warmup_steps 1 --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2"
    " --max_rows {rows} --max_vocab 300 --eval_rows 5 --score_rows 5"
)


class Snippet(NamedTuple):
    """A fenced block of a page."""

    mark: str | None
    language: str
    code: str
    place: str


def snippets(name: str) -> list[Snippet]:
    """All `bash` and `python` blocks of a page, with the place where each begins."""
    text = TEXTS[name]
    return [
        Snippet(found["mark"], found["language"], found["code"], f"{name}:{text.count(chr(10), 0, found.start()) + 1}")
        for found in BLOCK.finditer(text)
    ]


def marked(kind: str) -> list:
    """Parameters for the blocks of all pages whose mark begins with `kind`."""
    found = [s for name in TEXTS for s in snippets(name) if (s.mark or "").split()[:1] == [kind]]
    return [pytest.param(snippet, id=snippet.place) for snippet in found]


@pytest.fixture(scope="module")
def folder(repository, tmp_path_factory) -> Path:
    """Looks like a checkout in which `make quickstart` has been run, with a model of two steps."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("training", "eval"):
        (folder / name).symlink_to(repository / name)
    lines = [f"the customer number {index} asks for a new password" for index in range(300)]
    (folder / "my.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run(small("python training/train.py training/recipes/text_jepa/quickstart.yaml"), folder)
    return folder


@pytest.mark.parametrize("snippet", marked("run"))
def test_the_snippet_runs(snippet, folder, request, tmp_path):
    assert "PYTEST_XDIST_WORKER" not in os.environ or request.node.nodeid.endswith("@pages")  # all in one process
    if snippet.mark == "run without the package":
        done = run_clean(["-c", snippet.code], folder, tmp_path / "modules")
        assert done.returncode == 0, f"{snippet.place}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    elif snippet.language == "python":
        fork_and_run(lambda: exec(compile(snippet.code, snippet.place, "exec"), {}), folder, snippet.place)
    for command in commands(snippet) if snippet.language == "bash" else []:
        run(small(command) if snippet.mark == "run small" else command, folder)


def of_extras() -> set[str]:
    """Modules that the optional parts of the package bring, where they are called as their projects."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].values()
    return {re.match(r"[\w-]+", each)[0].replace("-", "_") for extra in extras for each in extra}


@pytest.mark.parametrize("snippet", marked("check"))
def test_what_the_snippet_names_can_be_given(snippet, repository, monkeypatch):
    monkeypatch.chdir(repository)
    if snippet.language == "python":
        for node in ast.walk(ast.parse(snippet.code)):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            missing = [module for module in modules if importlib.util.find_spec(module) is None]
            assert set(missing) <= of_extras(), "neither installed nor brought by an extra"
    for command in commands(snippet) if snippet.language == "bash" else []:
        if command.startswith("make "):
            subprocess.run(["make", "-n", *command.split()[1:]], check=True, capture_output=True)
        for name in re.findall(r"(?<![\w/.])[\w/]+\.(?:toml|py|yaml)\b|constraints\.txt", command):
            assert (repository / name).is_file(), f"{name} in {command!r}"
        parse(shlex.split(command.split(";")[0]))
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"\.\[(\w+)\]", snippet.code)) <= set(project["optional-dependencies"])


def parse(words: list[str]) -> None:
    """Give a command line to the parser that it is for; a flag or recipe that does not exist is an error."""
    if "training/train.py" in words:
        parse_arguments(words[words.index("training/train.py") + 1 :])
    elif words[:2] == ["python", "-m"] and words[2].split(".")[0] in ("training", "eval", "tests"):
        is_package = (ROOT / words[2].replace(".", "/")).is_dir()
        module = importlib.import_module(f"{words[2]}.__main__" if is_package else words[2])
        if hasattr(module, "_parser"):
            module._parser().parse_args(words[3:])


@every_page
def test_every_snippet_says_how_it_is_tested(name):
    assert [snippet.place for snippet in snippets(name) if snippet.mark is None] == []
    assert re.findall(r"^```\n(?=\S)", re.sub(r"```\w+\n.*?```\n", "", TEXTS[name], flags=re.DOTALL), re.M) == []


@every_page
def test_every_file_that_the_page_names_exists(name, repository):
    folders = "configuration_jepa|modeling_jepa|training|eval|tests|docs|model_cards"
    named = re.findall(rf"`((?:{folders})/[\w/.]*)`", TEXTS[name])
    assert [path for path in named if not (repository / path).exists()] == []


@every_page
def test_every_link_within_the_repository_leads_somewhere(name, repository):
    here = (repository / name).parent
    for target, heading in re.findall(r"\]\((?!https?:)([\w./]*)(?:#([\w-]+))?\)", TEXTS[name]):
        path = (here / target).resolve() if target else repository / name
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
        assert not heading or heading in slugs, f"{target}#{heading}"


def test_every_page_can_be_reached_from_the_readme(repository):
    seen, todo = set(), [README]
    while todo:
        page = todo.pop()
        seen.add(page)
        links = re.findall(r"\]\((?!https?:)([\w./]+\.md)", TEXTS[str(page.relative_to(repository))])
        todo += {path for link in links if (path := (page.parent / link).resolve()) in PAGES} - seen
    assert seen == set(PAGES)


def test_the_commands_for_each_kind_of_data_can_be_given(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"\| `(\w+/\w+\.yaml[^`]*)` \|", TEXTS["README.md"])
    assert len(commands) > 5
    for command in commands:
        parse_arguments(shlex.split(f"training/recipes/{command}"))


def test_the_readme_stays_one_page():
    assert len(TEXTS["README.md"].encode()) <= LARGEST_README


def test_the_table_of_recipes_has_them_all_and_no_other(repository):
    recipes = {str(path.relative_to(repository)) for path in (repository / "training/recipes").rglob("*.yaml")}
    assert set(re.findall(r"^\| `(training/recipes/[\w/.]+)` \|", RECIPES.read_text(), re.MULTILINE)) == recipes


def test_make_help_lists_every_target(repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    # Inside `make test` this is a make within a make, which would announce its folder.
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout
    assert [line.split()[1] for line in shown.splitlines()] == phony


def commands(snippet: Snippet) -> list[str]:
    """The lines of a `bash` block without their comments; a line that ends in a backslash goes on."""
    lines = snippet.code.replace("\\\n", " ").splitlines()
    return [line for line in (line.split(" # ")[0].strip() for line in lines) if line]


def small(command: str) -> str:
    """A training command with flags that make it a run of two steps."""
    rows = 12 if "staged_generator" in command else 300  # its rows are whole speeches, the text model's are sentences
    grown = " --final_score false" if "--init_from" in command else ""  # what it grows from has been scored
    return f"{command} {SMALL_RUN.format(rows=rows)}{grown}"


def run(command: str | list[str], folder: Path) -> None:
    """Run a shell line or an argument list with this environment's programs first; its output is the failure."""
    words = shlex.split(command) if isinstance(command, str) else command
    if words[:2] == ["accelerate", "launch"]:
        import_everything()
        done = accelerate_launch(words[2:], folder)
        assert done.code == 0, f"{command}\n{done.out[-2000:]}\n{done.err[-3000:]}"
        return
    if words[0] == "python":
        fork_and_run(lambda: run_here(words[1:], folder), folder, command)
        return
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = completed(words, cwd=folder, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def fork_and_run(work: Callable[[], int | None], folder: Path, what: str) -> None:
    """Do `work` in `folder`, in a process that has imported everything; its output is the failure."""
    import_everything()

    def there() -> int:
        forget_earlier_runs()
        os.chdir(folder)
        return work() or 0

    done = fork(there)
    assert done.code == 0, f"{what}\n{done.out[-2000:]}\n{done.err[-3000:]}"


def run_here(words: list[str], folder: Path) -> int:
    """`python *words`; its exit code."""
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


@pytest.mark.parametrize("page", readme_tables.PAGES, ids=lambda page: page.name)
def test_tables_of_results_are_those_of_their_json(page):
    text = page.read_text(encoding="utf-8")
    assert "<!-- results:" in text
    assert readme_tables.filled(text) == text


def test_every_table_of_results_stands_on_a_page():
    written = re.findall(r"<!-- results:(\w+) -->", "".join(page.read_text() for page in readme_tables.PAGES))
    assert sorted(written) == sorted([*readme_tables.RENDERERS, "headlines"])
