"""The home page of the website is README.md, with its links as the website has them."""

import re
from pathlib import Path
from typing import Any

_PLACEHOLDER = "<!-- README -->"
# The target of `[text](target)`, `![text](target)`, `src="target"` and `href="target"`.
_DOCS_TARGET = re.compile(r"(\]\(|src=\"|href=\")docs/")
# A link to a file of the repository that is no page of the website.
_FILE_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|docs/)[^)]*\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_kwargs: Any) -> str:
    """Put README.md where docs/index.md asks for it."""
    if page.file.src_uri != "index.md":
        return markdown
    root = Path(config.config_file_path).parent
    readme = _FILE_LINK.sub(r"\1", (root / "README.md").read_text(encoding="utf-8"))
    return markdown.replace(_PLACEHOLDER, _DOCS_TARGET.sub(r"\1", readme))
