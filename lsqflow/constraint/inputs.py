"""What users give to constraints, checked: functions, parameters, residuals."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._operator.display import brief


def take(args: tuple[Any, ...], names: tuple[str, ...], owner: str) -> tuple[Any, ...]:
    """The first arguments of a step; a `TypeError` if there are fewer than names."""
    if len(args) < len(names):
        raise TypeError(
            f"{owner} needs {' and '.join(names)} at each step, after the parameters; "
            f"got {len(args)} further argument(s). Pass them to the method, as "
            "`constraint_args` in training, or draw them with `lsqflow.Sampled`."
        )
    return args[: len(names)]


def require_function(x: Any, name: str, owner: str, example: str) -> None:
    """Raise a `TypeError` unless `x` can be called.

    **Arguments:**

    - `x`: what the user gave.
    - `name`: the name of the argument.
    - `owner`: the class or function that takes it.
    - `example`: a function that would do.
    """
    if callable(x) and not isinstance(x, type):
        return
    hint = ""
    if isinstance(x, jax.Array | np.ndarray):
        hint = " Pass the function itself, not the value that it returned."
    raise TypeError(
        f"`{name}` of `{owner}` must be a function, such as `{example}`; got "
        f"{described(x)}.{hint}"
    )


def require_selection(where: Any, owner: str) -> None:
    """Raise a `TypeError` unless `where` can pick a part of the parameters."""
    name = where if isinstance(where, str) else "kernel"
    require_function(where, "where", owner, f'lambda params: params["{name}"]')


def require_count(x: Any, name: str, owner: str) -> None:
    """Raise a `ValueError` unless `x` is None or a positive integer."""
    if x is None or (isinstance(x, int) and not isinstance(x, bool) and x > 0):
        return
    raise ValueError(
        f"`{owner}`: `{name}` must be a positive integer, or `None` for exact values; "
        f"got {described(x)}."
    )


def as_numbers(x: Any, name: str, owner: str) -> jax.Array:
    """An array; or a `TypeError` that says what else there is."""
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` of `{owner}` must be a number or an array of numbers; got "
            f"{described(x)}."
        ) from error


def picked(where: Any, params: PyTree[Any], owner: str) -> PyTree[Any]:
    """The part of the parameters that `where` picks; a `ValueError` if it is none."""
    part = where(params)
    if not jax.tree.leaves(part):
        raise ValueError(
            f"`where` of `{owner}` picks nothing: it returned {part!r}. Return an "
            "array of the parameters, or a pytree of them."
        )
    return part


def require_parameters(params: PyTree[Any], owner: str) -> None:
    """Raise a `TypeError` unless all leaves are floating-point arrays or numbers."""
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, float | complex):
            continue
        if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
            continue
        where = jax.tree_util.keystr(path) or "the top level"
        what = described(leaf)
        if isinstance(leaf, str | int) or dtype is not None:
            advice = "Leave it out of what is trained"
        else:
            advice = "A model holds more than parameters. Train its arrays"
        raise TypeError(
            f"Parameters of {owner} must be floating-point arrays; got {what} at "
            f"{where}. {advice}: `params, static = eqx.partition(model, "
            "eqx.is_inexact_array)`, and `eqx.combine(params, static)` in the loss and "
            "in the constraint."
        )


def require_residual(residual: PyTree[Any], owner: Any) -> None:
    """Raise a `TypeError` unless a residual consists of floating-point arrays.

    Arrays may be structures. A function that returns nothing, or truth values, would
    otherwise be a constraint that does nothing, or fail much later.
    """
    name = f"The residual of `{type(owner).__name__}`"
    holes = jax.tree.leaves(residual, is_leaf=lambda x: x is None)
    leaves = jax.tree.leaves_with_path(residual)
    # A part of a model has None beside its arrays.
    if holes and not leaves:
        raise TypeError(
            f"{name} is {residual!r}. Does the function end without `return`? {_RETURN}"
        )
    for path, leaf in leaves:
        where = jax.tree_util.keystr(path)
        at = f" at {where}" if where else ""
        dtype = getattr(leaf, "dtype", None)
        if dtype is None:
            dtype = np.asarray(leaf).dtype if isinstance(leaf, _NUMBERS) else None
        if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
            continue
        if dtype == np.bool_:
            advice = (
                "Return how far the condition is from holding, not whether it holds: "
                "`left - right`, for `left == right` in `lsqflow.Equality` and for "
                "`left <= right` in `lsqflow.Inequality`."
            )
        elif dtype is not None and jnp.issubdtype(dtype, jnp.integer):
            advice = (
                "Integers have no derivative: compute the residual in floating point, "
                "without `round`, `argmax` or counting."
            )
        elif dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
            advice = "Return its real and imaginary parts: `(z.real, z.imag)`."
        else:
            advice = _RETURN
        raise TypeError(f"{name} is {described(leaf)}{at}. {advice}")


_NUMBERS = (bool, int, float, complex)
_RETURN = (
    "Return an array that is zero where the constraint holds, or a pytree of such "
    "arrays."
)


def described(x: Any) -> str:
    """A few words for an error message: what `x` is."""
    if isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        return f"an array of {x.dtype} with the shape {tuple(x.shape)}"
    if isinstance(x, type):
        return f"the class `{x.__name__}` (create one: `{x.__name__}(...)`)"
    if x is None or isinstance(x, str | bool | int | float | complex):
        return repr(x)
    if isinstance(x, Sequence | dict):
        text = brief(x)
        return f"a {type(x).__name__}, {text if len(text) <= 80 else text[:77] + '...'}"
    if callable(x):
        return f"the function `{getattr(x, '__name__', type(x).__name__)}`"
    return f"an object of the class `{type(x).__name__}`"
