"""The rules of docs/architecture.md that a program can check."""

import ast
import inspect
import pathlib

import equinox as eqx
import pytest

import lsqflow as lf

PACKAGE = pathlib.Path(lf.__file__).parent
# Imports point from a later entry to an earlier one, or stay inside an entry.
ORDER = [
    ("_tree",),
    ("_jax",),
    ("_outcome", "_linear_map"),
    ("_solution",),
    ("_operator",),
    ("_problem",),
    ("_krylov",),
    ("_solver",),
    ("_derivative",),
    ("constraint",),
    ("_inverse",),
    ("_constrained",),
    ("_lstsq", "_iterate"),
    ("_minimum_norm", "_regularization_path", "_conformance", "_convergence"),
    ("testing",),
    ("train",),
    ("__init__",),
]
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(name):
    return next(i for i, names in enumerate(ORDER) if name in names)


def imported(path):
    """Top-level modules of the package that a file imports, relatively."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [a.name for a in node.names]
            yield from (name.split(".")[0] for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = layer(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    for name in imported(path):
        assert layer(name) <= own, f"{path.name} imports {name}"


def files_imported(path):
    """Files of the package that a file imports, except for those of folders."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        for name in node.names:
            for target in (folder / f"{name.name}.py", folder.with_suffix(".py")):
                if target in FILES:
                    yield target
                    break


def test_imports_have_no_circle():
    """Also inside a folder: whatever a file needs can be read before it."""
    rest = {
        path: set(files_imported(path)) for path in FILES if path.name != "__init__.py"
    }
    assert rest[PACKAGE / "_lstsq.py"]
    while free := [path for path, needed in rest.items() if not needed & rest.keys()]:
        for path in free:
            del rest[path]
    assert not rest, sorted(str(path.relative_to(PACKAGE)) for path in rest)


def test_only_training_knows_optax():
    """Gaussian processes and solvers must not depend on an optimiser."""
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] == "train":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "optax" for name in names), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_delayed_imports_and_short_files(path):
    tree = ast.parse(path.read_text())
    inside = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not inside
    assert len(path.read_text().splitlines()) <= 280


def test_abstract_or_final():
    """A class is either abstract by name, or has no subclasses in the package."""

    def subclasses(cls):
        return [c for c in cls.__subclasses__() if c.__module__.startswith("lsqflow")]

    modules = [
        c for c in _all_subclasses(eqx.Module) if c.__module__.startswith("lsqflow")
    ]
    for cls in modules:
        if subclasses(cls):
            assert cls.__name__.startswith("Abstract"), cls


def _all_subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from _all_subclasses(sub)


def test_public_names_are_documented():
    for name in dir(lf):
        value = getattr(lf, name)
        if not name.startswith("_") and inspect.isclass(value):
            assert value.__doc__, name
