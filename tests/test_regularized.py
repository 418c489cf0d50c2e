"""Weights and Tikhonov terms, against the dense normal equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

import lsqflow as lf

from .helpers import X64, dtype_of, matrix, normal, relative_error, rng

SOLVER = lf.LSMR(rtol=1e-13 if X64 else 1e-6)
TOLERANCE = 1e-10 if X64 else 1e-4


def problem(kind="real"):
    dtype = dtype_of(kind)
    real = dtype_of("real")
    return {
        "A": matrix(rng(), (14, 6), dtype=dtype),
        "b": normal(rng(1), 14, dtype),
        "weights": rng(2).uniform(0.1, 2, 14).astype(real),
        "L": normal(rng(3), (4, 6), dtype),
        "strength": np.asarray(0.7, real),
        "prior": normal(rng(4), 6, dtype),
        "ridge": np.asarray(0.2, real),
        "damp": np.asarray(0.1, real),
    }


def solve(p, **options):
    terms = [lf.Tikhonov(p["L"], p["strength"], p["prior"])]
    terms += [lf.Tikhonov(strength=p["ridge"])]
    return lf.lstsq(
        p["A"],
        p["b"],
        SOLVER,
        damp=p["damp"],
        weights=p["weights"],
        regularizers=terms,
        **options,
    )


def closed_form(p):
    """The normal equations."""
    A, b, L = p["A"], p["b"], p["L"]
    W = jnp.diag(p["weights"]).astype(A.dtype)
    square = (p["strength"] ** 2).astype(A.dtype)
    ridge = (p["ridge"] ** 2 + p["damp"] ** 2).astype(A.dtype)
    gram = A.conj().T @ W @ A + square * (L.conj().T @ L)
    right = A.conj().T @ (W @ b) + square * (L.conj().T @ (L @ p["prior"]))
    return jnp.linalg.solve(gram + ridge * jnp.eye(6, dtype=A.dtype), right)


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_values(kind):
    p = problem(kind)
    solution = solve(p)
    x = closed_form(jax.tree.map(jnp.asarray, p))
    assert relative_error(solution.value, x) < TOLERANCE
    residual = p["b"] - p["A"] @ np.asarray(x)
    assert relative_error(solution.residual, residual) < TOLERANCE
    norm = float(solution.stats["residual_norm"])
    assert abs(norm - np.linalg.norm(residual)) < TOLERANCE * norm
    x = np.asarray(x)
    terms = (p["strength"] * (p["L"] @ (x - p["prior"])), p["ridge"] * x, p["damp"] * x)
    terms = (np.sqrt(p["weights"]) * residual, *terms)
    objective = sum(np.linalg.norm(term) ** 2 for term in terms)
    assert abs(solution.objective - objective) < TOLERANCE * objective


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_gradients_in_everything(kind):
    """Weight zero included, where the root of the weight has no derivative."""
    p = jax.tree.map(jnp.asarray, problem(kind))
    p["weights"] = p["weights"].at[3].set(0.0)
    weight = normal(rng(9), 6, p["A"].dtype)
    loss = lambda x: jnp.sum(jnp.real(weight * jnp.sin(x)))
    got = jax.jit(jax.grad(lambda p: loss(solve(p).value)))(p)
    want = jax.jit(jax.grad(lambda p: loss(closed_form(p))))(p)
    for name in p:
        assert relative_error(got[name], want[name]) < 1e-9, name
    assert abs(want["weights"][3]) > 1e-3
    direction = jax.tree.map(lambda x: normal(rng(5), x.shape, x.dtype), p)
    forward = jax.jit(lambda p, d: jax.jvp(lambda p: solve(p).value, (p,), (d,))[1])
    want = jax.jit(lambda p, d: jax.jvp(closed_form, (p,), (d,))[1])
    assert relative_error(forward(p, direction), want(p, direction)) < 1e-9


@pytest.mark.slow
def test_reverse_over_reverse_of_a_stacked_problem():
    """Cotangents of a part of the dual, whose structure is that of the stack."""
    p = jax.tree.map(jnp.asarray, problem())
    direction = normal(rng(6), p["A"].shape, np.float64)

    def second(method):
        first = jax.grad(lambda A: jnp.sum(jnp.sin(method({**p, "A": A}))))
        return jax.jit(jax.grad(lambda A: jnp.sum(first(A) * direction)))(p["A"])

    got, want = (second(f) for f in (lambda p: solve(p).value, closed_form))
    assert relative_error(got, want) < 1e-8


def test_residual_and_dual_are_those_of_the_data():
    """x = Aᴴ y holds with weights, and both differentiate."""
    A, b = matrix(rng(), (5, 9)), normal(rng(1), 5, np.float64)
    w = jnp.asarray(rng(2).uniform(0.5, 2, 5))
    solution = lf.lstsq(A, b, SOLVER, weights=w)
    np.testing.assert_allclose(A.T @ solution.dual, solution.value, atol=1e-10)
    np.testing.assert_allclose(solution.residual, 0, atol=1e-10)
    scale = jax.grad(lambda s: jnp.sum(lf.lstsq(s * A, b, SOLVER, weights=w).dual))(1.0)
    assert abs(scale + 2 * jnp.sum(solution.dual)) < 1e-8


def test_vmap_over_strengths_and_pytrees():
    A = matrix(rng(), (8, 5))
    op = lf.HStack({"a": A[:, :2], "b": A[:, 2:]})
    b = normal(rng(1), 8, np.float64)
    L = lf.LeafSelection({"a": True, "b": False}, op.in_structure())

    @jax.vmap
    def many(s):
        return lf.lstsq(op, b, SOLVER, regularizers=[lf.Tikhonov(L, s)]).value

    strengths = np.asarray([0.0, 0.5, 3.0])
    got = many(strengths)
    for i, s in enumerate(strengths):
        D = np.diag([s, s, 0, 0, 0])
        x = np.linalg.lstsq(np.vstack([A, D]), np.append(b, np.zeros(5)), rcond=None)[0]
        assert relative_error([got["a"][i], got["b"][i]], x) < 1e-10


def test_zero_weight_ignores_a_row():
    A, b = matrix(rng(), (9, 4)), normal(rng(1), 9, np.float64)
    w = np.ones(9)
    w[[2, 7]] = 0
    keep = w > 0
    for solver in (SOLVER, lf.SVD()):
        x = lf.lstsq(A, b, solver, weights=w).value
        assert relative_error(x, np.linalg.pinv(A[keep]) @ b[keep]) < 1e-10
    # Also where the rows that are left do not determine the solution.
    wide = matrix(rng(), (6, 8))
    keep, w = np.arange(6) < 4, (np.arange(6) < 4) * 1.0
    x = lf.lstsq(wide, b[:6], SOLVER, weights=w).value
    assert relative_error(x, np.linalg.pinv(wide[keep]) @ b[:6][keep]) < 1e-10


def test_together_with_bounds_and_equations():
    """Constraints apply to the stacked problem; SciPy gets its square root."""
    p = problem()
    root = np.sqrt(p["weights"])[:, None]
    rows = [root * p["A"], p["strength"] * p["L"]]
    rows += [p["ridge"] * np.eye(6), p["damp"] * np.eye(6)]
    right = [root[:, 0] * p["b"], p["strength"] * (p["L"] @ p["prior"]), np.zeros(12)]
    stacked, target = np.vstack(rows), np.concatenate(right)
    bounded = solve(p, bounds=(-0.1, 0.2))
    want = scipy.optimize.lsq_linear(stacked, target, (-0.1, 0.2), tol=1e-14)
    assert relative_error(bounded.value, want.x) < 1e-8
    assert relative_error(bounded.residual, p["b"] - p["A"] @ want.x) < 1e-8
    assert abs(bounded.objective - 2 * want.cost) < 1e-9 * want.cost
    C, d = matrix(rng(7), (2, 6)), np.asarray([1.0, -1.0])
    equal = solve(p, subject_to=lf.Affine(C, d))
    x = scipy.linalg.lapack.dgglse(stacked, C, target, d)[3]
    assert relative_error(equal.value, x) < 1e-10
    assert relative_error(equal.residual, p["b"] - p["A"] @ x) < 1e-10


BAD = {
    "negative weight": ({"weights": -np.ones(14)}, "negative"),
    "shape of weights": ({"weights": np.ones(13)}, r"\(14,\).*got \(13,\)"),
    "complex weights": ({"weights": 1j * np.ones(14)}, "real"),
    "structure of weights": ({"weights": [np.ones(14)]}, "structure"),
    "not a term": ({"regularizers": [0.1]}, "Tikhonov"),
    "operator of a term": (
        {"regularizers": [lf.Tikhonov(np.eye(5))]},
        r"take the unknown, f64\[6\]; it takes f64\[5\]",
    ),
    "prior": (
        {"regularizers": [lf.Tikhonov(prior=np.ones(5))]},
        r"regularizers\[0\]\.prior` must have the shape",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    options, message = BAD[name]
    p = problem()
    with pytest.raises((TypeError, ValueError), match=message):
        lf.lstsq(p["A"], p["b"], **options)
    with pytest.raises(ValueError, match="real scalar"):
        lf.Tikhonov(strength=np.ones(2))


def test_negative_weight_at_run_time_is_reported():
    p = problem()
    w = jnp.asarray(p["weights"]).at[0].set(-1.0)
    solve = jax.jit(lambda w: lf.lstsq(p["A"], p["b"], weights=w, throw=False))
    assert solve(w).stats["stop_reason"] == lf.StopReason.nonfinite_input
