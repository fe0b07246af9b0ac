"""Recipe and command line -> one checked `Run`. A typo is an error here, before data and model are touched.

A recipe is YAML: `family`, then the sections `model`, `data`, `masking`, `loss`, `training`, `evaluation`. Every key
is also a flag of the same name, and a flag wins: `--max_steps 500`. `--help` prints all of them.
"""

import argparse
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from training.common.errors import InputError
from training.run.run import Run, _has_stages, _validate
from training.settings.recipes import DEFAULT_FAMILY, SETTINGS_SECTIONS, config_class_of, family_names, recipe_of
from training.settings.schema import SECTIONS, Key, keys_of_config, keys_of_settings, shortened, suggestion, type_name


def parse_arguments(
    argv: list[str], program: str = "training/train.py", purpose: str = "Train a model from a recipe."
) -> Run:
    """`argv` (without the program's name) -> `Run`.

    Args:
        program, purpose: what `--help` begins with.

    Raises:
        InputError: an unknown key or flag (with the nearest known one), a value of the wrong type or out of range,
            a recipe that is missing or no recipe.
        SystemExit: with code 0, after `--help`.
    """
    recipe_path = find_recipe(argv)
    recipe = read_recipe(recipe_path) if recipe_path else {"family": DEFAULT_FAMILY}
    keys = keys_of_family(recipe["family"])
    if {"-h", "--help"} & set(argv):
        own = _values_of_recipe(recipe, keys, recipe_path) if recipe_path else {}
        _make_parser(
            {name: replace(key, default=own.get(name, key.default)) for name, key in keys.items()}, program, purpose
        ).parse_known_args(argv)
    flags = _parse_flags(argv, recipe["family"], program, purpose)
    if recipe_path is None:
        raise InputError(f"recipe: none given; use {program} RECIPE.yaml (see training/recipes/), or --help")
    universal = {name: flags.pop(name) for name in list(flags) if name not in keys}
    own = _values_of_recipe(recipe, keys, recipe_path)
    values = {**own, **flags}
    if "data" in own and values["data"] != own["data"] and "sample_phrases" not in flags:
        universal["own_source"], values["sample_phrases"] = True, []
    recipe_of(recipe["family"]).training.refuse_given(values)
    return _make_run(recipe["family"], recipe_path, values, universal, keys)


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe at `path` as it stands, its family checked. Raises `InputError`."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(
            f"recipe: {str(path)[:80]} is no file that can be read ({error.strerror}); recipes lie in "
            "training/recipes/FAMILY/NAME.yaml"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"recipe: {path} is no YAML: {error}") from None
    try:
        recipe = yaml.load(text, Loader=_RecipeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, a huge number
        raise InputError(f"recipe: {path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise InputError(f"recipe: {path} holds no keys; it needs `family` and sections ({', '.join(SECTIONS)})")
    unknown = [name for name in recipe if name not in ("family", *SECTIONS)]
    if unknown:
        near = suggestion(str(unknown[0]), ("family", *SECTIONS))
        raise InputError(f"recipe: {path} has an unknown section {shortened(unknown[0])}{near}")
    if recipe.get("family") not in family_names():
        shown = shortened(recipe.get("family"))
        raise InputError(f"family: got {shown} in {path}; use one of {', '.join(family_names())}")
    return recipe


@cache
def keys_of_family(family: str) -> dict[str, Key]:
    """Name -> key, for all sections of a recipe of this family."""
    keys = keys_of_config(config_class_of(family))
    for section in SETTINGS_SECTIONS:
        keys += keys_of_settings(section, recipe_of(family).settings_of(section))
    return {key.name: key for key in keys}


def find_recipe(argv: list[str]) -> Path | None:
    """The recipe, which tells the family and with it the flags. After flags it is looked for among those of every
    family; one of them that takes a list, or a switch, may have taken it for its own.
    """
    if argv and not argv[0].startswith("-"):
        return Path(argv[0])
    asked = [argument for argument in argv if argument not in ("-h", "--help")]
    found = _known_flags(asked, tuple(family_names())).get("recipe")
    taken = [argument for argument in argv if argument.endswith((".yaml", ".yml"))]
    if found is None and taken:
        raise InputError(f"recipe: {taken[0]} stands where a flag's value may stand; give the recipe first")
    return None if found is None else Path(found)


def _values_of_recipe(recipe: dict[str, Any], keys: dict[str, Key], path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section in SECTIONS:
        content = recipe.get(section) or {}
        if not isinstance(content, dict):
            raise InputError(f"{section}: the section in {path} must hold keys, got {shortened(content)}")
        for name, value in content.items():
            if name not in keys:
                near = suggestion(str(name), keys)
                raise InputError(f"{section}: unknown key {shortened(name)} in {path}{near}")
            if keys[name].section != section:
                raise InputError(f"{name}: belongs in section `{keys[name].section}`, found in `{section}` of {path}")
            values[name] = keys[name].convert(value)
    return values


def _make_run(
    family: str, recipe_path: Path, values: dict[str, Any], universal: dict[str, Any], keys: dict[str, Key]
) -> Run:
    by_section: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        by_section[keys[name].section][name] = value
    sections = {name: recipe_of(family).settings_of(name)(**by_section[name]) for name in SETTINGS_SECTIONS}
    if _has_stages(family):
        universal.setdefault("stage", 0)
    prefix = "" if family == DEFAULT_FAMILY else f"{family}-"
    output_dir = universal.pop("output_dir", None) or Path("outputs") / f"{prefix}{recipe_path.stem}"
    run = Run(
        family=family,
        recipe_path=recipe_path,
        output_dir=Path(output_dir),
        model=by_section["model"],
        loss=by_section["loss"],
        **sections,
        **universal,
    )
    _validate(run)
    return run


class _RecipeLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would quietly take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class StrictParser(argparse.ArgumentParser):
    """Raises `InputError` where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        raise InputError(message)


def _parse_flags(argv: list[str], family: str, program: str, purpose: str) -> dict[str, Any]:
    keys, given = keys_of_family(family), _known_flags(argv, (family,), program, purpose)
    given.pop("recipe", None)
    return {name: keys[name].convert(value) if name in keys else value for name, value in given.items()}


def _known_flags(argv: list[str], families: tuple[str, ...], program: str = "", purpose: str = "") -> dict[str, Any]:
    """What was given, as text. Raises `InputError` for a flag that is none of these families'."""
    known, unknown = _parser_of(families, program, purpose).parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-")
        if name in _INSTEAD and name not in _keys_of(families):
            raise InputError(f"unknown flag --{name}; {_INSTEAD[name]}")
        near = suggestion(name, [*_keys_of(families), *_UNIVERSAL])
        raise InputError(f"unknown flag {unknown[0]}{near.replace('mean ', 'mean --')}")
    return vars(known)


def _keys_of(families: tuple[str, ...]) -> dict[str, Key]:
    return {name: key for family in families for name, key in keys_of_family(family).items()}


@cache
def _parser_of(families: tuple[str, ...], program: str, purpose: str) -> StrictParser:
    return _make_parser(_keys_of(families), program, purpose)


def _make_parser(keys: dict[str, Key], program: str, purpose: str) -> StrictParser:
    parser = StrictParser(
        prog=program,
        description=f"{purpose} Every key of a recipe is also a flag, and a flag wins.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_universal(parser)
    groups = {section: parser.add_argument_group(f"{section} (recipe section)") for section in SECTIONS}
    for key in keys.values():
        options: dict[str, Any] = {"help": f"{key.help} [{_shown(key.default)}]".replace("%", "%%")}
        if "list" in type_name(key.type):
            options |= {"nargs": "*", "metavar": "ITEM"}
        elif key.type is bool:
            options |= {"nargs": "?", "const": "true", "metavar": "true|false"}
        else:
            options |= {"metavar": "X"}
        groups[key.section].add_argument(f"--{key.name}", **options)
    return parser


_UNIVERSAL = {
    "output_dir": f"run folder [outputs/RECIPE for {DEFAULT_FAMILY}, outputs/FAMILY-RECIPE for the others]",
    "resume": "auto: go on where the run in output_dir stopped; never: start over; PATH: from this checkpoint [auto]",
    "init_from": "a checkpoint whose weights and tokenizer are the start of a new run",
    "stage": "stage to train, for families that grow by stages",
    "device": "auto, cpu, cuda or mps [auto]",
    "threads": "threads of each process on a CPU; auto: OMP_NUM_THREADS, else every core [auto]",
    "log_format": "of the rows on the screen: auto (a table on a terminal, else plain), table, plain or json [auto]",
    "diagnose_steps": "as --diagnose, and every so many steps",
    "hub_model_id": "where --push_to_hub publishes to: OWNER/NAME",
}
# What other programs call a flag, and what to give here.
_INSTEAD = {
    **dict.fromkeys(
        ("batch_size", "train_batch_size"), "use --per_device_train_batch_size (rows of a step on each process)"
    ),
    **dict.fromkeys(("epochs", "num_epochs"), "use --num_train_epochs"),
    **dict.fromkeys(("patience", "early_stopping"), "use --early_stopping_patience"),
    **dict.fromkeys(("lr", "rate"), "use --learning_rate"),
    **dict.fromkeys(("warmup_steps", "warmup"), "use --num_warmup_steps"),
}
_WHOLE_NUMBERS = ("stage", "diagnose_steps")


def _add_universal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a YAML file")
    for name, text in _UNIVERSAL.items():
        parser.add_argument(f"--{name}", help=text, metavar="X", type=int if name in _WHOLE_NUMBERS else str)
    parser.add_argument("--extend", action="store_true", help="go on with a finished run to a longer max_steps")
    parser.add_argument("--log_parts", action="store_true", help="also show the parts of the loss")
    parser.add_argument("--dry_run", action="store_true", help="print parameters, memory and time, and end")
    parser.add_argument(
        "--diagnose", action="store_true", help="let the doctor look before step 1 and after the last one"
    )
    parser.add_argument("--push_to_hub", action="store_true", help="publish the best checkpoint when training ends")
    parser.add_argument("--hub_private", action="store_true", help="a new repository is seen by its owner only")


def _shown(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return default


if __name__ == "__main__":  # pragma: no cover - a way to look at the help alone
    print(parse_arguments(sys.argv[1:]))
