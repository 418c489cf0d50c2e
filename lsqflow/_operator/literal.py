"""Values inside of traced functions, so that they compare by value and pickle."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from .._jax import known


@dataclasses.dataclass(frozen=True)
class Plain:
    """Anything that compares by value; of one type, for `1 == True`."""

    type: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Numbers:
    """An array, or a number whose bits count: NaN equals NaN, 0.0 is not -0.0."""

    shape: tuple[int, ...]
    dtype: Any
    data: bytes
    form: Literal["array", "scalar", "number"]


@dataclasses.dataclass(frozen=True)
class Items:
    """A tuple, a list or a named tuple."""

    type: Any
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Constant:
    """A number that an operation takes, in the dtype in which it takes it."""

    value: Any
    dtype: Any


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of an array in a `Tree`."""

    number: int


class Tree:
    """A pytree with `Slot` in place of arrays, compared by its structure and leaves."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        leaves, treedef = jax.tree.flatten(tree)
        self._key = tuple(map(value_of, leaves)), treedef

    def filled(self, arrays: list[Any]) -> Any:
        """The pytree with its arrays."""
        return jax.tree.map(
            lambda x: arrays[x.number] if isinstance(x, Slot) else x, self.tree
        )

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and self._key == other._key

    def __reduce__(self) -> Any:
        return Tree, (self.tree,)


class Unknown:
    """Keeps an object alive and compares it by identity; at worst compiles again."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unknown) and self.value is other.value

    def __reduce__(self) -> Any:
        raise TypeError(f"it holds a {type(self.value).__name__}, known by identity.")


def value_of(x: Any, inside: Callable[[Any], Any] | None = None) -> Any:
    """`x` as something that compares by value; `inside` does so for its items."""
    if isinstance(x, tuple | list):
        return Items(type(x), tuple(map(inside or value_of, x)))
    if isinstance(x, jax.Array | np.ndarray | np.generic | float | complex):
        array = known(x)
        if array is None or array.dtype == object:
            return Unknown(x)
        is_scalar = isinstance(x, np.generic)
        form = "scalar" if is_scalar else "number" if np.isscalar(x) else "array"
        return Numbers(array.shape, array.dtype, array.tobytes(), form)
    try:
        hash(x)
    except TypeError:
        return Unknown(x)
    return Plain(type(x).__name__, x)


def restored(x: Any, inside: Callable[[Any], Any] | None = None) -> Any:
    """The value again."""
    match x:
        case Plain(value=value) | Unknown(value=value):
            return value
        case Numbers():
            array = np.frombuffer(x.data, x.dtype).reshape(x.shape)
            if x.form == "array":
                return array
            return array.item() if x.form == "number" else array[()]
        case Items():
            values = map(inside or restored, x.values)
            return x.type(*values) if hasattr(x.type, "_fields") else x.type(values)
        case Constant():
            return np.asarray(restored(x.value)).astype(x.dtype)
    return x
