"""`lstsq`: the one entry to solving."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float, PyTree

from . import _tree as tree
from ._adjoint import AbstractAdjoint, ImplicitAdjoint
from ._operator.base import AbstractOperator
from ._operator.convert import as_operator
from ._rewrite import warm_start
from ._solution import Solution, result_of
from ._solver.auto import AutoSolver
from ._tree import Structure, Vector


def lstsq(
    operator: lx.AbstractLinearOperator | ArrayLike,
    vector: PyTree[ArrayLike],
    solver: lx.AbstractLinearSolver = AutoSolver(),
    *,
    damp: ArrayLike | None = None,
    x0: PyTree[ArrayLike] | None = None,
    adjoint: AbstractAdjoint = ImplicitAdjoint(),
    throw: bool = True,
) -> Solution:
    r"""Solve $\min_x \|A x - b\|^2 + \lambda^2 \|x\|^2$, differentiably.

    Among several minimisers (λ = 0, rank-deficient or wide $A$), the one of least norm
    is returned. The result can be differentiated, forward and reverse and to any order,
    with respect to the leaves of `operator`, to `vector` and to `damp`; one gradient
    costs one more solve. It can be transformed by `jit`, `vmap` and `shard_map`.

    **Arguments:**

    - `operator`: $A$; a two-dimensional array, a lineax operator, or an
        [`lsqflow.AbstractOperator`][].
    - `vector`: $b$, with the structure of the operator's output. For several
        right-hand sides use `jax.vmap`: each is then solved to its own tolerance.
    - `solver`: [`lsqflow.LSMR`][], [`lsqflow.LSQR`][], or any lineax solver. The
        default chooses.
    - `damp`: λ, a real scalar. `None` for an undamped problem; a traced zero gives the
        same solution, and allows to differentiate there.
    - `x0`: a guess of the solution. Where the minimiser is not unique, the one nearest
        to `x0` is returned, instead of the one of least norm. It gets no derivative.
    - `adjoint`: how to differentiate: [`lsqflow.ImplicitAdjoint`][] (exact, at the cost
        of a solve) or [`lsqflow.UnrolledAdjoint`][] (through truncated iterations).
    - `throw`: whether a failure raises, also in derivative solves. If not, look at
        `result`.

    **Returns:** a [`lsqflow.Solution`][].

    **Raises:** `TypeError` or `ValueError` while tracing if shapes, dtypes or
    structures do not fit; an error that names the likely causes at run time, if the
    solve fails and `throw` is true.
    """
    operator = as_operator(operator)
    vector = _conform(vector, operator.out_structure(), "vector", "output")
    if x0 is not None:
        x0 = _conform(x0, operator.in_structure(), "x0", "input")
    damp = None if damp is None else _as_damp(damp, vector)
    if not isinstance(solver, lx.AbstractLinearSolver):
        raise TypeError(
            "`solver` must be an lsqflow or lineax solver, such as `lsqflow.LSMR()`; "
            f"got {solver!r}."
        )
    return _lstsq(operator, vector, solver, damp, x0, adjoint, throw)


@eqx.filter_jit
def _lstsq(  # noqa: PLR0917
    operator: AbstractOperator,
    vector: Vector,
    solver: lx.AbstractLinearSolver,
    damp: Float[Array, ""] | None,
    x0: Vector | None,
    adjoint: AbstractAdjoint,
    throw: bool,  # noqa: FBT001
) -> Solution:
    if any(map(tree.explicit_sharding, jax.tree.leaves((operator, vector)))):
        guess = tree.zeros(operator.in_structure())
        vector = tree.reshard_like(vector, lambda: operator.mv(guess))
    problem, back = (operator, vector, damp), None
    if x0 is not None:
        problem, back = warm_start(operator, vector, damp, x0)
    state, stats = adjoint.solve(*problem, solver, throw=throw)
    solution = state
    if back is not None:
        solution = back(state)
        stats = {**stats, "residual_norm": tree.norm(solution.residual)}
    return Solution(
        value=solution.primal,
        residual=solution.residual,
        dual=solution.dual,
        result=result_of(stats["stop_reason"]),
        stats=jax.lax.stop_gradient(stats),
        state=state,
    )


def _conform(x: Any, structure: Structure, name: str, end: str) -> Vector:
    """`x` as arrays of the given structure, or an error that says what is wrong."""
    x = jax.tree.map(jnp.asarray, x)
    expected, got = jax.tree.structure(structure), jax.tree.structure(x)
    if expected != got:
        raise ValueError(
            f"`{name}` must have the pytree structure of the operator's {end}, "
            f"{expected}; got {got}."
        )

    def leaf(path: Any, want: jax.ShapeDtypeStruct, have: Array) -> Array:
        where = f"`{name}`{jax.tree_util.keystr(path)}"
        if have.shape != want.shape:
            hint = ""
            if have.ndim == len(want.shape) + 1 and have.shape[:-1] == want.shape:
                hint = (
                    " For several right-hand sides, map over them: "
                    "`jax.vmap(lambda b: lsqflow.lstsq(A, b), in_axes=-1)(B)`."
                )
            raise ValueError(
                f"{where} must have the shape of the operator's {end}, {want.shape}; "
                f"got {have.shape}.{hint}"
            )
        if not _safe_cast(have.dtype, want.dtype):
            raise TypeError(
                f"{where} must have the dtype of the operator's {end}, {want.dtype}; "
                f"got {have.dtype}. Convert one of the two with `.astype`: lsqflow "
                "changes no precision behind your back."
            )
        return have.astype(want.dtype)

    return jax.tree_util.tree_map_with_path(leaf, structure, x)


def _safe_cast(have: Any, want: Any) -> bool:
    """Integers to anything; real to complex of the same precision."""
    if have == want or not jnp.issubdtype(have, jnp.inexact):
        return True
    real = not jnp.issubdtype(have, jnp.complexfloating)
    return real and jnp.finfo(want).dtype == have


def _as_damp(damp: ArrayLike, vector: Vector) -> Float[Array, ""]:
    if isinstance(damp, int | float) and not damp >= 0:
        raise ValueError(f"`damp` must be non-negative; got {damp}.")
    array = jnp.asarray(damp)
    if array.shape != () or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(
            f"`damp` must be a real scalar; got shape {array.shape} and dtype "
            f"{array.dtype}. To weight unknowns, scale columns of the operator."
        )
    return array.astype(tree.scalar_dtype(vector))
