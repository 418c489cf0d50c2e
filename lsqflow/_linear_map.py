"""Linear maps that bring their own derivative and their own transpose.

JAX has the two halves, but apart. `jax.custom_jvp` cannot be transposed by a rule.
`jax.custom_derivatives.linear_call` has no batching rule, and no derivative with
respect to its parameters. Here they are one primitive, made of public parts of JAX
only. It knows nothing of least squares. The types of outputs (sharding, manual axes)
are those of the traced function, never rebuilt from shape and dtype.
"""

import abc
import dataclasses
import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._jax import Primitive, ad, batching, jaxpr_as_fun, manual_axes, mlir, vary


class AbstractLinearMap(eqx.Module):
    """A function that is linear in its argument, but not in the leaves of the module.

    Subclass it with `apply`, `jvp` and `transpose`, then call it. In tangents and
    cotangents, `None` stands for what is known to be zero while tracing.
    """

    @abc.abstractmethod
    def apply(self, arg: Any) -> tuple[Any, Any]:
        """The value, and auxiliary output without derivatives."""

    def like(self, arg: Any) -> Any:
        """Something with the type of the value, for a map without auxiliary output.

        Reverse mode makes maps only to transpose them. A map whose type is known is not
        traced before it is applied. The default, `None`, asks for a trace.
        """
        del arg
        return None

    @abc.abstractmethod
    def jvp(self, tangent: Any, arg: Any, arg_tangent: Any, value: Any) -> Any:
        """The tangent of the value.

        `tangent` is the module with tangents in the place of its leaves. `value` is
        what `apply` returned.
        """

    @abc.abstractmethod
    def transpose(self, arg: Any, cotangent: Any) -> Any:
        """The cotangent of `arg`, of which only the types are given."""

    def __call__(self, arg: Any) -> tuple[Any, Any]:
        """Do `apply`, as one primitive that has `jvp` and `transpose` for its rules."""
        linear_map, arg = vary((self, arg), manual_axes((self, arg)))
        leaves, split = _split(linear_map, arg)
        lazily = linear_map.like(arg) is not None
        jaxpr, out = jax.make_jaxpr(
            lambda *leaves: _like(split, leaves) if lazily else _apply(split, leaves),
            return_shape=True,
        )(*leaves)
        out = jax.tree.structure(out)
        flat = linear_map_p.bind(
            *leaves, jaxpr=jaxpr, lazily=lazily, split=split, out=out
        )
        return jax.tree.unflatten(out, flat)


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, as params must be
class _Split:
    """How the operands of the primitive become a map and its argument again."""

    treedef: Any
    static: Any
    num_parameters: int

    def join(self, leaves: Sequence[Any]) -> tuple[AbstractLinearMap, Any]:
        return eqx.combine(jax.tree.unflatten(self.treedef, leaves), self.static)

    def join_tangents(self, tangents: Sequence[Any]) -> tuple[Any, Any]:
        """As `join`, with `None` for what has no tangent."""
        return jax.tree.unflatten(self.treedef, tangents)


def _split(linear_map: AbstractLinearMap, arg: Any) -> tuple[list[Any], _Split]:
    dynamic, static = eqx.partition((linear_map, arg), eqx.is_array)
    leaves, treedef = jax.tree.flatten(dynamic)
    return leaves, _Split(treedef, static, len(jax.tree.leaves(dynamic[0])))


def _apply(split: _Split, leaves: Sequence[Any]) -> tuple[Any, Any]:
    linear_map, arg = split.join(leaves)
    return linear_map.apply(arg)


def _like(split: _Split, leaves: Sequence[Any]) -> tuple[Any, None]:
    linear_map, arg = split.join(leaves)
    return linear_map.like(arg), None


def _none_if_zero(x: Any) -> Any:
    return None if type(x) is ad.Zero else x


def _leaves_like(partial: Any, like: Any) -> list[Any]:
    """The leaves of `partial` where `like` has some; `None` may replace a subtree."""
    leaves, treedef = jax.tree.flatten(partial, is_leaf=lambda x: x is None)
    result = []
    for leaf, sub in zip(leaves, treedef.flatten_up_to(like), strict=True):
        result += [None] * len(jax.tree.leaves(sub)) if leaf is None else [leaf]
    return result


def _impl(
    *leaves: Any, jaxpr: Any, lazily: bool, split: _Split, out: Any
) -> Sequence[Any]:
    del out
    if lazily:  # the traced program has the types of the map, but not what it does
        return jax.tree.leaves(_apply(split, leaves))
    return jaxpr_as_fun(jaxpr)(*leaves)


def _abstract_eval(*leaves: Any, jaxpr: Any, **_: Any) -> Any:
    del leaves
    return jaxpr.out_avals, jaxpr.effects


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], **params: Any
) -> tuple[Sequence[Any], Sequence[Any]]:
    primals_out = linear_map_p.bind(*primals, **params)
    value, aux = jax.tree.unflatten(params["out"], primals_out)
    split: _Split = params["split"]
    linear_map, arg = split.join(primals)
    tangent, arg_tangent = split.join_tangents([_none_if_zero(t) for t in tangents])
    value_tangent = linear_map.jvp(tangent, arg, arg_tangent, value)
    tangents_out = _leaves_like((value_tangent, None), (value, aux))
    return primals_out, [
        ad.Zero(jax.typeof(p).to_tangent_aval()) if t is None else t
        for p, t in zip(primals_out, tangents_out, strict=True)
    ]


def _transpose(
    cotangents: Sequence[Any], *leaves: Any, split: _Split, out: Any, **_: Any
) -> Sequence[Any]:
    if all(type(c) is ad.Zero for c in cotangents):  # kept alive by its side effects
        return [None] * len(leaves)
    unknown = [ad.is_undefined_primal(x) for x in leaves]
    linear_map, arg = split.join(
        [x.aval if u else x for x, u in zip(leaves, unknown, strict=True)]
    )
    cotangent, _ = jax.tree.unflatten(out, map(_none_if_zero, cotangents))
    result = _leaves_like(linear_map.transpose(arg, cotangent), arg)
    result = [None] * split.num_parameters + result
    return [x if u else None for x, u in zip(result, unknown, strict=True)]


class _Batched(AbstractLinearMap):
    """A batch of linear maps; leaves of the map are batched along `axes` or shared."""

    leaves: list[Any]
    treedef: Any = eqx.field(static=True)
    static: Any = eqx.field(static=True)
    axes: tuple[int | None, ...] = eqx.field(static=True)
    vmap: Callable[..., Any] = eqx.field(static=True)

    def _map(self, leaves: Sequence[Any]) -> AbstractLinearMap:
        return eqx.combine(jax.tree.unflatten(self.treedef, leaves), self.static)

    def apply(self, arg: Any) -> tuple[Any, Any]:
        def one(leaves: Any, arg: Any) -> Any:
            return self._map(leaves).apply(arg)

        return self.vmap(one, in_axes=(list(self.axes), 0))(self.leaves, arg)

    def jvp(self, tangent: Any, arg: Any, arg_tangent: Any, value: Any) -> Any:
        def one(leaves: Any, tangent: Any, *rest: Any) -> Any:
            tangent = jax.tree.unflatten(self.treedef, tangent)
            return self._map(leaves).jvp(tangent, *rest)

        axes = list(self.axes)
        return self.vmap(one, in_axes=(axes, axes, 0, 0, 0))(
            self.leaves, tangent.leaves, arg, arg_tangent, value
        )

    def transpose(self, arg: Any, cotangent: Any) -> Any:
        # The type of one argument; a slice of a sharded axis would have none.
        one_of = lambda x: jnp.sum(x, 0, dtype=x.dtype)
        arg = jax.eval_shape(lambda x: jax.tree.map(one_of, x), arg)

        def one(leaves: Any, cotangent: Any) -> Any:
            return self._map(leaves).transpose(arg, cotangent)

        return self.vmap(one, in_axes=(list(self.axes), 0))(self.leaves, cotangent)


def _batch(
    axis: Any, leaves: Sequence[Any], dims: Sequence[Any], **params: Any
) -> tuple[Sequence[Any], Sequence[Any]]:
    if all(d is None for d in dims):
        flat = linear_map_p.bind(*leaves, **params)
        return flat, [None] * len(flat)
    if axis.size == 0:
        outs = params["jaxpr"].out_avals
        return [jnp.zeros((0, *x.shape), x.dtype) for x in outs], [0] * len(outs)
    split: _Split = params["split"]
    n = split.num_parameters
    # A shared argument of batched maps has a batch of cotangents: batch it as well.
    batch = [
        jnp.broadcast_to(x, (axis.size, *x.shape))
        if d is None
        else jnp.moveaxis(x, d, 0)
        for x, d in zip(leaves[n:], dims[n:], strict=True)
    ]
    _, arg = split.join([*leaves[:n], *batch])
    linear_map, _ = split.join_tangents(leaves)
    batched = _Batched(
        leaves=list(leaves[:n]),
        treedef=jax.tree.structure(linear_map),
        static=split.static[0],
        axes=tuple(dims[:n]),
        vmap=ft.partial(
            jax.vmap,
            axis_size=axis.size,
            axis_name=axis.name,
            spmd_axis_name=axis.spmd_name,
        ),
    )
    flat = jax.tree.leaves(batched(arg))
    return flat, [0] * len(flat)


linear_map_p = Primitive("linear_map")
linear_map_p.multiple_results = True
linear_map_p.def_impl(_impl)
linear_map_p.def_effectful_abstract_eval(_abstract_eval)
ad.primitive_jvps[linear_map_p] = _jvp
ad.primitive_transposes[linear_map_p] = _transpose
batching.fancy_primitive_batchers[linear_map_p] = _batch
mlir.register_lowering(linear_map_p, mlir.lower_fun(_impl, multiple_results=True))
