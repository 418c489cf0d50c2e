"""A subclass with `mv` and `in_structure` is a complete operator, also for lineax."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import lsqflow as lf

from .helpers import dtype_of, matrix, normal, relative_error, rng

EPS = float(np.finfo(dtype_of("real")).eps)
kinds = pytest.mark.parametrize("kind", ["real", "complex"])


class Dense(lf.AbstractOperator):
    """Nothing but the two methods that must be there."""

    entries: jax.Array

    def mv(self, vector):
        return self.entries @ vector

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape[1:], self.entries.dtype)


class Split(lf.AbstractOperator):
    """From a dictionary with a matrix inside to a pair."""

    entries: jax.Array

    def mv(self, vector):
        x = jnp.concatenate([vector["image"].ravel(), vector["offset"][None]])
        out = self.entries @ x
        return out[:2], {"rest": out[2:]}

    def in_structure(self):
        dtype = self.entries.dtype
        return {
            "image": jax.ShapeDtypeStruct((2, 3), dtype),
            "offset": jax.ShapeDtypeStruct((), dtype),
        }


@dataclasses.dataclass(frozen=True)
class Case:
    dense: np.ndarray
    operator: lf.AbstractOperator
    v: jax.Array
    u: jax.Array


def case(kind, shape=(5, 7)):
    dtype = dtype_of(kind)
    A = matrix(rng(), shape, dtype=dtype)
    v, u = (jnp.asarray(normal(rng(i), n, dtype)) for i, n in enumerate(shape[::-1]))
    return Case(A, Dense(jnp.asarray(A)), v, u)


def close(got, want):
    assert np.shape(got) == np.shape(want)
    assert relative_error(got, want) < 20 * EPS


@pytest.mark.float32
@kinds
def test_products_transpose_and_conj(kind):
    c = case(kind)
    A, op = c.dense, c.operator
    assert op.out_structure() == jax.ShapeDtypeStruct((5,), A.dtype)
    assert (op.in_size(), op.out_size()) == (7, 5)
    close(op.as_matrix(), A)
    close(op.rmv(c.u), A.T @ c.u)
    close(op.adjoint_mv(c.u), A.conj().T @ c.u)
    forms = (
        (op.T, A.T),
        (op.H, A.conj().T),
        (op.conj(), A.conj()),
        (op.T.T, A),
        (op.H.H, A),
        (op.T.conj().T, A.conj()),
        (lx.conj(op), A.conj()),
        (lx.linearise(op), A),
        (lx.linearise(op).H, A.conj().T),
        (lx.linearise(op.H), A.conj().T),
        (lx.materialise(op), A),
    )
    for form, dense in forms:
        v, u = (c.v, c.u) if dense.shape == A.shape else (c.u, c.v)
        assert form.in_structure().shape == dense.shape[1:]
        assert form.out_structure().shape == dense.shape[:1]
        close(form.as_matrix(), dense)
        close(form.mv(v), dense @ v)
        close(form.rmv(u), dense.T @ u)
    assert isinstance(lx.materialise(op), lf.MatrixOperator)


@pytest.mark.float32
def test_pytrees():
    dtype = dtype_of("complex")
    A = matrix(rng(), (5, 7), dtype=dtype)
    op = Split(jnp.asarray(A))
    out = op.out_structure()
    assert out == (
        jax.ShapeDtypeStruct((2,), dtype),
        {"rest": jax.ShapeDtypeStruct((3,), dtype)},
    )
    close(op.as_matrix(), A)
    close(op.H.as_matrix(), A.conj().T)
    close(lx.materialise(op).as_matrix(), A)
    b = normal(rng(1), 5, dtype)
    x = lf.lstsq(op, (b[:2], {"rest": b[2:]})).value
    assert x["image"].shape == (2, 3)
    flat = np.append(x["image"].ravel(), x["offset"])
    assert relative_error(flat, np.linalg.pinv(A) @ b) < 100 * EPS**0.75


def test_diagonals_and_predicates():
    A = matrix(rng(), (6, 6))
    op = Dense(jnp.asarray(A))
    close(lx.diagonal(op), np.diag(A))
    main, lower, upper = lx.tridiagonal(op)
    close(main, np.diag(A))
    close(lower, np.diag(A, -1))
    close(upper, np.diag(A, 1))
    tags = {
        lx.is_symmetric: lx.symmetric_tag,
        lx.is_diagonal: lx.diagonal_tag,
        lx.is_tridiagonal: lx.tridiagonal_tag,
        lx.has_unit_diagonal: lx.unit_diagonal_tag,
        lx.is_lower_triangular: lx.lower_triangular_tag,
        lx.is_upper_triangular: lx.upper_triangular_tag,
        lx.is_positive_semidefinite: lx.positive_semidefinite_tag,
        lx.is_negative_semidefinite: lx.negative_semidefinite_tag,
    }
    for predicate, tag in tags.items():
        assert predicate(op) is False
        for other, its_tag in tags.items():
            tagged = lf.MatrixOperator(op.entries, frozenset([its_tag]))
            assert predicate(tagged) is (other is predicate)
            assert predicate(lx.linearise(tagged)) is (other is predicate)
        assert predicate(lx.TaggedLinearOperator(op, tag))
    lower = lf.MatrixOperator(op.entries, frozenset([lx.lower_triangular_tag]))
    assert lx.is_upper_triangular(lower.T)
    assert not lx.is_lower_triangular(lower.T)


@pytest.mark.parametrize("form", ["product", "sum", "scaled", "negative", "difference"])
def test_compositions_with_lineax(form):
    dtype = dtype_of("complex")
    A, B = (matrix(rng(i), (6, 6), dtype=dtype) for i in range(2))
    op, other = Dense(jnp.asarray(A)), lx.MatrixLinearOperator(jnp.asarray(B))
    two = jnp.asarray(2, dtype)
    got, want = {
        "product": lambda: (op @ other, A @ B),
        "sum": lambda: (other + op, A + B),
        "scaled": lambda: (op * two / (two * two), A / 2),
        "negative": lambda: (-op, -A),
        "difference": lambda: (op - other, A - B),
    }[form]()
    v = normal(rng(2), 6, dtype)
    close(got.as_matrix(), want)
    close(got.T.mv(jnp.asarray(v)), want.T @ v)
    close(lx.conj(got).as_matrix(), want.conj())
    close(lf.as_operator(got).adjoint_mv(jnp.asarray(v)), want.conj().T @ v)


LINEAX = {
    "QR": lx.QR(),
    "SVD": lx.SVD(),
    "LU": lx.LU(),
    "GMRES": lx.GMRES(rtol=1e-10, atol=1e-10),
    "CG": lx.Normal(lx.CG(rtol=1e-10, atol=1e-10)),
}


@pytest.mark.parametrize("name", LINEAX)
def test_lineax_solvers_take_our_operators(name):
    A = matrix(rng(), (6, 6)) + np.eye(6)
    b = normal(rng(1), 6, np.float64)
    x = lx.linear_solve(Dense(jnp.asarray(A)), jnp.asarray(b), LINEAX[name]).value
    assert relative_error(x, np.linalg.solve(A, b)) < 1e-7


@pytest.mark.float32
def test_half_precision_products():
    entries = jnp.asarray([[1.0, 2.0], [0.5, -1.0], [4.0, 0.25]], jnp.bfloat16)
    op = Dense(entries)
    v = jnp.asarray([2.0, -4.0], jnp.bfloat16)
    for product in (op.mv(v), lx.linearise(op).mv(v)):
        assert product.dtype == jnp.bfloat16
        np.testing.assert_array_equal(product.astype(np.float32), [-6, 5, 7])
    assert op.rmv(op.mv(v)).dtype == jnp.bfloat16
    assert op.as_matrix().dtype == jnp.bfloat16


def test_a_step_uses_the_given_rmv():
    # After one step LSMR stands on the line through its first direction `rmv(b)`.
    A = matrix(rng(), (6, 4))
    b = normal(rng(1), 6, np.float64)

    class Skewed(Dense):
        def rmv(self, vector):
            return jnp.flip(self.entries.T @ vector)

    solver = lf.LSMR(max_steps=1)
    for make, direction in ((Dense, A.T @ b), (Skewed, (A.T @ b)[::-1])):
        x = lf.lstsq(make(jnp.asarray(A)), b, solver, throw=False).value
        cosine = x @ direction / np.linalg.norm(x) / np.linalg.norm(direction)
        np.testing.assert_allclose(cosine, 1, rtol=1e-12)


def test_a_wide_fourier_transform_in_lineax_qr():
    """XLA on CPUs refuses some layouts of what enters a Fourier transform."""
    operator = lf.FunctionOperator(lambda x: jnp.fft.fft(x)[:4], jnp.ones(6, complex))
    b = jnp.asarray(np.arange(4) + 1j)
    solve = eqx.filter_jit(lambda op, b: lx.linear_solve(op, b, lx.QR()).value)
    want = np.linalg.pinv(np.fft.fft(np.eye(6))[:4]) @ np.asarray(b)
    np.testing.assert_allclose(solve(operator, b), want, atol=1e-12)
