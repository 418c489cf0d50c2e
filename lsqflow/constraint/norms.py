"""Orthonormal matrices, and parameters of bounded norm."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .._jax import explicit_sharding
from .._operator.base import AbstractOperator
from .._tree import Structure, Vector
from .base import AbstractConstraint, largest_violation
from .bound import as_bound, quadratic_excess
from .inputs import require_parameters, require_selection
from .part import Part

Where = Callable[[Any], Any]
_HIGHEST = jax.lax.Precision.HIGHEST


class Orthogonal(AbstractConstraint):
    r"""Matrices with orthonormal columns, `WᵀW = I`; with orthonormal rows, if wide.

    The residual is the upper triangle of $W^\top W - I$ (of $W W^\top - I$ for a matrix
    with more columns than rows), its diagonal divided by $\sqrt 2$. It is zero if and
    only if the columns (rows) are orthonormal. Each equation stands there once. With
    that factor, $J J^\top = 2 I$ where the constraint holds, so solves there take one
    step.

    `violation` is the largest entry of $|W^\top W - I|$.

    ```python
    lf.Orthogonal(lambda params: params["recurrent"]["kernel"])
    ```

    **Shapes:** every array of the part is a matrix, or a batch of them, `(…, m, n)`;
    its residual is `(…, k (k + 1) / 2)` with k the smaller of m and n.

    **Cost:** a residual and a product with the Jacobian, in closed form, take k m n
    multiplications.
    """

    where: Where | None = None

    def __check_init__(self) -> None:
        if self.where is not None:
            require_selection(self.where, "Orthogonal")

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """The upper triangle of `WᵀW − I`, its diagonal divided by √2."""
        return jax.tree.map(lambda W: _packed(_gram_error(W)), self._part(params))

    def jacobian(self, params: PyTree[Array], *args: Any) -> AbstractOperator:
        """`V ↦ VᵀW + WᵀV`, likewise."""
        inner = GramDerivative(self._part(params))
        return inner if self.where is None else inner @ Part(self.where, params)

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """The largest entry of `|WᵀW − I|`."""
        return largest_violation(jax.tree.map(_gram_error, self._part(params)))

    def _part(self, params: PyTree[Array]) -> PyTree[Array]:
        part = params if self.where is None else self.where(params)
        require_parameters(part, "`lsqflow.Orthogonal`")
        for path, leaf in jax.tree.leaves_with_path(part):
            if leaf.ndim < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(
                    "`lsqflow.Orthogonal` takes real matrices; got shape "
                    f"{leaf.shape} and dtype {leaf.dtype} at "
                    f"{jax.tree_util.keystr(path) or 'the top level'}. Pick the "
                    "matrices with `where`."
                )
        return part


Orthogonal.__init__.__doc__ = """**Arguments:**

- `where`: picks the matrices from the parameters; by default, all parameters.

**Raises:** `TypeError` if `where` is no function. The methods raise `ValueError` for
arrays that are no real matrices, such as a bias.
"""


class GramDerivative(AbstractOperator):
    """The derivative of the residual of `Orthogonal` at matrices W."""

    at: PyTree[Float[Array, "..."]]

    def mv(self, vector: Vector) -> Vector:
        def leaf(W: Array, V: Array) -> Array:
            product = _dot(_tall(V), _tall(W))
            return _packed(product + jnp.swapaxes(product, -1, -2))

        return jax.tree.map(leaf, self.at, vector)

    def rmv(self, vector: Vector) -> Vector:
        def leaf(W: Array, u: Array) -> Array:
            tall = _tall(W)
            # A gather from both triangles; the transpose of `_packed` would scatter.
            S = _unpacked(u, tall.shape[-1])
            sharding = explicit_sharding(tall)
            out = jnp.matmul(tall, S, precision=_HIGHEST, out_sharding=sharding)
            return out if tall is W else jnp.swapaxes(out, -1, -2)

        return jax.tree.map(leaf, self.at, vector)

    def in_structure(self) -> Structure:
        return tree.structure(self.at)

    def linearise(self) -> AbstractOperator:
        return self


class NormBound(AbstractConstraint):
    r"""`‖w‖₂ ≤ b`, for part of the parameters as a whole or for each array of it.

    The residual, an inequality, is

    $$ \frac{\|w\|^2 - b^2}{2 b}, $$

    smooth also at zero. Near the bound it is the excess ‖w‖ − b. It is zero where the
    norm equals the bound, and not positive if and only if the bound holds.

    `violation` is the excess itself, max(‖w‖ − b, 0).

    ```python
    lf.NormBound(lambda params: params["dense"], 3.0)
    ```

    **Shapes:** the residual is a scalar, or with `per_leaf` a pytree of scalars.

    **Cost:** one inner product.
    """

    where: Where | None
    bound: Float[Array, ""]
    per_leaf: bool = eqx.field(static=True)

    def __init__(
        self, where: Where | None, bound: Any, *, per_leaf: bool = False
    ) -> None:
        """**Arguments:**

        - `where`: picks the part of the parameters; None for all of them.
        - `bound`: $b$, a positive number.
        - `per_leaf`: whether the bound holds for each array of the part by itself.

        **Raises:** `ValueError` unless the bound is a positive number; `TypeError` if
        `where` is no function.
        """
        if where is not None:
            require_selection(where, "NormBound")
        self.where = where
        self.bound = as_bound(bound, "`lsqflow.NormBound`")
        self.per_leaf = per_leaf

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """`(‖w‖² − b²) / 2b`."""
        return jax.tree.map(
            lambda square: quadratic_excess(square, self.bound), self._squares(params)
        )

    def inequality(self) -> PyTree[bool]:
        return True

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """The largest excess, `max(‖w‖ − b, 0)`."""
        return largest_violation(
            jax.tree.map(
                lambda square: tree.safe_sqrt(square) - self.bound.astype(square.dtype),
                self._squares(params),
            ),
            inequality=True,
        )

    def _squares(self, params: PyTree[Array]) -> PyTree[Float[Array, ""]]:
        part = params if self.where is None else self.where(params)
        require_parameters(part, "`lsqflow.NormBound`")
        if self.per_leaf:
            return jax.tree.map(lambda w: tree.inner(w, w), part)
        return tree.inner(part, part)


def _tall(W: Array) -> Array:
    return W if W.shape[-2] >= W.shape[-1] else jnp.swapaxes(W, -1, -2)


def _dot(left: Array, right: Array) -> Array:
    """`leftᵀ right`; on an explicit mesh, a copy of the matrix on each device."""
    out, found = None, [explicit_sharding(x) for x in (right, left)]
    sharding = found[0] or found[1]
    if sharding is not None:
        spec = [*sharding.spec, *(None,) * (right.ndim - len(sharding.spec))]
        named = lambda *axes: jax.sharding.NamedSharding(sharding.mesh, jax.P(*axes))
        out = named(*spec[:-2], None, None)
        # One axis of a mesh cannot shard both sides of a matrix.
        whole = named(*spec[:-1], None)
        left, right = (jax.sharding.reshard(x, whole) for x in (left, right))
    return jnp.matmul(
        jnp.swapaxes(left, -1, -2), right, precision=_HIGHEST, out_sharding=out
    )


def _gram_error(W: Float[Array, "... m n"]) -> Float[Array, "... k k"]:
    tall = _tall(W)
    gram = _dot(tall, tall)
    return gram - jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=W.dtype), gram.shape)


def _packed(gram: Float[Array, "... k k"]) -> Float[Array, "... entries"]:
    """The upper triangle, its diagonal divided by √2."""
    k = gram.shape[-1]
    i, j = np.triu_indices(k)
    return _times(gram[..., i, j], np.where(i == j, math.sqrt(0.5), 1.0))


def _unpacked(u: Float[Array, "... entries"], k: int) -> Float[Array, "... k k"]:
    """The symmetric matrix S for which `W S` is the transposed product."""
    index = np.zeros((k, k), np.int32)
    i, j = np.triu_indices(k)
    index[i, j] = index[j, i] = np.arange(len(i))
    return _times(u[..., index], np.where(np.eye(k, dtype=bool), math.sqrt(2), 1.0))


def _times(x: Array, factors: np.ndarray) -> Array:
    return x * jnp.broadcast_to(jnp.asarray(factors, x.dtype), x.shape)
