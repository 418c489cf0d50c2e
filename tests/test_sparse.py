"""`SparseOperator` against SciPy and dense matrices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse as jsparse

import lsqflow as lf

from .cases.sparse import triplets
from .helpers import count_traces, dtype_of, normal, relative_error, rng

EPS = float(np.finfo(dtype_of("real")).eps)
SHAPE = (12, 9)
kinds = pytest.mark.parametrize("kind", ["real", "complex"])


def close(got, want):
    assert np.shape(got) == np.shape(want)
    assert relative_error(got, want) < 20 * EPS


def exact(got, want):
    """Equal, and of the same dtype."""
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def products_close(operator, dense):
    """Both products and both matrices, also after linearisation."""
    m, n = dense.shape
    assert operator.in_structure() == jax.ShapeDtypeStruct((n,), dense.dtype)
    assert operator.out_structure() == jax.ShapeDtypeStruct((m,), dense.dtype)
    v, u = (jnp.asarray(normal(rng(i), k, dense.dtype)) for i, k in ((1, n), (2, m)))
    for form in (operator, operator.linearise()):
        close(form.mv(v), dense @ v)
        close(form.rmv(u), dense.T @ u)
    close(operator.as_matrix(), dense)
    close(operator.T.as_matrix(), dense.T)
    close(operator.conj().mv(v), dense.conj() @ v)
    close(operator.H.mv(u), dense.conj().T @ u)


@pytest.mark.float32
@kinds
@pytest.mark.parametrize(
    ("shape", "nonzeros"),
    [((12, 9), 60), ((9, 12), 20), ((30, 4), 15), ((1, 20), 50), ((3, 5), 1)],
)
def test_products(kind, shape, nonzeros):
    given, dense = triplets(shape, nonzeros, dtype_of(kind))
    operator = lf.SparseOperator.from_triplets(*given, shape)
    exact(operator.data, given[0])
    products_close(operator, dense)


@pytest.mark.float32
@pytest.mark.parametrize("shape", [(5, 3), (0, 4), (4, 0), (0, 0)])
def test_no_nonzeros(shape):
    dtype = dtype_of("real")
    operator = lf.SparseOperator(sp.coo_array(shape, dtype=dtype))
    dense = np.zeros(shape, dtype)
    exact(operator.as_matrix(), dense)
    for form in (operator, operator.linearise()):
        exact(form.mv(jnp.ones(shape[1], dtype)), dense.sum(1))
        exact(form.rmv(jnp.ones(shape[0], dtype)), dense.sum(0))


@pytest.mark.parametrize("form", ["coo", "csr", "csc", "bsr", "dia", "dok", "lil"])
def test_formats_of_scipy(form):
    dense = triplets(SHAPE, 40, np.float64)[1]
    for make in (sp.coo_array, sp.coo_matrix):
        matrix = make(dense).asformat(form)
        operator = lf.SparseOperator(matrix)
        exact(operator.as_matrix(), dense)
        exact(operator.data, matrix.tocoo().data)


def test_lstsq_takes_sparse_matrices():
    dense = triplets(SHAPE, 60, np.float64)[1]
    b = normal(rng(1), 12, np.float64)
    want = np.linalg.pinv(dense) @ b
    for matrix in (sp.csr_array(dense), jsparse.BCSR.fromdense(jnp.asarray(dense))):
        assert isinstance(lf.as_operator(matrix), lf.SparseOperator)
    assert relative_error(lf.lstsq(matrix, jnp.asarray(b)).value, want) < 1e-6


def test_duplicates_in_scipy_are_added():
    rows, columns = np.asarray([0, 0, 1, 0]), np.asarray([1, 1, 0, 1])
    matrix = sp.coo_array((np.asarray([1.0, 2.0, 5.0, 4.0]), (rows, columns)), (2, 2))
    exact(lf.SparseOperator(matrix).as_matrix(), matrix.toarray())


@pytest.mark.parametrize("form", [jsparse.BCOO, jsparse.BCSR])
def test_formats_of_jax(form):
    # `nse` beyond the nonzeros: padding, whose indices lie outside of the shape.
    dense = triplets(SHAPE, 40, np.float64)[1]
    matrix = form.fromdense(jnp.asarray(dense), nse=70)
    exact(lf.SparseOperator(matrix).as_matrix(), dense)
    # Also where the indices are traced, and the layout is left to JAX.
    v, u = (jnp.asarray(normal(rng(i), n, np.float64)) for i, n in enumerate((9, 12)))
    mv, rmv = jax.jit(
        lambda M: (lf.SparseOperator(M).mv(v), lf.SparseOperator(M).rmv(u))
    )(matrix)
    close(mv, dense @ v)
    close(rmv, dense.T @ u)


def test_traced_triplets_match_known_ones():
    # Also narrow integers, whose type does not hold the numbers of rows and places.
    data, rows, columns = triplets((12, 9), 40, np.float64)[0]
    rows, columns = (jnp.asarray(x, jnp.uint8) for x in (rows, columns))
    make = lambda *x: lf.SparseOperator.from_triplets(*x, (300, 9))
    known = make(data, rows, columns)
    traced = eqx.filter_jit(make)(jnp.asarray(data), rows, columns)
    assert jax.tree.structure(known) == jax.tree.structure(traced)
    jax.tree.map(exact, known, traced)


def test_traced_indices_outside_of_the_shape_do_not_count():
    make = lambda *x: lf.SparseOperator.from_triplets(*x, SHAPE)
    rows = jnp.asarray([0, -1, 12, 1, 2]), jnp.asarray([0, 0, 0, -1, 9])
    outside = eqx.filter_jit(make)(jnp.ones(5), *rows)
    want = np.zeros(SHAPE)
    want[0, 0] = 1
    exact(outside.as_matrix(), want)


@pytest.mark.float32
def test_integers_become_floats():
    matrix = sp.csr_array(np.asarray([[1, 0, 2], [0, 3, 0]]))
    operator = lf.SparseOperator(matrix)
    assert operator.data.dtype == dtype_of("real")
    products_close(operator, matrix.toarray().astype(dtype_of("real")))
    half = lf.SparseOperator.from_triplets(
        jnp.ones(2, jnp.bfloat16), [0, 1], [1, 0], (2, 2)
    )
    assert half.mv(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


def test_nan_stays_where_it_is():
    # A row with a NaN is NaN; padding multiplies no other row by an infinite entry.
    dense = triplets(SHAPE, 40, np.float64)[1]
    i, j = np.argwhere(dense)[7]
    dense[i, j] = np.nan
    operator = lf.SparseOperator(sp.csr_array(dense))
    got = operator.mv(jnp.ones(9))
    exact(np.isnan(got), np.arange(12) == i)
    dense[i, j] = 1
    csr = sp.csr_array(dense)
    for k in range(9):
        v = np.where(np.arange(9) == k, np.inf, 1.0)
        got = lf.SparseOperator(csr).mv(jnp.asarray(v))
        exact(np.isfinite(got), np.isfinite(csr @ v))


@kinds
def test_gradient_in_the_order_given(kind):
    dtype = dtype_of(kind)
    (data, rows, columns), _ = triplets(SHAPE, 60, dtype)
    operator = lf.SparseOperator.from_triplets(data, rows, columns, SHAPE)
    b = normal(rng(5), 12, dtype)

    def loss(data):
        moved = eqx.tree_at(lambda o: o.data, operator, data)
        solution = lf.lstsq(moved, jnp.asarray(b), lf.LSMR(rtol=1e-13)).value
        return jnp.sum(jnp.abs(solution) ** 2)

    def reference(data):
        dense = np.zeros(SHAPE, dtype)
        np.add.at(dense, (rows, columns), data)
        return np.sum(np.abs(np.linalg.pinv(dense) @ b) ** 2)

    def difference(step):
        shifts = step * np.eye(60)
        return np.asarray([reference(data + s) - reference(data - s) for s in shifts])

    value, got = jax.jit(jax.value_and_grad(loss))(jnp.asarray(data))
    np.testing.assert_allclose(value, reference(data), rtol=1e-10)
    h = 1e-5
    want = difference(h) / (2 * h)
    if kind == "complex":
        want = want - 1j * difference(1j * h) / (2 * h)
    assert relative_error(got, want) < 1e-5


def test_derivatives_of_products():
    given, _ = triplets(SHAPE, 40, np.float64)
    operator = lf.SparseOperator.from_triplets(*given, SHAPE)
    v, u = (jnp.asarray(normal(rng(i), n, np.float64)) for i, n in enumerate((9, 12)))
    _, rows, columns = given
    for bilinear in (lambda o: o.mv(v) @ u, lambda o: o.rmv(u) @ v):
        close(eqx.filter_grad(bilinear)(operator).data, u[rows] * v[columns])
    close(jax.grad(lambda x: operator.mv(x) @ u)(v), operator.rmv(u))
    close(jax.grad(lambda x: operator.rmv(x) @ v)(u), operator.mv(v))


def test_vmap_over_vectors_and_data():
    given, dense = triplets(SHAPE, 40, np.float64)
    operator = lf.SparseOperator.from_triplets(*given, SHAPE)
    vectors = normal(rng(1), (3, 9), np.float64)
    close(jax.vmap(operator.mv)(jnp.asarray(vectors)), vectors @ dense.T)
    scales = jnp.asarray([1.0, 2.0, -0.5])[:, None]
    stack = eqx.tree_at(lambda o: o.data, operator, scales * operator.data[None])
    axes = jax.tree.map(lambda x: 0 if x is stack.data else None, stack)
    got = jax.vmap(lambda o, v: o.mv(v), (axes, 0))(stack, jnp.asarray(vectors))
    close(got, np.asarray(scales) * (vectors @ dense.T))


def test_new_data_and_new_patterns_find_compiled_code():
    solve, traces = count_traces(
        lambda b, operator: lf.lstsq(operator, b, lf.LSMR(rtol=1e-12)).value
    )
    solve = eqx.filter_jit(solve)
    for seed in range(3):
        given, dense = triplets(SHAPE, 60, np.float64, seed)
        b = normal(rng(seed), 12, np.float64)
        operator = lf.SparseOperator.from_triplets(*given, SHAPE)
        got = solve(jnp.asarray(b), operator)
        assert relative_error(got, np.linalg.pinv(dense) @ b) < 1e-8
        operator = eqx.tree_at(lambda o: o.data, operator, 2 * operator.data)
        assert relative_error(solve(jnp.asarray(b), operator), got / 2) < 1e-12
    assert len(traces) == 1


def test_memory_is_bounded_for_any_pattern():
    # All nonzeros in one row, or none in most of them.
    for rows in (np.zeros(4000, int), np.arange(4000) % 7, np.arange(4000)):
        columns = np.arange(4000)
        operator = lf.SparseOperator.from_triplets(
            np.ones(4000), rows, columns, (4000, 4000)
        )
        for layout in (operator.by_row, operator.by_column):
            assert layout.source.size <= 2 * 4000
        exact(operator.mv(jnp.ones(4000)), np.bincount(rows, minlength=4000) * 1.0)


def test_errors():
    ones = np.ones(3)
    make = lambda data, rows, columns, shape=(3, 3): lf.SparseOperator.from_triplets(
        data, rows, columns, shape
    )
    for error, match, bad in (
        (
            ValueError,
            r"`rows` must lie .* 2 .*-1",
            lambda: make(ones, [0, -1, 1], [0] * 3),
        ),
        (ValueError, "`columns` must lie", lambda: make(ones, [0] * 3, [0, 1, 3])),
        (ValueError, "same length", lambda: make(ones, [0, 1], [0, 1])),
        (ValueError, "one dimension", lambda: make(np.ones((3, 1)), [0] * 3, [0] * 3)),
        (ValueError, "shape", lambda: make(ones, [0] * 3, [0] * 3, (3, -1))),
        (ValueError, "shape", lambda: make(ones, [0] * 3, [0] * 3, (3, 3, 3))),
        (TypeError, "integers", lambda: make(ones, np.zeros(3), [0] * 3)),
        (TypeError, "sparse matrix", lambda: lf.SparseOperator(np.eye(3))),
        (TypeError, "sparse matrix", lambda: lf.SparseOperator([[1.0]])),
        (ValueError, "two dimensions", lambda: lf.SparseOperator(sp.coo_array(ones))),
        (
            ValueError,
            "n_batch=1",
            lambda: lf.SparseOperator(
                jsparse.BCOO.fromdense(jnp.ones((2, 3, 3)), n_batch=1)
            ),
        ),
        (
            ValueError,
            "two dimensions",
            lambda: lf.SparseOperator(jsparse.BCOO.fromdense(jnp.ones(3))),
        ),
    ):
        with pytest.raises(error, match=match):
            bad()
