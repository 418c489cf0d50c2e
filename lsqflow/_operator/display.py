"""How an operator prints: a tree of operators, each with its shapes."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np


def tree_of(operator: Any, is_operator: Callable[[Any], bool]) -> str:
    """One line an operator, `Name(fields): input → output`, parts indented below."""
    try:
        return "\n".join(_lines(operator, is_operator))
    except Exception:  # noqa: BLE001  a transformation has replaced leaves by others
        return eqx.tree_pformat(operator)


def _lines(operator: Any, is_operator: Callable[[Any], bool]) -> Iterator[str]:
    own, parts = [], []
    for field in dataclasses.fields(operator):
        value = getattr(operator, field.name)
        found = [
            (jax.tree_util.keystr(path, simple=True, separator=" "), x)
            for path, x in jax.tree.leaves_with_path(value, is_leaf=is_operator)
            if is_operator(x)
        ]
        if found:
            parts += found
        elif field.repr and not _is_default(field, value):
            own.append(f"{field.name}={brief(value)}")
    name = type(operator).__name__ + (f"({', '.join(own)})" if own else "")
    ends = (operator.in_structure(), operator.out_structure())
    yield f"{name}: {' → '.join(brief(end) for end in ends)}"
    for i, (label, part) in enumerate(parts):
        first, *rest = _lines(part, is_operator)
        named = "" if label.isdigit() else f"{label}: "
        branch, margin = ("└─ ", "   ") if i == len(parts) - 1 else ("├─ ", "│  ")
        yield branch + (named if label else "") + first
        yield from (margin + line for line in rest)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    """Also what `__init__` filled in with nothing: empty tags, the structures."""
    quiet = value is None or (isinstance(value, frozenset) and not value)
    return quiet or field.name in {"structure", "structures", "known_tags"}


def brief(value: Any) -> str:
    """Arrays and structures as `f64[3,4]`, known scalars as numbers, in one line."""
    if isinstance(value, jax.Array | np.ndarray) and np.ndim(value) == 0:
        try:
            return f"{np.asarray(value)!s:.6}"
        except jax.errors.TracerArrayConversionError:
            pass
    if isinstance(value, np.dtype):
        return str(value)
    return eqx.tree_pformat(value, width=10**6, struct_as_array=True)
