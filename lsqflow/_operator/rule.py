"""Functions with a derivative of their own: what the rule computes, and back again."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[..., Sequence[Any]]


def is_inexact(x: Any) -> bool:
    """Whether `x`, an array or its type, has a derivative."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def tangents(function: Function, primals: Any, moving: Any) -> Any:
    """The tangents of all results that have one, for those of the arguments."""
    return jax.jvp(*_moving(function, primals), moving)[1]


def cotangents(function: Function, primals: Any, moving: Any) -> Any:
    """The cotangents of all arguments that have one, for those of the results."""
    function, start = _moving(function, primals)
    return jax.vjp(function, *start)[1](moving)


def _moving(function: Function, primals: Any) -> tuple[Callable[..., Any], list[Any]]:
    """The function between those of its arguments and results that are inexact."""

    def between(*moving: Any) -> Any:
        rest = iter(moving)
        args = [next(rest) if is_inexact(x) else x for x in primals]
        return [x for x in function(*args) if is_inexact(x)]

    return between, [x for x in primals if is_inexact(x)]


def with_rule(function: Function, rule: Callable[..., Any], *, forward: bool) -> Any:
    """The function with `rule(itself, *primals, *moving)` for its derivative."""
    itself: Any = (jax.custom_jvp if forward else jax.custom_vjp)(function)

    def apply(primals: Any, moving: Any, results: Any) -> list[Any]:
        out = iter(rule(itself, *primals, *moving))
        return [
            next(out) if is_inexact(x) else np.zeros(x.shape, jax.dtypes.float0)
            for x in results
        ]

    def jvp(primals: Any, dots: Any) -> Any:
        value = itself(*primals)
        moving = [t for x, t in zip(primals, dots, strict=True) if is_inexact(x)]
        return value, apply(primals, moving, value)

    def vjp(primals: Any, bars: Any) -> Any:
        moving = [c for c in bars if c.dtype != jax.dtypes.float0]
        return tuple(apply(primals, moving, primals))

    if forward:
        itself.defjvp(jvp)
    else:
        itself.defvjp(lambda *args: (function(*args), args), vjp)
    return itself
