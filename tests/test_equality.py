"""Equations as constraints, projectors, pseudo-inverses, least norm."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg

import lsqflow as lf

from .helpers import X64, dtype_of, matrix, normal, relative_error, rng

SOLVER = lf.LSMR(rtol=1e-13 if X64 else 1e-6)
TOLERANCE = 1e-10 if X64 else 2e-4


def problem(kind="real"):
    dtype = dtype_of(kind)
    A, C = (matrix(rng(i), s, dtype=dtype) for i, s in enumerate([(9, 7), (3, 7)]))
    return A, normal(rng(2), 9, dtype), C, normal(rng(3), 3, dtype)


def gglse(A, b, C, d):
    name = "gglse"
    (solve,) = scipy.linalg.lapack.get_lapack_funcs([name], (A, C))
    return solve(A, C, b, d)[3]


def matrix_free(C):
    return lf.FunctionOperator(lambda x: C @ x, jnp.zeros(C.shape[1], C.dtype))


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("wrap", [jnp.asarray, matrix_free])
def test_against_lapack_gglse(kind, wrap):
    A, b, C, d = problem(kind)
    x = gglse(A, b, C, d)
    # A redundant fourth equation is harmless.
    C4, d4 = np.vstack([C, C[0] - C[2]]), np.append(d, d[0] - d[2])
    for rows, target in ((C, d), (C4, d4)):
        constraint = lf.Affine(wrap(rows), target)
        solution = lf.lstsq(A, b, SOLVER, subject_to=constraint)
        assert relative_error(solution.value, x) < TOLERANCE
        assert relative_error(solution.residual, b - A @ x) < TOLERANCE
        gradient = A.conj().T @ (A @ np.asarray(solution.value) - b)
        kkt = gradient + rows.conj().T @ np.asarray(solution.multipliers)
        assert np.linalg.norm(kkt) < 10 * TOLERANCE * np.linalg.norm(gradient)
        assert solution.stats["constraint_norm"] < TOLERANCE
        minimum = np.linalg.norm(b - A @ x) ** 2
        assert abs(solution.objective - minimum) < 10 * TOLERANCE * minimum


def kkt(A, b, C, d, damp, w):
    """The optimality system, solved densely."""
    H = A.T @ jnp.diag(w) @ A + damp**2 * jnp.eye(A.shape[1])
    K = jnp.block([[H, C.T], [C, jnp.zeros((len(d), len(d)))]])
    z = jnp.linalg.solve(K, jnp.concatenate([A.T @ (w * b), d]))
    return z[: A.shape[1]], z[A.shape[1] :]


@pytest.mark.slow
def test_gradients_against_the_dense_optimality_system():
    A, b, C, d = map(jnp.asarray, problem())
    args = (A, b, C, d, jnp.asarray(0.3), jnp.linspace(0.5, 2, 9))
    u, v = normal(rng(7), 7, np.float64), normal(rng(8), 3, np.float64)

    def solve(A, b, C, d, damp, w):
        constraint = lf.Affine(C, d)
        s = lf.lstsq(A, b, SOLVER, damp=damp, weights=w, subject_to=constraint)
        return s.value, s.multipliers

    def loss(method):
        def function(*args):
            x, mu = method(*args)
            return u @ jnp.sin(x) + v @ mu

        return function

    every = tuple(range(6))
    got = jax.jit(jax.grad(loss(solve), every))(*args)
    want = jax.jit(jax.grad(loss(kkt), every))(*args)
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) < 1e-9
    target = lambda method: lambda d: loss(method)(*args[:3], d, *args[4:])
    hessian = jax.jit(jax.hessian(target(solve)))(args[3])
    assert relative_error(hessian, jax.hessian(target(kkt))(args[3])) < 1e-9


def test_pytrees_wide_problems_vmap_and_x0():
    """Six equations and three data for ten unknowns: least norm of what is left."""
    M, C = matrix(rng(), (3, 10)), matrix(rng(1), (6, 10))
    b = normal(rng(2), 3, np.float64)
    parts = lambda M: lf.HStack({"a": M[:, :4], "b": M[:, 4:]})

    @jax.vmap
    def many(d):
        return lf.lstsq(parts(M), b, SOLVER, subject_to=lf.Affine(parts(C), d)).value

    targets = normal(rng(3), (2, 6), np.float64)
    got = many(targets)
    for i, d in enumerate(targets):
        x = np.linalg.pinv(C) @ d
        N = np.eye(10) - np.linalg.pinv(C) @ C
        x = x + np.linalg.pinv(M @ N) @ (b - M @ x)
        assert relative_error([got["a"][i], got["b"][i]], x) < 1e-10
    constraint = lf.Affine(C, targets[0])
    near = lf.lstsq(M, b, SOLVER, subject_to=constraint, x0=np.ones(10)).value
    null = np.linalg.pinv(np.vstack([C, M]))
    want = np.ones(10) + null @ (
        np.append(targets[0], b) - np.vstack([C, M]) @ np.ones(10)
    )
    assert relative_error(near, want) < 1e-9


def test_loose_tolerances_are_not_failures():
    """What the solver was asked for is what is checked in the end."""
    A, C = matrix(rng(), (60, 40), condition=1e3), matrix(rng(1), (3, 40))
    b, d = normal(rng(2), 60, np.float64), normal(rng(3), 3, np.float64)
    loose = lf.LSMR(rtol=1e-3)
    solution = lf.lstsq(A, b, loose, subject_to=lf.Affine(C, d))
    assert solution.result == lx.RESULTS.successful
    size = np.linalg.norm(A) * solution.stats["residual_norm"]
    assert 1e-7 * size < solution.stats["normal_residual_norm"] < 1e-2 * size
    wide = lf.minimum_norm(A.T, normal(rng(4), 40, np.float64), lf.LSMR(rtol=1e-4))
    assert wide.result == lx.RESULTS.successful
    assert wide.stats["residual_norm"] > 1e-7


def test_contradictions_are_reported():
    A, b, C, d = problem()
    C, d = np.vstack([C, C[0]]), np.append(d, d[0] + 1)
    solution = lf.lstsq(A, b, subject_to=lf.Affine(C, d), throw=False)
    assert solution.result != lx.RESULTS.successful
    assert solution.stats["stop_reason"] == lf.StopReason.infeasible
    with pytest.raises(RuntimeError, match="contradict"):
        jax.block_until_ready(lf.lstsq(A, b, subject_to=lf.Affine(C, d)).value)
    with pytest.raises(RuntimeError, match="contradict"):
        jax.block_until_ready(lf.minimum_norm(A, b).value)
    with pytest.raises(RuntimeError, match="contradict"):
        jax.block_until_ready(lf.project(lf.Affine(C, d), np.ones(7)))


@pytest.mark.float32
def test_minimum_norm_and_project():
    _, _, C, d = problem()
    solution = lf.minimum_norm(C, d, SOLVER)
    assert relative_error(solution.value, np.linalg.pinv(C) @ d) < TOLERANCE
    assert relative_error(C.T @ solution.dual, solution.value) < TOLERANCE
    point = normal(rng(5), 7, C.dtype)
    want = point - np.linalg.pinv(C) @ (C @ point - d)
    got = lf.project(lf.Affine(C, d), point)
    assert relative_error(got, want) < TOLERANCE
    assert lf.project(lf.Affine(C), point) @ C[0] < TOLERANCE
    slope = jax.jacobian(lambda d: lf.project(lf.Affine(C, d), point))(jnp.asarray(d))
    assert relative_error(slope, np.linalg.pinv(C)) < TOLERANCE


def test_projectors_and_pinv_against_numpy():
    C = matrix(rng(), (5, 8), rank=3)
    op = matrix_free(C)
    inverse = np.linalg.pinv(C)
    for wrapped in (op, lf.as_operator(C)):
        for got, want in (
            (lf.NullSpaceProjector(wrapped), np.eye(8) - inverse @ C),
            (lf.RangeProjector(wrapped), C @ inverse),
            (lf.pinv(wrapped), inverse),
        ):
            for form in (got, got.linearise()):
                np.testing.assert_allclose(form.as_matrix(), want, atol=1e-12)
    assert lf.pinv(lf.pinv(op)) is op


BAD = {
    "type": (lambda C, d: C, TypeError, "Affine"),
    "target": (lambda C, d: lf.Affine(C, d[:2]), ValueError, r"\(3,\); got \(2,\)"),
    "unknown": (
        lambda C, d: lf.Affine(C[:, :5], d),
        ValueError,
        r"take the unknown, f64\[7\]; it takes f64\[5\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    make, error, message = BAD[name]
    A, b, C, d = problem()
    with pytest.raises(error, match=message):
        lf.lstsq(A, b, subject_to=make(C, d))


def test_constraints_do_not_combine_yet():
    A, b, C, d = problem()
    with pytest.raises(ValueError, match="combined"):
        lf.lstsq(A, b, subject_to=lf.Affine(C, d), bounds=(0, None))
    with pytest.raises(TypeError, match="Affine"):
        lf.project(lf.Tikhonov(), np.ones(3))
