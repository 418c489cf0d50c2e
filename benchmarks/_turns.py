"""Digits, upright and turned: a small network, and training under a symmetry."""

import functools as ft
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
import sklearn.model_selection

import lsqflow as lf

WIDTH, BATCH, RATE = 48, 64, 1e-2


class Data(NamedTuple):
    """Images of 8×8 pixels between 0 and 1, upright, and their digits."""

    images: jax.Array
    labels: jax.Array


class Method(NamedTuple):
    """How to train; what is left out is not done."""

    name: str
    augment: bool = False
    average: bool = False
    penalty: float = 0.0
    constraint: str = ""  # "batch", "fixed" or "layers"
    points: int = 16
    metric: Any = None
    eps: float = 1e-8
    gamma: float = 0.3
    max_steps: int | None = 10


def load() -> tuple[Data, Data]:
    """Training and test data: three quarters and one quarter of the digits."""
    digits: Any = sklearn.datasets.load_digits()
    x, test_x, y, test_y = sklearn.model_selection.train_test_split(
        digits.images / 16, digits.target, stratify=digits.target, random_state=0
    )
    as_data = lambda x, y: Data(jnp.asarray(x, jnp.float32), jnp.asarray(y))
    return as_data(x, y), as_data(test_x, test_y)


def turn(k: Any, images: jax.Array) -> jax.Array:
    """Images after `k` quarter turns."""
    return jnp.rot90(images, k, axes=(1, 2))


def shift(k: Any, hidden: jax.Array) -> jax.Array:
    """Four groups of hidden units, each in the place of the `k`-th after it."""
    return jnp.roll(hidden, k * (WIDTH // 4), axis=-1)


def first_params(key: jax.Array) -> dict[str, Any]:
    def layer(key: jax.Array, shape: tuple[int, int]) -> dict[str, jax.Array]:
        kernel = jax.random.normal(key, shape, jnp.float32) / np.float32(
            shape[0] ** 0.5
        )
        return {"kernel": kernel, "bias": jnp.zeros(shape[1], jnp.float32)}

    one, two = jax.random.split(key)
    return {"first": layer(one, (64, WIDTH)), "last": layer(two, (WIDTH, 10))}


def linear(layer: dict[str, Any], x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"]


def plain(params: dict[str, Any], images: jax.Array) -> jax.Array:
    """Logits."""
    return linear(params["last"], jax.nn.silu(linear(params["first"], images)))


def averaged(params: dict[str, Any], images: jax.Array) -> jax.Array:
    """Logits, averaged over all turns."""
    every = jnp.concatenate([turn(k, images) for k in range(4)])
    return jnp.mean(plain(params, every).reshape(4, len(images), -1), 0)


def invariance(model: Callable[..., Any]) -> lf.AbstractConstraint:
    return lf.Equivariance(model, range(1, 4), turn)


def layerwise() -> lf.AbstractConstraint:
    """Each layer, for the generator of the group, at a basis of its inputs and zero."""
    images = jnp.eye(65, 64, dtype=jnp.float32).reshape(65, 8, 8)
    hidden = jnp.eye(WIDTH + 1, WIDTH, dtype=jnp.float32)
    first = lf.Equivariance(linear, [1], turn, shift)
    last = lf.Equivariance(linear, [1], shift)
    return lf.Equality(
        lambda params: (
            first.residual(params["first"], images),
            last.residual(params["last"], hidden),
        )
    )


def optimizer_of(method: Method, train: Data, steps: int) -> Any:
    schedule = optax.cosine_decay_schedule(RATE, steps, 0.01)
    adam = optax.adam(schedule, eps=method.eps)
    if not method.constraint:
        return optax.with_extra_args_support(adam)
    layers = method.constraint == "layers"
    return lf.null_space(
        adam,
        layerwise() if layers else invariance(plain),
        solver=lf.LSMR(rtol=1e-4, max_steps=method.max_steps),
        rate=method.gamma,
        metric=method.metric,
        constraint_args=() if layers else (train.images[: method.points],),
    )


def trainer(train: Data, method: Method, epochs: int) -> Callable[[Any], Any]:
    """Compiled training: from a key to parameters and the mean of solver steps."""
    per_epoch = len(train.labels) // BATCH
    optimizer = optimizer_of(method, train, epochs * per_epoch)
    model = averaged if method.average else plain
    invariant = invariance(plain)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = model(params, x)
        value = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))
        if method.penalty:
            c = invariant.residual(params, x)
            value += method.penalty * jnp.sum(c**2)
        return value

    def step(carry: Any, inputs: Any) -> Any:
        params, state = carry
        indices, turns = inputs
        x, y = train.images[indices], train.labels[indices]
        extra = {}
        if method.constraint == "batch":
            extra["constraint_args"] = (x[: method.points],)
        if method.augment:
            every = jnp.stack([turn(k, x) for k in range(4)])
            x = every[turns, jnp.arange(BATCH)]
        grads = jax.grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params, **extra)
        num_steps = state.num_steps if method.constraint else jnp.zeros((), jnp.int32)
        return (optax.apply_updates(params, updates), state), num_steps

    def run(key: jax.Array) -> Any:
        first, shuffle, turn_key = jax.random.split(key, 3)
        params = first_params(first)
        order = jax.vmap(lambda key: jax.random.permutation(key, len(train.labels)))(
            jax.random.split(shuffle, epochs)
        )
        order = order[:, : per_epoch * BATCH].reshape(-1, BATCH)
        turns = jax.random.randint(turn_key, order.shape, 0, 4)
        carry = params, optimizer.init(params)
        (params, _), num_steps = jax.lax.scan(step, carry, (order, turns))
        return params, jnp.mean(num_steps.astype(jnp.float32))

    return jax.jit(run).lower(jax.random.key(0)).compile()


def tied(params: Any) -> jax.Array:
    """How near turned filters are to filters."""
    filters = params["first"]["kernel"].T.reshape(WIDTH, 8, 8)
    flat = lambda x: x.reshape(WIDTH, 64) / jnp.linalg.norm(x, axis=(1, 2))[:, None]
    nearest = jnp.max(flat(turn(1, filters)) @ flat(filters).T, axis=1)
    # What turning does not change would be tied to itself.
    variant = filters - sum(turn(k, filters) for k in range(4)) / 4
    outgoing = jnp.linalg.norm(params["last"]["kernel"], axis=1)
    return jnp.average(
        nearest, weights=jnp.linalg.norm(variant, axis=(1, 2)) * outgoing
    )


@ft.partial(jax.jit, static_argnames=("average", "points"))
def score(
    params: Any, train: Data, test: Data, *, average: bool, points: int
) -> dict[str, jax.Array]:
    """Accuracies in percent, violations, and how much filters are tied."""
    model = averaged if average else plain
    violation = invariance(model).violation
    logits = jnp.stack([model(params, turn(k, test.images)) for k in range(4)])
    right = 100 * jnp.mean(jnp.argmax(logits, -1) == test.labels, -1)
    return {
        "upright": right[0],
        "turned": jnp.mean(right[1:]),
        "points": violation(params, train.images[:points]),
        "seen": violation(params, train.images),
        "unseen": violation(params, test.images),
        "tied": tied(params),
    }
