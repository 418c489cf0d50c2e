"""Orthonormal matrices and bounded norms, against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from .helpers import X64, dtype_of, normal, relative_error, rng

TOLERANCE = 1e-12 if X64 else 2e-5


def weights(dtype):
    """A tall, a wide and a batch of square matrices; equinox leaves out the rest."""
    return {
        "tall": jnp.asarray(normal(rng(), (5, 3), dtype)),
        "wide": jnp.asarray(normal(rng(1), (2, 4), dtype)),
        "batch": jnp.asarray(normal(rng(2), (2, 3, 3), dtype)),
        "none": None,
    }


def gram_errors(W):
    W = np.asarray(W)
    tall = W if W.shape[-2] >= W.shape[-1] else np.swapaxes(W, -1, -2)
    return np.einsum("...ki,...kj->...ij", tall, tall) - np.eye(tall.shape[-1])


def triangles(params):
    """The residual in NumPy."""
    out = {"none": None}
    for name in ("tall", "wide", "batch"):
        E = gram_errors(params[name])
        i, j = np.triu_indices(E.shape[-1])
        out[name] = E[..., i, j] / np.where(i == j, np.sqrt(2), 1)
    return out


@pytest.mark.float32
def test_orthogonal_against_numpy(key):
    dtype = dtype_of("real")
    spec, params = lf.Orthogonal(), weights(dtype)
    residual, violation = jax.jit(lambda p: (spec.residual(p), spec.violation(p)))(
        params
    )
    want = triangles(params)
    assert residual["tall"].dtype == dtype
    assert jax.tree.map(jnp.shape, residual) == jax.tree.map(np.shape, want)
    assert relative_error(residual, want) < TOLERANCE
    largest = max(np.max(np.abs(gram_errors(W))) for W in jax.tree.leaves(params))
    assert abs(violation - largest) < TOLERANCE * largest

    jacobian = spec.jacobian(params)
    assert lf.check_adjoint(jacobian, key)
    matrix = jax.jit(lambda p: spec.jacobian(p).as_matrix())(params)
    dense = jax.jit(lambda p: lf.JacobianOperator(spec.residual, p).as_matrix())(params)
    assert relative_error(matrix, dense) < TOLERANCE


def test_orthogonal_jacobian_against_finite_differences():
    spec, params = lf.Orthogonal(), weights(np.float64)
    draw = lambda W: jnp.asarray(normal(rng(W.size), W.shape, np.float64))
    V = jax.tree.map(draw, params)
    h = 1e-6
    moved = lambda s: triangles(jax.tree.map(lambda W, v: W + s * v, params, V))
    up, down = moved(h), moved(-h)
    slope = jax.tree.map(lambda a, b: (a - b) / (2 * h), up, down)
    assert relative_error(spec.jacobian(params).mv(V), slope) < 1e-8
    # Through the operator, too: the derivative of its products with respect to W.
    f = lambda W: jnp.sum(jnp.sin(lf.Orthogonal().jacobian(W).rmv(jnp.ones(6))))
    g = lambda W: jnp.sum(
        jnp.sin(jax.vjp(lf.Orthogonal().residual, W)[1](jnp.ones(6))[0])
    )
    W = params["tall"]
    assert relative_error(jax.grad(f)(W), jax.grad(g)(W)) < 1e-12


@pytest.mark.float32
def test_orthonormal_matrices_and_their_jacobian():
    dtype = dtype_of("real")
    Q = np.linalg.qr(normal(rng(), (6, 4), dtype))[0]
    spec = lf.Orthogonal(lambda p: p["Q"])
    same = lf.Orthogonal().on(lambda p: p["Q"])
    for W in (Q, Q.T):
        params = {"Q": jnp.asarray(W), "bias": jnp.ones(3, dtype)}
        assert spec.violation(params) < TOLERANCE
        J = spec.jacobian(params).as_matrix()
        np.testing.assert_allclose(J @ J.T, 2 * np.eye(10), atol=TOLERANCE)
        np.testing.assert_allclose(same.jacobian(params).as_matrix(), J)
    scaled = {"Q": 2 * params["Q"], "bias": params["bias"]}
    assert abs(spec.violation(scaled) - 3) < TOLERANCE


@pytest.mark.float32
def test_gauss_newton_steps_reach_the_polar_factor():
    """From nearby, least-norm steps stay on Wᵀ-symmetric changes: the polar factor."""
    dtype = dtype_of("real")
    U, s, Vt = np.linalg.svd(normal(rng(3), (4, 3), dtype), full_matrices=False)
    W = jnp.asarray((U * (1 + 0.1 * s)) @ Vt)
    spec = lf.Orthogonal()

    @jax.jit
    def step(W):
        J, c = spec.jacobian(W).as_matrix(), spec.residual(W)
        return W - (jnp.linalg.pinv(J) @ c).reshape(W.shape)

    for _ in range(5):
        W = step(W)
    assert spec.violation(W) < TOLERANCE
    assert relative_error(W, U @ Vt) < 0.1


@pytest.mark.float32
def test_norm_bound_in_closed_form(key):
    dtype = dtype_of("real")
    params = {
        "a": jnp.asarray([3, 0], dtype),
        "b": jnp.asarray([[4]], dtype),
        "c": None,
    }
    whole = lf.NormBound(None, 4.0)
    assert abs(whole.residual(params) - 9 / 8) < TOLERANCE
    assert whole.residual(params).dtype == dtype
    assert whole.inequality() is True
    assert abs(whole.violation(params) - 1) < TOLERANCE
    assert lf.NormBound(None, 6.0).violation(params) == 0
    J = whole.jacobian(params)
    np.testing.assert_allclose(J.as_matrix(), [[0.75, 0, 1]], rtol=TOLERANCE)
    assert lf.check_adjoint(J, key)

    leaves = lf.NormBound(None, 2.0, per_leaf=True)
    got = leaves.residual(params)
    np.testing.assert_allclose([got["a"], got["b"]], [5 / 4, 3], rtol=TOLERANCE)
    assert got["c"] is None
    assert abs(leaves.violation(params) - 2) < TOLERANCE

    part = lf.NormBound(lambda p: p["a"], 2.0)
    on = lf.NormBound(None, 2.0).on(lambda p: p["a"])
    assert part.residual(params) == on.residual(params)
    np.testing.assert_allclose(part.jacobian(params).as_matrix(), [[1.5, 0, 0]])
    np.testing.assert_allclose(on.jacobian(params).as_matrix(), [[1.5, 0, 0]])
    # Smooth at zero, and differentiable with respect to the bound.
    zero = jax.tree.map(jnp.zeros_like, params)
    assert not np.any(jax.grad(lambda p: jnp.sum(whole.residual(p)))(zero)["a"])
    slope = jax.grad(lambda b: lf.NormBound(None, b).residual(params))
    assert abs(slope(jnp.asarray(4, dtype)) + (25 / 16 + 1) / 2) < TOLERANCE


@pytest.mark.float32
@pytest.mark.parametrize("outputs", [1, 5])
def test_lipschitz_against_the_chain_rule(key, outputs):
    """One output takes reverse mode, five for three inputs forward mode."""
    dtype = dtype_of("real")
    W = jnp.asarray(normal(rng(), (outputs, 3), dtype))
    x = normal(rng(1), (4, 3), dtype)
    model = lambda W, x: jnp.tanh(W @ x)
    spec = lf.Lipschitz(model, 1.2)
    J = (1 - np.tanh(x @ W.T) ** 2)[:, :, None] * np.asarray(W)[None]
    norms = np.linalg.norm(J, axis=(1, 2))
    residual, violation, slope = jax.jit(
        lambda W, V: (
            spec.residual(W, x),
            spec.violation(W, x),
            spec.jacobian(W, x).mv(V),
        )
    )(W, jnp.ones_like(W))
    assert residual.dtype == dtype
    assert relative_error(residual, (norms**2 - 1.44) / 2.4) < 10 * TOLERANCE
    assert abs(violation - max(norms.max() - 1.2, 0)) < TOLERANCE
    assert spec.inequality() is True
    assert lf.check_adjoint(spec.jacobian(W, x), key)

    def formula(W):
        y = jnp.tanh(x @ W.T)
        rows = jnp.broadcast_to(jnp.sum(W**2, axis=1), y.shape)
        return jnp.sum((1 - y**2) ** 2 * rows, axis=1) / 2.4

    want = jax.jvp(formula, (W,), (jnp.ones_like(W),))[1]
    assert relative_error(slope, want) < 10 * TOLERANCE


def test_lipschitz_probes_pytrees_and_draws(key):
    """Probes agree on average; points and outputs may be pytrees."""
    W = jnp.asarray(normal(rng(), (4, 5), np.float64))
    x = {"u": normal(rng(1), (3, 2), np.float64), "v": np.zeros((3, 3))}

    def model(params, x):
        y = params["net"] @ jnp.concatenate([x["u"], x["v"]])
        return {"first": y[:1], "rest": jnp.sin(y[1:])}

    where = lambda params: params
    params = {"net": W, "other": jnp.ones(2)}
    exact = lf.Lipschitz(model, 2.0).on(where).residual(params, x)
    y = x["u"] @ W.T[:2]
    slopes = np.concatenate([np.ones((3, 1)), np.cos(y[:, 1:])], axis=1)
    squares = (slopes**2) @ np.sum(np.asarray(W) ** 2, axis=1)
    assert relative_error(exact, (squares - 4) / 4) < 1e-12

    probes = lf.Lipschitz(model, 2.0, probes=4000)
    draws = lf.Sampled(probes, lambda key: (x, key), key)
    got = jax.jit(lambda p, step: draws.at(step).residual(p))
    assert relative_error(4 * got(params, 0) + 4, squares) < 0.1
    assert np.all(got(params, 0) != got(params, 1))


BAD = {
    "matrix": (lambda: lf.Orthogonal().residual({"b": jnp.ones(3)}), "at \\['b'\\]"),
    "bound": (lambda: lf.NormBound(None, 0.0), "positive number; got 0.0"),
    "shape": (lambda: lf.NormBound(None, [1.0, 2.0]), "positive number"),
    "lipschitz": (lambda: lf.Lipschitz(jnp.dot, -1), "positive number; got -1"),
    "probes": (
        lambda: lf.Lipschitz(jnp.dot, 1, 0),
        "must be a positive integer",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_missing_key():
    spec = lf.Lipschitz(jnp.dot, 1, probes=2)
    with pytest.raises(TypeError, match="points and a key"):
        spec.residual(jnp.ones(3), jnp.ones((2, 3)))
