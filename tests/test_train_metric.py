"""Metrics of optimizers by name; states and constraints that are saved and restored."""

import copy
import io
import pickle
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lsqflow as lf
from lsqflow.train.moments import moment, with_moment

from .helpers import X64, dtype_of, lenient, relative_error, rng

FORM = lf.train.MetricForm


def first_residual(p):
    return jnp.sum(p["w"] ** 2) - 1


def update_of(optimizer, metric, steps=2):
    dtype = dtype_of("real")
    params = {"w": jnp.asarray(rng(1).standard_normal((2, 3)), dtype)}
    gradient = {"w": jnp.asarray(rng(2).standard_normal((2, 3)), dtype)}
    wrapped = lf.null_space(
        lenient(optimizer),
        lf.Equality(first_residual),
        metric=metric,
        solver=lf.LSMR(),
    )
    state = wrapped.init(params)
    initial = state.form
    for _ in range(steps):
        updates, state = jax.jit(wrapped.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert bool(initial == state.form)
    return params["w"], state


@pytest.mark.parametrize(
    ("optimizer", "metric", "form"),
    [
        (optax.adam(0.1), lf.train.adam_metric, FORM.adam),
        (optax.adamw(0.1), lf.train.adam_metric, FORM.adam),
        (optax.sgd(0.1, 0.9), lf.train.sgd_metric, FORM.sgd),
        (optax.rmsprop(0.1), None, FORM.none),
    ],
)
def test_names_and_trial_agree(optimizer, metric, form):
    """And the older word for the trial is understood."""
    want, state = update_of(optimizer, metric)
    assert bool(state.form == form)
    assert FORM[state.form] == FORM[form]
    for word in ("auto", "optimizer"):
        got, tried = update_of(optimizer, word)
        assert np.array_equal(got, want)
        assert bool(tried.form == form)


def test_a_metric_of_ones_is_euclidean():
    ones = lambda params, state: jax.tree.map(jnp.ones_like, params)
    want, given = update_of(optax.adam(0.1), ones)
    got, state = update_of(optax.adam(0.1), lf.train.euclidean)
    assert relative_error(got, want) < 1e-6
    assert bool(state.form == FORM.euclidean)
    assert bool(given.form == FORM.given)


def test_a_metric_of_ones_own():
    """The protocol: `read` returns W and s. For plain SGD both are known."""

    class Plain(lf.train.AbstractMetric):
        rate: float

        def read(self, step):
            ones = jax.tree.map(jnp.ones_like, step.params)
            size = jnp.asarray(self.rate, jax.tree.leaves(ones)[0].dtype)
            return ones, size

    want, by_name = update_of(optax.sgd(0.1), lf.train.sgd_metric)
    got, state = update_of(optax.sgd(0.1), Plain(0.1))
    tolerance = 1e-9 if X64 else 1e-4
    assert relative_error(got, want) < tolerance
    assert relative_error(state.multipliers, by_name.multipliers) < tolerance
    assert bool(state.form == FORM.given)


def test_groups_with_other_optimizers_take_two_projections():
    labels = {"w": "held"}
    optimizer = optax.partition({"held": optax.adam(0.1)}, labels)
    _, state = update_of(optimizer, "auto")
    assert bool(state.form == FORM.none)


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda inner: optax.chain(optax.clip(1.0), inner, optax.scale(2.0)),
        lambda inner: optax.apply_if_finite(inner, 3),
        lambda inner: optax.MultiSteps(inner, 2).gradient_transformation(),
        lambda inner: optax.inject_hyperparams(lambda rate: inner)(rate=0.1),
    ],
)
def test_moments_are_found_in_wrappers(wrapper):
    """Also where parameters have fields of the same name."""

    class Normal(NamedTuple):
        mu: jax.Array
        sigma: jax.Array

    for params in ({"mu": jnp.ones(2), "nu": jnp.ones(3)}, [jnp.ones(2)]):
        state = wrapper(optax.adam(0.1)).init(params)
        found = moment(state, params, "mu")
        assert jax.tree.structure(found) == jax.tree.structure(params)
        new = jax.tree.map(lambda x: x + 7, found)
        changed = with_moment(state, "mu", new)
        assert jax.tree.structure(changed) == jax.tree.structure(state)
        again = moment(changed, params, "mu")
        assert all(np.all(np.asarray(x) == 7) for x in jax.tree.leaves(again))
        nu = moment(changed, params, "nu")
        assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(nu))
    # A named tuple of parameters cannot be told from a state: not found, not wrong.
    params = Normal(jnp.ones(2), jnp.ones(2))
    assert moment(optax.adam(0.1).init(params), params, "mu") is None
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    two = optax.chain(optax.adam(0.1), optax.adam(0.1))
    assert moment(two.init(params), params, "mu") is None


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.sgd(0.1)])
def test_empty_leaves_and_empty_residuals(optimizer):
    dtype = dtype_of("real")
    params = {"a": jnp.zeros(0, dtype), "w": jnp.ones(2, dtype)}
    none = lf.Equality(lambda p: p["a"])
    for constraint in (lf.Equality(lambda p: jnp.sum(p["w"]) - 1), none):
        wrapped = lf.null_space(lenient(optimizer), constraint, solver=lf.LSMR())
        updates, state = wrapped.update(params, wrapped.init(params), params)
        new = optax.apply_updates(params, updates)
        assert np.all(np.isfinite(new["w"]))
        assert bool(state.violation <= 1)
        if constraint is not none:
            assert np.isclose(jnp.sum(new["w"]), 1, atol=1e-4)


# ---------------------------------------------------------------------------------
# Saved and restored


def model(params, x):
    return jnp.tanh(x @ params["w"].T)


def field(params, x):
    return jnp.tanh(params["w"][:, :2] @ x)


def turn(angle, x):
    c, s = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    return x @ jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])])


def part(params):
    return params["w"]


def sampler(key):
    return (jax.random.normal(key, (3, 2), dtype_of("real")),)


def at_points(params, x):
    return x @ part(params)


ANGLES = jnp.asarray([0.5, 1.0], dtype_of("real"))
ZERO = jnp.zeros((), dtype_of("real"))
CONSTRAINTS = {
    "equality": lf.Equality(first_residual),
    "inequality": lf.Inequality(first_residual),
    "affine": lf.Affine(np.ones((1, 3), dtype_of("real"))),
    "fixed": lf.Fixed(part, np.ones((2, 3), dtype_of("real"))),
    "sparsity": lf.Sparsity(0.5),
    "schedule": lf.Sparsity(0.5, schedule=lf.cubic_sparsity(0.5, 0, 9)),
    "pattern": lf.Sparsity(pattern=(1, 3)),
    "orthogonal": lf.Orthogonal(part),
    "bound": lf.NormBound(part, 0.5),
    "conjunction": lf.Equality(first_residual) & lf.Sparsity(0.5),
    "restricted": lf.NormBound(None, 0.5).on(part),
    "restricted pin": lf.Sparsity(0.5).on(part),
    "sampled": lf.Sampled(lf.Equality(at_points), sampler, jax.random.key(1)),
    "equivariance": lf.Equivariance(model, ANGLES, turn),
    "infinitesimal": lf.InfinitesimalEquivariance(
        model, jnp.ones(1, dtype_of("real")), turn, identity=ZERO
    ),
    "periodic": lf.Periodic(model, 1.0),
    "lipschitz": lf.Lipschitz(field, 0.1),
    "conservative": lf.Conservative(field),
    "divergence": lf.DivergenceFree(field),
}
AT_POINTS = {"equivariance", "infinitesimal", "periodic", "lipschitz"}
AT_POINTS |= {"conservative", "divergence"}


def serialised(tree):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, tree)
    file.seek(0)
    blank = jax.tree.map(
        lambda x: (
            jnp.zeros_like(x)
            if eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.number)
            else x
        ),
        tree,
    )
    return eqx.tree_deserialise_leaves(file, blank)


COPIES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "deepcopy": copy.deepcopy,
    "equinox": serialised,
}


def restorable(how, name):
    """What cannot be restored, by no fault of the constraint."""
    if how == "equinox" and name == "sampled":
        pytest.skip("equinox does not serialise typed random keys")


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_survive(how, name):
    restorable(how, name)
    dtype = dtype_of("real")
    w = rng(3).standard_normal((2, 2 if name in AT_POINTS else 3)).astype(dtype)
    params = {"w": jnp.asarray(w)}
    points = jnp.asarray(rng(4).standard_normal((3, 2)), dtype)
    args = (points,) if name in AT_POINTS else ()
    constraint = CONSTRAINTS[name]
    params = params["w"][0] if name == "affine" else params
    copied = COPIES[how](constraint)
    assert jax.tree.structure(copied) == jax.tree.structure(constraint)
    want = constraint.violation(params, *args)
    assert want > 0
    assert np.array_equal(copied.violation(params, *args), want)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["equality", "inequality", "conjunction"])
def test_training_goes_on_from_a_saved_state(how, name):
    dtype = dtype_of("real")
    params = {"w": jnp.asarray(rng(5).standard_normal((2, 3)), dtype)}
    optimizer = lf.null_space(lenient(optax.adam(0.1)), CONSTRAINTS[name])
    state = optimizer.init(params)
    step = jax.jit(lambda s, p: optimizer.update(p, s, p))
    _, state = step(state, params)
    restored = COPIES[how](state)
    want, got = step(state, params), step(restored, params)
    for a, b in zip(*map(jax.tree.leaves, (want, got)), strict=True):
        assert np.array_equal(a, b)
    assert isinstance(restored, lf.NullSpaceState)
    assert lf.StopReason[restored.stop_reason] == lf.StopReason[state.stop_reason]


def test_retractions_survive():
    found = lf.retract(CONSTRAINTS["equality"], {"w": jnp.ones(3, dtype_of("real"))})
    for how in COPIES.values():
        again = how(found)
        assert np.array_equal(again.params["w"], found.params["w"])
        assert bool(again.result == found.result)


def test_namespaces():
    for space in (lf.constraint, lf.train):
        for name in space.__all__:
            assert getattr(lf, name, getattr(space, name)) is getattr(space, name)
            assert (getattr(space, name).__doc__ or "").strip(), name
