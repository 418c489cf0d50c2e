"""The class to subclass for a custom matvec, and everything that follows from it."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Inexact

from .. import _tree as tree
from .._jax import row_major
from .._tree import Structure, Vector
from . import generic
from .display import tree_of
from .product import plain, product


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

    Override `rmv` where you know a faster way to compute the transposed product.
    Solvers use it, and so does JAX: the reverse-mode derivative of `mv` in the vector
    is one call of `rmv`, and that of `rmv` one call of `mv`. Neither notices if it is
    wrong: run [`lsqflow.testing.check_operator`][] in your tests.

    Override `linearise` to return `self` where no work can be saved by doing it once
    before the loop of a solver. Do so as well where JAX cannot look into `mv`, such as
    in a callback, and override `rmv` too.

    Both products check their argument while JAX traces them, which costs nothing at
    run time. A vector of another structure or shape raises a `ValueError`. Integers,
    weakly typed numbers, and real numbers for complex ones are converted. Any other
    dtype raises a `TypeError`, because conversion would change the precision.
    """

    # Whether the class overrides `rmv`. JAX is told that it is the transpose of `mv`,
    # unless the class says that JAX's own transpose of `mv` is as fast: that is one
    # rule less to trace.
    has_own_rmv: ClassVar[bool] = False
    jax_transposes_well: ClassVar[bool] = False
    # Whether products may call back to the host. Those that never do are traced only
    # where they are used: JAX is told the type of the result.
    may_call_back: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"mv", "rmv"} & vars(cls).keys():
            setattr(cls, name, product(vars(cls)[name]))
        cls.has_own_rmv = cls.rmv is not AbstractOperator.rmv

    @abc.abstractmethod
    def mv(self, vector: Vector) -> Vector:
        """The product `A v`. It must be linear in `v`."""

    @abc.abstractmethod
    def in_structure(self) -> Structure:
        """What `mv` takes: a pytree of `jax.ShapeDtypeStruct`."""

    def out_structure(self) -> Structure:
        """What `mv` returns; by default found by tracing `mv`."""
        return tree.structure(jax.eval_shape(plain(self, "mv"), self.in_structure()))

    @product
    def rmv(self, vector: Vector) -> Vector:
        """The transposed product `Aᵀ u`, without conjugation.

        By default, JAX transposes `mv`.
        """
        (out,) = jax.linear_transpose(plain(self, "mv"), self.in_structure())(vector)
        return out

    def adjoint_mv(self, vector: Vector) -> Vector:
        """The adjoint product `Aᴴ u`: that of `rmv` for a real operator."""
        return tree.conj(self.rmv(tree.conj(vector)))

    def tags(self) -> frozenset[object]:
        """What is known of the operator, such as symmetry, in tags of lineax."""
        return frozenset()

    def linearise(self) -> "AbstractOperator":
        """An equal operator whose products repeat no work.

        What does not depend on the vector is computed here, such as the Fourier
        transform of a kernel. Solvers call this once, before their loop.
        """
        return generic.linearise(self)

    def transpose(self) -> "AbstractOperator":
        """`Aᵀ`."""
        return generic.transpose(self)

    def conj(self) -> "AbstractOperator":
        """`A` with conjugated entries; itself if it is real."""
        real = not tree.is_complex((self.in_structure(), self.out_structure()))
        return self if real else generic.conj(self)

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
                return plain(self, "mv")(
                    jax.tree.unflatten(treedef, [*zeros[:i], e, *zeros[i + 1 :]])
                )

            out = jax.tree.leaves(jax.vmap(column)(basis))
            block = jnp.concatenate([x.reshape(len(basis), -1) for x in out], axis=1)
            blocks.append(row_major(block).T)
        return jnp.concatenate(blocks, axis=1)

    # Arithmetic. An array is a matrix, a lineax operator is welcome, on either side.

    def __matmul__(self, other: Any) -> "AbstractOperator":
        return generic.compose(self, generic.as_operator(other))

    def __rmatmul__(self, other: Any) -> "AbstractOperator":
        return generic.compose(generic.as_operator(other), self)

    def __add__(self, other: Any) -> "AbstractOperator":
        return generic.add(self, generic.as_operator(other))

    def __radd__(self, other: Any) -> "AbstractOperator":
        return generic.add(generic.as_operator(other), self)

    def __sub__(self, other: Any) -> "AbstractOperator":
        return generic.add(self, -generic.as_operator(other))

    def __rsub__(self, other: Any) -> "AbstractOperator":
        return generic.add(generic.as_operator(other), -self)

    def __mul__(self, other: ArrayLike) -> "AbstractOperator":
        return generic.scale(self, other)

    def __rmul__(self, other: ArrayLike) -> "AbstractOperator":
        return generic.scale(self, other)

    def __truediv__(self, other: ArrayLike) -> "AbstractOperator":
        return generic.scale(self, other, invert=True)

    def __neg__(self) -> "AbstractOperator":
        return generic.scale(self, -1)

    # NumPy's scalars and arrays leave the arithmetic to us.
    __array_ufunc__ = None

    def __repr__(self) -> str:
        return tree_of(self, lambda x: isinstance(x, AbstractOperator))
