"""Every operator: the suite that users run on theirs, transposes, errors and copies.

An operator joins by an entry in the `CASES` of a module in tests/cases/.
"""

import copy
import importlib
import io
import pickle
import pkgutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from . import cases
from .helpers import X64, dtype_of, normal, relative_error, rng


def _collect():
    for module in pkgutil.iter_modules(cases.__path__):
        found = importlib.import_module(f"{cases.__name__}.{module.name}").CASES
        yield from ((f"{module.name}: {name}", make) for name, make in found.items())


every_operator = pytest.mark.parametrize(
    "make", [pytest.param(m, id=name) for name, m in _collect()]
)


def _operator(make, kind):
    try:
        return make(dtype_of(kind))
    except NotImplementedError:
        pytest.skip(f"there is no {kind} operator of this kind")


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
@every_operator
def test_conformance(make, kind):
    if kind == "complex" and not X64:
        pytest.skip("once for each operator is enough")
    # Solving takes longer than all the rest: once for each operator.
    lf.testing.check_operator(_operator(make, kind), solve=kind == "real" and X64)


def _draw(structure):
    generator = rng(1)
    return jax.tree.map(
        lambda s: jnp.asarray(normal(generator, s.shape, s.dtype)), structure
    )


def _either(make):
    """The real operator, or the complex one if there is no real one."""
    try:
        return make(dtype_of("real"))
    except NotImplementedError:
        return make(dtype_of("complex"))


@every_operator
def test_products_transpose_to_each_other(make):
    operator = _either(make)
    source, target = operator.in_structure(), operator.out_structure()
    x, u = _draw(source), _draw(target)

    @eqx.filter_jit
    def products(operator, x, u):
        mv, rmv = operator.mv, operator.rmv
        backward = {
            "rmv": rmv(u),
            "vjp of mv": jax.vjp(mv, x)[1](u)[0],
            "linear_transpose of mv": jax.linear_transpose(mv, source)(u)[0],
            "jvp of rmv": jax.jvp(rmv, (u,), (u,))[1],
        }
        forward = {
            "mv": mv(x),
            "vjp of rmv": jax.vjp(rmv, u)[1](x)[0],
            "linear_transpose of rmv": jax.linear_transpose(rmv, target)(x)[0],
            "jvp of mv": jax.jvp(mv, (x,), (x,))[1],
        }
        return forward, backward

    tolerance = 1e4 * np.finfo(dtype_of("real")).eps
    for want, *others in (got.values() for got in products(operator, x, u)):
        assert max(relative_error(got, want) for got in others) < tolerance


@every_operator
def test_wrong_vectors_are_refused(make):
    operator = _either(make)
    name = type(operator).__name__
    for product, end in (
        (operator.mv, operator.in_structure()),
        (operator.rmv, operator.out_structure()),
    ):
        longer = jax.tree.map(lambda s: jnp.zeros((*s.shape, 2), s.dtype), end)
        for wrong in (longer, (_draw(end),), [1.0, 2.0]):
            with pytest.raises(ValueError, match=f"`{name}` takes"):
                product(wrong)


def _copies(operator):
    yield "pickle", pickle.loads(pickle.dumps(operator))
    yield "deepcopy", copy.deepcopy(operator)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, operator)
    file.seek(0)
    zeros = jax.tree.map(
        lambda x: jnp.zeros_like(x) if eqx.is_array(x) else x, operator
    )
    yield "serialised leaves", eqx.tree_deserialise_leaves(file, zeros)


@every_operator
def test_copies(make):
    """A copy has equal products, and finds the code compiled for the original."""
    operator = _either(make)
    x, u = _draw(operator.in_structure()), _draw(operator.out_structure())
    traces = []

    @eqx.filter_jit
    def products(operator, x, u):
        traces.append(None)
        return operator.mv(x), operator.rmv(u)

    want = products(operator, x, u)
    for name, again in _copies(operator):
        got = products(again, x, u)
        assert relative_error(got, want) == 0, name
        assert again.tags() == operator.tags(), name
        assert len(traces) == 1, name
