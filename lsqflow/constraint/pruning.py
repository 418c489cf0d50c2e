"""Fractions of weights that are zero, and schedules of them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from .._jax import known
from .inputs import described

Schedule = Callable[[Any], Any]


def cubic_sparsity(
    final: float, begin: int, end: int, *, initial: float = 0.0, every: int = 1
) -> Schedule:
    r"""Gradual magnitude pruning: fast at first, slowly where little is left.

    $s_t = s_f + (s_0 - s_f) \left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3$ between the
    steps $t_0$ and $t_1$; see Zhu and Gupta, *To prune, or not to prune*,
    [arXiv:1710.01878](https://arxiv.org/abs/1710.01878).

    **Arguments:**

    - `final`: the fraction of zeros from step `end` on, $s_f$.
    - `begin`, `end`: the steps $t_0$ and $t_1$.
    - `initial`: the fraction up to step `begin`, $s_0$.
    - `every`: how many steps the fraction is constant for. Only steps that change it
        search for a threshold.

    **Returns:** a function from a step to a fraction.

    **Raises:** `ValueError` if a fraction is not between 0 and 1, `end` not after
    `begin`, or `every` not positive.
    """
    require_fraction(final)
    require_fraction(initial)
    if not begin < end or every < 1:
        raise ValueError(
            "`cubic_sparsity` needs begin < end and every >= 1; got "
            f"begin = {begin}, end = {end}, every = {every}."
        )
    return Cubic(final, initial, begin, end, every)


class Cubic(eqx.Module):
    """What `cubic_sparsity` returns: a function that can be compared and pickled."""

    final: Any
    initial: Any
    begin: int = eqx.field(static=True)
    end: int = eqx.field(static=True)
    every: int = eqx.field(static=True)

    def __call__(self, step: ArrayLike) -> Array:
        passed = (jnp.asarray(step) - self.begin) // self.every * self.every
        left = 1 - jnp.clip(passed / (self.end - self.begin), 0, 1)
        initial, final = jnp.asarray(self.initial), jnp.asarray(self.final)
        return final + (initial - final) * left**3


def require_fraction(fraction: Any) -> None:
    """Raise a `ValueError` unless it is None or a number from 0 to 1."""
    if fraction is None:
        return
    number = isinstance(fraction, int | float | np.generic | np.ndarray | jax.Array)
    value = known(fraction) if number else np.asarray(jnp.nan)
    if value is not None and not (value.shape == () and 0 <= value <= 1):
        percent = number and value is not None and np.all((value > 1) & (value <= 100))
        hint = " 90 % are `Sparsity(0.9)`." if percent else ""
        raise ValueError(
            "The fraction of zeros must be a number from 0 to 1; got "
            f"{described(fraction)}.{hint}"
        )
