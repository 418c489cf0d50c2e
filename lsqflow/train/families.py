r"""The metric of an optimizer, read off its own update.

Many optimizers move by $\Delta = -W m$ with a positive diagonal $W$: a learning rate,
divided by $\sqrt{\hat v} + \epsilon$ for the Adam family. `W` is then the derivative of
the update with respect to the first moment or, for the SGD family, to the gradient. So
no hyperparameter has to be known. Schedules, bias corrections and frozen leaves are
accounted for.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import _tree as tree
from .._tree import Vector
from .metric import AbstractMetric, MetricForm, OptimizerStep, Scalar
from .moments import moment, with_moment


class AdamMetric(AbstractMetric):
    r"""The metric of the Adam family: $M = (\sqrt{\hat v} + \epsilon) / \text{rate}$.

    For Adam, AdamW, AMSGrad, NAdam, RAdam, AdaMax, Yogi and whatever else moves by a
    positive diagonal times a first moment that its state calls `mu`. The diagonal is
    the derivative of the update in that moment.

    Parameters without a gradient have M = ε and would take the whole correction, for
    next to nothing, in steps of any length. So M is at least `floor` times its root
    mean square. Step and metric change together, as with a larger ε for these
    parameters, and the fixed points of training stay.

    **Cost:** two Jacobian–vector products of the optimizer's update.
    """

    floor: float = 0.01

    def read(self, step: OptimizerStep) -> tuple[PyTree[Array], Scalar | None]:
        """The derivative in the moment `b1 m + (1 − b1) g`; and `1 − b1`."""
        state, params = step.before, step.params
        old = moment(state, params, "mu")
        ones = jax.tree.map(jnp.ones_like, old)

        def run(mu: Vector) -> tuple[Vector, Vector]:
            updates, after = step.update(step.gradient, with_moment(state, "mu", mu))
            return updates, moment(after, params, "mu")

        _, decay = jax.jvp(lambda mu: run(mu)[1], (old,), (ones,))
        unit = jax.tree.map(tree.safe_reciprocal, decay)
        _, slope = jax.jvp(lambda mu: run(mu)[0], (old,), (unit,))
        dtype = tree.scalar_dtype(params)
        b1 = [jnp.max(d, initial=0).astype(dtype) for d in jax.tree.leaves(decay)]
        return _inverse_diagonal(slope, params), 1 - jnp.max(jnp.stack(b1))

    def adjust(self, proposal: Vector, weights: Vector) -> tuple[Vector, Vector]:
        """With the floor."""
        limit = 1 / (self.floor * _root_mean_square_of_inverse(weights))
        capped = jax.tree.map(lambda w: jnp.minimum(w, limit.astype(w.dtype)), weights)
        proposal = jax.tree.map(
            lambda p, w, c: jnp.where(c < w, p * (c / w), p), proposal, weights, capped
        )
        return proposal, capped

    def require(self, inner_state: Any, params: PyTree[Array]) -> None:
        if moment(inner_state, params, "mu") is None:
            raise ValueError(
                "`AdamMetric` needs an optimizer whose state has one first moment "
                "`mu` for all the parameters. This one has none. Pass "
                '`metric="auto"` to have the metric found, or `metric=None`, which is '
                "right for any optimizer."
            )

    def form(self) -> MetricForm:
        return MetricForm.adam


AdamMetric.__init__.__doc__ = """**Arguments:**

- `floor`: the least entry of M, as a multiple of the root mean square of all entries.
"""


class SGDMetric(AbstractMetric):
    """The metric of the SGD family: the inverse of the learning rate, everywhere.

    For SGD with momentum, with Nesterov's, or without, under any schedule, and for
    whatever else moves by a multiple of past gradients. The multiple is the derivative
    of the update in the gradient.

    **Cost:** one Jacobian–vector product of the optimizer's update.
    """

    def read(self, step: OptimizerStep) -> tuple[PyTree[Array], Scalar | None]:
        """The derivative in the gradient; and 1."""
        ones = jax.tree.map(jnp.ones_like, step.gradient)
        run = lambda g: step.update(g, step.before)[0]
        _, slope = jax.jvp(run, (step.gradient,), (ones,))
        size = jnp.ones((), tree.scalar_dtype(step.params))
        return _inverse_diagonal(slope, step.params), size

    def form(self) -> MetricForm:
        return MetricForm.sgd


class EuclideanMetric(AbstractMetric):
    """All parameters count alike, whatever the optimizer does.

    Right for optimizers that move against the gradient. With others, such as Adam or
    Lion, the constraint holds and training ends at a wrong point: use `metric=None`.
    """

    def read(self, step: OptimizerStep) -> tuple[PyTree[Array], Scalar | None]:
        """Ones."""
        return jax.tree.map(jnp.ones_like, step.params), None

    def form(self) -> MetricForm:
        return MetricForm.euclidean


class GivenMetric(AbstractMetric):
    """The diagonal of M from a function of the parameters and the inner state."""

    function: Callable[[PyTree[Array], Any], PyTree[Array]]

    def read(self, step: OptimizerStep) -> tuple[PyTree[Array], Scalar | None]:
        """The inverse of what the function returns."""
        params = step.params
        diagonal = jax.tree.map(jnp.asarray, self.function(params, step.after))
        fits = jax.tree.structure(diagonal) == jax.tree.structure(params)
        if not fits or any(
            m.shape not in {(), p.shape}
            for m, p in zip(*map(jax.tree.leaves, (diagonal, params)), strict=True)
        ):
            shapes = lambda tree: jax.tree.map(jnp.shape, tree)
            raise ValueError(
                "The function passed as `metric` must return a pytree like the "
                f"parameters, with the shapes {shapes(params)}; got {shapes(diagonal)}."
            )
        inverse = lambda m, p: jnp.broadcast_to(1 / m.astype(p.dtype), p.shape)
        return jax.tree.map(inverse, diagonal, params), None


adam_metric = AdamMetric()
sgd_metric = SGDMetric()
euclidean = EuclideanMetric()


def _inverse_diagonal(slope: Vector, params: Vector) -> Vector:
    return jax.tree.map(lambda s, p: -s.astype(p.dtype), slope, params)


def _root_mean_square_of_inverse(weights: Vector) -> Scalar:
    """Of 1 / W, where W is positive; from numbers that neither over- nor underflow."""
    leaves = jax.tree.leaves(weights)
    dtype = tree.scalar_dtype(leaves)
    least = [
        jnp.min(jnp.where(w > 0, w, jnp.inf), initial=jnp.inf).astype(dtype)
        for w in leaves
    ]
    least = jnp.min(jnp.stack(least))
    ratios = [
        jnp.where(w > 0, least.astype(w.dtype) * tree.safe_reciprocal(w), 0 * w)
        for w in leaves
    ]
    count = sum(jnp.sum(w > 0, dtype=dtype) for w in leaves)
    return tree.norm(ratios) / jnp.sqrt(jnp.maximum(count, 1)) / least
