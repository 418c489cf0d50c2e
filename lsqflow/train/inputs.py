"""What users pass to a constrained optimiser, checked."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import lineax as lx
import optax
from jaxtyping import ArrayLike

from ..constraint.base import AbstractConstraint
from .linearisation import Rates

ScalarOrSchedule = ArrayLike | Callable[[Any], Any]


def as_rates(
    rate: ScalarOrSchedule, warmup: int | Callable[[Any], Any] | None
) -> Callable[[Any, Any], Rates]:
    """From a step and a dtype to the rates of that step."""
    if isinstance(rate, int | float) and not 0 < rate <= 1:
        raise ValueError(
            "`rate`, the share of the violation that a step removes, must be more than "
            f"0 and at most 1; got {rate}."
        )
    if isinstance(warmup, int) and warmup < 0:
        raise ValueError(f"`warmup` must not be negative; got {warmup}.")

    def rates(count: Any, dtype: Any) -> Rates:
        share = None
        if callable(warmup):
            share = jnp.asarray(warmup(count)).astype(dtype)
        elif warmup:
            share = jnp.minimum((count + 1).astype(dtype) / warmup, 1)
        value = rate(count) if callable(rate) else rate
        return Rates(jnp.asarray(value).astype(dtype), share)

    return rates


def require_types(optimizer: Any, constraint: Any, solver: Any, metric: Any) -> None:
    """Raise a `TypeError` or `ValueError` for what cannot be used."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "`optimizer` must be an Optax optimiser, such as `optax.adam(1e-3)`; got "
            f"{optimizer!r}."
        )
    if not isinstance(constraint, AbstractConstraint):
        raise TypeError(
            "`constraint` must be a constraint of lsqflow; got "
            f"{constraint!r}. Wrap a function in `lsqflow.Equality`."
        )
    if solver is not None and not isinstance(solver, lx.AbstractLinearSolver):
        raise TypeError(f"`solver` must be a lineax solver; got {solver!r}.")
    if not (metric is None or metric == "optimizer" or callable(metric)):
        raise ValueError(
            '`metric` must be "optimizer", None or a function of the parameters and '
            f"the optimiser's state; got {metric!r}."
        )
