"""The Golub–Kahan process keeps its identities, and loses orthogonality as it must."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf
from lsqflow._krylov.golub_kahan import GolubKahan

from .helpers import SHAPES, dtype_of, matrix, normal, relative_error, rng

EPS = float(np.finfo(dtype_of("real")).eps)


def process(A, b, steps):
    """U, V, Q as columns, and B with α on and β below the diagonal."""

    @jax.jit
    def run(A, b):
        operator = lf.as_operator(A)
        first = GolubKahan.start(operator, b)

        def step(state, _):
            new = state.step(operator)
            return new, new

        _, rest = jax.lax.scan(step, first, length=steps)
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, rest)

    states = jax.tree.map(np.asarray, run(jnp.asarray(A), jnp.asarray(b)))
    U, V, Q = states.u.T, states.pair.v.T, states.pair.q.T
    B = np.zeros((steps + 1, steps + 1), states.alpha.dtype)
    B[np.arange(steps + 1), np.arange(steps + 1)] = states.alpha
    B[np.arange(1, steps + 1), np.arange(steps)] = states.beta[1:]
    return U, V, Q, B


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("name", SHAPES)
def test_identities(name, kind):
    """β₁ u₁ = b, A V = U B, Aᴴ U = V Bᴴ, Aᴴ Q = V, and orthonormal bases."""
    dtype = dtype_of(kind)
    A = matrix(rng(), SHAPES[name], dtype=dtype)
    b = normal(rng(1), A.shape[0], dtype)
    U, V, Q, B = process(A, b, 5)
    bound = 50 * EPS
    assert relative_error(U[:, 0] * np.linalg.norm(b), b) < bound
    assert relative_error(A @ V[:, :-1], U @ B[:, :-1]) < bound
    assert relative_error(A.conj().T @ U, V @ B.T) < bound
    assert relative_error(A.conj().T @ Q, V) < 5 * bound
    for basis in (U, V):
        gram = basis.conj().T @ basis
        assert np.abs(gram - np.eye(6)).max() < 10 * bound


@pytest.mark.float32
def test_identities_outlive_orthogonality():
    """Far beyond convergence: the recurrences hold to rounding, bases do not."""
    dtype = dtype_of("real")
    A = matrix(rng(2), (40, 30), condition=1e3, dtype=dtype)
    b = normal(rng(3), 40, dtype)
    U, V, _, B = process(A, b, 80)
    assert np.abs(V.T @ V - np.eye(81)).max() > 0.1
    for got, want in ((A @ V[:, :-1], U @ B[:, :-1]), (A.T @ U, V @ B.T)):
        assert np.abs(got - want).max() < 20 * EPS


@pytest.mark.float32
def test_orthogonality_is_lost_to_converged_ritz_vectors_only():
    """Paige (1976), for Lanczos on AᵀA: |v_{k+1}ᵀ z_j| δ_j = O(ε ‖A‖²).

    With z_j = V s_j a Ritz vector and δ_j = α_{k+1} β_{k+1} |s_kj| its residual.
    """
    dtype = dtype_of("real")
    A = matrix(rng(4), (60, 40), condition=100.0, dtype=dtype)
    b = normal(rng(5), 60, dtype)
    _, V, _, B = (z.astype(np.float64) for z in process(A, b, 60))
    lost = []
    for k in range(5, 60):
        lower = B[: k + 1, :k]
        _, vectors = np.linalg.eigh(lower.T @ lower)
        overlap = np.abs(V[:, k] @ (V[:, :k] @ vectors))
        residual = B[k, k] * B[k, k - 1] * np.abs(vectors[-1])
        assert np.max(overlap * residual) < 100 * EPS
        lost.append(overlap.max())
    assert max(lost) > 0.1
