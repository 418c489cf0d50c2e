r"""The metric of an optimiser, read off its own update.

Many optimisers move by $\Delta = -W m$ with a positive diagonal $W$: a learning rate,
divided by $\sqrt{\hat v} + \epsilon$ for the Adam family. `W` is then the derivative of
the update with respect to the first moment or, for the SGD family, to the gradient: no
hyperparameter has to be known, and schedules, bias corrections and frozen leaves are
accounted for.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .._tree import Vector
from .moments import covers, moments_of
from .probe import Form, form_of

_FLOOR = 0.01
Update = Callable[[Vector, Any], tuple[Vector, Any]]
Choice = Literal["optimizer"] | Callable[[PyTree[Array], Any], PyTree[Array]] | None


class Metric:
    """Which metric a constrained optimiser uses, and its value at a step."""

    def __init__(self, choice: Choice, optimizer: optax.GradientTransformation) -> None:
        self.given = choice if callable(choice) else None
        self.form = form_of(optimizer) if choice == "optimizer" else Form.other

    def is_diagonal(self, state: Any, params: Vector) -> bool:
        """Whether there is a diagonal; if not, gradients are projected as well."""
        if self.given is not None or self.form is Form.gradient:
            return True
        return self.form is Form.moment and covers(state, params)

    def read(
        self, update: Update, gradient: Vector, before: Any, after: Any, params: Vector
    ) -> tuple[Vector, Float[Array, ""] | None]:
        """The inverse `W` of the diagonal, between two states of the optimiser.

        And the number `s`, if it is known, for which a gradient g that stays moves the
        optimiser by −s W g, once its momentum has no part normal to the constraint.
        Multipliers of a step are `s` times those of the objective.
        """
        size = jnp.ones((), tree.scalar_dtype(params))
        if self.given is not None:
            return self._weights_given(after, params), None
        if self.form is Form.gradient:
            ones = jax.tree.map(jnp.ones_like, gradient)
            run = lambda g: update(g, before)[0]
            _, slope = jax.jvp(run, (gradient,), (ones,))
        else:
            slope, decay = _slope_in_moment(update, gradient, before, params)
            size -= decay.astype(size.dtype)
        return jax.tree.map(lambda s, p: -s.astype(p.dtype), slope, params), size

    def floored(self, proposal: Vector, weights: Vector) -> tuple[Vector, Vector]:
        """A step of Adam, and its `W`, with a floor of M at a hundredth of its mean.

        Parameters without a gradient have M = ε and would take the whole correction,
        for next to nothing, in steps of any length. Step and metric change together, as
        with a larger ε there, so that the fixed points stay.
        """
        if self.form is not Form.moment:
            return proposal, weights
        limit = 1 / (_FLOOR * _root_mean_square_of_inverse(weights))
        capped = jax.tree.map(lambda w: jnp.minimum(w, limit.astype(w.dtype)), weights)
        proposal = jax.tree.map(
            lambda p, w, c: jnp.where(c < w, p * (c / w), p), proposal, weights, capped
        )
        return proposal, capped

    def _weights_given(self, state: Any, params: Vector) -> Vector:
        diagonal = self.given(params, state) if self.given else params
        if jax.tree.structure(diagonal) != jax.tree.structure(params):
            raise ValueError(
                "`metric` must return a pytree like the parameters, "
                f"{jax.tree.structure(params)}; got {jax.tree.structure(diagonal)}."
            )
        return jax.tree.map(lambda m, p: 1 / m.astype(p.dtype), diagonal, params)


def step_size(proposal: Vector, gradient: Vector, weights: Vector) -> Float[Array, ""]:
    """An estimate of `s` in Δ ≈ −s W g, by least squares."""
    scaled = jax.tree.map(jnp.multiply, weights, gradient)
    squared = tree.inner(gradient, scaled)
    return -tree.inner(proposal, gradient) * tree.safe_reciprocal(squared)


def _root_mean_square_of_inverse(weights: Vector) -> Float[Array, ""]:
    """Of 1 / W, where W is positive; from numbers that neither over- nor underflow."""
    leaves = jax.tree.leaves(weights)
    dtype = tree.scalar_dtype(leaves)
    least = jnp.min(
        jnp.stack(
            [
                jnp.min(jnp.where(w > 0, w, jnp.inf), initial=jnp.inf).astype(dtype)
                for w in leaves
            ]
        )
    )
    ratios = [
        jnp.where(w > 0, least.astype(w.dtype) * tree.safe_reciprocal(w), 0 * w)
        for w in leaves
    ]
    count = sum(jnp.sum(w > 0, dtype=dtype) for w in leaves)
    return tree.norm(ratios) / jnp.sqrt(jnp.maximum(count, 1)) / least


def _slope_in_moment(
    update: Update, gradient: Vector, state: Any, params: Vector
) -> tuple[Vector, Array]:
    """The derivative of the update in the new first moment, and the decay b1.

    The moment is `b1 m + (1 − b1) g`.
    """
    moments, rebuild = moments_of(state, params)
    run = lambda mu: update(gradient, rebuild(mu))
    ones = [jnp.ones_like(x) for x in moments]
    _, decay = jax.jvp(
        lambda mu: moments_of(run(mu)[1], params)[0], (moments,), (ones,)
    )
    unit = [tree.safe_reciprocal(d) for d in decay]
    slope = jax.jvp(lambda mu: run(mu)[0], (moments,), (unit,))[1]
    return slope, decay[0].reshape(-1)[0]
