"""Further arguments of a constraint, or an error that says what is missing."""

from typing import Any


def take(args: tuple[Any, ...], names: tuple[str, ...], owner: str) -> tuple[Any, ...]:
    """The first arguments; a `TypeError` if there are fewer than names."""
    if len(args) < len(names):
        raise TypeError(
            f"{owner} needs {' and '.join(names)} at each step, after the parameters; "
            f"got {len(args)} further argument(s). Pass them to the method, as "
            "`constraint_args` in training, or draw them with `lsqflow.Sampled`."
        )
    return args[: len(names)]
