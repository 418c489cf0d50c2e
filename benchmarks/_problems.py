"""Random least-squares problems with prescribed singular values."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def matrix(rows: int, columns: int, condition: float, rank: int | None = None) -> Array:
    """Singular values from 1 down to 1 / condition, geometrically spaced."""
    rng = np.random.default_rng(rows + 7 * columns)
    small = min(rows, columns)
    left, _ = np.linalg.qr(rng.standard_normal((rows, small)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, small)))
    values = np.geomspace(1, 1 / condition, small)
    if rank is not None:
        values[rank:] = 0
    return (left * values) @ right.T


def vector(rows: int) -> Array:
    """Standard normal entries, so that tall problems are inconsistent."""
    return np.random.default_rng(rows).standard_normal(rows)


def solution_and_gradient(A: Array, b: Array) -> tuple[Array, Array, Array]:
    """`x = A⁺ b`, and the gradient of ‖x‖² with respect to `A` and `b`, in closed form.

    Golub and Pereyra (1973):
    dA⁺ = −A⁺ dA A⁺ + A⁺A⁺ᵀ dAᵀ (I − AA⁺) + (I − A⁺A) dAᵀ A⁺ᵀA⁺.
    """
    inverse = np.linalg.pinv(A)
    x = inverse @ b
    to_b = inverse.T @ (2 * x)
    null = 2 * x - inverse @ (A @ (2 * x))
    to_A = (
        np.outer(b - A @ x, inverse @ to_b)
        + np.outer(inverse.T @ x, null)
        - np.outer(to_b, x)
    )
    return x, to_A, to_b


def error(value: Array, exact: Array) -> float:
    """Relative, in the Euclidean norm."""
    return float(np.linalg.norm(np.asarray(value) - exact) / np.linalg.norm(exact))
