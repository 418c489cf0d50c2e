"""What every operator can do, and only modules that know its subclasses can define.

Each function is declared here and defined by a registration elsewhere, as in lineax.
So the class of operators imports no subclass of itself.
"""

import functools as ft
from typing import Any


@ft.singledispatch
def linearise(operator: Any) -> Any:
    """An equal operator with all that does not depend on the vector precomputed."""
    raise _undefined(operator)


@ft.singledispatch
def transpose(operator: Any) -> Any:
    """`Aᵀ`."""
    raise _undefined(operator)


@ft.singledispatch
def conj(operator: Any) -> Any:
    """`A` with conjugated entries."""
    raise _undefined(operator)


@ft.singledispatch
def compose(left: Any, right: Any) -> Any:
    """`left @ right`."""
    raise _undefined(left, right)


@ft.singledispatch
def add(left: Any, right: Any) -> Any:
    """`left + right`."""
    raise _undefined(left, right)


@ft.singledispatch
def scale(operator: Any, scalar: Any, *, invert: bool = False) -> Any:
    """`scalar * operator`, or `operator / scalar`."""
    del invert
    raise _undefined(operator, scalar)


@ft.singledispatch
def as_operator(operator: Any) -> Any:
    """An operator from whatever users pass in the place of one."""
    raise _undefined(operator)


def _undefined(*args: Any) -> TypeError:
    names = ", ".join(type(x).__name__ for x in args)
    return TypeError(f"Not defined for {names}.")
