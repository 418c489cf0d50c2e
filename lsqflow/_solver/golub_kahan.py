"""Solvers that are a short recurrence on the Golub–Kahan process."""

import abc
import dataclasses
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float, Int

from .. import _tree as tree
from .._krylov.dual import finished_dual
from .._krylov.estimates import Estimates
from .._krylov.golub_kahan import GolubKahan, Pair
from .._krylov.packed import Packed
from .._outcome import StopReason, is_failure
from .._problem.problem import Problem
from .._solution import PrimalDual
from .._tree import Vector
from .base import Stats
from .loop import AbstractIterativeSolver, Steps, stopped
from .verdict import NOISE, Evidence, Tolerances, gather, verdict

Scalar = Float[Array, ""]

# The arguments are the same for every solver on the process, and so is their text.
ARGUMENTS = """**Arguments:**

- `rtol`: the relative tolerance. It has no unit. The solver stops when
    ‖b − A x‖ ≤ atol + rtol (‖A‖ ‖x‖ + ‖b‖), which solves a consistent system, or when
    ‖Aᴴ r − λ² x‖ ≤ atol + rtol ‖A‖ ‖r‖, which solves a least-squares problem. ‖A‖ is a
    running estimate. The default, None, is ε^¾ for the ε of the coarsest dtype:
    6.4e-6 in float32, 1.8e-12 in float64.
- `atol`: the absolute tolerance, by default 0. Both tests add it, so it has the unit
    of `b` in the first test, and that of `A` times `b` in the second.
- `max_steps`: the greatest number of steps, each a product with `A` and one with `Aᴴ`;
    an integer or a traced integer. The default, None, is ten times the smaller
    dimension of `A`. A solve that reaches it has failed.
- `conlim`: the solver gives up when its estimate of the condition number of `A` (with
    the damping) exceeds this number. The default, None, is 0.1 / ε: 8.4e5 in float32,
    4.5e14 in float64.
- `history`: how many of the last values of both residual norms to keep in
    `stats["history"]`; by default 0. They are what the recurrence knows, so they cost
    no products. A solve with fewer steps leaves NaN in front.

**Raises:** `TypeError` or `ValueError` if an argument is not such a number.
"""


@runtime_checkable
class Vectors(Protocol):
    """What a recurrence carries: the iterate `(x, y)`, and whatever it needs."""

    @property
    def iterate(self) -> Pair:
        """`(x_k, y_k)`."""
        ...


_Scalars = TypeVar("_Scalars")
_Vectors = TypeVar("_Vectors", bound=Vectors)


class GolubKahanState(eqx.Module, Generic[_Scalars, _Vectors]):
    """The process and the recurrence after `num_steps` steps."""

    process: GolubKahan
    scalars: Packed
    vectors: _Vectors
    num_steps: Int[Array, ""]
    reason: StopReason
    norms: tuple[Scalar, Scalar]
    vector_norm: Scalar
    first_normal_norm: Scalar


class AbstractGolubKahanSolver(
    AbstractIterativeSolver[GolubKahanState], Generic[_Scalars, _Vectors]
):
    """A solver that is a short recurrence on the Golub–Kahan process.

    Subclass it with five methods and five fields. `advance` turns the scalars `alpha`
    and `beta` of the process into coefficients. `combine` combines pairs of vectors
    with them. `first_scalars` and `first_vectors` begin, and `estimates` tells the
    stopping rules what the scalars know. None of the five touches the operator, and the
    loop is inherited. [`lsqflow.LSQR`][] is an example.
    """

    rtol: AbstractVar[float | Float[Array, ""] | None]
    atol: AbstractVar[float | Float[Array, ""]]
    max_steps: AbstractVar[Steps | None]
    conlim: AbstractVar[float | Float[Array, ""] | None]
    history: AbstractVar[int]

    def __check_init__(self) -> None:
        for name in ("rtol", "atol", "conlim"):
            _require_tolerance(name, getattr(self, name))
        for name in ("max_steps", "history"):
            _require_count(name, getattr(self, name))

    @abc.abstractmethod
    def first_scalars(self, alpha: Scalar, beta: Scalar) -> _Scalars:
        """The scalars before the first step, from `α₁` and `β₁`."""

    @abc.abstractmethod
    def first_vectors(self, pair: Pair) -> _Vectors:
        """The vectors before the first step, from `(v₁, q₁)`; `iterate` is zero."""

    @abc.abstractmethod
    def advance(
        self, old: _Scalars, alpha: Scalar, beta: Scalar, damp: Scalar | None
    ) -> tuple[_Scalars, tuple[Scalar, ...]]:
        """The next scalars and the coefficients, from `α_{k+1}` and `β_{k+1}`."""

    @abc.abstractmethod
    def combine(
        self, old: _Vectors, coefficients: tuple[Scalar, ...], pair: Pair
    ) -> _Vectors:
        """The next vectors, linear in the old ones and in `(v_{k+1}, q_{k+1})`."""

    @abc.abstractmethod
    def estimates(self, scalars: _Scalars) -> Estimates:
        """Norms and condition, as the stopping rules want them."""

    def tolerances(self, problem: Problem) -> Tolerances:
        """The tolerances of the solver, with the defaults for a problem's precision."""
        return Tolerances.of(problem, self.rtol, self.atol)

    def start(self, problem: Problem) -> GolubKahanState:
        process = GolubKahan.start(problem.operator, problem.vector)
        alpha, beta = process.alpha, process.beta
        reason = StopReason.where(
            alpha * beta == 0, StopReason.trivial, StopReason.running
        )
        finite = jnp.isfinite(alpha)
        if problem.damp is not None:
            finite &= jnp.isfinite(problem.damp)
        return GolubKahanState(
            process=process,
            scalars=Packed.of(self.first_scalars(alpha, beta)),
            vectors=self.first_vectors(process.pair),
            num_steps=jnp.zeros((), jnp.int32),
            reason=StopReason.where(finite, reason, StopReason.nonfinite_input),
            norms=(beta, alpha * beta),
            vector_norm=beta,
            first_normal_norm=alpha * beta,
        )

    def step(self, problem: Problem, state: GolubKahanState) -> GolubKahanState:
        process = state.process.step(problem.operator)
        scalars, coefficients = self.advance(
            state.scalars.unpack(), process.alpha, process.beta, problem.damp
        )
        vectors = self.combine(state.vectors, coefficients, process.pair)
        now = self.estimates(scalars)
        return dataclasses.replace(
            state,
            process=process,
            scalars=Packed.of(scalars),
            vectors=vectors,
            num_steps=state.num_steps + 1,
            reason=self._reason(problem, now, vectors.iterate.v, state.vector_norm),
            norms=(now.residual_norm, now.normal_residual_norm),
        )

    def _reason(
        self, problem: Problem, now: Estimates, x: Vector, vector_norm: Scalar
    ) -> StopReason:
        evidence = Evidence(
            residual_norm=now.residual_norm,
            normal_residual_norm=now.normal_residual_norm,
            solution_norm=tree.norm(x),
            vector_norm=vector_norm,
            operator_norm=now.operator_norm,
        )
        conlim = 0.1 / problem.eps if self.conlim is None else self.conlim
        limit = jnp.asarray(conlim, now.largest.dtype) * now.smallest
        reason = self.tolerances(problem).reason(evidence)
        ill = (now.largest >= limit) & (reason == StopReason.running)
        reason = StopReason.where(ill, StopReason.condition_limit, reason)
        finite = jnp.isfinite(now.normal_residual_norm)
        return StopReason.where(finite, reason, StopReason.nonfinite)

    def finish(
        self, problem: Problem, state: GolubKahanState
    ) -> tuple[PrimalDual, Stats]:
        x, y = state.vectors.iterate
        known = self.estimates(state.scalars.unpack())
        residual = problem.residual(x)
        now = gather(
            problem,
            x,
            residual=residual,
            gradient=problem.gradient(x, residual),
            operator_norm=known.operator_norm,
            inverse_norm=known.inverse_norm,
        )
        tolerances = self.tolerances(problem)
        claim = stopped(state)
        reason = verdict(
            claim, now, tolerances, first_normal_norm=state.first_normal_norm
        )
        dual = finished_dual(
            problem,
            y,
            residual,
            inconsistent=~is_failure(claim) & tolerances.inconsistent(now),
            noise=NOISE * problem.rounding(x, known.operator_norm),
        )
        return PrimalDual(x, dual, residual), {
            "num_steps": state.num_steps,
            "residual_norm": tree.norm(residual),
            "normal_residual_norm": now.normal_residual_norm,
            "operator_norm": known.operator_norm,
            "condition": known.condition,
            "relative_error": now.relative_error,
            "stop_reason": reason,
        }


def _require_tolerance(name: str, value: Any) -> None:
    """Raise unless a tolerance is None, a number or a real scalar, and not negative."""
    if value is None and name != "atol":
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    array = isinstance(value, Array | np.ndarray | np.generic)
    if not number and not (array and value.shape == ()):
        raise TypeError(
            f"`{name}` must be a non-negative number, or a scalar array; got {value!r}."
        )
    if isinstance(value, int | float) and not value >= 0:
        raise ValueError(f"`{name}` must be non-negative; got {value}.")


def _require_count(name: str, value: Any) -> None:
    """Raise unless a number of steps is an integer, or an array of one."""
    if value is None and name == "max_steps":
        return
    array = isinstance(value, Array) and jnp.issubdtype(value.dtype, jnp.integer)
    if isinstance(value, bool) or not (isinstance(value, int) or array):
        raise TypeError(
            f"`{name}` must be an integer{' or None' * (name == 'max_steps')}; got "
            f"{value!r}. Convert it with `int`."
        )
    if isinstance(value, int) and value < 0:
        raise ValueError(f"`{name}` must be non-negative; got {value}.")
