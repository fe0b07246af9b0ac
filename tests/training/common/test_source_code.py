"""What a module imports, read from its source."""

from training.common.source_code import files_behind


def test_files_behind_a_module_are_those_it_imports_over_others_with_the_packages_around_them(tmp_path):
    sources = {
        "top.py": "def late():\n    import house.room\nimport json",
        "house/__init__.py": "from . import hall",
        "house/hall.py": "import top",
        "house/room.py": "from .hall import door\nfrom house.yard import tree",
        "house/yard/__init__.py": "tree = 1",
        "house/attic.py": "import house",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    found = [str(path.relative_to(tmp_path)) for path in files_behind("top", tmp_path)]
    assert found == sorted(set(sources) - {"house/attic.py"})
    assert files_behind("nowhere", tmp_path) == ()
