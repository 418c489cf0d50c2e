"""What operators of operators simplify to, print as, refuse, and cost."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg

import lsqflow as lf

from .helpers import dtype_of, matrix, normal, relative_error, rng

A = matrix(rng(), (5, 4))
B = matrix(rng(1), (4, 3))


def operator(array=A):
    return lf.as_operator(jnp.asarray(array))


def diagonal(*entries):
    return lf.Diagonal(jnp.asarray(entries))


def test_arithmetic_against_numpy_with_arrays_and_lineax_on_either_side():
    L = lx.MatrixLinearOperator(jnp.asarray(A))
    D = lx.DiagonalLinearOperator(jnp.arange(1.0, 5.0))
    op, d = operator(), np.diag(np.arange(1.0, 5.0))
    cases = [
        (op @ B, A @ B),
        (np.asarray(A).T @ op, A.T @ A),
        (jnp.asarray(A).T @ op, A.T @ A),
        (op @ D, A @ d),
        (op + A - 2 * op, np.zeros_like(A)),
        (A - op / 3, 2 / 3 * A),
        (L.T @ op, A.T @ A),
        (lf.as_operator(L.T @ op - D * 2), A.T @ A - 2 * d),
        (lf.as_operator(-(L @ D) / 4), -A @ d / 4),
        (np.float64(2) * op, 2 * A),
        (op * jnp.asarray(2.0), 2 * A),
        ((op.T @ op + d).T, A.T @ A + d),
        (lf.as_operator(L).H @ op, A.T @ A),
    ]
    for got, want in cases:
        np.testing.assert_allclose(got.as_matrix(), want, atol=1e-14)
        if not isinstance(got, lf.AbstractOperator):
            assert isinstance(lf.as_operator(got), lf.Composed)


def test_what_is_free_is_simplified():
    op = operator()
    one, zero = lf.Identity(jnp.ones(4)), lf.Zero(jnp.ones(4), jnp.ones(5))
    assert op.T.T is op
    assert op.conj() is op
    assert op @ one is op
    assert op + zero is op
    assert zero + op is op
    assert isinstance(op.T @ zero, lf.Zero)
    assert isinstance(2 * zero, lf.Zero)
    assert one.T is one
    for simple, entries in (
        (diagonal(1.0, 2, 3, 4) @ diagonal(2.0, 2, 2, 2), [2, 4, 6, 8]),
        (diagonal(1.0, 2, 3, 4) + diagonal(2.0, 2, 2, 2), [3, 4, 5, 6]),
        (-diagonal(1.0, 2, 3, 4), [-1, -2, -3, -4]),
        (diagonal(1.0, 2, 3, 4).T @ one, [1, 2, 3, 4]),
    ):
        assert isinstance(simple, lf.Diagonal)
        np.testing.assert_array_equal(simple.entries, entries)
    twice = 2 * (3 * op)
    assert isinstance(twice, lf.Scaled)
    assert twice.operator is op
    assert twice.scalar == 6
    chain = (op @ B) @ (B.T @ operator(np.eye(4)))
    assert isinstance(chain, lf.Composed)
    assert len(chain.factors) == 4
    assert len((op + op + (op + op)).terms) == 4
    assert isinstance(chain.T, lf.Composed)


def test_repr_is_a_tree_with_shapes():
    tree = lf.VStack({"data": operator() @ B, "prior": 0.5 * lf.Identity(jnp.ones(3))})
    assert repr(tree).splitlines() == [
        "VStack: f64[3] → {'data': f64[5], 'prior': f64[3]}",
        "├─ data: Composed: f64[3] → f64[5]",
        "│  ├─ MatrixOperator(matrix=f64[5,4]): f64[4] → f64[5]",
        "│  └─ MatrixOperator(matrix=f64[4,3]): f64[3] → f64[4]",
        "└─ prior: Scaled(scalar=0.5): f64[3] → f64[3]",
        "   └─ Identity: f64[3] → f64[3]",
    ]
    inside = []
    jax.jit(lambda s: inside.append(repr(s * operator())))(2.0)
    assert "Scaled(scalar=f64[])" in inside[0]
    # A transformation has put something else in place of the leaves.
    assert "Diagonal" in repr(jax.tree.map(lambda _: None, diagonal(1.0)))


def test_gradient_through_the_algebra():
    b = normal(rng(2), 5, np.float64)

    def loss(s, d):
        op = s * operator() @ lf.Diagonal(d) - 0.5 * operator()
        return jnp.sum(lf.lstsq(op, b, lf.LSMR(rtol=1e-13)).value ** 2)

    def dense(s, d):
        M = s * A @ jnp.diag(d) - 0.5 * A
        return jnp.sum((jnp.linalg.pinv(M) @ b) ** 2)

    at = (jnp.asarray(2.0), jnp.arange(1.0, 5.0))
    got, want = (jax.jit(jax.grad(f, (0, 1)))(*at) for f in (loss, dense))
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) < 1e-9


def test_an_own_transposed_product_survives_composition():
    """Each part keeps its `rmv`, also when linearised."""
    calls = []

    class Loud(lf.AbstractOperator):
        matrix: jax.Array

        def mv(self, vector):
            return self.matrix @ vector

        def rmv(self, vector):
            calls.append(1)
            return vector @ self.matrix

        def in_structure(self):
            return jax.ShapeDtypeStruct(self.matrix.shape[1:], self.matrix.dtype)

    loud = Loud(jnp.asarray(A))
    stacked = lf.VStack([2 * (loud @ B), operator(A) @ B])
    u = [jnp.ones(5), jnp.ones(5)]
    for form in (stacked, stacked.linearise()):
        calls.clear()
        np.testing.assert_allclose(form.rmv(u), B.T @ A.T @ (3 * np.ones(5)))
    assert not calls  # hoisted, when it was linearised


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_woodbury(kind):
    dtype = dtype_of(kind)
    d = normal(rng(), 12, dtype) + dtype.type(6)
    u, v = (normal(rng(i), (12, 2), dtype) for i in (1, 2))
    b = normal(rng(3), 12, dtype)
    op = lf.DiagonalPlusLowRank(d, u, v)
    x = np.linalg.solve(np.diag(d) + u @ v.conj().T, b)
    tol = 1e3 * float(jnp.finfo(dtype).eps)
    assert relative_error(lf.lstsq(op, b, lf.Woodbury()).value, x) < tol
    assert relative_error(lx.linear_solve(op, b, lf.Woodbury()).value, x) < tol
    dual = lf.lstsq(op, b, lf.Woodbury()).dual
    assert relative_error(op.adjoint_mv(dual), x) < tol
    weight = jnp.asarray(normal(rng(4), 12, dtype))

    def loss(method):
        return lambda d, u: jnp.real(jnp.sum(weight * method(d, u)))

    def woodbury(d, u):
        return lf.lstsq(lf.DiagonalPlusLowRank(d, u), b, lf.Woodbury()).value

    def dense(d, u):
        return jnp.linalg.solve(jnp.diag(d) + u @ u.conj().T, b)

    at = (jnp.asarray(d), jnp.asarray(u))
    got, want = (jax.jit(jax.grad(loss(f), (0, 1)))(*at) for f in (woodbury, dense))
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) < tol


def test_woodbury_says_what_it_needs():
    op = lf.DiagonalPlusLowRank(jnp.ones(4), jnp.ones((4, 1)))
    with pytest.raises(TypeError, match="DiagonalPlusLowRank"):
        lf.lstsq(A, np.ones(5), lf.Woodbury())
    singular = lf.DiagonalPlusLowRank(jnp.zeros(4), jnp.ones((4, 1)))
    solution = lf.lstsq(singular, np.ones(4), lf.Woodbury(), throw=False)
    assert solution.result != lx.RESULTS.successful
    with pytest.raises(TypeError, match="undamped"):
        lf.lstsq(op, np.ones(4), lf.Woodbury(), damp=0.1)


def test_kronecker_and_permutation_against_scipy():
    C = matrix(rng(2), (3, 3))
    square = matrix(rng(3), (4, 4))
    kron = lf.Kronecker(C, square)
    want = np.kron(C, square)
    np.testing.assert_allclose(kron.as_matrix(), want, atol=1e-14)
    np.testing.assert_allclose(
        kron.mv(jnp.ones((3, 4))), (want @ np.ones(12)).reshape(3, 4)
    )
    # Lyapunov's equation C X + X Cᵀ = Q, symmetric Q.
    Q = C + C.T
    C = C + 3 * np.eye(3)
    X = lf.lstsq(lf.KroneckerSum(C, C), jnp.asarray(Q), lf.LSMR(rtol=1e-12)).value
    np.testing.assert_allclose(X, scipy.linalg.solve_continuous_lyapunov(C, Q), 1e-8)


STRUCT = jax.ShapeDtypeStruct((4,), np.float64)
BAD = {
    "compose": (lambda: operator() @ A, ValueError, r"A takes f64\[4\] and B returns"),
    "vector": (lambda: operator() @ np.ones(4), ValueError, r"apply.*A\.mv\(x\)"),
    "dtypes": (lambda: operator() @ np.float32(B), ValueError, r"f32\[4\]"),
    "add": (lambda: operator() + B, ValueError, r"f64\[4\] to f64\[5\], B from f64\[3"),
    "scale": (lambda: operator() * np.ones(4), TypeError, "lsqflow.Diagonal"),
    "complex": (lambda: 1j * operator(), TypeError, "complex vectors"),
    "nothing": (lambda: lf.VStack([]), ValueError, "at least one"),
    "vstack": (lambda: lf.VStack([A, B]), ValueError, "inputs must be equal"),
    "hstack": (lambda: lf.HStack([A, B]), ValueError, "outputs must be equal"),
    "ragged": (lambda: lf.Block([[A], [A, A]]), ValueError, r"lengths \[1, 2\]"),
    "empty row": (lambda: lf.Block([[A], [None]]), ValueError, "row 1 holds nothing"),
    "grid": (lambda: lf.Block([[A, B]]), ValueError, "blocks of row 0"),
    "square": (lambda: lf.KroneckerSum(A), ValueError, "square"),
    "ranks": (lambda: lf.LowRank(A, B), ValueError, "equally many columns"),
    "woodbury": (
        lambda: lf.DiagonalPlusLowRank(np.ones(3), A),
        ValueError,
        r"f64\[3\], f64\[5,4\]",
    ),
    "mask": (lambda: lf.Mask(np.ones(3)), TypeError, "boolean"),
    "index": (lambda: lf.Selection([4], STRUCT), IndexError, "from -4 to 3"),
    "axis": (lambda: lf.Selection([0], STRUCT, 1), ValueError, "no axis 1"),
    "float index": (lambda: lf.Selection([0.5], STRUCT), TypeError, "integers"),
    "permutation": (lambda: lf.Permutation([0, 0]), ValueError, "0, …, 1 once"),
    "reshape": (lambda: lf.Reshape(STRUCT, (3,)), ValueError, r"shape \(3,\)"),
    "ravel": (
        lambda: lf.Ravel([jnp.ones(2), jnp.ones(2, jnp.float32)]),
        TypeError,
        "float32, float64",
    ),
    "real": (lambda: lf.Real(STRUCT), TypeError, "needs complex"),
    "no matrix": (
        lambda: lf.Imag(jnp.ones(2, complex)).as_matrix(),
        TypeError,
        "real numbers only",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make()
