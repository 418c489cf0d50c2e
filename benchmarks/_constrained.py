"""Small constrained problems with known minima, from closed forms and from SciPy."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import lsqflow as lf


class Problem(NamedTuple):
    """An objective, a constraint, where to start, and the local minima."""

    objective: Callable[[Any], Any]
    constraint: lf.AbstractConstraint
    start: Any
    minima: list[Any]


def conditions(constraint: lf.AbstractConstraint, shape: tuple[int, ...]) -> Any:
    """The residual between flat vectors, and which rows are inequalities."""

    def residual(x: Any) -> Any:
        leaves = jax.tree.leaves(constraint.residual(x.reshape(shape)))
        return jnp.concatenate([jnp.ravel(c) for c in leaves])

    c = constraint.residual(jnp.zeros(shape))
    flags = jax.tree.leaves(jax.tree.broadcast(constraint.inequality(), c))
    pairs = zip(jax.tree.leaves(c), flags, strict=True)
    return residual, np.concatenate([np.full(np.size(a), b) for a, b in pairs])


class Reference:
    """Local minima: SLSQP, then Newton's method on the equations of its active set."""

    def __init__(self, objective: Any, constraint: Any, shape: Any) -> None:
        self.residual, self.inequality = conditions(constraint, shape)
        self.value, self.slope = jax.jit(objective), jax.jit(jax.grad(objective))
        self.c, self.J = jax.jit(self.residual), jax.jit(jax.jacobian(self.residual))
        self.newton = jax.jit(self._newton)

    def minimise(self, start: Any) -> Any:
        """The local minimum that SLSQP finds."""
        kinds = [("eq", 1.0, ~self.inequality), ("ineq", -1.0, self.inequality)]
        out = scipy.optimize.minimize(
            lambda x: float(self.value(x)),
            start,
            jac=lambda x: np.asarray(self.slope(x)),
            method="SLSQP",
            options={"maxiter": 1000, "ftol": 1e-12},
            constraints=[
                {
                    "type": name,
                    "fun": lambda x, s=sign, r=rows: s * np.asarray(self.c(x))[r],
                    "jac": lambda x, s=sign, r=rows: s * np.asarray(self.J(x))[r],
                }
                for name, sign, rows in kinds
                if rows.any()
            ],
        )
        return self.polish(out.x)

    def polish(self, x: Any, decay: float = 0.0) -> Any:
        """Newton's method on the conditions of a minimum, from close by, to rounding.

        With weight decay, as it is felt in Adam's metric.
        """
        c, J, g = (
            np.asarray(self.c(x)),
            np.asarray(self.J(x)),
            np.asarray(self.slope(x)),
        )
        active = ~self.inequality | (c > -1e-6)
        mu = np.zeros(len(c))
        mu[active] = np.linalg.lstsq(J[active].T, -g)[0]
        z, left = self.newton(jnp.concatenate([x, mu]), jnp.asarray(active), decay)
        if not left < 1e-12:
            raise RuntimeError(f"The reference solves its equations to {left:g} only.")
        return np.asarray(z[: len(x)])

    def _newton(self, z: Any, active: Any, decay: Any) -> Any:
        n = len(z) - len(active)

        def equations(z: Any) -> Any:
            x, mu = z[:n], z[n:]
            g, (c, pull) = self.slope(x), jax.vjp(self.residual, x)
            force = g + decay * (abs(g) + 1e-8) * x + pull(mu)[0]
            return jnp.concatenate([force, jnp.where(active, c, mu)])

        step = lambda _, z: (
            z - jnp.linalg.solve(jax.jacobian(equations)(z), equations(z))
        )
        z = jax.lax.fori_loop(0, 20, step, z)
        return z, jnp.max(abs(equations(z)))


def quadratic(equations: int, inequalities: int) -> Problem:
    """Convex, 12 unknowns, condition 10."""
    random, n = np.random.default_rng(equations), 12
    basis = np.linalg.qr(random.normal(size=(n, n)))[0]
    H, b = (basis * np.geomspace(0.3, 3, n)) @ basis.T, random.normal(size=n)
    C, d = random.normal(size=(equations, n)), random.normal(size=equations)
    G, h = random.normal(size=(inequalities, n)), 0.3 * random.normal(size=inequalities)
    objective = lambda x: x @ H @ x / 2 - b @ x
    constraint = lf.Affine(C, d)
    if inequalities:
        constraint &= lf.Inequality(lambda x: G @ x - h)
        solution = Reference(objective, constraint, (n,)).minimise(np.zeros(n))
        return Problem(objective, constraint, jnp.zeros(n), [solution])
    system = np.block([[H, C.T], [C, np.zeros((equations, equations))]])
    solution = np.linalg.solve(system, np.concatenate([b, d]))[:n]
    return Problem(objective, constraint, jnp.zeros(n), [solution])


def rosenbrock(constraint: lf.AbstractConstraint) -> Problem:
    """Not convex, 4 unknowns; the local minima are looked for from 30 points."""

    def objective(x: Any) -> Any:
        return jnp.sum(5 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    random = np.random.default_rng(1)
    start = jnp.asarray([0.5, -0.4, 0.3, 0.6])
    starts = [np.asarray(start), *random.normal(size=(30, 4))]
    reference, minima = Reference(objective, constraint, (4,)), []
    for x in starts:
        try:
            found = reference.minimise(x)
        except RuntimeError:
            continue
        if all(np.linalg.norm(found - y) > 1e-6 for y in minima):
            minima.append(found)
    return Problem(objective, constraint, start, minima)


def brockett() -> Problem:
    """Three eigenvectors of a 6×6 matrix, in order, on the Stiefel manifold.

    The minima of tr(WᵀAWN) are known: eigenvectors, each with either sign.
    """
    random = np.random.default_rng(2)
    basis = np.linalg.qr(random.normal(size=(6, 6)))[0]
    A, N = (basis * np.arange(1.0, 7.0)) @ basis.T / 3, np.diag([3.0, 2.0, 1.0])
    W = jnp.asarray(np.linalg.qr(random.normal(size=(6, 3)))[0])
    upper = np.triu_indices(3)
    signs = itertools.product([-1.0, 1.0], repeat=3)
    return Problem(
        lambda W: jnp.trace(W.T @ A @ W @ N),
        lf.Equality(lambda W: (W.T @ W - jnp.eye(3))[upper]),
        W,
        [basis[:, :3] * np.array(s) for s in signs],
    )


def problems(*, quick: bool) -> dict[str, Problem]:
    sphere = lambda x: x @ x - 2
    bounds = lambda x: jnp.stack([x @ x - 2, x[0] - 3 + x[1] ** 2])
    few = {
        "quadratic, 2 affine equations, 6 affine inequalities": quadratic(2, 6),
        "Rosenbrock on a sphere": rosenbrock(lf.Equality(sphere)),
    }
    if quick:
        return few
    return {
        "quadratic, 4 affine equations": quadratic(4, 0),
        **few,
        "Rosenbrock in a ball, and an inactive inequality": rosenbrock(
            lf.Inequality(bounds)
        ),
        "Brockett's function of a 6×3 matrix, orthonormal columns": brockett(),
    }
