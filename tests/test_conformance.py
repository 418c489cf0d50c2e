"""Every operator, through the suite that users run on theirs.

An operator joins by an entry in the `CASES` of a module in tests/cases/.
"""

import importlib
import pkgutil

import pytest

import lsqflow as lf

from . import cases
from .helpers import X64, dtype_of


def _collect():
    for module in pkgutil.iter_modules(cases.__path__):
        found = importlib.import_module(f"{cases.__name__}.{module.name}").CASES
        yield from ((f"{module.name}: {name}", make) for name, make in found.items())


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("make", [pytest.param(m, id=name) for name, m in _collect()])
def test_conformance(make, kind):
    if kind == "complex" and not X64:
        pytest.skip("once for each operator is enough")
    try:
        operator = make(dtype_of(kind))
    except NotImplementedError:
        pytest.skip(f"there is no {kind} operator of this kind")
    # Solving takes longer than all the rest: once for each operator.
    lf.testing.check_operator(operator, solve=kind == "real" and X64)
