"""How `L_A` moves with the operator and the damping, at fixed arguments.

`system` is the `System` of primal_dual.py, whose solves these tangents are made of.
"""

from typing import Any

from .._tree import Vector
from . import maybe
from .maybe import Maybe


def undamped_motion(system: Any, A_dot: Any, arg: Any) -> tuple[Maybe, ...]:
    """What moves `L_A (c, d, s)` with `A`, as further arguments of `L_A`; λ = 0.

    −Ȧx₁ + ż₂ − Ȧp₂ − Ȧn₃,  Ȧᴴr₁,  Ȧᴴ(y₁ + y₂ − z₃), with (x₁, y₁, r₁) = P_A c,
    (z₂, p₂, n₂) = P_{Aᴴ} d, y₂ the dual of P_A z₂, (z₃, ·, n₃) = P_{Aᴴ} s, and
    ż₂ = L_{Aᴴ}(−Ȧᴴz₂, Ȧn₂, Ȧp₂).
    """
    c, d, s = arg
    A = system.operator
    adjoint = system.at(A.H)
    to_c = to_d = to_s = None
    if c is not None:
        first = system.primal_dual(c)
        Ax, to_d, to_s = maybe.tangent(
            lambda A: (
                A.mv(first.primal),
                A.adjoint_mv(first.residual),
                A.adjoint_mv(first.dual),
            ),
            A,
            A_dot,
        )
        to_c = maybe.sub(None, Ax)
    if d is not None:
        second = adjoint.primal_dual(d)
        y = system.primal_dual(second.primal).dual
        Ap, An, Az, Ay = maybe.tangent(
            lambda A: (
                A.mv(second.dual),
                A.mv(second.residual),
                A.adjoint_mv(second.primal),
                A.adjoint_mv(y),
            ),
            A,
            A_dot,
        )
        z_dot = adjoint.inverse(maybe.sub(None, Az), An, Ap)
        to_c = maybe.sub(maybe.add(to_c, z_dot), Ap)
        to_s = maybe.add(to_s, Ay)
    if s is not None:
        third = adjoint.primal_dual(s)
        An, Az = maybe.tangent(
            lambda A: (A.mv(third.residual), A.adjoint_mv(third.primal)), A, A_dot
        )
        to_c = maybe.sub(to_c, An)
        to_s = maybe.sub(to_s, Az)
    return to_c, to_d, to_s


def damped_motion(
    system: Any, A_dot: Any, damp_dot: Any, arg: Any, out: Vector
) -> tuple[Maybe, ...]:
    """The same for λ > 0: −Ȧo,  Ȧᴴ(c − Ao) + 2λλ̇(s − o),  0, with o the value."""
    c, _, s = arg
    gap = maybe.sub(c, system.operator.mv(out))
    Ao, Agap = maybe.tangent(
        lambda A: (A.mv(out), A.adjoint_mv(gap)), system.operator, A_dot
    )
    shift = maybe.shift(system.damp, damp_dot)
    return (
        maybe.sub(None, Ao),
        maybe.add(Agap, maybe.scale(shift, maybe.sub(s, out))),
        None,
    )
