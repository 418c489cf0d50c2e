"""Which metric an optimizer has, found out by trying it on a small problem."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .compiled import Compiled
from .families import GivenMetric, adam_metric, sgd_metric
from .metric import AbstractMetric, Choice
from .moments import moment, with_moment


class Chosen:
    """The metric that a user asked for, or that the optimizer was found to have."""

    def __init__(
        self, choice: Choice, optimizer: optax.GradientTransformationExtraArgs
    ) -> None:
        """**Arguments:**

        - `choice`: the argument `metric` of `null_space`.
        - `optimizer`: the optimizer, which is tried if the choice is `"auto"`.
        """
        # "optimizer" is the older word for "auto".
        self._found = isinstance(choice, str)
        if isinstance(choice, str):
            self._metric = probe(optimizer)
        elif choice is None or isinstance(choice, AbstractMetric):
            self._metric = choice
        else:
            self._metric = GivenMetric(choice)

    def metric(self, inner_state: Any, params: Any) -> AbstractMetric | None:
        """The metric for a state of the optimizer; None for two projections.

        **Raises:** `ValueError` if a metric that the user named does not fit it.
        """
        if self._metric is None:
            return None
        if self._found and self._metric is adam_metric:
            # Parts of the parameters may have another optimizer.
            both = (moment(inner_state, params, name) for name in ("mu", "nu"))
            return None if any(x is None for x in both) else adam_metric
        self._metric.require(inner_state, params)
        return self._metric


def probe(optimizer: optax.GradientTransformation) -> AbstractMetric | None:
    """Try an optimizer on a small problem. None: it has no diagonal that is known."""
    if _is_diagonal_in_moment(optimizer):
        return adam_metric
    if _is_linear_and_isotropic(optimizer):
        return sgd_metric
    return None


def _tried(function: Callable[[], Any]) -> list[np.ndarray] | None:
    """The values of a function, also while another one is being traced.

    None if it fails: an optimizer may need other parameters, or other arguments, than
    a small problem has. One program for all of it, since a compilation for each
    operation would take seconds.
    """
    try:
        # What cannot be traced cannot be differentiated either.
        jax.eval_shape(function)
        values = Compiled(function)()
    except Exception:  # noqa: BLE001
        return None
    return list(map(np.asarray, jax.tree.leaves(values)))


# The small problem: a vector, and a matrix for optimizers that treat it differently.
_SHAPES = {"vector": (3,), "matrix": (2, 2)}


def _gradients(scale: float, seed: int) -> PyTree[Array]:
    random = np.random.default_rng(seed)
    return {
        name: jnp.asarray(scale * random.standard_normal(shape), jnp.float32)
        for name, shape in _SHAPES.items()
    }


def _is_diagonal_in_moment(optimizer: optax.GradientTransformation) -> bool:
    """Whether the Jacobian is a negative diagonal, also for a finite change."""

    def measure() -> tuple[Array, ...]:
        params = _gradients(1.0, 0)
        state = optimizer.init(params)
        if any(moment(state, params, name) is None for name in ("mu", "nu")):
            return ()
        _, state = optimizer.update(_gradients(1.0, 1), state, params)
        at, unravel = ravel_pytree(moment(state, params, "mu"))

        def move(flat: Array) -> Array:
            moved = with_moment(state, "mu", unravel(flat))
            update, _ = optimizer.update(_gradients(1.0, 2), moved, params)
            return ravel_pytree(update)[0]

        return jax.jacfwd(move)(at), at, move(2 * at) - move(at)

    values = _tried(measure)
    if not values:
        return False
    slope, at, moved = values
    diagonal = np.diag(slope)
    return bool(
        np.all(diagonal < 0)
        and np.allclose(slope, np.diag(diagonal), atol=1e-5 * abs(diagonal).max())
        and np.allclose(moved, diagonal * at, rtol=1e-3)
    )


def _is_linear_and_isotropic(optimizer: optax.GradientTransformation) -> bool:
    """Whether a shear of all gradients shears all updates, also of large ones."""
    random = np.random.default_rng(7)
    shears = {
        name: np.asarray(random.standard_normal((shape[-1],) * 2), np.float32)
        for name, shape in _SHAPES.items()
    }

    def shear(vectors: Any) -> Any:
        return jax.tree.map(jnp.matmul, vectors, shears)

    def run(gradients: list[Any]) -> list[Any]:
        params = jax.tree.map(jnp.zeros_like, gradients[0])
        state, moved = optimizer.init(params), []
        for gradient in gradients:
            update, state = optimizer.update(gradient, state, params)
            moved.append(update)
        return moved

    def gradients() -> list[Any]:
        return [_gradients(s, seed) for seed, s in enumerate((1.0, 1e6, 1.0))]

    want = _tried(lambda: list(map(shear, run(gradients()))))
    got = _tried(lambda: run(list(map(shear, gradients()))))
    if want is None or got is None:
        return False
    return any(x.any() for x in want) and all(
        np.allclose(x, y, rtol=1e-3, atol=1e-3 * abs(x).max())
        for x, y in zip(want, got, strict=True)
    )
