"""The dot test passes right operators, and names what is wrong with the others."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import pytest

import lsqflow as lf

from .helpers import dtype_of, matrix, rng


class Dense(lf.AbstractOperator):
    entries: jax.Array

    def mv(self, vector):
        return self.entries @ vector

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape[1:], self.entries.dtype)


class OwnTranspose(Dense):
    """A fixed multiple of the transpose for `rmv`."""

    factor: float = eqx.field(static=True)

    def rmv(self, vector):
        return self.factor * (self.entries.T @ vector)


class Saturated(Dense):
    """Linear in short vectors, which is all that the dot test alone would see."""

    def mv(self, vector):
        long = jnp.sum(jnp.abs(vector) ** 2) > 2.5 * vector.size
        return jnp.where(long, 0.5, 1) * (self.entries @ vector)

    def rmv(self, vector):
        return self.entries.T @ vector


class Untransposed(Dense):
    """An `rmv` that stays in the output space."""

    def rmv(self, vector):
        return vector


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_check_adjoint_accepts_and_rejects(kind, key):
    dense = matrix(rng(), (5, 60), dtype=dtype_of(kind))
    A = jnp.asarray(dense)
    op = Dense(A)
    good = [op, op.H, op.conj(), OwnTranspose(A, 1.0)]
    good += [A, dense, lx.MatrixLinearOperator(A)]
    for other in good:
        report = lf.check_adjoint(other, key)
        assert report
        assert "WRONG" not in str(report)
    for factor in (-1.0, 1.01):
        report = lf.check_adjoint(OwnTranspose(A, factor), key)
        assert not report
        assert str(report).count("WRONG") == 1
        assert report.linearity_error < report.tolerance < report.adjoint_error
    report = lf.check_adjoint(Saturated(A), key)
    assert not report
    assert str(report).count("WRONG") == 1
    assert report.adjoint_error < report.tolerance < report.linearity_error
    assert "A (v + 2 w)" in str(report)
    with pytest.raises(ValueError, match=r"`rmv` must return .*input.*; it returned"):
        lf.check_adjoint(Untransposed(jnp.ones((4, 3), dense.dtype)), key)


@pytest.mark.float32
def test_linear_over_the_reals_only(key):
    complex_vector = jnp.zeros(5, dtype_of("complex"))
    transform = lf.FFT((6,), real=True, dtype=dtype_of("real"))
    for operator in (lf.Real(complex_vector), lf.Imag(complex_vector), transform):
        assert lf.check_adjoint(operator, key)
        assert lf.check_adjoint(operator.T, key)


class Wrong(lf.AbstractOperator):
    """A dense operator with one thing wrong, by name."""

    entries: jax.Array
    fault: str = eqx.field(static=True)

    def mv(self, vector):
        entries = self.entries
        if self.fault == "derivative":
            entries = entries + jnp.sin(jax.lax.stop_gradient(entries))
        if self.fault == "affine":
            return entries @ vector + 1
        return entries @ vector

    def rmv(self, vector):
        if self.fault == "transpose":
            return jnp.flip(self.entries, 0).T @ vector
        entries = self.entries
        if self.fault == "derivative":
            entries = entries + jnp.sin(entries)
        return entries.T @ vector

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape[1:], self.entries.dtype)

    def out_structure(self):
        extra = self.fault == "structure"
        rows = self.entries.shape[0] + extra
        return jax.ShapeDtypeStruct((rows,), self.entries.dtype)

    def as_matrix(self):
        return 2 * self.entries if self.fault == "matrix" else super().as_matrix()

    def linearise(self):
        scale = 2 if self.fault == "linearise" else 1
        return Dense(scale * self.entries)


FAULTS = {
    "structure": r"returns f64\[5\], but `out_structure` says f64\[6\]",
    "affine": "Linearity",
    "transpose": "dot test",
    "linearise": r"`linearise\(\)\.mv` is wrong",
    "matrix": r"`as_matrix\(\) @ x` is wrong",
    "derivative": "`jvp` in the leaves is wrong",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_operator_names_what_is_wrong(fault):
    A = jnp.asarray(matrix(rng(), (5, 4)))
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        lf.testing.check_operator(Wrong(A, fault), solve=False)


def test_check_operator_passes_what_is_right():
    A = jnp.asarray(matrix(rng(), (5, 4)))
    lf.testing.check_operator(Wrong(A, "none"))
    lf.testing.check_operator(A, solve=False)


class Weak(lf.AbstractOperator):
    """A multiple of the identity, by a number whose dtype is JAX's guess."""

    factor: jax.Array = eqx.field(converter=jnp.asarray)

    def mv(self, vector):
        return self.factor * vector

    def in_structure(self):
        return jax.ShapeDtypeStruct((3,), dtype_of("real"))


@pytest.mark.float32
def test_weakly_typed_leaves_are_right(key):
    assert Weak(2.0).factor.weak_type
    lf.testing.check_operator(Weak(2.0), solve=False)
    assert lf.check_adjoint(Weak(2.0), key)


class Nonlinear(lf.AbstractOperator):
    """Without an `rmv`, JAX's transpose of it fails before any number is compared."""

    kind: str = eqx.field(static=True)

    def mv(self, vector):
        return {"tanh": jnp.tanh, "square": jnp.square}[self.kind](vector)

    def in_structure(self):
        return jax.ShapeDtypeStruct((3,), dtype_of("real"))


@pytest.mark.parametrize("kind", ["tanh", "square"])
def test_what_is_not_linear_is_called_so(kind, key):
    with pytest.raises(AssertionError, match="`mv` is not linear"):
        lf.testing.check_operator(Nonlinear(kind))
    report = lf.check_adjoint(Nonlinear(kind), key)
    assert not report
    assert report.linearity_error > report.tolerance
