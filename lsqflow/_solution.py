"""What a solve returns."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PyTree

from . import _tree as tree
from ._outcome import is_failure, name_of, raised, result_of


class PrimalDual(eqx.Module):
    """The three vectors of one solve, which determine all its derivatives."""

    primal: PyTree[Array]
    dual: PyTree[Array]
    residual: PyTree[Array]


class Solution(eqx.Module):
    r"""The solution of `min ‖A x − b‖² + λ² ‖x‖²`, and how it was reached.

    Printing it gives the numbers. With weights $W$, regularizers and damping, the
    objective is $f(x) = \|W^{1/2} (A x - b)\|^2 + \lambda^2 \|x\|^2 + \sum_i s_i^2
    \|L_i (x - \mu_i)\|^2$; residual and norms are those of this problem, however it was
    stated.

    **Attributes:**

    - `value`: the minimizer $x$, with the structure of the operator's input; the one
        of least norm where it is not unique.
    - `residual`: $r = b - A x$, computed from `value` (not a recurrence), without the
        weights; with the structure of the operator's output.
    - `dual`: $y$ with $x = A^H y$: the Lagrange multiplier of the least-norm problem,
        $(A A^H + \lambda^2 I)^+ b$ without weights, $W r / \lambda^2$ with damping. A
        `Tikhonov` without operator and prior is damping. With other regularizers, the
        data's part of the dual of all rows together. With the structure of the output;
        `None` where there are bounds or equations.
    - `objective`: the minimum $f(x)$.
    - `result`: a `lineax.RESULTS`; `lineax.RESULTS.successful` if and only if the
        solution can be trusted to the tolerances of the solver. It prints the reason.
    - `stats`: a dictionary of diagnostics. They carry no derivatives.

        - `"num_steps"`: steps of the solver, 0 for a direct one.
        - `"residual_norm"`: $\|b - A x\|$, the norm of `residual`.
        - `"normal_residual_norm"`: $\|\nabla f(x)\| / 2$, which is $\|A^H r\|$ in
            the simplest case. With equations or bounds, what their multipliers leave
            of it. Zero at the solution, and computed from `value`.
        - `"operator_norm"`: a running estimate of $\|A\|$ from below, in the
            Frobenius norm; of $W^{1/2} A$ with the regularizers below it, if there are
            any. Direct solvers estimate the spectral norm.
        - `"condition"`: a running estimate of the condition number of the same
            operator with the damping, from below. NaN from direct solvers.
        - `"relative_error"`: an estimate of $\|x^* - x\| / \|x\|$; NaN from direct
            solvers.
        - `"stop_reason"`: an [`lsqflow.StopReason`][].
        - `"history"`: with `history=k` in the solver, the last `k` values of
            `"residual_norm"` and `"normal_residual_norm"`, as the recurrences know
            them: of the weighted, damped and stacked rows together.
    - `state`: the [`lsqflow.PrimalDual`][] that the derivatives of the solve need; it
        holds the same arrays as `value`, `dual` and `residual` before any change of
        variables (warm start, weights, …), and nothing else is kept for the backward
        pass.
    - `multipliers`: the Lagrange multipliers $\mu$ of `subject_to` or `bounds`; `None`
        without. With $g = \nabla f(x) / 2$: for `C x = d` they have the structure of
        `d` and $g + C^H \mu = 0$; for bounds they have the structure of `x` and are $g$
        where a bound holds x back, positive at a lower and negative at an upper one,
        and 0 elsewhere.
    """

    value: PyTree[Array]
    residual: PyTree[Array]
    dual: PyTree[Array]
    objective: Float[Array, ""]
    result: lx.RESULTS
    stats: dict[str, Any]
    state: PyTree[Any]
    multipliers: PyTree[Array] | None = None

    def raise_if_failed(self) -> "Solution":
        """The solution, if it can be trusted; otherwise an error with the reason.

        Outside of `jit` the error is one sentence, and nothing is compiled. With
        `throw=False` in the solve, this keeps checks on the host out of the compiled
        program, which JAX can then keep in its cache between runs.

        **Raises:** `equinox.EquinoxRuntimeError`.
        """
        reason = self.stats["stop_reason"]
        vectors = (self.value, self.residual, self.dual)
        value, residual, dual = raised(vectors, reason)
        return dataclasses.replace(self, value=value, residual=residual, dual=dual)

    def __repr__(self) -> str:
        try:
            return _summary(self)
        except Exception:  # noqa: BLE001  a transformation has replaced its leaves
            return eqx.tree_pformat(self)


def concluded(
    solution: PrimalDual,
    objective: Float[Array, ""],
    state: PyTree[Any],
    stats: dict[str, Any],
    multipliers: PyTree[Array] | None = None,
) -> Solution:
    """What the user gets, from a solution in the variables of the user."""
    norm = tree.norm(solution.residual)
    return Solution(
        value=solution.primal,
        residual=solution.residual,
        dual=solution.dual,
        objective=objective,
        result=result_of(stats["stop_reason"]),
        stats=jax.lax.stop_gradient({**stats, "residual_norm": norm}),
        state=state,
        multipliers=multipliers,
    )


def _summary(solution: Solution) -> str:
    """How it ended, in numbers; then what there is, in shapes."""
    reason = solution.stats["stop_reason"]
    steps = int(solution.stats["num_steps"])
    norm = float(solution.stats["residual_norm"])
    way = f"in {steps} step{'s' * (steps != 1)}" if steps else "directly"
    if bool(is_failure(reason)):
        head = f"FAILED after {steps} steps ({name_of(reason)})"
    else:
        head = f"solved {way} ({name_of(reason)})"
    normal = float(solution.stats["normal_residual_norm"])
    objective = float(np.asarray(solution.objective))
    head += f", ‖b − A x‖ = {norm:.3g}, ‖∇f‖ / 2 = {normal:.1e}, f = {objective:.4g}"
    lines = [f"Solution: {head}"]
    for name in ("value", "residual", "dual", "multipliers"):
        value = getattr(solution, name)
        if value is not None:
            shown = eqx.tree_pformat(value, width=10**6, struct_as_array=True)
            lines.append(f"  {name}: {shown}")
    lines.append(f"  stats: {', '.join(solution.stats)}")
    return "\n".join(lines)
