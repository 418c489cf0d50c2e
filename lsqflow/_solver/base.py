"""The one loop, and the lineax interface that every solver shares."""

import abc
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from equinox import AbstractVar
from jaxtyping import Array, Float, Int

from .. import _tree as tree
from .._jax import manual_axes, vary
from .._krylov.estimates import Estimates
from .._krylov.golub_kahan import GolubKahan, Pair
from .._operator.base import AbstractOperator
from .._operator.convert import as_operator
from .._operator.matrix import MatrixOperator
from .._operator.program import Program
from .._operator.views import Linearised
from .._solution import PrimalDual, StopReason, result_of
from .._tree import Vector
from .verdict import Tolerances, verdict

Scalar = Float[Array, ""]


@runtime_checkable
class Vectors(Protocol):
    """What a recurrence carries: the iterate `(x, y)`, and whatever it needs."""

    @property
    def iterate(self) -> Pair:
        """`(x_k, y_k)`."""
        ...


_Scalars = TypeVar("_Scalars")
_Vectors = TypeVar("_Vectors", bound=Vectors)

Steps = int | Int[Array, ""]
Loop = Callable[[Callable[[Any], Any], Callable[[Any], Any], Any, Steps], Any]


def while_loop(
    cond: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any, max_steps: Steps
) -> Any:
    """The loop of a plain solve."""
    del max_steps
    return jax.lax.while_loop(cond, body, carry)


class _Carry(eqx.Module, Generic[_Scalars, _Vectors]):
    process: GolubKahan
    scalars: _Scalars
    vectors: _Vectors
    num_steps: Int[Array, ""]
    reason: StopReason


class AbstractSolver(lx.AbstractLinearSolver[AbstractOperator]):
    """A least-squares solver that lsqflow and lineax both accept.

    Subclasses provide [`run`][lsqflow.AbstractSolver.run]; the lineax interface
    follows from it.
    """

    @abc.abstractmethod
    def run(
        self,
        operator: AbstractOperator,
        vector: Vector,
        damp: Scalar | None,
        *,
        loop: Loop = while_loop,
    ) -> tuple[PrimalDual, dict[str, Any]]:
        """Solve, and report: the three vectors and the statistics, no exception.

        The operator has been linearised by the caller or is linearised here; `loop`
        replaces `jax.lax.while_loop` where the iterations themselves are to be
        differentiated.
        """

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> AbstractOperator:
        if options:
            msg = (
                f"{type(self).__name__} takes no `options` in `lineax.linear_solve`; "
                f"got {sorted(options)}. Tolerances are fields of the solver; `damp` "
                "and `x0` are arguments of `lsqflow.lstsq`, which also differentiates "
                "with respect to `damp`."
            )
            raise ValueError(msg)
        linearised = as_operator(operator).linearise()
        if isinstance(linearised, MatrixOperator):
            return linearised
        # Traced functions that compare by what they compute: lineax and diffrax compare
        # the static parts of states.
        operator = linearised
        ends = operator.in_structure(), operator.out_structure()
        return Linearised(
            Program.trace(operator.mv, ends[0]),
            Program.trace(operator.rmv, ends[1]),
            tree.StaticStructure(ends),
            operator.tags(),
        )

    def compute(
        self, state: AbstractOperator, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        del options
        solution, stats = self.run(state, vector, None)
        return solution.primal, result_of(stats["stop_reason"]), stats

    def transpose(
        self, state: AbstractOperator, options: dict[str, Any]
    ) -> tuple[AbstractOperator, dict[str, Any]]:
        return state.transpose(), options

    def conj(
        self, state: AbstractOperator, options: dict[str, Any]
    ) -> tuple[AbstractOperator, dict[str, Any]]:
        return state.conj(), options

    def assume_full_rank(self) -> bool:
        return False


class AbstractGolubKahanSolver(AbstractSolver, Generic[_Scalars, _Vectors]):
    """A short recurrence on the Golub–Kahan process.

    A subclass turns the scalars `alpha`, `beta` of the process into coefficients
    (`advance`) and combines pairs of vectors with them (`combine`). It never touches
    the operator, and has no loop.
    """

    rtol: AbstractVar[float | Float[Array, ""] | None]
    atol: AbstractVar[float | Float[Array, ""]]
    max_steps: AbstractVar[Steps | None]
    conlim: AbstractVar[float | Float[Array, ""] | None]

    def __check_init__(self) -> None:
        for name in ("rtol", "atol", "conlim"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value >= 0:
                msg = f"`{name}` must be non-negative; got {value}."
                raise ValueError(msg)
        if isinstance(self.max_steps, int) and self.max_steps < 0:
            msg = f"`max_steps` must be non-negative or None; got {self.max_steps}."
            raise ValueError(msg)

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
        """From `α_{k+1}`, `β_{k+1}`: the next scalars and the coefficients."""

    @abc.abstractmethod
    def combine(
        self, old: _Vectors, coefficients: tuple[Scalar, ...], pair: Pair
    ) -> _Vectors:
        """The next vectors, linear in the old ones and in `(v_{k+1}, q_{k+1})`."""

    @abc.abstractmethod
    def estimates(self, scalars: _Scalars) -> Estimates:
        """Norms and condition, as the stopping rule wants them."""

    def tolerances(self, operator: AbstractOperator, vector: Vector) -> Tolerances:
        """The stopping rule, with defaults for the precision of the problem."""
        dtype = tree.scalar_dtype(vector)
        eps = float(
            jnp.finfo(tree.storage_dtype((vector, operator.in_structure()))).eps
        )
        rtol = eps**0.75 if self.rtol is None else self.rtol
        conlim = 0.1 / eps if self.conlim is None else self.conlim
        rtol, atol, conlim = (jnp.asarray(t, dtype) for t in (rtol, self.atol, conlim))
        return Tolerances(rtol=rtol, atol=atol, conlim=conlim, eps=eps)

    def run(
        self,
        operator: AbstractOperator,
        vector: Vector,
        damp: Scalar | None,
        *,
        loop: Loop = while_loop,
    ) -> tuple[PrimalDual, dict[str, Any]]:
        axes = manual_axes((operator, vector, damp))
        operator, vector = vary((operator, vector), axes)
        operator = operator.linearise()
        process = GolubKahan.start(operator, vector)
        tolerances = self.tolerances(operator, vector)
        vector_norm = process.beta
        max_steps = (
            _default_steps(operator) if self.max_steps is None else self.max_steps
        )
        if not isinstance(max_steps, int):
            max_steps = max_steps.astype(jnp.int32)

        pack, unpack = tree.packing(
            scalars := self.first_scalars(process.alpha, process.beta)
        )
        trivial = process.alpha * process.beta == 0
        reason = StopReason.where(trivial, StopReason.trivial, StopReason.running)
        finite = jnp.isfinite(process.alpha)
        if damp is not None:
            finite &= jnp.isfinite(damp)
        reason = StopReason.where(finite, reason, StopReason.nonfinite_input)
        carry = _Carry(
            process=process,
            scalars=pack(scalars),
            vectors=self.first_vectors(process.pair),
            num_steps=jnp.zeros((), jnp.int32),
            reason=reason,
        )
        carry = vary(carry, axes)

        def unfinished(carry: _Carry) -> Array:
            return (carry.reason == StopReason.running) & (carry.num_steps < max_steps)

        def step(carry: _Carry) -> _Carry:
            process = carry.process.step(operator)
            scalars, coefficients = self.advance(
                unpack(carry.scalars), process.alpha, process.beta, damp
            )
            vectors = self.combine(carry.vectors, coefficients, process.pair)
            reason = tolerances.reason(
                self.estimates(scalars), tree.norm(vectors.iterate.v), vector_norm
            )
            return _Carry(process, pack(scalars), vectors, carry.num_steps + 1, reason)

        carry = loop(unfinished, step, carry, max_steps)
        reason = StopReason.where(
            carry.reason == StopReason.running,
            StopReason.max_steps_reached,
            carry.reason,
        )
        solution, verified = verdict(
            operator,
            vector,
            damp,
            carry.vectors.iterate,
            estimates=self.estimates(unpack(carry.scalars)),
            tolerances=tolerances,
            reason=reason,
        )
        return solution, {"num_steps": carry.num_steps, **verified}


def _default_steps(operator: AbstractOperator) -> int:
    """Ten times the dimension that bounds the number of steps in exact arithmetic."""
    steps = 10 * min(operator.in_size(), operator.out_size())
    return min(steps, jnp.iinfo(jnp.int32).max)
