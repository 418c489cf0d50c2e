"""The dot test: is `rmv` the transpose of `mv`?"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from .. import _tree as tree
from .._tree import Structure, Vector
from .convert import OperatorLike, as_operator
from .display import brief


@dataclasses.dataclass(frozen=True)
class AdjointReport:
    """What [`lsqflow.check_adjoint`][] found; true if all is well."""

    adjoint_error: float
    linearity_error: float
    tolerance: float
    in_structure: Structure
    out_structure: Structure

    def __bool__(self) -> bool:
        return max(self.adjoint_error, self.linearity_error) <= self.tolerance

    def __str__(self) -> str:
        def line(name: str, error: float) -> str:
            verdict = "ok" if error <= self.tolerance else "WRONG"
            return f"{name:<28}{error:9.1e}  (at most {self.tolerance:.1e})  {verdict}"

        return "\n".join(
            (
                f"operator from {brief(self.in_structure)}",
                f"           to {brief(self.out_structure)}",
                line("⟨A v, u⟩ = ⟨v, Aᴴ u⟩", self.adjoint_error),
                line("A (v + 2 w) = A v + 2 A w", self.linearity_error),
            )
        )


def check_adjoint(operator: OperatorLike, key: Key[Array, ""]) -> AdjointReport:
    """Test with random vectors that `rmv` is the transpose of `mv`, and `mv` linear.

    A wrong transpose is the commonest mistake in a custom operator. Solvers then stall
    or, worse, converge to something else.

    **Arguments:**

    - `operator`: an operator, a lineax operator or a matrix.
    - `key`: a key for the random vectors.

    **Returns:** an `AdjointReport`: print it, or use it as a boolean. Errors are
    relative to ‖A v‖ ‖u‖ and the tolerance follows from dtype and size.

    **Raises:** `ValueError` if `rmv` returns another structure than `in_structure`.
    """
    operator = as_operator(operator)
    source, target = operator.in_structure(), operator.out_structure()
    keys = jax.random.split(key, 3)
    v, w, u = (
        _random(k, s) for k, s in zip(keys, (source, source, target), strict=True)
    )
    two = jnp.full((), 2, tree.scalar_dtype(v))
    Av, Aw = operator.mv(v), operator.mv(w)
    expected = tree.axpy(two, Aw, Av)
    linear = tree.norm(tree.sub(operator.mv(tree.axpy(two, w, v)), expected))
    linear = float(linear * tree.safe_reciprocal(tree.norm(expected)))
    eps = float(jnp.finfo(tree.storage_dtype((v, u))).eps)
    tolerance = 10 * eps * max(tree.size(v), tree.size(u)) ** 0.5
    try:
        Au = operator.rmv(tree.conj(u))
    except Exception:
        if linear <= tolerance:
            raise
        # What is not linear has no transpose: JAX says so of a step inside of `mv`.
        return AdjointReport(math.inf, linear, tolerance, source, target)
    got = tree.structure(Au)
    if got != source:
        raise ValueError(
            f"`rmv` must return the input's structure, {brief(source)}; it returned "
            f"{brief(got)}."
        )
    scale = tree.norm(Av) * tree.norm(u) + tree.norm(v) * tree.norm(Au)
    # Real parts: between real and complex vectors, operators are linear over the reals.
    gap = jnp.abs(tree.inner(u, Av) - tree.inner(tree.conj(Au), v))
    return AdjointReport(
        adjoint_error=float(gap * tree.safe_reciprocal(scale)),
        linearity_error=linear,
        tolerance=tolerance,
        in_structure=source,
        out_structure=target,
    )


def _random(key: Key[Array, ""], structure: Structure) -> Vector:
    leaves, treedef = jax.tree.flatten(structure)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [
            jax.random.normal(k, x.shape, x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]
    )
