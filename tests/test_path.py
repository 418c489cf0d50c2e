"""The regularisation path, against filter factors of the singular values."""

import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from .helpers import X64, dtype_of, matrix, normal, relative_error, rng

# In 32 bits, weaker regularisation leaves no digit, and is reported.
STRENGTHS = np.geomspace(1e-4 if X64 else 3e-2, 10, 24)
NOISE = 1e-3


def smooth_problem(kind="real"):
    """Ill-conditioned, with a solution that the data determine only in part."""
    dtype = dtype_of(kind)
    A = matrix(rng(), (40, 12), condition=1e4, dtype=dtype)
    x = A.conj().T @ (A @ normal(rng(1), 12, dtype))
    noise = normal(rng(2), 40, dtype)
    noise *= NOISE / np.linalg.norm(noise)
    return A, (A @ x + noise).astype(dtype)


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_norms_degrees_of_freedom_and_gcv(kind):
    A, b = smooth_problem(kind)
    u, s, vh = np.linalg.svd(A, full_matrices=False)
    factors = s**2 / (s**2 + STRENGTHS[:, None] ** 2)
    beta = u.conj().T @ b
    x = (factors / s * beta) @ vh.conj()
    residual = np.linalg.norm(b - x @ A.T, axis=1)
    path = lf.regularization_path(A, b, STRENGTHS, num_probes=40)
    tol = 1e-7 if X64 else 2e-2
    assert relative_error(path.residual_norm, residual) < tol
    assert relative_error(path.penalty_norm, np.linalg.norm(x, axis=1)) < tol
    assert relative_error(path.degrees_of_freedom, factors.sum(1)) < tol
    want = 40 * residual**2 / (40 - factors.sum(1)) ** 2
    assert relative_error(path.gcv(), want) < tol
    assert path.choose("gcv") == np.argmin(want)
    error = np.linalg.norm(np.asarray(path.solution.value) - x, axis=1)
    assert np.all(error < tol * np.linalg.norm(x, axis=1).max())


def test_rules_find_a_good_strength():
    A, b = smooth_problem()
    truth = np.linalg.norm
    path = lf.regularization_path(A, b, STRENGTHS, num_probes=40)
    clean = A @ (A.T @ (A @ normal(rng(1), 12, np.float64)))
    errors = [truth(A @ x - clean) for x in path.solution.value]
    for rule in ("gcv", "l-curve"):
        assert errors[int(path.choose(rule))] < 2 * min(errors)
    index = int(path.choose("discrepancy", noise_norm=NOISE))
    assert path.residual_norm[index] <= NOISE < path.residual_norm[index + 1]
    assert int(path.choose("discrepancy", noise_norm=0.0)) == 0


@pytest.mark.slow
def test_weights_prior_other_terms_and_probes():
    A, b = smooth_problem()
    w, mu = rng(3).uniform(0.5, 2, 40), normal(rng(4), 12, np.float64)
    L = np.diff(np.eye(12), axis=0)
    other = lf.Tikhonov(strength=0.05)
    path = lf.regularization_path(
        A,
        b,
        STRENGTHS[::6],
        lf.Tikhonov(L, prior=mu),
        weights=w,
        regularizers=[other],
        num_probes=40,
    )
    for i, s in enumerate(STRENGTHS[::6]):
        gram = A.T @ (w[:, None] * A) + s**2 * L.T @ L + 0.05**2 * np.eye(12)
        x = np.linalg.solve(gram, A.T @ (w * b) + s**2 * L.T @ (L @ mu))
        dof = np.trace(np.linalg.solve(gram, A.T @ (w[:, None] * A)))
        np.testing.assert_allclose(path.penalty_norm[i], np.linalg.norm(L @ (x - mu)))
        np.testing.assert_allclose(
            path.residual_norm[i], np.linalg.norm(np.sqrt(w) * (b - A @ x))
        )
        np.testing.assert_allclose(path.degrees_of_freedom[i], dof)
    few = lf.regularization_path(A, b, STRENGTHS, num_probes=8).degrees_of_freedom
    exact = lf.regularization_path(A, b, STRENGTHS, num_probes=40).degrees_of_freedom
    assert relative_error(few, exact) < 0.3
    assert relative_error(few, exact) > 1e-6


def test_bad_input():
    A, b = smooth_problem()
    with pytest.raises(ValueError, match="one-dimensional"):
        lf.regularization_path(A, b, 0.1)
    path = lf.regularization_path(A, b, STRENGTHS[:3], num_probes=1)
    for rule, noise in (("median", None), ("discrepancy", None)):
        with pytest.raises(ValueError, match="noise_norm"):
            path.choose(rule, noise)


def test_plot_draws_the_curves():
    """Into whatever has the methods of matplotlib's axes."""
    drawn = []

    class Axes:
        def __getattr__(self, name):
            return lambda *args, **kwargs: drawn.append((name, args, kwargs))

    A, b = smooth_problem()
    path = lf.regularization_path(A, b, STRENGTHS, num_probes=40)
    path.plot([Axes(), Axes()])
    (first, _), (second, _) = [args[:2] for name, args, _ in drawn if name == "loglog"][
        :2
    ]
    assert jnp.array_equal(first, path.residual_norm)
    assert jnp.array_equal(second, path.strengths)
    labels = [kwargs["label"] for name, _, kwargs in drawn if name == "plot"]
    assert len(labels) == 4
    assert f"{float(path.strengths[int(path.choose())]):.2g}" in labels[2]
