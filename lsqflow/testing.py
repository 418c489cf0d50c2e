"""Checks for operators of your own, to be called in your tests.

```python
def test_blur():
    lf.testing.check_operator(Blur(kernel, (8, 9)))
```
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ._conformance import (
    CHECKS,
    Subject,
    require_linear,
    require_structures,
    solves,
)
from ._operator.convert import OperatorLike, as_operator

Check = Callable[[Subject], None]


def check_operator(
    operator: OperatorLike,
    *,
    solve: bool = True,
    seed: int = 0,
) -> None:
    """Check all that solvers, derivatives and lineax expect of an operator.

    With random vectors: that `mv` is linear and `rmv` its transpose; structures and
    dtypes; `T`, `H`, `conj`, `linearise` and `as_matrix` against the products; `jit`
    and `vmap`; that new values of its leaves compile nothing. With random directions
    in its inexact leaves: forward derivatives against finite differences (in 64 bits)
    and backward against forward ones. And, for at most 256 entries on either side, that
    lineax's QR and [`lsqflow.lstsq`][] find the solutions that NumPy finds for the
    matrix.

    **Arguments:**

    - `operator`: the operator to check, best a small one.
    - `solve`: whether to solve with it as well, which takes longer than all the rest.
    - `seed`: of the random numbers.

    **Raises:** `AssertionError` that lists every failed check.
    """
    operator = as_operator(operator)
    subject = Subject(operator, np.random.default_rng(seed))
    try:
        require_structures(operator)
        failures = list(_failures(subject, (*CHECKS, solves) if solve else CHECKS))
    except AssertionError:
        raise
    except Exception:
        require_linear(operator, np.random.default_rng(seed))
        raise
    if failures:
        raise AssertionError("\n".join((f"{subject.operator!r}", *failures)))


def _failures(subject: Subject, checks: Sequence[Check]) -> Iterator[str]:
    for check in checks:
        try:
            check(subject)
        except AssertionError as error:
            yield f"- {check.__doc__} {error}"
