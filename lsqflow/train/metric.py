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
from .moments import covers, moments_of, select_field
from .probe import Form, form_of

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

    def weights(
        self, update: Update, gradient: Vector, before: Any, after: Any, params: Vector
    ) -> Vector:
        """The inverse of the diagonal, between two states of the optimiser."""
        if self.given is not None:
            return self._weights_given(after, params)
        if self.form is Form.gradient:
            ones = jax.tree.map(jnp.ones_like, gradient)
            run = lambda g: update(g, before)[0]
            _, slope = jax.jvp(run, (gradient,), (ones,))
        else:
            slope = _slope_in_moment(update, gradient, before)
        return jax.tree.map(lambda s, p: -s.astype(p.dtype), slope, params)

    def step_size(
        self, proposal: Vector, gradient: Vector, weights: Vector
    ) -> Float[Array, ""]:
        """The `s` in Δ ≈ −s W g; 1 if `W` contains it.

        The multipliers of a step, divided by it, are those of the objective.
        """
        if self.form is Form.moment:
            return jnp.ones((), tree.scalar_dtype(proposal))
        scaled = jax.tree.map(jnp.multiply, weights, gradient)
        squared = tree.inner(gradient, scaled)
        return -tree.inner(proposal, gradient) * tree.safe_reciprocal(squared)

    def _weights_given(self, state: Any, params: Vector) -> Vector:
        diagonal = self.given(params, state) if self.given else params
        if jax.tree.structure(diagonal) != jax.tree.structure(params):
            raise ValueError(
                "`metric` must return a pytree like the parameters, "
                f"{jax.tree.structure(params)}; got {jax.tree.structure(diagonal)}."
            )
        return jax.tree.map(lambda m, p: 1 / m.astype(p.dtype), diagonal, params)


def _slope_in_moment(update: Update, gradient: Vector, state: Any) -> Vector:
    """The derivative of the update in the new first moment, `b1 m + (1 − b1) g`."""
    moments, rebuild = moments_of(state)
    run = lambda mu: update(gradient, rebuild(mu))
    ones = [jnp.ones_like(x) for x in moments]
    # How the new moment follows the old one: by the constant b1.
    _, decay = jax.jvp(lambda mu: select_field(run(mu)[1], "mu"), (moments,), (ones,))
    unit = [tree.safe_reciprocal(d) for d in decay]
    return jax.jvp(lambda mu: run(mu)[0], (moments,), (unit,))[1]
