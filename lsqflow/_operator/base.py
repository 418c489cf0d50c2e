"""The class to subclass for a custom matvec, and everything that follows from it."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Inexact

from .. import _tree as tree
from .._jax import row_major
from .._tree import Structure, Vector


class AbstractOperator(lx.AbstractLinearOperator):
    """A linear operator, given by its product with a vector.

    Subclass it with `mv` and `in_structure`; everything else follows:

    ```python
    class Blur(lf.AbstractOperator):
        kernel: Float[Array, "k k"]
        shape: tuple[int, int] = eqx.field(static=True)

        def mv(self, image):
            return jax.scipy.signal.convolve2d(image, self.kernel, mode="same")

        def in_structure(self):
            return jax.ShapeDtypeStruct(self.shape, self.kernel.dtype)
    ```

    Vectors are pytrees of arrays. The operator is itself a pytree: solutions are
    differentiated with respect to its inexact array leaves. It is a
    `lineax.AbstractLinearOperator`, with nothing to register.

    Override `rmv` where the transposed product is known in a faster form, and
    `linearise` to return `self` where there is nothing to hoist out of the loop (or
    where `mv` is opaque to JAX, such as a callback; then override `rmv` as well).
    """

    @abc.abstractmethod
    def mv(self, vector: Vector) -> Vector:
        """`A v`, linear in `v`."""

    @abc.abstractmethod
    def in_structure(self) -> Structure:
        """The structure of `v`: a pytree of `jax.ShapeDtypeStruct`."""

    def out_structure(self) -> Structure:
        """The structure of `A v`, by abstract evaluation of `mv`."""
        return tree.structure(jax.eval_shape(self.mv, self.in_structure()))

    def rmv(self, vector: Vector) -> Vector:
        """`Aᵀ u`: the plain transpose, without conjugation."""
        (out,) = jax.linear_transpose(self.mv, self.in_structure())(vector)
        return out

    def adjoint_mv(self, vector: Vector) -> Vector:
        """`Aᴴ u`: the adjoint; `rmv` for a real operator."""
        return tree.conj(self.rmv(tree.conj(vector)))

    def tags(self) -> frozenset[object]:
        """Lineax tags the operator is known to satisfy, such as symmetry."""
        return frozenset()

    def linearise(self) -> "AbstractOperator":
        """An equal operator with all that does not depend on the vector precomputed.

        Solvers call it once a solve, before the loop.
        """
        return views.Linearised.of(self)

    def transpose(self) -> "AbstractOperator":
        """`Aᵀ`."""
        return views.Transposed(self)

    def conj(self) -> "AbstractOperator":
        """`A` with conjugated entries; itself if it is real."""
        real = not tree.is_complex((self.in_structure(), self.out_structure()))
        return self if real else views.Conjugated(self)

    @property
    def H(self) -> "AbstractOperator":
        """`Aᴴ`, the adjoint."""
        return self.transpose().conj()

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        """The matrix, of shape `(out_size, in_size)`, column by column."""
        leaves, treedef = jax.tree.flatten(self.in_structure())
        blocks = []
        for i, leaf in enumerate(leaves):
            basis = jnp.eye(tree.size(leaf), dtype=leaf.dtype).reshape(-1, *leaf.shape)

            def column(e: Array, i: int = i) -> Vector:
                zeros = [jnp.zeros(x.shape, x.dtype) for x in leaves]
                return self.mv(
                    jax.tree.unflatten(treedef, [*zeros[:i], e, *zeros[i + 1 :]])
                )

            out = jax.tree.leaves(jax.vmap(column)(basis))
            block = jnp.concatenate([x.reshape(len(basis), -1) for x in out], axis=1)
            blocks.append(row_major(block).T)
        return jnp.concatenate(blocks, axis=1)

    # Arithmetic. An array is a matrix, a lineax operator is welcome, on either side.

    def __matmul__(self, other: Any) -> "AbstractOperator":
        return algebra.compose(self, convert.as_operator(other))

    def __rmatmul__(self, other: Any) -> "AbstractOperator":
        return algebra.compose(convert.as_operator(other), self)

    def __add__(self, other: Any) -> "AbstractOperator":
        return algebra.add(self, convert.as_operator(other))

    def __radd__(self, other: Any) -> "AbstractOperator":
        return algebra.add(convert.as_operator(other), self)

    def __sub__(self, other: Any) -> "AbstractOperator":
        return algebra.add(self, -convert.as_operator(other))

    def __rsub__(self, other: Any) -> "AbstractOperator":
        return algebra.add(convert.as_operator(other), -self)

    def __mul__(self, other: ArrayLike) -> "AbstractOperator":
        return algebra.scale(other, self)

    def __rmul__(self, other: ArrayLike) -> "AbstractOperator":
        return algebra.scale(other, self)

    def __truediv__(self, other: ArrayLike) -> "AbstractOperator":
        return algebra.scale(other, self, invert=True)

    def __neg__(self) -> "AbstractOperator":
        return algebra.scale(-1, self)

    # NumPy's scalars and arrays leave the arithmetic to us.
    __array_ufunc__ = None

    def __repr__(self) -> str:
        return display.tree_of(self)


# What the methods above return are subclasses of the class above.
from . import algebra, convert, display, views  # noqa: E402
