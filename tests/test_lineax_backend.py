"""Our solvers under `lineax.linear_solve` obey the laws that lineax asks of its own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import lsqflow as lf

from .helpers import SHAPES, X64, dtype_of, matrix, normal, relative_error, rng

TOL = 1e-12 if X64 else 1e-6
CLOSE = 1e-9 if X64 else 1e-4
SOLVERS = {
    "LSMR": lf.LSMR(rtol=TOL, atol=TOL),
    "LSQR": lf.LSQR(rtol=TOL, atol=TOL),
    "AutoSolver": lf.AutoSolver(lf.LSMR(rtol=TOL, atol=TOL)),
}
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def _struct(size, dtype):
    return jax.ShapeDtypeStruct((size,), dtype)


def _function(A):
    return lx.FunctionLinearOperator(lambda x: A @ x, _struct(A.shape[1], A.dtype))


def _jacobian(A):
    """The Jacobian of a nonlinear function which is A at its point."""
    at = jnp.linspace(0.5, 1.5, A.shape[1]).astype(A.dtype)
    B = A - 2 * at[None, :]
    return lx.JacobianLinearOperator(lambda x, B: B @ x + jnp.sum(x * x), at, B)


def _composed(A):
    scale = jnp.linspace(1, 2, A.shape[0]).astype(A.dtype)
    return lx.DiagonalLinearOperator(scale) @ lx.MatrixLinearOperator(
        A / scale[:, None]
    )


OPERATORS = {
    "matrix": lx.MatrixLinearOperator,
    "function": _function,
    "jacobian": _jacobian,
    "pytree": lambda A: lx.PyTreeLinearOperator(A, _struct(A.shape[0], A.dtype)),
    "tagged": lambda A: lx.TaggedLinearOperator(lx.MatrixLinearOperator(A), "mine"),
    "composed": _composed,
    "sum": lambda A: lx.MatrixLinearOperator(3 * A) + _function(-2 * A),
    "scaled": lambda A: -(_function(-2 * A) / jnp.asarray(2, A.dtype)),
    "transposed": lambda A: _function(A.T).T,
}


@eqx.filter_jit
def _solve(operator, vector, solver):
    return lx.linear_solve(operator, vector, solver)


@pytest.mark.float32
@pytest.mark.parametrize(
    ("solver", "shape"),
    [("LSMR", name) for name in SHAPES] + [("LSQR", "tall"), ("AutoSolver", "wide")],
)
def test_every_shape_and_rank(shape, solver):
    shape, solver = SHAPES[shape], SOLVERS[solver]
    b = normal(rng(1), shape[0], dtype_of("real"))
    for rank in (None, 4):
        A = matrix(rng(), shape, rank=rank, dtype=dtype_of("real"))
        solution = _solve(
            lx.MatrixLinearOperator(jnp.asarray(A)), jnp.asarray(b), solver
        )
        assert solution.value.dtype == A.dtype
        assert bool(solution.result == lx.RESULTS.successful)
        assert relative_error(solution.value, np.linalg.pinv(A, rcond=1e-3) @ b) < CLOSE


@pytest.mark.float32
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_every_operator(make):
    dtype = dtype_of("complex")
    b = normal(rng(1), 7, dtype)
    for rank in (None, 4):
        A = matrix(rng(), (7, 7), rank=rank, dtype=dtype)
        solution = _solve(make(jnp.asarray(A)), jnp.asarray(b), SOLVERS["LSMR"])
        assert solution.value.dtype == dtype
        assert relative_error(solution.value, np.linalg.pinv(A, rcond=1e-3) @ b) < CLOSE


@pytest.mark.parametrize("solver", [SOLVERS["LSMR"], SOLVERS["LSQR"]])
def test_diagonal_operator_with_a_zero(solver):
    d = np.array([0.0, 4.0, 5.0, 8.0, 10.0])
    operator = lx.DiagonalLinearOperator(jnp.asarray(d))
    solution = _solve(operator, jnp.ones(5), solver)
    assert (
        relative_error(solution.value, np.divide(1, d, where=d > 0, out=0 * d)) < CLOSE
    )
    for b in (jnp.zeros(5), jnp.zeros(5).at[0].set(1)):
        solution = _solve(operator, b, solver)
        assert bool(solution.result == lx.RESULTS.successful)
        np.testing.assert_array_equal(solution.value, 0)


def test_pytree_in_and_out():
    solver = SOLVERS["LSMR"]
    leaves = [[1.0, 5.0, -1.0], [-2.0, -2.0, 3.0]]
    for rows in (leaves, np.transpose(leaves).tolist()):
        tree = jax.tree.map(jnp.asarray, rows)
        b = [jnp.asarray(float(i + 3)) for i in range(len(rows))]
        operator = lx.PyTreeLinearOperator(tree, jax.eval_shape(lambda b=b: b))
        x = _solve(operator, b, solver).value
        assert isinstance(x, list)
        assert relative_error(np.stack(x), np.linalg.pinv(rows) @ np.stack(b)) < CLOSE


def _pinv_solve(A, b):
    return np.linalg.pinv(A, rcond=1e-6) @ b


MAKES = {"LSMR": _function, "AutoSolver": lx.MatrixLinearOperator}


@pytest.mark.parametrize("name", ["LSMR", "AutoSolver"])
def test_transpose_and_conj_laws(name):
    g, dtype, solver = rng(5), dtype_of("complex"), SOLVERS[name]
    A = matrix(g, (9, 6), rank=4, dtype=dtype)
    b, c = (jnp.asarray(normal(g, n, dtype)) for n in A.shape)

    @jax.jit
    def moved(A, b, c):
        state = solver.init(MAKES[name](A), {})
        transposed = solver.transpose(state, {})
        conj, adjoint = solver.conj(state, {}), solver.conj(*transposed)
        assert {**transposed[1], **conj[1], **adjoint[1]} == {}
        pairs = ((conj, b), (transposed, c), (adjoint, c))
        return [solver.compute(moved[0], v, moved[1])[:2] for moved, v in pairs]

    wanted = ((A.conj(), b), (A.T, c), (A.conj().T, c))
    for (x, result), (dense, vector) in zip(moved(A, b, c), wanted, strict=True):
        assert bool(result == lx.RESULTS.successful)
        assert relative_error(x, _pinv_solve(dense, vector)) < CLOSE


def test_linear_transpose_of_a_solve():
    g, dtype = rng(5), dtype_of("complex")
    A = matrix(g, (9, 6), rank=4, dtype=dtype)
    b, c = (jnp.asarray(normal(g, n, dtype)) for n in A.shape)
    solve = lambda b: _solve(_function(jnp.asarray(A)), b, SOLVERS["LSMR"]).value
    (out,) = jax.linear_transpose(solve, b)(c)
    assert relative_error(out, _pinv_solve(A.T, c)) < CLOSE


def test_state_is_reused():
    solver = SOLVERS["LSMR"]
    A = matrix(rng(6), (8, 5))
    operator = _function(jnp.asarray(A))
    state = solver.init(operator, {})
    for b in normal(rng(7), (2, 8), np.float64):
        x = lx.linear_solve(operator, jnp.asarray(b), solver, state=state).value
        assert relative_error(x, _pinv_solve(A, b)) < CLOSE


@pytest.mark.parametrize("name", ["LSMR", "AutoSolver"])
def test_invert_is_the_pseudo_inverse(name):
    A = matrix(rng(8), (8, 5), rank=3)
    b, c = normal(rng(9), 8, np.float64), normal(rng(10), 5, np.float64)

    @jax.jit
    def both(A, b, c):
        inverse = lx.invert(lx.MatrixLinearOperator(A), SOLVERS[name])
        return inverse.mv(b), inverse.T.mv(c)

    forward, backward = both(A, b, c)
    assert relative_error(forward, _pinv_solve(A, b)) < CLOSE
    assert relative_error(backward, _pinv_solve(A.T, c)) < CLOSE


@each_solver
def test_full_rank_is_never_assumed(solver):
    assert solver.assume_full_rank() is False


@each_solver
@pytest.mark.parametrize("options", [{"damp": 0.1}, {"y0": jnp.zeros(3)}, {"x0": None}])
def test_unknown_options_raise(solver, options):
    operator = lx.MatrixLinearOperator(jnp.eye(3))
    with pytest.raises(ValueError, match=r"takes no `options`.*" + next(iter(options))):
        lx.linear_solve(operator, jnp.ones(3), solver, options=options)


@pytest.mark.parametrize("method", [lf.LSMR, lf.LSQR])
def test_throw(method):
    operator = lx.DiagonalLinearOperator(jnp.arange(1.0, 9.0))
    solver = method(max_steps=2)
    solution = lx.linear_solve(operator, jnp.ones(8), solver, throw=False)
    assert bool(solution.result == lx.RESULTS.max_steps_reached)
    assert int(solution.stats["num_steps"]) == 2
    with pytest.raises(eqx.EquinoxRuntimeError, match=r"maximum number of .*steps"):
        lx.linear_solve(operator, jnp.ones(8), solver)
