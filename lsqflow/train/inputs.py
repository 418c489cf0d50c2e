"""What users pass to a constrained optimizer, checked."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import ArrayLike

from ..constraint.base import AbstractConstraint
from ..constraint.inputs import described
from .linearisation import Rates
from .metric import AbstractMetric

ScalarOrSchedule = ArrayLike | Callable[[Any], Any]


def as_rates(
    rate: ScalarOrSchedule, warmup: int | Callable[[Any], Any] | None
) -> Callable[[Any, Any], Rates]:
    """From a step and a dtype to the rates of that step."""
    array = isinstance(rate, jax.Array | np.ndarray | np.generic) and rate.shape == ()
    if not (array or callable(rate) or _is_share(rate)):
        raise ValueError(
            "`rate`, the share of the violation that a step removes, must be a number "
            "more than 0 and at most 1, or a schedule that returns such numbers; got "
            f"{described(rate)}."
        )
    counted = isinstance(warmup, int) and not isinstance(warmup, bool) and warmup >= 0
    if not (warmup is None or callable(warmup) or counted):
        raise ValueError(
            "`warmup` must be a number of steps, an integer that is not negative, or a "
            f"schedule from a step to a share from 0 to 1; got {described(warmup)}."
        )

    def rates(count: Any, dtype: Any) -> Rates:
        share = None
        if callable(warmup):
            share = jnp.asarray(warmup(count)).astype(dtype)
        elif warmup:
            share = jnp.minimum((count + 1).astype(dtype) / warmup, 1)
        value = rate(count) if callable(rate) else rate
        return Rates(jnp.asarray(value).astype(dtype), share)

    return rates


def _is_share(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and 0 < x <= 1


def require_types(optimizer: Any, constraint: Any, solver: Any, metric: Any) -> None:
    """Raise a `TypeError` or `ValueError` for what cannot be used."""
    if isinstance(optimizer, AbstractConstraint) and is_optimizer(constraint):
        raise TypeError(
            "The first two arguments are exchanged: write "
            "`lsqflow.null_space(optimizer, constraint)`."
        )
    require_optimizer(optimizer)
    require_constraint(constraint)
    require_solver(solver)
    named = isinstance(metric, str) and metric in {"auto", "optimizer"}
    given = isinstance(metric, AbstractMetric) or callable(metric)
    if isinstance(metric, type) or not (metric is None or named or given):
        raise ValueError(
            '`metric` must be "auto", None, a metric of `lsqflow.train`, such as '
            "`lsqflow.train.adam_metric`, or a function of the parameters and the "
            f"optimizer's state that returns a diagonal; got {described(metric)}."
        )


def is_optimizer(x: Any) -> bool:
    """Whether it has the two functions of an Optax optimizer."""
    both = (getattr(x, name, None) for name in ("init", "update"))
    return all(map(callable, both)) and not isinstance(x, type)


def require_optimizer(optimizer: Any) -> None:
    """Raise a `TypeError` unless it is an Optax optimizer."""
    if is_optimizer(optimizer):
        return
    hint = ""
    if isinstance(optimizer, list | tuple):
        hint = " Join several with `optax.chain`."
    elif callable(optimizer):
        name = getattr(optimizer, "__name__", "adam")
        hint = f" Call it with a learning rate: `optax.{name}(1e-3)`."
    raise TypeError(
        "`optimizer` must be an Optax optimizer, such as `optax.adam(1e-3)`; got "
        f"{described(optimizer)}.{hint}"
    )


def require_constraint(constraint: Any) -> None:
    """Raise a `TypeError` unless it is a constraint."""
    if isinstance(constraint, AbstractConstraint):
        return
    hint = ""
    if isinstance(constraint, list | tuple):
        hint = " Join several with `&`: `first & second`."
    elif callable(constraint) and not isinstance(constraint, type):
        hint = " Wrap a function in `lsqflow.Equality` or `lsqflow.Inequality`."
    raise TypeError(
        "`constraint` must be a constraint of lsqflow, such as "
        f"`lsqflow.Equality(fn)`; got {described(constraint)}.{hint}"
    )


def require_solver(solver: Any) -> None:
    """Raise a `TypeError` unless it is a solver, or None."""
    if solver is not None and not isinstance(solver, lx.AbstractLinearSolver):
        raise TypeError(
            "`solver` must be a solver of lsqflow or lineax, such as "
            f"`lsqflow.LSMR()`; got {described(solver)}."
        )


def require_tuple(args: Any) -> None:
    """Raise a `TypeError` unless `constraint_args` is a tuple."""
    if not isinstance(args, tuple):
        raise TypeError(
            "`constraint_args` must be a tuple, the further arguments of the "
            f"constraint in their order; got {described(args)}. For one argument write "
            "`constraint_args=(points,)`, with a comma."
        )


def require_gradient(updates: Any, params: Any) -> None:
    """Raise a `ValueError` unless gradients are like the parameters."""
    got, want = map(jax.tree.structure, (updates, params))
    shapes = [list(map(np.shape, jax.tree.leaves(x))) for x in (updates, params)]
    if got != want or shapes[0] != shapes[1]:
        raise ValueError(
            "Gradients must have the structure and shapes of the parameters. The "
            f"parameters are {want} of shapes {shapes[1]}; got {got} of shapes "
            f"{shapes[0]}. The order of arguments is `update(gradients, state, "
            "params)`. For a model with other leaves than arrays, pass "
            "`eqx.filter(model, eqx.is_inexact_array)` as `params`."
        )


@contextlib.contextmanager
def explained(
    params: Any,
    how: str = "give examples of them: `lsqflow.null_space(..., "
    "constraint_args=(batch,))`",
) -> Iterator[None]:
    """Add to a `TypeError` of a constraint what it most likely comes from.

    **Arguments:**

    - `params`: the parameters, at which the constraint is evaluated.
    - `how`: how to pass further arguments of the constraint.
    """
    try:
        yield
    except TypeError as error:
        text = str(error)
        holes = any(x is None for x in jax.tree.leaves(params, is_leaf=_is_none))
        if "NoneType" in text and holes:
            advice = (
                "The parameters hold None where a model has functions or other parts "
                "that are not trained. Put these back in the constraint: with "
                "`params, static = eqx.partition(model, eqx.is_inexact_array)`, write "
                "`lsqflow.Equality(lambda params: condition(eqx.combine(params, "
                "static)))`."
            )
        elif "positional argument" in text:
            advice = f"If the constraint takes further arguments, {how}."
        elif isinstance(error, jax.errors.ConcretizationTypeError):
            advice = (
                "Compute with `jax.numpy` throughout, without `float(...)`, `.item()` "
                "or `if` on values."
            )
        else:
            raise
        first = text.split("\n", maxsplit=1)[0].rstrip(".")
        raise TypeError(
            "The constraint could not be evaluated at the parameters. The error was: "
            f"{first}. {advice}"
        ) from error


def _is_none(x: Any) -> bool:
    return x is None
