"""Leave out the docstrings that Python's own types put on inspected objects.

The API reference inspects the package, as constructors get their docstrings at run
time and their signatures from equinox. An undocumented `__init__` then says "Initialize
self", and the default of a field has the docstring of its type, say `float`.
"""

from typing import Any

import griffe


class QuietInspection(griffe.Extension):
    """A griffe extension; mkdocs.yml names it."""

    def on_function_instance(self, *, func: griffe.Function, **_kwargs: Any) -> None:
        """Keep only what the package itself says of a constructor."""
        if func.docstring and func.docstring.value.startswith("Initialize self."):
            func.docstring = None

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_kwargs: Any) -> None:
        """Keep the docstrings of properties; fields are documented on the class."""
        if "property" not in attr.labels:
            attr.docstring = None
