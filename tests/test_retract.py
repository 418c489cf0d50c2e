"""Retraction onto constraint sets, and the training loop for notebooks."""

import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest

import lsqflow as lf
from lsqflow.train.fit import fit

from .helpers import X64, dtype_of, lenient, relative_error, rng

TIGHT = 1e-12 if X64 else 1e-5
SUCCESS = lx.RESULTS.successful


@pytest.mark.float32
def test_affine_sets_are_reached_by_the_orthogonal_projection():
    dtype, generator = dtype_of("real"), rng(1)
    C = generator.standard_normal((3, 7)).astype(dtype)
    d, x = generator.standard_normal(3), generator.standard_normal(7)
    found = lf.retract(lf.Affine(C, jnp.asarray(d, dtype)), jnp.asarray(x, dtype))
    want = x - np.linalg.pinv(C) @ (C @ x - d)
    assert relative_error(found.params, want) < (1e-9 if X64 else 1e-4)
    assert found.violation < TIGHT
    assert found.params.dtype == dtype


@pytest.mark.float32
def test_a_sphere_is_reached_along_the_radius():
    """Newton's square root, in any dimension; compiled, and many at once."""
    dtype = dtype_of("real")
    points = jnp.asarray(rng(2).standard_normal((5, 4)), dtype)
    sphere = lf.Equality(lambda p: p @ p - 4)
    run = jax.jit(jax.vmap(lambda p: lf.retract(sphere, p, throw=False)))
    found = run(points)
    want = 2 * points / jnp.linalg.norm(points, axis=1, keepdims=True)
    assert relative_error(found.params, want) < (1e-9 if X64 else 1e-5)
    assert bool(jnp.all(found.violation < TIGHT))


def test_steps_are_cut_back_until_the_residual_falls():
    """Newton's method for arctan diverges from here."""
    dtype = dtype_of("real")
    found = lf.retract(lf.Equality(jnp.arctan), jnp.asarray(5.0, dtype))
    assert abs(found.params) < TIGHT
    assert bool(found.result == SUCCESS)


@pytest.mark.float32
def test_inequalities_and_pins():
    dtype = dtype_of("real")
    constraint = (
        lf.Inequality(lambda p, level: p["x"] - 1)
        & lf.Equality(lambda p, level: jnp.sum(p["y"]) - level)
        & lf.Fixed(lambda p: p["y"][:1], jnp.full(1, 2.0, dtype))
    )
    params = {"x": jnp.asarray([3.0, -5.0], dtype), "y": jnp.zeros(3, dtype)}
    found = lf.retract(constraint, params, jnp.asarray(3.0, dtype))
    assert np.allclose(found.params["x"], [1, -5])
    assert np.allclose(found.params["y"], [2, 0.5, 0.5], atol=1e-5)


def test_empty_sets_are_reported():
    dtype = dtype_of("real")
    nothing = lf.Equality(lambda p: p**2 + 1)
    start = jnp.asarray([1.3], dtype)
    found = lf.retract(nothing, start, throw=False)
    assert bool(found.result != SUCCESS)
    assert np.all(np.isfinite(found.params))
    with pytest.raises(Exception, match=r"contradict|max_steps"):
        lf.retract(nothing, start)
    with pytest.raises(TypeError, match="constraint"):
        lf.retract(lambda p: p, start)


def test_fit_records_a_training():
    """Linear regression on a line through one point, against the dense solution."""
    dtype, generator = dtype_of("real"), rng(3)
    X = generator.standard_normal((20, 3)).astype(dtype)
    y = generator.standard_normal(20).astype(dtype)
    optimizer = lf.null_space(
        lenient(optax.sgd(0.3)), lf.Equality(lambda p: jnp.sum(p["w"]) - 1)
    )
    start = {"w": jnp.zeros(3, dtype), "name": "not trained"}
    params, state, history = fit(
        lambda p, X, y: jnp.mean((X @ p["w"] - y) ** 2) / 2,
        start,
        optimizer,
        itertools.repeat((jnp.asarray(X), jnp.asarray(y))),
        steps=200,
        progress=False,
    )
    K = np.block([[X.T @ X, np.ones((3, 1))], [np.ones((1, 3)), np.zeros((1, 1))]])
    want = np.linalg.solve(K, np.append(X.T @ y, 1))[:3]
    assert relative_error(params["w"], want) < (1e-8 if X64 else 1e-4)
    assert params["name"] == "not trained"
    assert history.loss.shape == history.violation.shape == (200,)
    assert history.violation[0] == 1
    assert history.violation[-1] < 1e-5
    assert int(state.count) == 200
    plain = fit(
        lambda p: p["w"] @ p["w"], start, optax.sgd(0.1), steps=2, progress=False
    )
    assert plain[2].violation is None
