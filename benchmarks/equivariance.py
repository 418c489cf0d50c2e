"""Invariance of a classifier of digits to quarter turns, beside what else is done."""

import statistics
import time

import jax

from ._report import table
from ._turns import BATCH, RATE, WIDTH, Data, Method, load, score, trainer

WEIGHTS = (0.1, 1.0, 10.0)

SETTINGS = f"""
Digits of scikit-learn, 1347 for training, always upright, and 450 for tests. A network
64–{WIDTH}–10 with silu, 3610 parameters; Adam, rate {RATE:g}, falling along a cosine
to a hundredth, batches of {BATCH}, equal epochs, float32. The constraint: the logits do
not change under the three quarter turns; 30 rows for each point.

- *Penalty*: weight times the mean square of the residual on the whole minibatch; the
  star is on the best weight by accuracy, upright and turned alike, on the test images.
- *Null space*: `lf.null_space(optax.adam(rate, eps=ε), lf.Equivariance(...))` with the
  first 16 images of each minibatch as points (`constraint_args`), `rate=0.3`, and at
  most 20 steps of LSMR, or 10 in each of the two solves of `metric=None` (ε = 1e-8).
- *Layers*: not the logits but each layer is constrained, on a basis of its inputs:
  W ρ(g) = P(g) W, where P(g) permutes four groups of hidden units. This is linear in
  the parameters and binds all images. `metric=None`, `rate=1`, LSMR to 1e-4.
- *Averaged*: the mean of the logits over all turns, invariant by construction.

Violation: root mean square of the change of the logits over that of the logits, on the
images of training (*seen*) and of the test. *Tied*: the cosine of a turned filter of
the first layer with the filter nearest to it, a mean weighted by the size of what
filters add to the logits; 1 if turning only permutes the filters. *Time* is that of a
step over that of an unconstrained one. Mean ± standard deviation over seeds."""


OURS = Method("", constraint="batch", metric="optimizer", max_steps=20)
EVERY = (
    Method("unconstrained"),
    Method("augmentation: random turns", augment=True),
    *(Method(f"penalty, weight {w:g}", penalty=w) for w in WEIGHTS),
    OURS._replace(name="null space, ε = 1e-8"),
    OURS._replace(name="null space, ε = 1e-5", eps=1e-5),
    OURS._replace(name="null space, ε = 1e-4", eps=1e-4),
    OURS._replace(name="… and random turns", eps=1e-4, augment=True),
    OURS._replace(name="null space, metric=None", metric=None, max_steps=10),
    Method("null space, layers", constraint="layers", gamma=1.0, max_steps=None),
    Method("averaged over turns", average=True),
)
# What a quick run leaves out, since most of its time is compilation.
LONG = (EVERY[2], EVERY[4], EVERY[6], EVERY[8])


def compare(
    methods: tuple[Method, ...], train: Data, test: Data, epochs: int, seeds: int
) -> dict[Method, dict[str, list[float]]]:
    """Train and score; methods take turns, so that noise in time falls on all alike."""
    tasks = [(m, trainer(train, m, epochs)) for m in methods]
    records: dict[Method, dict[str, list[float]]] = {m: {} for m in methods}
    for seed in range(seeds):
        for method, run in tasks:
            start = time.perf_counter()
            params, num_steps = jax.block_until_ready(run(jax.random.key(seed)))
            seconds = time.perf_counter() - start
            entries = score(
                *(params, train, test), average=method.average, points=method.points
            )
            entries = {**entries, "steps": num_steps, "seconds": seconds}
            for name, value in entries.items():
                records[method].setdefault(name, []).append(float(value))
    return records


def spread(values: list[float], digits: str) -> str:
    mean = f"{statistics.mean(values):{digits}}"
    return f"{mean} ± {statistics.stdev(values):{digits}}" if len(values) > 1 else mean


def against_others(
    methods: tuple[Method, ...], train: Data, test: Data, epochs: int, seeds: int
) -> None:
    records = compare(methods, train, test, epochs, seeds)
    accuracy = lambda m: sum(map(sum, (records[m]["upright"], records[m]["turned"])))
    best = max((m for m in methods if m.penalty), key=accuracy)
    rows = []
    for method, entry in records.items():
        pairs = zip(entry["seconds"], records[EVERY[0]]["seconds"], strict=True)
        rows.append(
            [
                method.name + (" \\*" if method is best else ""),
                *(spread(entry[name], ".1f") for name in ("upright", "turned")),
                *(spread(entry[name], ".2g") for name in ("seen", "unseen")),
                *(statistics.mean(entry[name]) for name in ("tied", "steps")),
                statistics.median(a / b for a, b in pairs),
            ]
        )
    columns = ["upright %", "turned %", "violation, seen", "unseen", "tied"]
    print(f"### {epochs} epochs, {seeds} seeds")
    table(["", *columns, "solver steps", "time"], rows)


def study(
    methods: dict[str, tuple[Method, ...]], data: tuple[Data, Data], epochs: int
) -> None:
    """One setting at a time, one seed."""
    rows = []
    for title, group in methods.items():
        records = compare(group, *data, epochs, 1)
        per_step = 1e3 / (epochs * (len(data[0].labels) // BATCH))
        for i, (method, entry) in enumerate(records.items()):
            names = ("upright", "turned", "points", "unseen", "tied", "steps")
            values: list[object] = [entry[name][0] for name in names]
            if method.constraint == "batch":
                values[2] = ""  # other points at each step
            ms = per_step * entry["seconds"][0]
            rows.append(["" if i else title, method.name, *values, ms])
    columns = ["upright %", "turned %", "violation, points", "unseen", "tied"]
    print(f"### One setting at a time, {epochs} epochs, one seed")
    table(["", "", *columns, "solver steps", "ms a step"], rows)


def variants() -> dict[str, tuple[Method, ...]]:
    base = OURS._replace(eps=1e-4)
    fixed = base._replace(constraint="fixed", gamma=1.0)
    vary = lambda method, name, *values: tuple(
        method._replace(name=f"{value:g}", **{name: value}) for value in values
    )
    return {
        "ε": vary(base, "eps", 1e-6, 1e-4, 1e-3),
        "points of the minibatch": vary(base, "points", 4, 64),
        "`max_steps`": vary(base, "max_steps", 5, 60),
        "`rate`": vary(base, "gamma", 0.1, 1.0),
        "fixed points, `rate=1`": vary(fixed, "points", 4, 16, 64),
    }


def main(*, quick: bool) -> None:
    print(SETTINGS + "\n")
    data = load()
    if quick:
        against_others(tuple(m for m in EVERY if m not in LONG), *data, 10, 2)
    else:
        against_others(EVERY, *data, 60, 3)
        study(variants(), data, 40)
