"""jit, vmap, shard_map, meshes: batching and compilation, where peers fail."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

import lsqflow as lf

from . import helpers

SOLVER = lf.LSMR(rtol=1e-12)


@pytest.fixture(scope="module")
def data():
    generator = helpers.rng(0)
    A = helpers.matrix(generator, (64, 16))
    return jnp.asarray(A), jnp.asarray(generator.standard_normal((8, 64)))


def loss(A, b, damp=None):
    return jnp.sum(lf.lstsq(A, b, SOLVER, damp=damp).value ** 2)


def dense_loss(A, b):
    return jnp.sum(jnp.linalg.solve(A.T @ A, A.T @ b) ** 2)


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)])
def test_vmap_of_gradients(data, axes):
    A, B = data
    A = A if axes[0] is None else jnp.stack([A * (1 + k / 8) for k in range(8)])
    B = B if axes[1] == 0 else B[0]
    got = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1)), axes))(A, B)
    want = jax.vmap(jax.value_and_grad(dense_loss, (0, 1)), axes)(A, B)
    assert helpers.relative_error(got, want) < 1e-9


@pytest.mark.slow
def test_nested_vmap_and_hessian(data):
    A, B = data
    got = jax.vmap(jax.hessian(loss, 1), (None, 0))(A, B[:2])
    want = jax.vmap(jax.hessian(dense_loss, 1), (None, 0))(A, B[:2])
    assert helpers.relative_error(got, want) < 1e-9
    pairs = B[:4].reshape(2, 2, -1)
    got = jax.vmap(jax.vmap(jax.grad(loss, 1), (None, 0)), (None, 0))(A, pairs)
    want = jax.vmap(jax.vmap(jax.grad(dense_loss, 1), (None, 0)), (None, 0))(A, pairs)
    assert helpers.relative_error(got, want) < 1e-9


def test_gradient_of_vmap(data):
    A, B = data
    got = jax.grad(lambda A: jnp.sum(jax.vmap(loss, (None, 0))(A, B)))(A)
    want = jax.grad(lambda A: jnp.sum(jax.vmap(dense_loss, (None, 0))(A, B)))(A)
    assert helpers.relative_error(got, want) < 1e-9


def test_transpose_of_a_solve(data):
    """The solution is linear in the vector, and so transposable."""
    A, B = data
    solve = jax.linear_transpose(lambda b: lf.lstsq(A, b, SOLVER).value, B[0])
    x = jnp.arange(16.0)
    assert helpers.relative_error(solve(x)[0], jnp.linalg.pinv(A).T @ x) < 1e-9


def test_own_tolerance_for_each_of_a_batch(data):
    """Columns stop on their own, and one bad element does not touch the others."""
    A, B = data
    easy = A @ jnp.eye(16)[0] / 1.0
    B = B.at[1].set(0.0).at[2].set(jnp.nan).at[3].set(easy)
    got = jax.vmap(lambda b: lf.lstsq(A, b, SOLVER, throw=False))(B)
    single = lf.lstsq(A, B[0], SOLVER)
    assert got.stats["num_steps"][0] == single.stats["num_steps"]
    assert got.stats["num_steps"][1] == 0
    good = np.array([True, True, False] + [True] * 5)
    np.testing.assert_array_equal(np.asarray(got.result == lx.RESULTS.successful), good)
    want = np.linalg.pinv(A) @ np.asarray(B)[good].T
    assert helpers.relative_error(got.value[good], want.T) < 1e-9


@pytest.mark.parametrize("throw", [False, True])
def test_shard_map_over_a_batch(data, throw):
    """One solve a shard, each with its own number of steps; values and gradients."""
    A, B = data
    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))

    def solve(A, b):
        return lf.lstsq(A, b[0], SOLVER, throw=throw).value[None]

    specs = {"mesh": mesh, "in_specs": (jax.P(), jax.P("i")), "out_specs": jax.P("i")}
    batched = jax.shard_map(solve, **specs, check_vma=True)
    want = B @ jnp.linalg.pinv(A).T
    assert helpers.relative_error(jax.jit(batched)(A, B), want) < 1e-9

    outside = jax.grad(lambda A, B: jnp.sum(batched(A, B) ** 2), (0, 1))
    total = jax.grad(
        lambda A, B: jnp.sum(jax.vmap(dense_loss, (None, 0))(A, B)), (0, 1)
    )
    wanted = total(A, B)
    assert helpers.relative_error(jax.jit(outside)(A, B), wanted) < 1e-9

    def inside(A, b):
        return jax.grad(lambda b: jnp.sum(solve(A, b) ** 2))(b)

    inside = jax.jit(jax.shard_map(inside, **specs, check_vma=True))
    assert helpers.relative_error(inside(A, B), wanted[1]) < 1e-9


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("rows", "vector"),
    [(("i", None), ("i",)), (("i", None), (None,)), ((None, "i"), (None,))],
)
def test_sharded_operator(data, kind, rows, vector):
    """Rows or columns of the matrix on eight devices, by type or by the compiler."""
    A, B = data
    want = jax.value_and_grad(dense_loss, (0, 1))(A, B[0])
    mesh = jax.make_mesh((8,), ("i",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        A = jax.device_put(A, NamedSharding(mesh, jax.P(*rows)))
        b = jax.device_put(B[0], NamedSharding(mesh, jax.P(*vector)))
        got = jax.jit(jax.value_and_grad(loss, (0, 1)))(A, b)
        assert helpers.relative_error(got, want) < 1e-9
        assert (
            got[1][0].sharding.is_equivalent_to(A.sharding, 2) or kind is AxisType.Auto
        )


def test_no_retrace_on_new_values(data):
    """New values of operator, vector, damping and tolerances find compiled code."""
    A, B = data
    traces = []

    class Traced(lf.AbstractOperator):
        matrix: jax.Array

        def mv(self, vector):
            traces.append(1)
            return self.matrix @ vector

        def in_structure(self):
            return jax.ShapeDtypeStruct((16,), self.matrix.dtype)

    def solve(scale):
        operator = Traced(A * scale)
        solver = lf.LSMR(rtol=jnp.asarray(1e-10 * scale))
        return lf.lstsq(operator, B[0] * scale, solver, damp=jnp.asarray(0.1 * scale))

    def gradient(scale):
        return jax.grad(lambda s: jnp.sum(solve(s).value))(scale)

    for function in (solve, gradient):
        function(jnp.asarray(1.0))
        del traces[:]
        function(jnp.asarray(2.0))
        in_conform = len(traces)
        function(jnp.asarray(3.0))
        assert len(traces) == 2 * in_conform
        assert in_conform <= 1  # `out_structure`, evaluated abstractly before the jit


def test_module_with_a_solve_inside(data):
    """A constrained model composes under filter_jit, filter_grad and filter_vmap."""
    A, B = data

    class Ridge(eqx.Module):
        features: jax.Array
        log_damp: jax.Array
        name: str

        def __call__(self, targets):
            return lf.lstsq(
                self.features, targets, SOLVER, damp=jnp.exp(self.log_damp)
            ).value

    model = Ridge(A, jnp.asarray(-1.0), "ridge")
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m, b: jnp.sum(m(b) ** 2)))(
        model, B[0]
    )
    step = 1e-5
    up, down = (
        jnp.sum(Ridge(A, jnp.asarray(-1.0 + h), "")(B[0]) ** 2) for h in (step, -step)
    )
    np.testing.assert_allclose(gradient.log_damp, (up - down) / (2 * step), rtol=1e-6)
    many = eqx.filter_vmap(model, in_axes=0)(B)
    want = jnp.linalg.solve(A.T @ A + jnp.exp(-2.0) * jnp.eye(16), A.T @ B.T).T
    assert helpers.relative_error(many, want) < 1e-9
