"""Lineax's rules differentiate and batch our solvers like the pseudo-inverse."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import lsqflow as lf

from .helpers import SHAPES, dtype_of, matrix, normal, relative_error, rng

TOL, CLOSE = 1e-12, 1e-9
SOLVER = lf.LSMR(rtol=TOL)


def _curve(shape, rank, dtype):
    """A(t), b(t) with A of constant rank, and their derivatives at t = 0."""
    g = rng(2)
    A = matrix(g, shape, rank=rank, dtype=dtype)
    X, Y = normal(g, (shape[1],) * 2, dtype), normal(g, (shape[0],) * 2, dtype)
    b, b_dot = normal(g, shape[0], dtype), normal(g, shape[0], dtype)

    def at(t):
        left, right = np.eye(shape[0]) + t * Y, np.eye(shape[1]) + t * X
        return left @ A @ right, b + t * b_dot

    return at, (Y @ A + A @ X, b_dot)


def _central(function, h=1e-5):
    return (function(h) - function(-h)) / (2 * h)


def _pinv_solve(A, b):
    return np.linalg.pinv(A, rcond=1e-6) @ b


def _dense_solve(A, b, solver=SOLVER):
    return lx.linear_solve(lx.MatrixLinearOperator(A), b, solver).value


def test_jvp_against_differences():
    shape, dtype = SHAPES["tall"], dtype_of("complex")
    push = jax.jit(
        lambda primals, tangents: jax.jvp(_dense_solve, primals, tangents)[1]
    )
    for rank in (None, 4):
        at, tangents = _curve(shape, rank, dtype)
        want = _central(lambda t, at=at: _pinv_solve(*at(t)))
        assert relative_error(push(at(0.0), tangents), want) < 1e-6


def test_vjp_against_differences():
    shape, dtype = SHAPES["wide"], dtype_of("complex")
    weight = normal(rng(3), shape[1], dtype)

    def loss(A, b):
        return jnp.sum(jnp.real(weight * _dense_solve(A, b)))

    pull = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for rank in (None, 4):
        at, tangents = _curve(shape, rank, dtype)
        want = np.sum(weight * _central(lambda t, at=at: _pinv_solve(*at(t)))).real
        gradient = pull(*at(0.0))
        slope = sum(np.sum(g * d) for g, d in zip(gradient, tangents, strict=True)).real
        np.testing.assert_allclose(slope, want, rtol=1e-6)


def _batch():
    g, dtype = rng(4), dtype_of("real")
    A = np.stack([matrix(g, (9, 6), dtype=dtype) for _ in range(3)])
    return A, normal(g, A.shape, dtype), normal(g, (3, 9), dtype)


AXES = {"both": (0, 0), "vector": (None, 0), "operator": (0, None)}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_vmap(axes):
    A, _, b = _batch()
    args = [x if axis == 0 else x[0] for x, axis in zip((A, b), axes, strict=True)]
    got = jax.jit(jax.vmap(_dense_solve, axes))(*args)
    want = [_pinv_solve(A[i * (axes[0] == 0)], b[i * (axes[1] == 0)]) for i in range(3)]
    assert relative_error(got, np.stack(want)) < CLOSE


def test_vmap_of_jvp():
    A, A_dot, b = _batch()

    @jax.jit
    @jax.vmap
    def push(A, A_dot, b):
        return jax.jvp(lambda A: _dense_solve(A, b, lf.LSQR(rtol=TOL)), (A,), (A_dot,))[
            1
        ]

    got = push(A, A_dot, b)
    for i in range(3):
        want = _central(lambda t, i=i: _pinv_solve(A[i] + t * A_dot[i], b[i]))
        assert relative_error(got[i], want) < 1e-6
