"""Bounds on the derivative of a model with respect to its input."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from .. import _tree as tree
from .base import AbstractConstraint
from .bound import as_bound, quadratic_excess
from .inputs import require_count, require_function, take


class Lipschitz(AbstractConstraint):
    r"""`‖∂f(θ, x) / ∂x‖ ≤ L` at each point x of a step: a model that is robust there.

    The norm is that of Frobenius. For a scalar output it is the length of the gradient;
    for others it is no smaller than the spectral norm. The residual, an inequality, is

    $$ \frac{\|\partial f / \partial x\|_F^2 - L^2}{2 L}, $$

    smooth everywhere. Near the bound it is the excess of the norm. It is zero where the
    norm equals the bound, and not positive if and only if the bound holds at that
    point. It says nothing about points in between, and certifies no Lipschitz constant.
    Take fewer points than there are parameters: steps can only compromise between more
    of them.

    `violation` is the largest excess, max(‖∂f/∂x‖ − L, 0).

    With probes, the squared norm is estimated without bias, as the mean of
    $\|J^\top u\|^2$ over standard normal u. That is cheap for many outputs. It is
    noisy: the relative standard deviation is at most $\sqrt{2 / \text{probes}}$.

    ```python
    def logits(params, image): ...


    sampler = lambda key: (images(key),)
    lf.Sampled(lf.Lipschitz(logits, 10.0), sampler, jax.random.key(0))
    ```

    **Shapes:** points are `(batch, …)`, or a pytree of such; residuals `(batch,)`.

    **Cost:** for each point, a derivative of the model for each output or each input,
    whichever are fewer; with probes, for each probe.
    """

    apply: Callable[[Any, Any], PyTree[Array]]
    bound: Float[Array, ""]
    probes: int | None = eqx.field(static=True)

    def __init__(
        self,
        apply: Callable[[Any, Any], PyTree[Array]],
        bound: Any,
        probes: int | None = None,
    ) -> None:
        """**Arguments:**

        - `apply`: the model, `apply(params, x)` at a single point.
        - `bound`: $L$, positive.
        - `probes`: the number of random products that estimate a norm; by default None,
            for exact norms. Probes need a random key at each step, after the points.

        **Raises:** `ValueError` for a bound or a number of probes that is not positive.
        The methods raise `TypeError` if there are no points, or no key for probes.
        """
        require_function(apply, "apply", "Lipschitz", "lambda params, x: ...")
        self.apply = apply
        self.bound = as_bound(bound, "`lsqflow.Lipschitz`")
        require_count(probes, "probes", "Lipschitz")
        self.probes = probes

    def residual(self, params: PyTree[Array], *args: Any) -> Float[Array, " batch"]:
        """`(‖∂f/∂x‖² − L²) / 2L`, for each point."""
        return quadratic_excess(self._squares(params, args), self.bound)

    def inequality(self) -> PyTree[bool]:
        return True

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """The largest excess, `max(‖∂f/∂x‖ − L, 0)`."""
        largest = tree.safe_sqrt(jnp.max(self._squares(params, args), initial=0))
        excess = largest - self.bound.astype(largest.dtype)
        return jnp.maximum(excess, jnp.zeros_like(excess))

    def _squares(
        self, params: PyTree[Array], args: tuple[Any, ...]
    ) -> Float[Array, " batch"]:
        owner = "`lsqflow.Lipschitz`"
        model = lambda x: self.apply(params, x)
        if self.probes is None:
            (x,) = take(args, ("points",), owner)
            return jax.vmap(lambda x: _exact(model, x))(x)
        probes = self.probes
        x, key = take(args, ("points", "a key"), owner)
        keys = jax.random.split(key, jax.tree.leaves(x)[0].shape[0])
        return jax.vmap(lambda x, key: _estimate(model, x, key, probes))(x, keys)


def _exact(model: Callable[[Any], Any], x: Any) -> Float[Array, ""]:
    """The squared Frobenius norm of a Jacobian."""
    few_outputs = tree.size(jax.eval_shape(model, x)) < tree.size(x)
    J = (jax.jacrev if few_outputs else jax.jacfwd)(model)(x)
    return tree.inner(J, J)


def _estimate(
    model: Callable[[Any], Any], x: Any, key: Key[Array, ""], probes: int
) -> Float[Array, ""]:
    """An unbiased estimate of the same."""
    y, pull = jax.vjp(model, x)
    leaves, treedef = jax.tree.flatten(y)
    keys = jax.random.split(key, len(leaves))
    scale = 1 / math.sqrt(probes)
    u = [
        jax.random.normal(k, (probes, *leaf.shape), leaf.dtype) * scale
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    rows = jax.vmap(pull)(treedef.unflatten(u))
    return tree.inner(rows, rows)
