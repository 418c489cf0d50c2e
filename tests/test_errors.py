"""Wrong arguments raise while tracing, with a message that says what to do instead."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import lsqflow as lf

from .helpers import dtype_of

REAL, COMPLEX = dtype_of("real"), dtype_of("complex")
A = np.ones((4, 3), REAL)
B = np.ones(4, REAL)


def _pair_operator():
    structure = {"a": jax.ShapeDtypeStruct((2,), REAL)}
    return lf.FunctionOperator(lambda x: (x["a"], 2 * x["a"]), structure)


@pytest.mark.float32
@pytest.mark.parametrize("vector", [[B], {"b": B}, (B, B), None])
def test_wrong_structure_of_the_vector(vector):
    with pytest.raises(ValueError, match=r"`vector`.*pytree structure.*output.*; got"):
        lf.lstsq(A, vector)


@pytest.mark.float32
def test_wrong_structure_of_a_pytree_vector():
    b = jnp.ones(2, REAL)
    with pytest.raises(
        ValueError, match=r"`vector`.*structure.*\(\*, \*\).*got.*\[\*, \*\]"
    ):
        lf.lstsq(_pair_operator(), [b, b])
    with pytest.raises(ValueError, match=r"`vector`\[1\].*shape.*\(2,\); got \(3,\)"):
        lf.lstsq(_pair_operator(), (b, jnp.ones(3, REAL)))


@pytest.mark.float32
def test_wrong_shape_of_the_vector():
    for shape in ((), (3,), (1, 4), (4, 1, 1)):
        words = (
            r"`vector`.*output, \(4,\); got " + rf"\({', '.join(map(str, shape))},?\)"
        )
        with pytest.raises(ValueError, match=words) as info:
            lf.lstsq(A, np.ones(shape, REAL))
        assert "vmap" not in str(info.value)


@pytest.mark.float32
def test_a_matrix_of_right_hand_sides_is_told_of_vmap():
    many = np.arange(8.0, dtype=REAL).reshape(4, 2)
    with pytest.raises(
        ValueError, match=r"several right-hand sides.*jax\.vmap"
    ) as info:
        lf.lstsq(A, many)
    # The advice works.
    assert "in_axes=-1" in str(info.value)
    value = jax.vmap(lambda b: lf.lstsq(A, b).value, in_axes=-1)(many)
    want = (np.linalg.pinv(A) @ many).T
    np.testing.assert_allclose(value, want, rtol=1e3 * jnp.finfo(REAL).eps)


@pytest.mark.float32
def test_wrong_x0():
    with pytest.raises(
        ValueError, match=r"`x0`.*shape of the operator's input, \(3,\)"
    ):
        lf.lstsq(A, B, x0=B)
    with pytest.raises(
        ValueError, match=r"`x0`.*pytree structure of the operator's inp"
    ):
        lf.lstsq(A, B, x0=[B[:3]])
    with pytest.raises(TypeError, match=r"`x0`.*dtype.*complex"):
        lf.lstsq(A, B, x0=np.ones(3, COMPLEX))


def test_wrong_dtype_both_ways():
    for one, other in (("float32", "float64"), ("float64", "float32")):
        words = rf"`vector`.*dtype.*, {one}; got {other}.*`\.astype`"
        with pytest.raises(TypeError, match=words):
            lf.lstsq(A.astype(one), B.astype(other))
    with pytest.raises(TypeError, match="complex128; got float32"):
        lf.lstsq(A.astype(COMPLEX), B.astype("float32"))


@pytest.mark.float32
def test_what_loses_nothing_is_converted():
    for vector in (B, B.astype(int), B.astype(bool)):
        value = lf.lstsq(A.astype(COMPLEX), vector).value
        assert value.dtype == COMPLEX
        np.testing.assert_allclose(value, 1 / 3, rtol=1e3 * jnp.finfo(REAL).eps)


@pytest.mark.float32
def test_complex_vector_for_a_real_operator():
    with pytest.raises(TypeError, match=rf"`vector`.*dtype.*{REAL}; got {COMPLEX}"):
        lf.lstsq(A, B.astype(COMPLEX))


@pytest.mark.float32
@pytest.mark.parametrize("damp", [-0.1, -1, float("nan"), float("-inf")])
def test_negative_damp(damp):
    with pytest.raises(ValueError, match=f"`damp` must be non-negative; got {damp}"):
        lf.lstsq(A, B, damp=damp)


@pytest.mark.float32
@pytest.mark.parametrize("damp", [np.ones(3), np.ones((1,)), 1j])
def test_damp_that_is_no_real_scalar(damp):
    words = rf"`damp` must be a real scalar; got shape .*{np.asarray(damp).dtype.kind}"
    with pytest.raises(ValueError, match=words):
        lf.lstsq(A, B, damp=damp)


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.LSMR, "LSMR", None, lf.ImplicitAdjoint()])
@pytest.mark.usefixtures("_own_checks")
def test_solver_of_wrong_type(solver):
    with pytest.raises(
        TypeError, match=r"`solver` must be an lsqflow or lineax solver"
    ):
        lf.lstsq(A, B, solver)


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lx.QR(), lf.SVD()])
def test_unrolled_adjoint_with_a_direct_solver(solver):
    words = rf"`UnrolledAdjoint`.*lsqflow\.LSMR.*got {type(solver).__name__}"
    with pytest.raises(TypeError, match=words):
        lf.lstsq(A, B, solver, adjoint=lf.UnrolledAdjoint())


@pytest.mark.float32
@pytest.mark.parametrize("method", [lf.LSMR, lf.LSQR])
@pytest.mark.usefixtures("_own_checks")
def test_negative_tolerances(method):
    for name in ("rtol", "atol", "conlim", "max_steps"):
        for value in (-1, -2) if name == "max_steps" else (-1e-6, -1, float("nan")):
            words = f"`{name}` must be non-negative.*; got {value}"
            with pytest.raises(ValueError, match=words):
                method(**{name: value})
        method(**{name: 0})


@pytest.mark.float32
@pytest.mark.usefixtures("_own_checks")
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_arrays_that_are_no_matrix(shape):
    for make in (lf.MatrixOperator, lf.as_operator, lambda A: lf.lstsq(A, B)):
        with pytest.raises(ValueError, match=r"two-dimensional.*got shape \(") as info:
            make(jnp.ones(shape, REAL))
        assert str(shape) in str(info.value)


@pytest.mark.float32
@pytest.mark.usefixtures("_own_checks")
def test_matrix_operator_of_integers():
    with pytest.raises(ValueError, match=r"floating-point.*dtype int32.*Convert"):
        lf.MatrixOperator(jnp.ones((2, 2), jnp.int32))


@pytest.mark.float32
@pytest.mark.parametrize("bad", [[[1.0, 2.0]], 3.0, None, lambda x: x])
@pytest.mark.usefixtures("_own_checks")
def test_operators_that_are_none(bad):
    words = f"operator must be .*got {type(bad).__name__}.*FunctionOperator"
    for call in (lf.as_operator, lambda A: lf.lstsq(A, B)):
        with pytest.raises(TypeError, match=words):
            call(bad)


@pytest.mark.float32
@pytest.mark.parametrize("make", [lf.FunctionOperator, lf.JacobianOperator])
def test_functions_of_integers(make):
    with pytest.raises(TypeError, match=r"floating-point.*int32.*astype"):
        make(lambda x: x, jnp.arange(3, dtype=jnp.int32))
