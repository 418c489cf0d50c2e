"""Memory and devices: donated states, and parameters sharded over a mesh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import lsqflow as lf

from .helpers import X64, dtype_of, lenient, rng

CONSTRAINTS = {
    "equality": lambda: lf.Equality(lambda p: jnp.sum(p**2, axis=0) - 1),
    "affine": lambda: lf.Affine(
        lf.FunctionOperator(
            lambda p: jnp.stack([jnp.sum(p), jnp.sum(jnp.cumsum(p, 1))]),
            jax.ShapeDtypeStruct((8, 8), dtype_of("real")),
        )
    ),
    "inequality": lambda: lf.Inequality(lambda p: p - 0.5),
    "orthogonal": lf.Orthogonal,
    "bound": lambda: lf.NormBound(None, 1.0),
    "sparsity": lambda: lf.Sparsity(0.5),
    "pattern": lambda: lf.Sparsity(pattern=(2, 4)) & lf.Equality(jnp.sum),
    "fixed": lambda: lf.Fixed(lambda p: p, jnp.ones((8, 8), dtype_of("real"))),
    "part": lambda: lf.NormBound(None, 0.5).on(lambda p: 2 * p),
}
OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1, 0.9),
    "adam": lambda: optax.adam(0.1),
    "lion": lambda: optax.lion(0.1),
}


def train(optimizer, params, gradient, *, compiled):
    state = optimizer.init(params)
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    for _ in range(2):
        updates, state = update(gradient, state, params)
        params = params + updates
    return params, state


@pytest.mark.parametrize(
    ("name", "optimizer", "kind"),
    [
        *itertools.product(CONSTRAINTS, ["adam"], [AxisType.Explicit]),
        ("orthogonal", "sgd", AxisType.Explicit),
        ("equality", "lion", AxisType.Explicit),
        ("inequality", "sgd", AxisType.Auto),
        ("orthogonal", "adam", AxisType.Auto),
    ],
)
def test_sharded_parameters_train_as_others_do(name, optimizer, kind):
    """By rows and by columns, on a mesh of eight devices."""
    mesh = jax.make_mesh((8,), ("shards",), axis_types=(kind,))
    generator, dtype = rng(1), dtype_of("real")
    params, gradient = (
        jnp.asarray(generator.standard_normal((8, 8)), dtype) for _ in range(2)
    )
    solver = lf.LSMR() if X64 else None
    make = lambda: lf.null_space(
        lenient(OPTIMIZERS[optimizer]()), CONSTRAINTS[name](), solver=solver
    )
    want, _ = train(make(), params, gradient, compiled=True)
    for spec in (P("shards"), P(None, "shards")):
        sharding = NamedSharding(mesh, spec)
        given = jax.device_put((params, gradient), sharding)
        got, state = train(make(), *given, compiled=True)
        assert got.sharding.is_equivalent_to(sharding, 2)
        assert np.allclose(got, want, atol=1e-8 if X64 else 1e-3)
        assert bool(jnp.isfinite(state.violation))


def test_a_default_mesh_is_explicit_and_works():
    """`jax.make_mesh` without more words, under `jax.set_mesh`, also step by step."""
    dtype = dtype_of("real")
    mesh = jax.make_mesh((8,), ("shards",))
    params = jnp.arange(16, dtype=dtype).reshape(8, 2) / 8
    make = lambda: lf.null_space(
        lenient(optax.adam(0.1)), CONSTRAINTS["equality"](), solver=lf.LSMR()
    )
    want, _ = train(make(), params, params, compiled=True)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, NamedSharding(mesh, P("shards")))
        for compiled in (True, False):
            got, _ = train(make(), sharded, sharded, compiled=compiled)
            assert np.allclose(got, want, atol=1e-8 if X64 else 1e-3)
        constraint = lf.Equality(lambda p: jnp.sum(p**2, axis=0) - 1)
        found = lf.retract(constraint, sharded)
    assert np.allclose(np.linalg.norm(found.params, axis=0), 1, atol=1e-4)
    assert found.params.sharding.is_equivalent_to(sharded.sharding, 2)


# ---------------------------------------------------------------------------------
# Donation

STATES = {
    name: constraint
    for name, constraint in CONSTRAINTS.items()
    if name in {"equality", "inequality", "pattern", "fixed"}
}


def donate(tree):
    """The same values, in memory that the tree gave away."""
    return jax.jit(lambda x: jax.tree.map(lambda y: y, x), donate_argnums=0)(tree)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*itertools.product(STATES, ["adam"]), ("inequality", "lion")],
)
def test_states_hold_no_buffer_twice(name, optimizer):
    """First states, states of steps taken one by one, and of compiled ones."""
    params = jnp.asarray(rng(2).standard_normal((8, 8)), dtype_of("real"))
    wrapped = lf.null_space(lenient(OPTIMIZERS[optimizer]()), STATES[name]())
    for init in (wrapped.init, jax.jit(wrapped.init)):
        state = donate(init(params))
        for update in (wrapped.update, jax.jit(wrapped.update)):
            _, state = update(params, state, params)
            state = donate(state)
        assert int(state.count) == 2
    step = jax.jit(
        lambda state, params: wrapped.update(params, state, params), donate_argnums=0
    )
    _, state = step(wrapped.init(params), params)
    assert int(step(state, params)[1].count) == 2


def test_results_hold_no_buffer_twice():
    dtype = dtype_of("real")
    params = {"a": jnp.ones(3, dtype), "b": jnp.ones(3, dtype)}
    constraint = lf.Equality(lambda p: p["a"] @ p["b"] - 1)
    found = donate(lf.retract(constraint, params, throw=False))
    assert np.isclose(found.params["a"] @ found.params["b"], 1, atol=1e-4)
    params, state, _ = lf.train.fit(
        lambda p: jnp.sum(p["a"] ** 2),
        params,
        lf.null_space(lenient(optax.adam(0.1)), constraint),
        steps=2,
        progress=False,
    )
    params, state = donate((params, state))
    assert int(state.count) == 2
