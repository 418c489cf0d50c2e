"""Solutions for many strengths of a regularizer, and rules to choose one."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree

from . import _tree as tree
from ._jax import known
from ._lstsq import lstsq
from ._operator.base import AbstractOperator
from ._operator.convert import OperatorLike, as_operator
from ._problem.inputs import conform, root_weights
from ._problem.regularizer import Tikhonov
from ._solution import Solution
from ._solver.auto import AutoSolver
from ._tree import Vector


class RegularizationPath(eqx.Module):
    r"""What [`lsqflow.regularization_path`][] returns.

    **Attributes:** (each array has a leading axis for the strengths)

    - `strengths`: the strengths, as they were given.
    - `solution`: the [`lsqflow.Solution`][] for each strength.
    - `residual_norm`: $\|W^{1/2} (A x - b)\|$, with the weights $W$.
    - `penalty_norm`: $\|L (x - \mu)\|$, without the strength.
    - `degrees_of_freedom`: the trace of the influence matrix, which maps the weighted
        data $W^{1/2} b$ to the weighted fit $W^{1/2} A x$. It tells how many of the
        data the fit uses up.
    - `num_data`: the number of data.
    """

    strengths: Float[Array, " strengths"]
    solution: Solution
    residual_norm: Float[Array, " strengths"]
    penalty_norm: Float[Array, " strengths"]
    degrees_of_freedom: Float[Array, " strengths"]
    num_data: int = eqx.field(static=True)

    def gcv(self) -> Float[Array, " strengths"]:
        r"""Generalized cross-validation (Golub, Heath and Wahba, 1979); least is best.

        It is $m \|r\|^2 / (m - \mathrm{dof})^2$ for $m$ data, an estimate of the
        squared error of prediction. The noise need not be known.
        """
        left = self.num_data - self.degrees_of_freedom
        return self.num_data * (self.residual_norm / left) ** 2

    def curvature(self) -> Float[Array, " strengths"]:
        """The curvature of the L-curve (Hansen and O'Leary, 1993); largest is best.

        The curve is log `penalty_norm` over log `residual_norm`. Derivatives are
        differences along the path, so at least three strengths are needed.
        """
        at = jnp.log(self.strengths)
        slope = lambda x: jnp.asarray(jnp.gradient(x, at))
        r1, p1 = slope(jnp.log(self.residual_norm)), slope(jnp.log(self.penalty_norm))
        r2, p2 = slope(r1), slope(p1)
        return (r1 * p2 - r2 * p1) / (r1**2 + p1**2) ** 1.5

    def choose(
        self,
        rule: str = "gcv",
        noise_norm: ArrayLike | None = None,
    ) -> Int[Array, ""]:
        """The index of the strength that a rule prefers.

        **Arguments:**

        - `rule`: `"gcv"` takes the smallest `gcv`. `"l-curve"` takes the largest
            `curvature`, the two ends left out. `"discrepancy"` (Morozov, 1966) takes
            the largest strength whose residual is no larger than the noise, or the
            smallest strength if there is none.
        - `noise_norm`: the expected norm of the weighted noise, for `"discrepancy"`.

        **Raises:** `ValueError` for another rule, or for `"discrepancy"` without a
        `noise_norm`.
        """
        if rule == "gcv":
            return jnp.argmin(self.gcv())
        if rule == "l-curve":
            return 1 + jnp.argmax(self.curvature()[1:-1])
        if rule == "discrepancy" and noise_norm is not None:
            fits = self.residual_norm <= jnp.asarray(noise_norm)
            smallest = jnp.argmin(self.strengths)
            largest = jnp.argmax(jnp.where(fits, self.strengths, -jnp.inf))
            return jnp.where(jnp.any(fits), largest, smallest)
        raise ValueError(
            "`rule` must be 'gcv', 'l-curve', or 'discrepancy' with a `noise_norm`; "
            f"got {rule!r} and {noise_norm!r}."
        )

    def plot(self, axes: Sequence[Any]) -> None:
        """Draw the L-curve and the GCV curve into two axes of matplotlib."""
        curve, scores = axes
        corner, best = (int(self.choose(rule)) for rule in ("l-curve", "gcv"))
        curve.loglog(self.residual_norm, self.penalty_norm, ".-")
        scores.loglog(self.strengths, self.gcv(), ".-")
        for index, name, style in ((corner, "L-curve", "o"), (best, "GCV", "s")):
            label = f"{name}: {float(self.strengths[index]):.2g}"
            ring = {"fillstyle": "none", "markersize": 10, "label": label}
            at = self.residual_norm[index], self.penalty_norm[index]
            curve.plot(*at, style, **ring)
            scores.plot(self.strengths[index], self.gcv()[index], style, **ring)
        curve.set(xlabel="‖A x − b‖", ylabel="‖L (x − μ)‖", title="L-curve")
        scores.set(xlabel="strength", ylabel="GCV", title="cross-validation")
        curve.legend()
        scores.legend()


def regularization_path(
    operator: OperatorLike,
    vector: PyTree[ArrayLike],
    strengths: ArrayLike,
    regularizer: Tikhonov | None = None,
    solver: lx.AbstractLinearSolver = AutoSolver(),
    *,
    weights: PyTree[ArrayLike] | None = None,
    regularizers: Sequence[Tikhonov] = (),
    key: Key[Array, ""] | None = None,
    num_probes: int = 8,
    throw: bool = True,
) -> RegularizationPath:
    """Solve for many strengths of one regularizer, in one call.

    ```python
    path = lf.regularization_path(A, b, jnp.geomspace(1e-3, 10, 30))
    strength = path.strengths[path.choose("gcv")]
    ```

    **Use when** the strength is not known. The path that is returned can choose one.

    **Arguments:**

    - `operator`, `vector`, `solver`, `weights`, `throw`: as for [`lsqflow.lstsq`][].
    - `strengths`: positive numbers, best evenly spaced in their logarithms.
    - `regularizer`: the term whose strength varies; by default, None, it is ‖x‖.
    - `regularizers`: further terms, with strengths of their own.
    - `key`: the random key for the probes. The default is a fixed one.
    - `num_probes`: the number of random vectors with which the degrees of freedom are
        estimated (Hutchinson, 1990). With as many as there are data, or more, they are
        exact.

    **Returns:** an [`lsqflow.RegularizationPath`][].

    **Cost:** `1 + num_probes` solves for each strength, all of them at once.

    **Raises:** `ValueError` unless `strengths` is one-dimensional, and what
    [`lsqflow.lstsq`][] raises.
    """
    operator = as_operator(operator)
    regularizer = Tikhonov() if regularizer is None else regularizer
    target = operator.out_structure()
    strengths = jnp.asarray(strengths, tree.scalar_dtype(target))
    values = known(strengths)
    positive = values is None or bool(np.all(values > 0))
    if strengths.ndim != 1 or not strengths.size or not positive:
        raise ValueError(
            "`strengths` must be one-dimensional: one or more positive numbers; got "
            f"{strengths}."
        )
    vector = conform(vector, target, "vector", "output")
    roots = None if weights is None else root_weights(weights, target)
    whiten = lambda r: r if roots is None else jax.tree.map(jnp.multiply, roots, r)

    def at(strength: Array, data: Vector, mean: Any, others: Any) -> Solution:
        term = Tikhonov(regularizer.operator, strength, mean)
        terms = [term, *others]
        return lstsq(
            operator, data, solver, weights=weights, regularizers=terms, throw=throw
        )

    def influence(strength: Array, probe: Vector) -> Array:
        """`⟨u, H u⟩` for the influence matrix H, which priors do not enter."""
        others = [Tikhonov(t.operator, t.strength) for t in regularizers]
        data = probe if roots is None else jax.tree.map(jnp.divide, probe, roots)
        x = at(strength, data, None, others).value
        return tree.inner(probe, whiten(operator.mv(x)))

    def penalty(x: Vector) -> Array:
        step = x if regularizer.prior is None else tree.sub(x, regularizer.prior)
        L = regularizer.operator
        return tree.norm(step if L is None else L.mv(step))

    solve = lambda s: at(s, vector, regularizer.prior, regularizers)
    solution = eqx.filter_vmap(solve)(strengths)
    probes, scale = _probes(key, num_probes, operator)
    each = jax.vmap(jax.vmap(influence, (None, 0)), (0, None))
    return RegularizationPath(
        strengths=strengths,
        solution=solution,
        residual_norm=jax.vmap(lambda r: tree.norm(whiten(r)))(solution.residual),
        penalty_norm=jax.vmap(penalty)(solution.value),
        degrees_of_freedom=jnp.sum(each(strengths, probes), axis=1) * scale,
        num_data=tree.size(target),
    )


def _probes(
    key: Key[Array, ""] | None, count: int, operator: AbstractOperator
) -> tuple[Vector, float]:
    """Vectors u with `Σ u uᴴ` times the scale the identity, at least on average."""
    leaves, treedef = jax.tree.flatten(operator.out_structure())
    total = sum(leaf.size for leaf in leaves)
    if count >= total:
        rows = jnp.eye(total)
        scale = 1.0
    else:
        key = jax.random.key(0) if key is None else key
        rows = jax.random.rademacher(key, (count, total), dtype=jnp.result_type(float))
        scale = 1.0 / count
    ends = [sum(leaf.size for leaf in leaves[:i]) for i in range(1, len(leaves))]
    parts = jnp.split(rows, ends, axis=1)
    return treedef.unflatten(
        [
            part.reshape(-1, *leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
    ), scale
