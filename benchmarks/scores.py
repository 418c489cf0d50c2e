"""Conservative score models: denoising score matching under symmetric Jacobians."""

import functools as ft
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

import lsqflow as lf

from ._report import table

LOW, HIGH, SIGMA = 0.1, 2.0, 0.5

SETTINGS = f"""
float32. A network gets a point with noise of deviation σ, and log σ, and predicts the
noise, −σ times a score, for σ from {LOW:g} to {HIGH:g}. Two hidden layers, SiLU; scaled
as in Karras et al. (2022); Adam, its rate falls as a cosine. *Null space k*:
`lf.null_space(adam, lf.Sampled(lf.Conservative(…), …), solver=lf.LSQR(max_steps=k))`
at noisy points drawn at each step; digits have one probe a point. *Penalty w*: w times
the mean of ‖J − Jᵀ‖² / 4, at the same points and probes. *Construction*: the gradient
of the inner product of x and the same network.

*Loss*: of unseen points, a component; *excess*: the squared distance from what the true
score predicts. *Asymmetry*: ‖J − Jᵀ‖ / ‖J‖ at unseen points, exact. At σ = {SIGMA:g},
*circulation* of the score around circles, and errors of differences of *log p*,
integrated along lines between two points, and along the axes; *paths*: the difference
of the two; root mean squares, in nats. *Time*: of training, over that of the
unconstrained one, median of the seeds. *Steps*: of the solver, a step of training."""


class Task(NamedTuple):
    """Data, network, training; points and probes of a step, weights or solver steps."""

    train: jax.Array
    test: jax.Array
    spread: float
    width: int
    epochs: int
    batch: int
    rate: float
    points: int
    probes: int | None
    knobs: dict[str, tuple[float, ...]]


class Model(NamedTuple):
    """The noise that a network sees in `x`, which is −σ times a score."""

    make: Callable[[jax.Array], Any]
    network: Callable[[Any, jax.Array, jax.Array], jax.Array]
    spread: float

    def __call__(self, params: Any, x: jax.Array, sigma: jax.Array) -> jax.Array:
        # A Gaussian of the same spread is right at once, and its Jacobian symmetric.
        total = jnp.sqrt(sigma**2 + self.spread**2)
        value = self.network(params, x / total, jnp.log(sigma) / 4)
        return sigma / total**2 * x - self.spread / total * value


def model_of(task: Task, method: str) -> Model:
    """Any vector field; or, by construction, a gradient."""
    d = task.train.shape[1]
    make = lambda key: eqx.nn.MLP(
        *(d + 1, d, task.width, 2, jax.nn.silu), dtype=jnp.float32, key=key
    )
    static = eqx.filter(make(jax.random.key(0)), eqx.is_array, inverse=True)

    def free(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        return eqx.combine(params, static)(jnp.append(x, t))

    def gradient(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.vdot(x, free(params, x, t)))(x)

    network = gradient if method == "construction" else free
    return Model(lambda key: eqx.filter(make(key), eqx.is_array), network, task.spread)


def noisy(x: jax.Array, key: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Points, the deviations of their noise, and the noise divided by it."""
    one, two = jax.random.split(key)
    ends = np.log([LOW, HIGH])
    sigma = jnp.exp(jax.random.uniform(one, x.shape[:1], x.dtype, *ends))
    noise = jax.random.normal(two, x.shape, x.dtype)
    return x + sigma[:, None] * noise, sigma, noise


def loss(model: Model, params: Any, x: jax.Array, key: Any) -> jax.Array:
    points, sigma, noise = noisy(x, key)
    return jnp.mean((jax.vmap(model, (None, 0, 0))(params, points, sigma) - noise) ** 2)


def constraint(task: Task, model: Model) -> lf.AbstractConstraint:
    spec = lf.Conservative(model, task.probes)

    def draw(key: Any) -> tuple[jax.Array, jax.Array]:
        one, two = jax.random.split(key)
        x = jax.random.choice(one, task.train, (task.points,))
        return noisy(x, two)[:2]

    return lf.Sampled(spec, spec.sampler(draw), jax.random.key(1))


def trainer(task: Task, method: str) -> Callable[[Any, Any], Any]:
    """Compiled: from a key and a penalty's weight, or a limit of the solver's steps."""
    model = model_of(task, method)
    asymmetry = constraint(task, model)
    per_epoch = len(task.train) // task.batch
    rate = optax.cosine_decay_schedule(task.rate, task.epochs * per_epoch, 0.01)

    def run(key: Any, knob: jax.Array) -> Any:
        first, key = jax.random.split(key)
        params, optimizer = model.make(first), optax.adam(rate)
        if method == "null space":
            solver = lf.LSQR(rtol=1e-3, max_steps=knob.astype(jnp.int32))
            optimizer = lf.null_space(optimizer, asymmetry, solver=solver)

        def objective(params: Any, x: jax.Array, key: Any, count: jax.Array) -> Any:
            value = loss(model, params, x, key)
            if method == "penalty":
                value += knob * jnp.sum(asymmetry.at(count).residual(params) ** 2)
            return value

        def step(carry: Any, inputs: Any) -> Any:
            params, state, count = carry
            gradient = jax.grad(objective)(params, *inputs, count)
            updates, state = optimizer.update(gradient, state, params)
            num_steps = getattr(state, "num_steps", jnp.zeros((), jnp.int32))
            return (optax.apply_updates(params, updates), state, count + 1), num_steps

        def epoch(carry: Any, key: Any) -> Any:
            order, key = jax.random.split(key)
            x = jax.random.permutation(order, task.train)[: per_epoch * task.batch]
            x = x.reshape(per_epoch, task.batch, -1)
            return jax.lax.scan(step, carry, (x, jax.random.split(key, per_epoch)))

        carry = params, optimizer.init(params), jnp.zeros((), jnp.int32)
        keys = jax.random.split(key, task.epochs)
        (params, _, _), num_steps = jax.lax.scan(epoch, carry, keys)
        return params, jnp.mean(num_steps.astype(jnp.float32))

    return jax.jit(run).lower(jax.random.key(0), jnp.zeros((), jnp.float32)).compile()


def judge(model: Model, task: Task, params: Any) -> list[jax.Array]:
    """Loss and asymmetry, and for a plane what follows from a potential."""
    one, two = jax.random.split(jax.random.key(2))
    values = [loss(model, params, jnp.tile(task.test, (16, 1)), one)]
    x, sigma, _ = noisy(task.test, two)
    J = jax.vmap(jax.jacfwd(model, 1), (None, 0, 0))(params, x, sigma)
    skew = jnp.linalg.norm(J - jnp.swapaxes(J, 1, 2)) / jnp.linalg.norm(J)
    if task.train.shape[1] > 2:
        return [*values, skew]
    truth = -sigma[:, None] * jax.vmap(jax.grad(log_density))(x, sigma)
    excess = jnp.mean((jax.vmap(model, (None, 0, 0))(params, x, sigma) - truth) ** 2)
    return [*values, excess, skew, *integrals(model, task, params)]


def integrals(model: Model, task: Task, params: Any) -> list[jax.Array]:
    """Of the score: around circles, and along two paths between the same points."""
    one, two = jax.random.split(jax.random.key(3))
    sigma = jnp.asarray(SIGMA, jnp.float32)
    x = task.test + sigma * jax.random.normal(one, task.test.shape, jnp.float32)
    start, end = jnp.split(x[:512], 2)
    score = jax.vmap(jax.vmap(lambda x: -model(params, x, sigma) / sigma))
    rms = lambda x: jnp.sqrt(jnp.mean(x**2))
    angle = jnp.asarray(2 * np.pi * np.arange(128) / 128, jnp.float32)
    radius = jax.random.uniform(two, (256, 1, 1), jnp.float32)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    around = start[:, None] + radius * jnp.stack([cosine, sine], axis=1)
    along = radius * jnp.stack([-sine, cosine], axis=1) * float(2 * np.pi / 128)
    flow = jnp.sum(score(around) * along, axis=(1, 2))
    node, weight = np.polynomial.legendre.leggauss(32)
    scaled = np.stack([(node + 1) / 2, weight / 2])[..., None]
    node, weight = jnp.asarray(scaled, jnp.float32)

    def line(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = a[:, None], b[:, None]
        return jnp.sum(weight * score(a + node * (b - a)) * (b - a), axis=(1, 2))

    density = jax.vmap(log_density, (0, None))
    gain = density(end, sigma) - density(start, sigma)
    corner = jnp.stack([end[:, 0], start[:, 1]], axis=1)
    straight, bent = line(start, end), line(start, corner) + line(corner, end)
    return [*map(rms, (flow, straight - gain, bent - gain, straight - bent))]


TURNS = 2 * np.pi * np.arange(8) / 8
CENTRES = 2 * np.stack([np.cos(TURNS), np.sin(TURNS)], axis=1)


def log_density(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Of eight Gaussians of deviation 0.2 with noise, up to a constant."""
    squares = jnp.sum((x - jnp.asarray(CENTRES, x.dtype)) ** 2, axis=1)
    return jax.nn.logsumexp(-squares / (2 * (sigma**2 + jnp.float32(0.2) ** 2)))


def gaussians(quick: bool) -> Task:
    random = np.random.default_rng(0)
    x = CENTRES[random.integers(8, size=6144)] + 0.2 * random.normal(size=(6144, 2))
    x, epochs = jnp.asarray(x, jnp.float32), 5 if quick else 100
    knobs = {"penalty": (1, 10, 100), "null space": (2, 10)}
    return Task(x[:4096], x[4096:], 1.42, 64, epochs, 256, 1e-2, 32, None, knobs)


def digits(quick: bool) -> Task:
    x = sklearn.datasets.load_digits().data / 8 - 1
    x = jnp.asarray(np.random.default_rng(0).permutation(x), jnp.float32)
    knobs, epochs = {"penalty": (0.1, 0.3, 1), "null space": (2, 5)}, 5 if quick else 60
    return Task(x[:1500], x[1500:], 0.7, 128, epochs, 100, 5e-3, 32, 1, knobs)


def compare(task: Task, columns: list[str], quick: bool) -> None:
    knobs = {"unconstrained": (0,), **task.knobs, "construction": (0,)}
    runs = {method: trainer(task, method) for method in knobs}
    judges = {m: jax.jit(ft.partial(judge, model_of(task, m), task)) for m in runs}
    found: dict[Any, list[list[float]]] = {}
    pairs = [(method, k) for method in knobs for k in knobs[method]]
    for seed, (method, knob) in itertools.product(range(2 if quick else 3), pairs):
        key, value = jax.random.key(seed), jnp.asarray(knob, jnp.float32)
        start = time.perf_counter()
        params, num_steps = jax.block_until_ready(runs[method](key, value))
        seconds = time.perf_counter() - start
        row = [*map(float, judges[method](params)), float(num_steps), seconds]
        found.setdefault((method, knob), []).append(row)
    show = lambda v: f"{np.mean(v):.3g} ± {np.std(v, ddof=1):.1g}"
    rows = []
    for method, knob in pairs:
        *values, steps, seconds = zip(*found[method, knob], strict=True)
        bare = [row[-1] for row in found["unconstrained", 0]]
        ratio = float(np.median(np.divide(seconds, bare)))
        name = f"{method} {knob:g}" if knob else method
        rows.append([name, *map(show, values), ratio, steps[0]])
    table(["", *columns, "time", "steps"], rows)


def main(*, quick: bool) -> None:
    print(SETTINGS)
    print("\n#### Eight Gaussians in the plane")
    flow = ["circulation", "log p, line", "log p, axes", "paths"]
    compare(gaussians(quick), ["loss", "excess", "asymmetry", *flow], quick)
    print("\n#### Digits, 8×8")
    compare(digits(quick), ["loss", "asymmetry"], quick)
