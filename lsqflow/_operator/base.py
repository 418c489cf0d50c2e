"""The class to subclass for a custom matvec, and everything that follows from it."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Inexact

from .. import _tree as tree
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
        return Linearised.of(self)

    def transpose(self) -> "AbstractOperator":
        """`Aᵀ`."""
        return Transposed(self)

    def conj(self) -> "AbstractOperator":
        """`A` with conjugated entries; itself if it is real."""
        real = not tree.is_complex((self.in_structure(), self.out_structure()))
        return self if real else Conjugated(self)

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
            blocks.append(
                jnp.concatenate([x.reshape(len(basis), -1) for x in out], axis=1).T
            )
        return jnp.concatenate(blocks, axis=1)


def _has_own_rmv(operator: AbstractOperator) -> bool:
    return type(operator).rmv is not AbstractOperator.rmv


def _hoist(function: Any, structure: Structure, axes: frozenset[Any]) -> Any:
    """A linear function with all work that does not depend on its argument done."""
    zeros = tree.vary(tree.zeros(structure), axes)
    return jax.linearize(function, zeros)[1]


class Linearised(AbstractOperator):
    """An operator whose vector-independent work is done; lives as long as one solve."""

    forward: Any
    backward: Any
    structures: tree.StaticStructure = eqx.field(static=True)
    known_tags: frozenset[object] = eqx.field(static=True)

    @classmethod
    def of(cls, operator: AbstractOperator) -> "Linearised":
        """Partially evaluate `mv`, and `rmv` where the class has its own."""
        source, target = operator.in_structure(), operator.out_structure()
        axes = tree.manual_axes(operator)
        backward = (
            _hoist(operator.rmv, target, axes) if _has_own_rmv(operator) else None
        )
        return cls(
            forward=_hoist(operator.mv, source, axes),
            backward=backward,
            structures=tree.StaticStructure((source, target)),
            known_tags=operator.tags(),
        )

    def mv(self, vector: Vector) -> Vector:
        return self.forward(vector)

    def rmv(self, vector: Vector) -> Vector:
        return super().rmv(vector) if self.backward is None else self.backward(vector)

    def in_structure(self) -> Structure:
        return self.structures.tree[0]

    def out_structure(self) -> Structure:
        return self.structures.tree[1]

    def tags(self) -> frozenset[object]:
        return self.known_tags

    def linearise(self) -> AbstractOperator:
        return self


class Transposed(AbstractOperator):
    """`Aᵀ`: the two products of an operator, exchanged."""

    operator: AbstractOperator

    def mv(self, vector: Vector) -> Vector:
        return self.operator.rmv(vector)

    def rmv(self, vector: Vector) -> Vector:
        return self.operator.mv(vector)

    def in_structure(self) -> Structure:
        return self.operator.out_structure()

    def out_structure(self) -> Structure:
        return self.operator.in_structure()

    def tags(self) -> frozenset[object]:
        return lx.transpose_tags(self.operator.tags())

    def linearise(self) -> AbstractOperator:
        return Transposed(self.operator.linearise())

    def transpose(self) -> AbstractOperator:
        return self.operator

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        return self.operator.as_matrix().T


class Conjugated(AbstractOperator):
    """`conj(A)`: conjugation before and after the products of a complex operator."""

    operator: AbstractOperator

    def mv(self, vector: Vector) -> Vector:
        return tree.conj(self.operator.mv(tree.conj(vector)))

    def rmv(self, vector: Vector) -> Vector:
        return tree.conj(self.operator.rmv(tree.conj(vector)))

    def in_structure(self) -> Structure:
        return self.operator.in_structure()

    def out_structure(self) -> Structure:
        return self.operator.out_structure()

    def tags(self) -> frozenset[object]:
        return self.operator.tags()

    def linearise(self) -> AbstractOperator:
        return Conjugated(self.operator.linearise())

    def conj(self) -> AbstractOperator:
        return self.operator

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        return jnp.conj(self.operator.as_matrix())
