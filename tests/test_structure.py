"""The rules of the repository's layout, measured on its source text.

Each test reports its figure with `figure`; pytest prints the figures after the tests. Nothing is
imported from the package here, except where a test says so: the files are parsed.
"""

from __future__ import annotations

import ast
import asyncio
import collections.abc
import concurrent.futures
import contextlib
import io
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Figure

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PACKAGE = ROOT / "kling_async"

# Limits. They only go down, unless a feature is added.
PACKAGE_LINES = 36_760  # the aim was 21,000 before telemetry, images, models and progress
CLI_LINES = 4_205  # 3,200 without completion, help with examples, models and rescue
CLIENT_LINES = 7_055  # the aim is 4,900
TEST_FILE_LINES = 1_000
ROOT_MODULES = 9
ATTRIBUTES = 12
PARTS_PER_FUNCTION_NAME = 2

# Modules without code of their own to test.
UNTESTED = {"__init__", "__main__", "version"}
# Folders under tests/ that are no part of the package.
TEST_TOOLS = {"bench", "engines", "examples", "faults"}

# The standard library's classes whose method names have one meaning for every Python programmer.
STANDARD = (asyncio, collections.abc, concurrent.futures, contextlib, io, threading)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@frozen
class Module:
    """A module of the package, parsed."""

    path: Path
    name: str
    text: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @property
    def is_face(self) -> bool:
        return self.path.stem == "__init__"

    @property
    def folder(self) -> str:
        """The dotted name of the module's folder."""
        return self.name if self.is_face else self.name.rpartition(".")[0]

    @property
    def part(self) -> str:
        """The part of the package: a folder at its root, or a module there."""
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


@cache
def modules() -> dict[str, Module]:
    """Parse every module of the package, by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        found[name] = Module(path, name, text, ast.parse(text))
    return found


def lines_below(folder: Path) -> int:
    """Count the lines of the package's modules in a folder."""
    return sum(module.lines for module in modules().values() if folder in module.path.parents)


def listing(found: list[str]) -> str:
    """Return a message that shows everything found, a line each."""
    return "\n".join(["", *found])


# Tests mirror the package ------------------------------------------------------------------------


def expected_test(module: Module) -> Path:
    """Return where the tests of a module belong: `a/_b.py` is tested by `tests/a/test_b.py`."""
    place = module.path.relative_to(PACKAGE)
    return TESTS / place.with_name(f"test_{place.stem.lstrip('_')}.py")


def test_every_module_has_a_test_file(figure: Figure) -> None:
    """Every module that holds code has a test file at the same place under tests/."""
    tested = [module for module in modules().values() if module.path.stem not in UNTESTED]
    missing = [
        f"{module}: {path.relative_to(ROOT)}"
        for module in tested
        if not (path := expected_test(module)).is_file()
    ]
    figure(f"modules without a test file: {len(missing)} of {len(tested)}")
    assert not missing, listing(missing)


def test_every_folder_of_tests_mirrors_one_of_the_package() -> None:
    """A folder with tests has the name and the place of a folder of the package."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    strange = [
        str(folder)
        for folder in folders
        if not (PACKAGE / folder).is_dir() and folder.parts[0] not in TEST_TOOLS
    ]
    assert not strange, listing(strange)


def test_no_test_file_is_too_long(figure: Figure) -> None:
    """A test file that can be read at one sitting has at most 1,000 lines."""
    lengths = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in TESTS.rglob("test_*.py")
    }
    longest = max(lengths, key=lengths.__getitem__)
    figure(f"longest test file: {lengths[longest]:,} of {TEST_FILE_LINES:,} lines ({longest})")
    too_long = [f"{name}: {length}" for name, length in lengths.items() if length > TEST_FILE_LINES]
    assert not too_long, listing(too_long)


def test_every_place_that_contributing_names_exists(figure: Figure) -> None:
    """Each path in CONTRIBUTING's table "Where is ..." is a file or a folder."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Where is")[2].partition("\n## ")[0]
    # What a cell of the second column puts between backticks.
    rows = [line for line in section.splitlines() if line.startswith("|")]
    cells = [row.rstrip("| ").rpartition(" | ")[2] for row in rows]
    paths = [path for cell in cells for path in re.findall(r"`([^`]+)`", cell)]
    examples = {"tests/a/test_b.py"}
    missing = [
        path
        for path in paths
        if path not in examples and not ((PACKAGE / path).exists() or (ROOT / path).exists())
    ]
    figure(f'places that "Where is ..." names: {len(paths)}, of which missing: {len(missing)}')
    assert len(paths) > 50  # the table was found
    assert not missing, listing(missing)


# Imports -----------------------------------------------------------------------------------------


def imported(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the modules of the package that a module imports anywhere, with the line.

    A name of a face counts as an import of the module that defines the name.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules():
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} is relative"
            for alias in node.names:
                source = home(node.module or "", alias.name)
                if source is not None:
                    yield source, node.lineno


def home(source: str, name: str) -> str | None:
    """Return the module that defines what `from source import name` imports; None: a foreign one.

    A name that a face defines itself, its lazy loader included, belongs to the face.
    """
    if f"{source}.{name}" in modules():
        return f"{source}.{name}"
    if source not in modules():
        return None
    if modules()[source].is_face:
        for node in ast.walk(modules()[source].tree):
            if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
                return home(node.module or "", name)
    return source


def test_no_import_cycles(figure: Figure) -> None:
    """No file imports itself through others, imports for type checkers and in functions included.

    The faces are left out: Python imports them before what is below them, whatever they contain.
    """
    files = {name: module for name, module in modules().items() if not module.is_face}
    graph = {
        name: {target for target, _ in imported(module) if target in files and target != name}
        for name, module in files.items()
    }
    cycles = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle = error.args[1]
            cycles.append(" -> ".join(reversed(cycle)))
            graph[cycle[1]].discard(cycle[0])  # and look for others
        else:
            break
    figure(f"import cycles between {len(files)} files: {len(cycles)}")
    assert not cycles, listing(cycles)


def private_owner(name: str) -> tuple[str, bool] | None:
    """Return the folder to which a dotted name is private; whether the folders below count, too.

    `a.b._c` belongs to the modules in `a.b`; `a._b.c` to everything in and below `a`.
    """
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.startswith("_") and not part.startswith("__"):
            is_folder = modules()[".".join(parts[: index + 1])].is_face
            return ".".join(parts[:index]), is_folder
    return None


def test_underscore_modules_are_private_to_their_folder(figure: Figure) -> None:
    """Only modules of the same folder import `_module.py`; `_folder/` serves its parent folder."""
    found = []
    for module in modules().values():
        for target, line in imported(module):
            owner = private_owner(target)
            if owner is None:
                continue
            folder, below = owner
            inside = module.folder == folder or (
                below and f"{module.folder}.".startswith(f"{folder}.")
            )
            if not inside:
                found.append(f"{module}:{line} imports {target}")
    figure(f"imports of another folder's underscore modules: {len(found)}")
    assert not found, listing(found)


def defines_nothing(node: ast.stmt) -> bool:
    """Whether a statement is one that an `__init__.py` may have."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())) | ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body):
            return all(isinstance(each, ast.Import | ast.ImportFrom) for each in body)
        case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
            names = {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}
            return names <= {"__all__", "__getattr__", "__dir__"}
        case _:
            return False


def test_init_files_define_nothing() -> None:
    """An `__init__.py` has a docstring, imports, `__all__` and the lazy face, and no code."""
    found = [
        f"{module}:{node.lineno} {ast.unparse(node)[:60]}"
        for module in modules().values()
        if module.is_face
        for node in module.tree.body
        if not defines_nothing(node)
    ]
    assert not found, listing(found)


def test_few_modules_at_the_root_of_the_package(figure: Figure) -> None:
    """At most nine modules are at the package's root; the others are in a folder."""
    names = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    figure(f"modules at the package's root: {len(names)} of {ROOT_MODULES}")
    assert len(names) <= ROOT_MODULES, names


# Classes -----------------------------------------------------------------------------------------


@frozen
class Class:
    """A class of the package: where it is, and its attributes."""

    module: Module
    node: ast.ClassDef = field(repr=False)

    def __str__(self) -> str:
        return f"{self.module}:{self.node.lineno} {self.node.name}"

    @property
    def methods(self) -> list[Function]:
        return [node for node in self.node.body if isinstance(node, Function)]

    @property
    def is_attrs(self) -> bool:
        decorators = {ast.unparse(each).partition("(")[0] for each in self.node.decorator_list}
        return bool(decorators & {"define", "frozen", "mutable"})

    @property
    def fields(self) -> set[str]:
        """The attributes that exist after `__init__`: of attrs its fields, else what it assigns."""
        fields = set()
        if self.is_attrs:
            fields |= {
                node.target.id
                for node in self.node.body
                if isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and not ast.unparse(node.annotation).startswith(("ClassVar", "typing.ClassVar"))
            }
        for method in self.methods:
            if method.name in {"__init__", "__attrs_post_init__"}:
                fields |= {name for name, _ in assigned(method)}
        return fields

    @property
    def class_level(self) -> set[str]:
        """The names that the class itself has: constants, defaults, methods, properties."""
        names = {method.name for method in self.methods}
        for node in self.node.body:
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                names.add(ast.unparse(node.target))
            elif isinstance(node, ast.Assign):
                names |= {ast.unparse(target) for target in node.targets}
        return names


@cache
def classes() -> list[Class]:
    """Find every class of the package, private and nested ones included."""
    return [
        Class(module, node)
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    ]


def lineage(cls: Class) -> list[Class]:
    """Return a class and its base classes in the package."""
    known = {each.node.name: each for each in classes()}
    found = [cls]
    for base in cls.node.bases:
        name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if name in known and known[name] is not cls:
            found += lineage(known[name])
    return found


def assigned(method: Function) -> Iterator[tuple[str, int]]:
    """Yield the attributes of `self` that a method assigns, with the line."""
    annotations = {
        id(node.target)
        for node in ast.walk(method)
        if isinstance(node, ast.AnnAssign) and node.value is None
    }
    for node in ast.walk(method):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and id(node) not in annotations
        ):
            yield node.attr, node.lineno


def test_no_class_has_many_attributes(figure: Figure) -> None:
    """An object has at most 12 attributes, inherited ones included."""
    counts = {
        str(cls): len(set().union(*(each.fields for each in lineage(cls)))) for cls in classes()
    }
    largest = max(counts, key=counts.__getitem__)
    figure(f"most attributes of a class: {counts[largest]} of {ATTRIBUTES} ({largest})")
    too_many = [f"{name}: {count}" for name, count in counts.items() if count > ATTRIBUTES]
    assert not too_many, listing(too_many)


def test_objects_are_complete_after_init(figure: Figure) -> None:
    """Methods other than `__init__` assign only attributes that exist already."""
    found = []
    for cls in classes():
        ancestors = lineage(cls)
        existing = set().union(*(each.fields | each.class_level for each in ancestors))
        found += [
            f"{cls.module}:{line} {cls.node.name}.{name}"
            for method in cls.methods
            for name, line in assigned(method)
            if name not in existing
        ]
    figure(f"attributes that appear after __init__: {len(found)}")
    assert not found, listing(found)


def test_class_names_are_unique(figure: Figure) -> None:
    """No two modules define a class of the same name, private classes included.

    The classes of `blocking.py` are named as the asynchronous ones that they replace.
    """
    places = defaultdict(list)
    for cls in classes():
        if cls.module.path.name != "blocking.py":
            places[cls.node.name].append(str(cls))
    repeated = [f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1]
    figure(f"class names with two definitions: {len(repeated)} of {len(places)}")
    assert not repeated, listing(repeated)


# Functions ---------------------------------------------------------------------------------------


def standard_methods() -> set[str]:
    """Return the names of the methods that the standard library's interfaces have."""
    interfaces = [
        value
        for module in STANDARD
        for name, value in vars(module).items()
        if isinstance(value, type) and not name.startswith("_")
    ]
    return {name for each in interfaces for name in dir(each) if not name.startswith("_")}


def public_methods() -> set[str]:
    """Return the names of the methods of public classes: the words of the documentation."""
    public = set()
    for module in modules().values():
        for node in module.tree.body:
            if (
                module.is_face
                and isinstance(node, ast.Assign)
                and "__all__" in ast.unparse(node.targets[0])
            ):
                public |= set(ast.literal_eval(node.value))
    return {
        method.name
        for cls in classes()
        if cls.node.name in public
        for method in cls.methods
        if not method.name.startswith("_")
    }


def functions(node: ast.AST) -> Iterator[tuple[Function, bool]]:
    """Yield functions and methods, and whether each is a method; not those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child, isinstance(node, ast.ClassDef)
        else:
            yield from functions(child)


def test_function_names_have_few_meanings(figure: Figure) -> None:
    """A function's name occurs in at most two parts of the package.

    A part is a folder or a module at the package's root. Within a part, functions of one name
    delegate to each other or implement one interface. Between parts they are unrelated: a name
    such as `_read` or `check` that occurs in three parts says too little about what it does.
    Three kinds of names have one meaning everywhere, and may occur in any part:

    - special methods, and IPython's `_repr_html_`;
    - methods named as in an interface of the standard library (`close`, `wait`, `run`, ...);
    - the methods of public classes (`submit`, `pause`, ...), which the documentation defines.
    """
    standard, public = standard_methods(), public_methods()
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for module in modules().values():
        for function, is_method in functions(module.tree):
            name = function.name
            special = name.startswith("__") or name == "_repr_html_"
            if name in public or special or (is_method and name in standard):
                continue
            parts[name].setdefault(module.part, f"{module}:{function.lineno}")
    generic = [
        f"{name}: {', '.join(places.values())}"
        for name, places in parts.items()
        if len(places) > PARTS_PER_FUNCTION_NAME
    ]
    figure(f"function names in more than two parts of the package: {len(generic)} of {len(parts)}")
    assert not generic, listing(generic)


# Size --------------------------------------------------------------------------------------------


def test_the_package_is_small(figure: Figure) -> None:
    """The package does not grow: its lines, blank ones and docstrings included."""
    lines = lines_below(PACKAGE)
    figure(f"lines of the package: {lines:,} of {PACKAGE_LINES:,}")
    assert lines <= PACKAGE_LINES


def test_the_command_line_is_small(figure: Figure) -> None:
    """The command line has at most 3,200 lines."""
    lines = lines_below(PACKAGE / "cli")
    figure(f"lines of the command line: {lines:,} of {CLI_LINES:,}")
    assert lines <= CLI_LINES


# A generation, from the submit to its result; the last line is what it loaded.
GENERATE = """
import asyncio, json, sys
from aiohttp import web
from kling_async import KlingClient, MasterTextToVideo
from kling_async.testing.clock import VirtualLoop

async def answer(request):
    done = {"state": "success", "resultJson": json.dumps({"resultUrls": ["https://host/a.mp4"]}),
            "createTime": 1, "completeTime": 2, "costTime": 1}
    return web.json_response({"code": 200, "message": "success", "data": {"taskId": "1", **done}})

async def main():
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with KlingClient("key", base_url=url) as kling:
        print(await kling.generate(MasterTextToVideo("a fox")))
    await runner.cleanup()

with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    runner.run(main())
print(*sys.modules)
"""


def test_the_client_is_small(figure: Figure) -> None:
    """What a generation needs of the package does not grow, whenever it is imported."""
    # Measuring coverage in that process would load modules of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = (sys.executable, "-c", GENERATE)
    done = subprocess.run(command, capture_output=True, check=True, env=env, text=True)
    result, loaded = done.stdout.splitlines()
    assert "https://host/a.mp4" in result
    names = [name for name in loaded.split() if name in modules() and not modules()[name].is_face]
    needed = [modules()[name] for name in names if modules()[name].part != "testing"]
    lines = sum(module.lines for module in needed)
    figure(
        f"lines that a generation needs: {lines:,} of {CLIENT_LINES:,}, in {len(needed)} modules"
    )
    assert lines <= CLIENT_LINES
