"""Products with an operator: checked, and transposed by the operator's own method.

JAX transposes a function by transposing each step of it. For many operators that is
correct and slow: the transpose of a gather is a scatter, that of a sum over windows is
a sum of padded arrays. `product` turns a method `mv` or `rmv` into one linear map with
two rules. Its transpose is the other method. Its derivative in the vector is the same
product by `operator.linearise()`, so that what does not depend on the vector is
computed once, however often the derivative is applied.
"""

import contextlib
import functools as ft
import threading
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import _tree as tree
from .._jax import explicit_sharding, is_traced, manual_axes, vary
from .._linear_map import AbstractLinearMap
from .._tree import Structure, Vector
from .display import brief

Method = Callable[[Any, Vector], Vector]


def product(method: Method) -> Method:
    """`mv` or `rmv` of a class, with a check of its argument and a transpose."""
    name = method.__name__

    @ft.wraps(method)
    def checked(self: Any, vector: Any) -> Vector:
        if getattr(type(self), name) is not checked or _running.has(self):
            # A part of a product: `super().mv(vector)`, or an `rmv` that calls `mv`.
            return method(self, vector)
        vector = _fitting(self, name, vector)
        if _needs_rule(self, vector):
            return Product(self, name)(vector)[0]
        return method(self, vector)

    checked.__wrapped__ = method  # `plain` reads it, whatever decorators come between
    return checked


def _needs_rule(operator: Any, vector: Vector) -> bool:
    """Where all values are known, nothing is differentiated."""
    if not operator.has_own_rmv or operator.jax_transposes_well:
        return False
    return any(map(is_traced, jax.tree.leaves((operator, vector))))


def plain(operator: Any, name: str) -> Callable[[Vector], Vector]:
    """A product as its class defines it: no check, and no rule for derivatives."""

    def run(vector: Vector) -> Vector:
        with _running.now(operator):
            return getattr(type(operator), name).__wrapped__(operator, vector)

    return run


class _Running(threading.local):
    """The operators of which a product is being traced, in this thread."""

    def __init__(self) -> None:
        self.operators: list[Any] = []

    def has(self, operator: Any) -> bool:
        return any(x is operator for x in self.operators)

    @contextlib.contextmanager
    def now(self, operator: Any) -> Iterator[None]:
        self.operators.append(operator)
        try:
            yield
        finally:
            self.operators.pop()


_running = _Running()


class Product(AbstractLinearMap):
    """`operator.mv` or `rmv` as a linear map, whose transpose is the other one."""

    operator: Any
    name: str = eqx.field(static=True)

    def apply(self, arg: Any) -> tuple[Any, Any]:
        return plain(self.operator, self.name)(arg), None

    def like(self, arg: Any) -> Any:
        operator = self.operator
        if operator.may_call_back or manual_axes((operator, arg)) or _is_placed(arg):
            return None  # only a trace knows the type of the result
        other = operator.out_structure if self.name == "mv" else operator.in_structure
        return tree.zeros(other())

    def jvp(self, tangent: Any, arg: Any, arg_tangent: Any, value: Any) -> Any:
        out = jax.tree.map(lambda _: None, value)
        if jax.tree.leaves(tangent.operator):
            _, out = eqx.filter_jvp(
                lambda operator: plain(operator, self.name)(arg),
                (self.operator,),
                (tangent.operator,),
            )
        if jax.tree.leaves(arg_tangent):
            # What is precomputed is so for vectors on no particular devices.
            operator = self.operator if _is_placed(arg) else self.operator.linearise()
            linear = Product(operator, self.name)
            out = _add(out, linear(_filled(arg_tangent, arg))[0])
        return out

    def transpose(self, arg: Any, cotangent: Any) -> Any:
        other = self.operator.rmv if self.name == "mv" else self.operator.mv
        leaves = jax.tree.leaves(cotangent, is_leaf=lambda x: x is None)
        if any(x is None for x in leaves):
            value = jax.eval_shape(plain(self.operator, self.name), arg)
            cotangent = _filled(cotangent, value)
        return other(cotangent)


def _is_placed(vector: Any) -> bool:
    return any(explicit_sharding(x) is not None for x in jax.tree.leaves(vector))


def _add(x: Any, y: Vector) -> Vector:
    """The sum, where `None` in the place of a leaf of `x` is zero."""
    return jax.tree.map(
        lambda b, a: b if a is None else a + b, y, x, is_leaf=lambda b: b is None
    )


def _filled(partial: Any, like: Any) -> Vector:
    """A tangent or cotangent with arrays of zeros in place of `None`."""
    axes = manual_axes(partial)

    def leaf(part: Any, like: Any) -> Any:
        return vary(tree.zeros(like), axes) if part is None else jnp.asarray(part)

    return jax.tree.map(leaf, partial, like, is_leaf=lambda x: x is None)


def _fitting(operator: Any, name: str, vector: Any) -> Vector:
    """The vector in the dtypes that the operator takes.

    **Raises:** `ValueError` for another structure or shape, `TypeError` for a dtype
    that would lose digits, or the imaginary part.
    """
    expected = operator.in_structure() if name == "mv" else operator.out_structure()
    wanted, treedef = jax.tree.flatten(expected)
    given, found = jax.tree.flatten(vector)
    fits = treedef == found and all(hasattr(x, "shape") for x in given)
    if not fits or any(x.shape != s.shape for x, s in zip(given, wanted, strict=True)):
        raise ValueError(_message(operator, name, expected, vector))
    if not all(_casts_safely(x, s.dtype) for x, s in zip(given, wanted, strict=True)):
        msg = (
            f"{_message(operator, name, expected, vector)} No precision is changed "
            "behind your back: convert the vector or the operator with `.astype`."
        )
        raise TypeError(msg)
    return treedef.unflatten(
        jnp.asarray(x) if x.dtype == s.dtype else jnp.asarray(x).astype(s.dtype)
        for x, s in zip(given, wanted, strict=True)
    )


def _casts_safely(x: Any, wanted: Any) -> bool:
    """Integers and weakly typed numbers to anything, real to complex numbers."""
    dtype = jnp.result_type(x)
    if dtype == wanted or not jnp.issubdtype(dtype, jnp.inexact):
        return True
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.issubdtype(wanted, jnp.complexfloating) and _is_weak(x)
    return jnp.finfo(wanted).dtype == dtype or _is_weak(x)


def _is_weak(x: Any) -> bool:
    return getattr(x, "weak_type", False)


def _message(operator: Any, name: str, expected: Structure, vector: Any) -> str:
    arrays = all(hasattr(x, "dtype") for x in jax.tree.leaves(vector))
    given = tree.structure(vector) if arrays else vector
    hint = "" if arrays else " Make arrays of numbers and lists with `jnp.asarray`."
    return (
        f"`{name}` of `{type(operator).__name__}` takes {brief(expected)}; got "
        f"{brief(given)}.{hint}"
    )
