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


def test_files_of_another_family_count_where_a_familys_own_file_imports_them_and_not_for_a_table(tmp_path):
    sources = {
        "table.py": "import rooms.cat, rooms.dog, rooms.owl, model_dog, tools",
        "tools.py": "import modeling_owl",
        "rooms/__init__.py": "",
        "rooms/cat.py": "import rooms.parts.dog.tail",
        "rooms/dog.py": "",
        "rooms/owl.py": "",
        "rooms/parts/__init__.py": "",
        "rooms/parts/dog/__init__.py": "",
        "rooms/parts/dog/tail.py": "import only_of_tails",
        "only_of_tails.py": "",
        "model_dog.py": "import only_of_dogs",
        "only_of_dogs.py": "",
        "modeling_owl.py": "",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(source)
    families = ("cat", "dog", "owl")
    found = {str(path.relative_to(tmp_path)) for path in files_behind("table", tmp_path, "cat", families)}
    left_out = {"rooms/dog.py", "rooms/owl.py", "model_dog.py", "only_of_dogs.py", "modeling_owl.py"}
    assert found == set(sources) - left_out
    assert len(files_behind("table", tmp_path)) == len(sources)
