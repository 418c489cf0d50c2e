"""Matrices, functions and Jacobians as operators: values, gradients, compilations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import lsqflow as lf
from lsqflow._lstsq import _lstsq

from .helpers import dtype_of, matrix, normal, relative_error, rng

SOLVER = lf.LSMR(rtol=1e-12)
kinds = pytest.mark.parametrize("kind", ["real", "complex"])


def struct(size, dtype=np.float64):
    return jax.ShapeDtypeStruct((size,), dtype)


def solve(operator, b):
    return lf.lstsq(operator, b, SOLVER).value


@pytest.mark.float32
@kinds
def test_matrix_operator_products(kind):
    dtype = dtype_of(kind)
    A = matrix(rng(), (5, 7), dtype=dtype)
    v, u = (normal(rng(i), (3, n), dtype) for i, n in enumerate(A.shape[::-1]))
    op = lf.MatrixOperator(jnp.asarray(A))
    tol = 20 * float(jnp.finfo(dtype).eps)
    assert relative_error(op.mv(jnp.asarray(v[0])), A @ v[0]) < tol
    assert relative_error(op.rmv(jnp.asarray(u[0])), A.T @ u[0]) < tol
    assert relative_error(op.adjoint_mv(jnp.asarray(u[0])), A.conj().T @ u[0]) < tol
    assert relative_error(jax.vmap(op.mv)(v), v @ A.T) < tol
    assert relative_error(jax.vmap(op.rmv)(u), u @ A) < tol
    stack = jax.vmap(lf.MatrixOperator)(jnp.stack([A, 2 * A]))
    many = jax.vmap(lambda op, v: op.mv(v))(stack, v[:2])
    assert relative_error(many, np.stack([A @ v[0], 2 * A @ v[1]])) < tol


@pytest.mark.float32
def test_as_operator():
    dtype = dtype_of("real")
    A = matrix(rng(), (4, 3), dtype=dtype)
    tag = frozenset(["mine"])
    in_lineax = (lx.MatrixLinearOperator(m, tag) for m in (A, jnp.asarray(A)))
    for given in (A, jnp.asarray(A), *in_lineax):
        op = lf.as_operator(given)
        assert isinstance(op, lf.MatrixOperator)
        np.testing.assert_array_equal(op.as_matrix(), A)
    assert op.tags() == tag
    assert lf.as_operator(op) is op
    assert lf.as_operator(np.eye(2, dtype=int)).in_structure().dtype == dtype
    wrapped = lf.as_operator(
        lx.FunctionLinearOperator(lambda x: A @ x, struct(3, dtype))
    )
    assert isinstance(wrapped, lf.AbstractOperator)
    np.testing.assert_allclose(wrapped.as_matrix(), A)
    np.testing.assert_allclose(wrapped.T.as_matrix(), A.T)


@pytest.mark.float32
@kinds
def test_function_operator_from_example_or_structure(kind):
    dtype = dtype_of(kind)
    A = jnp.asarray(matrix(rng(), (5, 7), dtype=dtype))
    fn = lambda x: {"out": A @ x["in"]}
    for example in ({"in": jnp.full(7, jnp.nan, dtype)}, {"in": struct(7, dtype)}):
        op = lf.FunctionOperator(fn, example)
        assert op.in_structure() == {"in": struct(7, dtype)}
        assert op.out_structure() == {"out": struct(5, dtype)}
        np.testing.assert_array_equal(op.as_matrix(), A)
        np.testing.assert_allclose(op.H.as_matrix(), A.conj().T, rtol=1e-6)


def test_gradient_with_respect_to_a_closed_over_array():
    A, b = matrix(rng(), (9, 6)), normal(rng(1), 9, np.float64)
    weight = normal(rng(2), 6, np.float64)
    scale = jnp.linspace(1, 2, 6)

    def loss(scale):
        return weight @ solve(lf.FunctionOperator(lambda x: A @ (scale * x), scale), b)

    gradient = jax.jit(jax.grad(loss))(scale)
    # The solution is pinv(A) b / scale.
    x = np.linalg.pinv(A) @ b
    np.testing.assert_allclose(gradient, -weight * x / scale**2, rtol=1e-8)


def test_equal_closures_share_one_compilation():
    A, b = jnp.asarray(matrix(rng(), (8, 5))), normal(rng(1), 8, np.float64)

    def compiled():
        return _lstsq._cached._cache_size()

    def fresh(matrix):
        return lf.FunctionOperator(
            lambda x: jnp.sin(matrix) @ x + 0 * matrix @ x, b[:5]
        )

    def jacobian(matrix):
        return lf.JacobianOperator(lambda x, m: m @ x**2, jnp.ones(5), matrix)

    for make in (fresh, jacobian):
        solve(make(A), b)
        before = compiled()
        for factor in (0.5, 0.25):
            solve(make(factor * A), b)
        assert compiled() == before


FACTORS = (2.0, -3.0)


def _literal(factor):
    return lambda x: factor * x


def _numpy_constant(factor):
    return lambda x: np.full(4, factor) * x


def _in_jit(factor):
    return jax.jit(lambda x: factor * x)


def _in_cond(factor):
    return lambda x: jax.lax.cond(True, lambda x: factor * x, lambda x: x, x)


def _in_scan(factor):
    def step(x, _):
        return np.full(4, factor) * x, None

    return lambda x: jax.lax.scan(step, x, length=1)[0]


def _static_argument(factor):
    return lambda x: x if factor > 0 else jnp.flip(x)


@pytest.mark.parametrize(
    "make", [_literal, _numpy_constant, _in_jit, _in_cond, _in_scan, _static_argument]
)
def test_unequal_closures_share_nothing(make):
    b = jnp.arange(1.0, 5.0)
    product = eqx.filter_jit(lambda op, x: op.mv(x))
    for factor in FACTORS:
        fn = make(factor)
        op = lf.FunctionOperator(fn, b)
        np.testing.assert_allclose(product(op, b), fn(b))
        np.testing.assert_allclose(lx.linearise(op).mv(b), fn(b))


def _residual(x, data, power):
    """Nonlinear, from a dictionary to an array."""
    return jnp.sin(data @ x["a"]) * x["b"] + jnp.sum(x["a"]) ** power


def _jacobian_problem():
    data = jnp.asarray(matrix(rng(), (6, 3)))
    at = {"a": jnp.asarray([0.3, -0.2, 0.5]), "b": jnp.asarray(1.7)}
    return at, data, normal(rng(1), 6, np.float64)


def test_jacobian_operator_against_jax_jacobian():
    at, data, b = _jacobian_problem()
    op = lf.JacobianOperator(_residual, at, data, 2)
    columns = jax.jacobian(_residual)(at, data, 2)
    J = np.concatenate([columns["a"], columns["b"][:, None]], axis=1)
    every = eqx.filter_jit(lambda op, u: (op.as_matrix(), op.T.mv(u), op.rmv(u)))
    dense, *transposed = every(op, jnp.asarray(b))
    np.testing.assert_allclose(dense, J, rtol=1e-12)
    for product in transposed:
        np.testing.assert_allclose(
            np.append(product["a"], product["b"]), J.T @ b, 1e-11
        )
    x = solve(op, b)
    got = np.append(x["a"], x["b"])
    assert relative_error(got, np.linalg.pinv(J) @ b) < 1e-9


def test_gradient_with_respect_to_point_and_arguments():
    at, data, b = _jacobian_problem()
    weight = normal(rng(2), 3, np.float64)

    def loss(at, data):
        return weight @ solve(lf.JacobianOperator(_residual, at, data, 2), b)["a"]

    def dense(t):
        a, c, d = at["a"] + t, at["b"] - t, np.asarray(data) + t * direction
        z = d @ a
        ja = np.cos(z)[:, None] * d * c + 2 * np.sum(a)
        J = np.concatenate([ja, np.sin(z)[:, None]], axis=1)
        return weight @ (np.linalg.pinv(J) @ b)[:3]

    direction = normal(rng(3), data.shape, np.float64)
    g_at, g_data = jax.jit(jax.grad(loss, argnums=(0, 1)))(at, data)
    slope = np.sum(g_at["a"]) - g_at["b"] + np.sum(g_data * direction)
    np.testing.assert_allclose(slope, (dense(1e-5) - dense(-1e-5)) / 2e-5, rtol=1e-6)


def test_jacobian_is_linearised_once_a_solve():
    """Steps cost products only: `fn` itself runs no more often when there are more."""
    evaluations = []

    def fn(x):
        jax.debug.callback(lambda: evaluations.append(1))
        return jnp.sin(x) * jnp.arange(1.0, 9.0)

    counts = []
    for max_steps in (1, 6):
        evaluations.clear()
        op = lf.JacobianOperator(fn, jnp.linspace(0.1, 0.8, 8))
        solver = lf.LSMR(max_steps=max_steps)
        solution = lf.lstsq(op, jnp.ones(8), solver, throw=False)
        jax.block_until_ready(solution.value)
        jax.effects_barrier()
        assert int(solution.stats["num_steps"]) == max_steps
        counts.append(len(evaluations))
    assert counts[0] == counts[1] <= 2
