"""Kernel matrices: one kernel value for every pair of two sets of points."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact, PyTree

from ... import _tree as tree
from ..._jax import manual_axes
from ..._tree import Structure
from ..base import AbstractOperator
from ..program import Program
from .rows import Rows, require_chunk_size, size


class KernelOperator(AbstractOperator):
    r"""The matrix of a kernel between points, `K[i, j] = k(xᵢ, yⱼ)`.

    With one set of points also `K + diag(noise)`, as in Gaussian-process regression:

    ```python
    class RBF(eqx.Module):
        lengthscale: Float[Array, ""]

        def __call__(self, x, y):
            return jnp.exp(-jnp.sum((x - y) ** 2) / (2 * self.lengthscale**2))


    K = lf.KernelOperator(RBF(jnp.asarray(0.3)), x, noise=0.01)
    weights = lf.lstsq(K, b).value
    ```

    The matrix is never stored. A product computes `chunk_size` rows of it at a time, in
    `rows × columns` evaluations of the kernel and memory for `chunk_size × columns`
    values; derivatives of products, of any mode and order, keep to a small multiple
    of that. Nothing is stored between the steps of a solve either: each evaluates
    the kernel anew.

    Leaves, and so differentiable, are `x`, `y`, `noise` and the arrays of the kernel:
    those of a kernel that is a pytree (such as an `equinox.Module`), and what a plain
    function closes over. Functions compare by what they compute: a kernel that is
    defined anew in every call compiles once.

    At `x = y` a kernel needs a derivative: `jnp.linalg.norm(x - y)` has none there, and
    gives NaN in gradients with respect to the points.
    """

    kernel: Any
    x: PyTree[Array]
    y: PyTree[Array] | None
    noise: Float[Array, "..."] | None
    chunk_size: int | None = eqx.field(static=True)
    positive_semidefinite: bool = eqx.field(static=True)

    def __init__(
        self,
        kernel: Callable[[Any, Any], Any],
        x: PyTree[ArrayLike],
        y: PyTree[ArrayLike] | None = None,
        *,
        noise: ArrayLike | None = None,
        chunk_size: int | None = None,
        positive_semidefinite: bool = False,
    ) -> None:
        """**Arguments:**

        - `kernel`: a function `kernel(xᵢ, yⱼ)` of two points, to a scalar.
        - `x`: points, one a row: an array of shape `(rows, …)`, or a pytree of arrays
            with a common leading axis.
        - `y`: points, one a column. By default those of `x`; a real kernel is then
            taken to be symmetric in its arguments.
        - `noise`: what is added to the diagonal if there is no `y`, of shape `()` or
            `(rows,)`: a variance, not a standard deviation.
        - `chunk_size`: the number of rows that are computed at a time. By default a
            million entries; more may be faster on an accelerator.
        - `positive_semidefinite`: whether to tag the operator so (not checked).

        **Raises:** `ValueError` if the points have no common leading axis, the kernel
        returns no real or complex floating-point scalar, `noise` has another shape or
        comes with `y`, or `chunk_size` is not positive.
        """
        require_chunk_size(chunk_size)
        self.x = jax.tree.map(jnp.asarray, x)
        self.y = None if y is None else jax.tree.map(jnp.asarray, y)
        _require_points(self.x, "x")
        _require_points(self.columns, "y")
        if jax.tree_util.all_leaves([kernel]):  # no pytree: a plain function
            points = _point(self.x), _point(self.columns)
            self.kernel = Program.trace(kernel, *points)
        else:
            self.kernel = jax.tree.map(_on_device, kernel)
        self.noise = None
        self.chunk_size = chunk_size
        self.positive_semidefinite = positive_semidefinite
        value = self._value()
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.inexact):
            raise ValueError(
                "`kernel` must return a real or complex floating-point scalar for two "
                f"points; got shape {value.shape} and dtype {value.dtype}."
            )
        if noise is not None:
            self.noise = jnp.asarray(noise, jnp.finfo(value.dtype).dtype)
            if y is not None or self.noise.shape not in ((), (size(self.x),)):
                raise ValueError(
                    "`noise` is added to the diagonal of a kernel matrix of one set of "
                    f"points, with shape () or ({size(self.x)},); got shape "
                    f"{self.noise.shape}{'' if y is None else ' and a second set, `y`'}"
                    "."
                )

    @property
    def columns(self) -> PyTree[Array]:
        """The points of the columns: `y`, or `x` if there is no `y`."""
        return self.x if self.y is None else self.y

    def _value(self) -> jax.ShapeDtypeStruct:
        points = _point(self.x), _point(self.columns)
        return tree.structure(jax.eval_shape(self.kernel, *points))

    def _rows(self) -> Rows:
        def row(x: Any) -> Array:
            return jax.vmap(lambda y: self.kernel(x, y))(self.columns)

        return Rows(jax.vmap(row), self.x, size(self.columns), self.chunk_size)

    def mv(self, vector: Inexact[Array, " columns"]) -> Inexact[Array, " rows"]:
        return self._add_noise(self._rows().mv(vector), vector)

    def rmv(self, vector: Inexact[Array, " rows"]) -> Inexact[Array, " columns"]:
        axes = manual_axes((self, vector))
        return self._add_noise(self._rows().rmv(vector, axes), vector)

    def _add_noise(self, out: Array, vector: Array) -> Array:
        if self.noise is None:
            return out
        return out + self.noise.astype(vector.dtype) * vector

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((size(self.columns),), self._value().dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((size(self.x),), self._value().dtype)

    def as_matrix(self) -> Inexact[Array, "rows columns"]:
        matrix = self._rows().matrix()
        if self.noise is None:
            return matrix
        noise = jnp.broadcast_to(self.noise, (size(self.x),)).astype(matrix.dtype)
        return matrix + jnp.diag(noise)

    def tags(self) -> frozenset[object]:
        tags = set()
        if self.y is None and not tree.is_complex(self._value()):
            tags.add(lx.symmetric_tag)
        if self.positive_semidefinite:
            tags.add(lx.positive_semidefinite_tag)
        return frozenset(tags)

    def linearise(self) -> AbstractOperator:
        # What does not depend on the vector is the matrix: to hoist it is to store it.
        return self


def _on_device(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf


def _point(points: PyTree[Array]) -> Structure:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), points)


def _require_points(points: PyTree[Array], name: str) -> None:
    shapes = [x.shape for x in jax.tree.leaves(points)]
    if (
        not shapes
        or () in shapes
        or len({s[0] for s in shapes}) > 1
        or not shapes[0][0]
    ):
        raise ValueError(
            f"`{name}` must hold points along the leading axis of every array, of one "
            f"length above zero; got shapes {shapes}."
        )
