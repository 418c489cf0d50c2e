"""One problem, its norms and its rewrites, however it was stated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from .helpers import X64, dtype_of, matrix, normal, relative_error, rng

REAL = dtype_of("real")
SOLVER = lf.LSMR(rtol=1e-13 if X64 else 1e-6)
CLOSE = 1e-9 if X64 else 1e-4


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("damp", [None, 0.4])
def test_methods(kind, damp):
    dtype = dtype_of(kind)
    A, b = matrix(rng(), (9, 5), dtype=dtype), normal(rng(1), 9, dtype)
    x = jnp.asarray(normal(rng(2), 5, dtype))
    shift = 0.0 if damp is None else damp
    given = None if damp is None else jnp.asarray(damp, REAL)
    problem = lf.Problem(lf.as_operator(A), jnp.asarray(b), given)
    r = b - A @ x
    g = -A.conj().T @ r + shift**2 * x
    f = np.linalg.norm(r) ** 2 + shift**2 * np.linalg.norm(x) ** 2
    for at in ((x,), (x, jnp.asarray(r))):
        assert relative_error(problem.gradient(*at), g) < 1e-5
        assert relative_error(problem.objective(*at), f) < 1e-5
        assert relative_error(problem.residual_norm(*at), np.sqrt(f)) < 1e-5
    assert relative_error(problem.residual(x), r) < 1e-5
    step = np.linalg.norm(A @ x) ** 2 + shift**2 * np.linalg.norm(x) ** 2
    assert relative_error(problem.curvature(x), step) < 1e-5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rounding_bounds_what_single_precision_does(scale):
    """To the true residual, and to the true gradient with ‖A‖ times as much."""
    A = matrix(rng(), (300, 200), condition=1e3)
    x = scale * rng(1).standard_normal(200)
    b = A @ x + 1e-3 * rng(2).standard_normal(300)
    A, b, x = (jnp.asarray(z, jnp.float32) for z in (A, b, x))
    problem = lf.Problem(lf.as_operator(A), b)
    exact = [np.asarray(z, np.float64) for z in (A, b, x)]
    r = exact[1] - exact[0] @ exact[2]
    bound = float(problem.rounding(x, jnp.ones((), jnp.float32)))
    off = np.linalg.norm(np.asarray(problem.residual(x)) - r)
    assert 0.01 * bound < off < 10 * bound
    off = np.linalg.norm(np.asarray(problem.gradient(x)) + exact[0].T @ r)
    assert off < 20 * bound


@pytest.mark.float32
@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_one_dual_and_one_set_of_norms(shape):
    """λ as `damp`, as a Tikhonov term, as both: one problem, so all the same."""
    A, b = matrix(rng(), shape, dtype=REAL), normal(rng(1), shape[0], REAL)
    term = lambda s: lf.Tikhonov(strength=s)
    ways = (
        {"damp": 0.5},
        {"regularizers": [term(0.5)]},
        {"damp": 0.3, "regularizers": [term(0.4)]},
        {"regularizers": [term(0.3), term(0.4)]},
    )
    first, *others = (lf.lstsq(A, b, SOLVER, **way) for way in ways)
    dual = np.linalg.solve(A @ A.T + 0.25 * np.eye(shape[0]), b)
    assert relative_error(first.dual, dual) < CLOSE
    for other in others:
        for name in ("value", "residual", "dual", "objective"):
            assert relative_error(getattr(other, name), getattr(first, name)) < CLOSE
        for name in ("residual_norm", "operator_norm", "condition", "num_steps"):
            np.testing.assert_allclose(
                other.stats[name], first.stats[name], rtol=1e-3 if X64 else 0.1
            )


def test_damping_in_two_places_differentiates():
    """In λ and in the strength, first and second order, also where one is zero."""
    A, b = matrix(rng(), (9, 5)), normal(rng(1), 9, np.float64)

    def ours(p):
        term = lf.Tikhonov(strength=p[1])
        return jnp.sum(
            lf.lstsq(A, b, SOLVER, damp=p[0], regularizers=[term]).value ** 3
        )

    def dense(p):
        gram = A.T @ A + (p[0] ** 2 + p[1] ** 2) * jnp.eye(5)
        return jnp.sum(jnp.linalg.solve(gram, A.T @ b) ** 3)

    for p in ([0.3, 0.4], [0.3, 0.0], [0.0, 0.4]):
        got, want = (jax.jit(jax.grad(f))(jnp.asarray(p)) for f in (ours, dense))
        assert relative_error(got, want) < 1e-7
    p = jnp.asarray([0.3, 0.4])
    got, want = (jax.jit(jax.hessian(f))(p) for f in (ours, dense))
    assert relative_error(got, want) < 1e-6


def test_norms_have_the_documented_formulas():
    """With everything at once: half the gradient of the objective, and ‖b − A x‖."""
    A, b = matrix(rng(), (14, 6)), normal(rng(1), 14, np.float64)
    L, prior = normal(rng(2), (4, 6), np.float64), normal(rng(3), 6, np.float64)
    w = rng(4).uniform(0.2, 2, 14)

    def f(x):
        value = jnp.sum(w * (A @ x - b) ** 2) + 0.09 * jnp.sum(x**2)
        return value + 0.25 * jnp.sum((L @ (x - prior)) ** 2)

    solution = lf.lstsq(
        A,
        b,
        lf.LSMR(rtol=0.0, max_steps=3),
        damp=0.3,
        weights=w,
        regularizers=[lf.Tikhonov(L, 0.5, prior)],
        throw=False,
    )
    x = solution.value
    half = np.linalg.norm(jax.grad(f)(x)) / 2
    assert half > 1e-3  # truncated, so that there is something to compare
    np.testing.assert_allclose(solution.stats["normal_residual_norm"], half, rtol=1e-8)
    np.testing.assert_allclose(
        solution.stats["residual_norm"], np.linalg.norm(b - A @ x), rtol=1e-12
    )
    np.testing.assert_allclose(solution.objective, f(x), rtol=1e-12)
    # A guess restates the problem once more.
    guess = lf.lstsq(A, b, SOLVER, damp=0.3, weights=w, x0=np.ones(6))
    plain = lf.lstsq(A, b, SOLVER, damp=0.3, weights=w)
    for name in ("value", "residual", "dual", "objective"):
        assert relative_error(getattr(guess, name), getattr(plain, name)) < 1e-9
    y = w * np.asarray(plain.residual) / 0.09
    assert relative_error(plain.dual, y) < 1e-9
