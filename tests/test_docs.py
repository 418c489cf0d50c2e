"""The documentation is true: its examples run, and it has every public name."""

import ast
import importlib.util
import inspect
import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

import lsqflow as lf
from lsqflow._outcome import is_failure

ROOT = pathlib.Path(__file__).parents[1]
CACHE = "jax_compilation_cache_dir"
ROW = re.compile(r"^\| `(\w+)` \| (\S+) \|", re.MULTILINE)
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEXTS = {
    path: path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
PAGES = [path for path, text in TEXTS.items() if "```python" in text]
# What the few lines of a docstring take for granted: packages, and what users have.
PACKAGES = {"eqx": eqx, "jax": jax, "jnp": jnp, "lf": lf, "lx": lx, "optax": optax}
TYPES = {"Array": Array, "Float": Float}
PROBLEM = {
    "A": np.vander(np.linspace(-1, 1, 20), 4),
    "b": np.exp(np.linspace(-1, 1, 20)),
}
GIVEN = {
    "GaussNewtonOperator": lambda: {
        "network": lambda weights, inputs: jnp.tanh(inputs @ weights),
        "weights": jnp.full((3, 2), 0.1),
        "inputs": jnp.eye(4, 3),
        "cross_entropy": lambda out: jnp.sum(jax.nn.logsumexp(out, axis=1)),
        "gradient": jnp.ones((3, 2)),
    },
    "RandomFeatures": lambda: {
        "key": jax.random.key(0),
        "x": jnp.linspace(0, 1, 20)[:, None],
        "x_new": jnp.zeros((1, 1)),
        "b": jnp.ones(20),
    },
    "KernelOperator": lambda: {"x": jnp.linspace(0, 1, 20)[:, None], "b": jnp.ones(20)},
    "SparseOperator": lambda: {
        "operator": lf.SparseOperator.from_triplets(
            jnp.ones(2), [0, 1], [1, 0], (2, 2)
        ),
        "new_data": jnp.zeros(2),
    },
    "LeafSelection": lambda: {
        "parameters": {"first": jnp.ones(3), "second": jnp.ones(2)}
    },
    "Sampled": lambda: {"fn": lambda params, points: params * points},
    "Conservative": lambda: {"score": lambda params, x: params * x},
    "DivergenceFree": lambda: {"velocity": lambda params, x: params * x},
    "InfinitesimalEquivariance": lambda: {"apply": lambda params, x: params * x},
    "Lipschitz": lambda: {"images": lambda key: jax.random.normal(key, (2, 4))},
    "Periodic": lambda: {"predict": lambda params, x: params * x},
    "compensate": lambda: {"weights": jnp.ones((3, 4)), "activations": jnp.eye(6, 4)},
    "Equivariance": lambda: {
        "apply": lambda params, images: params * jnp.sum(images, axis=(1, 2)),
        "segment": lambda params, images: params * images,
        "data": lambda key: jax.random.normal(key, (4, 5, 5)),
        "rotate": lambda angle, images: jnp.cos(angle) * images,
    },
    "fit": lambda: {
        "constraint": lf.Equality(lambda params: jnp.sum(params) - 1),
        "loss": lambda params: jnp.sum(params**2),
        "params": jnp.zeros(2),
    },
}


def examples(text):
    """The examples of a text that can run where these tests run."""
    return [block for block in EXAMPLE.findall(text) if not _needs(block)]


def _needs(source):
    """The packages that a piece of code imports and that are not installed."""
    names = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    names = {name.split(".")[0] for name in names if name}
    return {name for name in names if importlib.util.find_spec(name) is None}


def execute(source, given):
    """Run code as users do; the tests' own settings are stricter."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(source, "<example>", "exec"), {"__name__": "example", **given})


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Files go to a folder of the test, and settings of JAX end with it."""
    monkeypatch.chdir(tmp_path)
    folder = getattr(jax.config, CACHE)
    yield
    jax.config.update(CACHE, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Orbax warns of itself
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(page):
    execute("\n".join(examples(TEXTS[page])), {})


def docstrings():
    """Every docstring of the package that has an example, by where it stands."""
    package = pathlib.Path(lf.__file__).parent
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package).with_suffix("").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = inspect.cleandoc(ast.get_docstring(node) or "")
                if "```python" in text:
                    yield pytest.param(text, getattr(node, "name", ""), id=where)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "name"), [*docstrings()])
def test_examples_of_docstrings_run(text, name):
    given = {**PACKAGES, **TYPES, **PROBLEM, **GIVEN.get(name, dict)()}
    execute("\n".join(examples(text)), given)


NAMES = [name for name in dir(lf) if not name.startswith("_")]
PUBLIC = [name for name in NAMES if not inspect.ismodule(getattr(lf, name))]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_on_the_website(name):
    """With its docstring; those of lineax are lineax's, and have a sentence."""
    own = getattr(getattr(lf, name), "__module__", "").startswith("lsqflow")
    entry = f"::: lsqflow.{name}\n" if own else f"`lsqflow.{name}`"
    assert any(entry in text for text in TEXTS.values())


def test_every_stop_reason_is_in_the_reference():
    """With whether it is a success, which the package decides elsewhere."""
    rows = re.findall(ROW, TEXTS[ROOT / "docs" / "api.md"])
    names = vars(lf.StopReason)["_name_to_item"].keys()
    theirs = vars(lx.RESULTS)["_name_to_item"].keys()
    assert {name for name, _ in rows} >= names - theirs
    for name, success in rows:
        failed = bool(is_failure(getattr(lf.StopReason, name)))
        assert success in (("no",) if failed else ("yes", "–")), name


def test_every_file_is_on_the_page_of_the_architecture():
    """Once each, under its folder."""
    page = TEXTS[ROOT / "docs" / "architecture.md"]
    package = pathlib.Path(lf.__file__).parent
    listed, folders = [], []
    for line in page.split("## Folders")[1].splitlines():
        if found := re.match(r"( {6,})([\w.]+(?:/|\.py))(?: |$)", line):
            depth = (len(found[1]) - 6) // 2
            del folders[depth:]
            if found[2].endswith("/"):
                folders.append(found[2])
            else:
                listed.append("".join([*folders, found[2]]))
    here = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]
    assert sorted(listed) == sorted(p for p in here if not p.endswith("__init__.py"))


@pytest.mark.parametrize("throw", [True, False])
def test_what_throw_costs(throw):
    """JAX keeps a compiled program unless it calls back to the host."""

    def loss(A, b):
        return jnp.sum(lf.lstsq(A, b, lf.LSMR(), throw=throw).value)

    A, b = map(jnp.asarray, PROBLEM.values())
    for function in (loss, jax.grad(loss)):
        program = jax.jit(function).lower(A, b).as_text()
        assert ("callback" in program) is throw
