"""Sparsity: most weights are zero."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from .. import _tree as tree
from .._jax import explicit_sharding
from .inputs import require_parameters
from .pin import AbstractPin
from .pruning import Schedule, require_fraction
from .quantile import count, count_dtype, smallest


class Sparsity(AbstractPin):
    r"""A given fraction of the weights is zero: those that are smallest.

    $\theta_i = 0$ for the $k = \mathrm{round}(\text{fraction} \cdot N)$ smallest
    $|\theta_i|$ of the $N$ weights. The residual is $\theta_i$ there and zero
    elsewhere. It is zero if that many weights are exactly zero. A weight that is zero
    is among the smallest, and so stays zero. With `schedule`, the fraction grows during
    training.

    Weights are the leaves with at least two axes. Biases, scales of norms and other
    parameters are left alone. `on` makes another choice.

    ```python
    lf.Sparsity(0.9)
    lf.Sparsity(0.9, schedule=lf.cubic_sparsity(0.9, 1_000, 10_000))
    lf.Sparsity(pattern=(2, 4))
    ```

    More than `k` weights are chosen where several have the same absolute value as the
    largest of them. In particular, all weights that are exactly zero are chosen if one
    of them is. So start from weights that are not zero: a layer that is initialized
    with zeros never trains.

    **Cost:** one pass over the weights if `k` of them are zero, otherwise up to twelve
    (22 for float64). Nothing is sorted. A pattern takes one pass.
    """

    fraction: ArrayLike | None
    schedule: Schedule | None
    scope: str = eqx.field(static=True)
    min_ndim: int = eqx.field(static=True)
    pattern: tuple[int, int] | None = eqx.field(static=True)
    axis: int = eqx.field(static=True)

    def __init__(
        self,
        fraction: ArrayLike | None = None,
        scope: str = "global",
        schedule: Any = None,
        *,
        min_ndim: int = 2,
        pattern: Any = None,
        axis: int = -1,
    ) -> None:
        """**Arguments:**

        - `fraction`: of the weights that are zero, from 0 to 1; may be traced.
        - `scope`: `"global"` for the smallest weights of all leaves together,
            `"layer"` for the same fraction of each leaf.
        - `schedule`: from a step of training to the fraction then, such as
            [`lsqflow.cubic_sparsity`][] or a schedule of Optax. Training asks for it;
            `fraction` holds where there is no step; usually it is the last one.
        - `min_ndim`: leaves with fewer axes are left alone.
        - `pattern`: `(n, m)`, instead of a fraction: of each `m` consecutive weights
            the `n` largest are kept. Hardware supports 2 of 4. Of equal weights, the
            first is kept.
        - `axis`: the axis along which weights are consecutive, the one that a product
            with the inputs sums over: −1 for matrices `(out, in)` as in equinox, −2 for
            kernels `(in, out)` and `(height, width, in, out)` as in flax.

        **Raises:** `ValueError` if the fraction is not between 0 and 1, the scope is
        neither of the two, or not exactly one of fraction and pattern is given;
        `TypeError` if the schedule is no function. `mask` and what is made of it raise
        a `ValueError` if no leaf has enough axes, or an axis is no multiple of `m`.
        """
        if (fraction is None) == (pattern is None):
            raise ValueError(
                "`Sparsity` needs a fraction, `Sparsity(0.9)`, or a pattern, "
                f"`Sparsity(pattern=(2, 4))`; got {fraction!r} and {pattern!r}."
            )
        if scope not in ("global", "layer"):
            raise ValueError(f"`scope` must be 'global' or 'layer'; got {scope!r}.")
        if schedule is not None and not callable(schedule):
            raise TypeError(
                "`schedule` must be a function from a step to a fraction, such as "
                f"`lsqflow.cubic_sparsity(0.9, 0, 1000)`; got {schedule!r}."
            )
        require_fraction(fraction)
        _require_pattern(pattern, schedule)
        self.fraction = fraction
        self.schedule = schedule
        self.scope = scope
        self.min_ndim = min_ndim
        self.pattern = None if pattern is None else (pattern[0], pattern[1])
        self.axis = axis

    def mask(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """True for the weights that should be zero."""
        paths, treedef = jax.tree.flatten_with_path(params)
        require_parameters(params, "`lsqflow.Sparsity`")
        leaves = [x for _, x in paths]
        chosen = [i for i, x in enumerate(leaves) if self._is_weight(x)]
        if not chosen:
            shapes = ", ".join(f"{x.shape}" for x in leaves) or "no arrays"
            raise ValueError(
                f"`Sparsity` found no floating-point array with at least "
                f"{self.min_ndim} axes; got {shapes}. Set `min_ndim` to 1 to have "
                "vectors sparse as well."
            )
        if self.pattern is not None:
            masks = [self._pattern_mask(*paths[i], *self.pattern) for i in chosen]
        elif self.scope == "layer":
            masks = [self._smallest([leaves[i]])[0] for i in chosen]
        else:
            masks = self._smallest([leaves[i] for i in chosen])
        out = [jnp.zeros_like(x, jnp.bool_) for x in leaves]
        for i, mask in zip(chosen, masks, strict=True):
            out[i] = mask
        return jax.tree.unflatten(treedef, out)

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """The share, from 0 to 1, of weights that should be zero and are not."""
        leaves = jax.tree.leaves(params)
        masks = jax.tree.leaves(self.mask(params, *args))
        conditions = [[m, m & (x != 0)] for x, m in zip(leaves, masks, strict=True)]
        should, wrong = count(conditions, count_dtype(tree.size(leaves)))
        dtype = tree.scalar_dtype(leaves)
        return wrong.astype(dtype) / jnp.maximum(should, 1).astype(dtype)

    def at(self, step: ArrayLike) -> "Sparsity":
        """With the fraction of the schedule, a traced number."""
        if self.schedule is None:
            return self
        return eqx.tree_at(lambda s: s.fraction, self, jnp.asarray(self.schedule(step)))

    def _is_weight(self, x: Array) -> bool:
        return x.ndim >= self.min_ndim and jnp.issubdtype(x.dtype, jnp.inexact)

    def _smallest(self, leaves: list[Array]) -> list[Array]:
        size = tree.size(leaves)
        return smallest(leaves, _entries(self.fraction, size))

    def _pattern_mask(self, path: Any, x: Array, n: int, m: int) -> Array:
        """True for all but the `n` largest of each `m` along the axis."""
        if not -x.ndim <= self.axis < x.ndim or x.shape[self.axis] % m:
            where = jax.tree_util.keystr(path) or "the top level"
            raise ValueError(
                f"`Sparsity(pattern={self.pattern})` needs a size of axis {self.axis} "
                f"that is a multiple of {m}; got shape {x.shape} at {where}. Choose "
                "another axis, or the leaves with `on`."
            )
        axis, sharding = self.axis % x.ndim, explicit_sharding(x)
        if sharding is not None:
            # Weights of one group may lie on several devices: that axis is gathered.
            spec = [*sharding.spec, *(None,) * (x.ndim - len(sharding.spec))]
            spec[axis] = None
            whole = jax.sharding.NamedSharding(sharding.mesh, jax.P(*spec))
            x = jax.sharding.reshard(x, whole)
        shape = (*x.shape[:axis], x.shape[axis] // m, m, *x.shape[axis + 1 :])
        size = jax.lax.stop_gradient(jnp.abs(x)).reshape(shape)
        position = jax.lax.broadcasted_iota(jnp.int32, shape, axis + 1)
        larger = jnp.zeros(shape, jnp.int32)
        # Written without a reduction, so that it is one loop over the weights.
        for j in range(m):
            other = jax.lax.slice_in_dim(size, j, j + 1, axis=axis + 1)
            before = (other > size) | ((other == size) & (j < position))
            larger += before.astype(jnp.int32)
        mask = (larger >= n).reshape(x.shape)
        return mask if sharding is None else jax.sharding.reshard(mask, sharding)


def _entries(fraction: Any, size: int) -> Array:
    """`round(fraction * size)` as an unsigned integer; exact for a float of Python."""
    dtype = count_dtype(size)
    if not isinstance(fraction, jax.Array):
        return jnp.asarray(round(float(fraction) * size), dtype)
    k = jnp.round(jnp.clip(fraction, 0, 1) * size)
    # `size` may have been rounded up.
    return jnp.minimum(k.astype(dtype), jnp.asarray(size, dtype))


def _require_pattern(pattern: Any, schedule: Any) -> None:
    if pattern is None:
        return
    fits = isinstance(pattern, tuple | list) and len(pattern) == 2
    if not fits or not all(isinstance(p, int) for p in pattern):
        raise ValueError(f"`pattern` must be two integers, (2, 4); got {pattern!r}.")
    if not 0 < pattern[0] < pattern[1]:
        raise ValueError(
            "`pattern` must be (n, m) with 0 < n < m: n of m are not zero; got "
            f"{pattern!r}."
        )
    if schedule is not None:
        raise ValueError("A pattern has no schedule: it is the same at every step.")
