"""All that a new release of JAX may break, in one place.

This is about tracers, jaxprs, primitives and layouts, and about where arrays live:
shardings in their types, and the manual axes of `shard_map`. Other modules use only
what is documented and stable.
"""

import functools as ft
import os
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer, eval_jaxpr
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive, jaxpr_as_fun, primitives
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from ._tree import Vector

__all__ = [
    "Primitive",
    "ad",
    "batching",
    "bind",
    "eval_jaxpr",
    "explicit_sharding",
    "is_plain_jit",
    "is_traced",
    "jaxpr_as_fun",
    "known",
    "manual_axes",
    "mlir",
    "on_explicit_mesh",
    "primitive_named",
    "raises_inside",
    "reshard_as",
    "reshard_like",
    "row_major",
    "sharded_structure",
    "vary",
]


def is_traced(x: Any) -> bool:
    """Whether `x` stands for an array whose values are not known yet."""
    return isinstance(x, Tracer)


def known(x: Any) -> np.ndarray | None:
    """The values of an array, or `None` while they are traced."""
    try:
        return np.asarray(x)
    except jax.errors.TracerArrayConversionError:
        return None


def raises_inside(inputs: PyTree[Any]) -> bool:
    """Whether an error must be raised from within the compiled program.

    It must be while anything is traced: under `jit`, `vmap` and for derivatives. So it
    must where `EQX_ON_ERROR` tells equinox to do something other than raise. Otherwise
    the caller looks at the result.
    """
    default = os.environ.get("EQX_ON_ERROR", "raise") == "raise"
    return not default or any(map(is_traced, jax.tree.leaves(inputs)))


def row_major(matrix: Array) -> Array:
    """A matrix whose layout the compiler may not choose.

    XLA on CPUs may ask of a Fourier transform a layout that it cannot give, if the
    matrix is factorized in the same program.
    """
    return with_layout_constraint(matrix, Layout((0, 1)))


def explicit_sharding(x: Any) -> Any:
    """The sharding in the type of an array on an explicit mesh; `None` elsewhere."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    axes = () if sharding is None else sharding.mesh.axis_types
    return sharding if jax.sharding.AxisType.Explicit in axes else None


def on_explicit_mesh(tree: PyTree[Any]) -> bool:
    """Whether an array of `tree` has its place on a mesh in its type."""
    arrays = [x for x in jax.tree.leaves(tree) if eqx.is_array(x)]
    return any(explicit_sharding(x) is not None for x in arrays)


def reshard_like(x: Vector, example: Callable[[], Vector]) -> Vector:
    """`x`, on an explicit mesh sharded as `example()` would be."""

    def leaf(v: Array, like: jax.ShapeDtypeStruct) -> Array:
        sharding = getattr(like, "sharding", None)
        return v if sharding is None else jax.sharding.reshard(v, sharding)

    return jax.tree.map(leaf, x, jax.eval_shape(example))


def sharded_structure(x: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array and, on an explicit mesh, its sharding."""
    sharding = explicit_sharding(x)
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=sharding)


def reshard_as(x: Array, structure: jax.ShapeDtypeStruct) -> Array:
    """`x`, on an explicit mesh with the sharding of a structure."""
    mesh = getattr(structure.sharding, "mesh", None)
    if mesh is None or jax.sharding.AxisType.Explicit not in mesh.axis_types:
        return x
    return jax.sharding.reshard(x, structure.sharding)


def _varying(x: Any) -> frozenset[Any]:
    return jax.typeof(x).manual_axis_type.varying


def manual_axes(tree: PyTree[Any]) -> frozenset[Any]:
    """The `shard_map` axes over which any leaf of `tree` varies."""
    arrays = [x for x in jax.tree.leaves(tree) if eqx.is_array(x)]
    return frozenset().union(*map(_varying, arrays))


def vary(tree: PyTree[Any], axes: frozenset[Any]) -> PyTree[Any]:
    """Mark every array of `tree` as varying over `axes`, as loop carries must be."""
    if not axes:
        return tree

    def leaf(x: Any) -> Any:
        if not eqx.is_array_like(x):
            return x
        x = jnp.asarray(x)
        missing = tuple(axes - _varying(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(leaf, tree)


def bind(primitive: Any, params: dict[str, Any], args: Sequence[Any]) -> Sequence[Any]:
    """The results of an operation of a jaxpr for given operands."""
    out = primitive.bind(*args, **primitive.get_bind_params(params))
    return out if primitive.multiple_results else [out]


@ft.cache
def _jit_defaults() -> dict[str, Any]:
    (eqn,) = jax.make_jaxpr(jax.jit(lambda x: x + x))(1.0).eqns
    return {k: v for k, v in eqn.params.items() if k not in ("jaxpr", "name")}


def is_plain_jit(params: dict[str, Any]) -> bool:
    """Whether a `jit` inside of a jaxpr has no options, such as shardings."""

    def same(value: Any, default: Any) -> bool:
        if isinstance(default, tuple) and default:  # one for each argument or result
            return all(x == default[0] for x in value)
        return value == default

    return all(same(params[k], default) for k, default in _jit_defaults().items())


@ft.cache
def _primitives() -> dict[str, Any]:
    modules = (primitives, jax.lax)
    found = [vars(m)[name] for m in modules for name in dir(m) if name.endswith("_p")]
    return {p.name: p for p in found if isinstance(p, Primitive)}


def primitive_named(name: str) -> Any:
    """One of JAX's public operations; `None` if it has none of this name."""
    return _primitives().get(name)
