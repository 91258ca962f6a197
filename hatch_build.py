"""The README as the package index shows it, which follows no relative link."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["CustomMetadataHook", "for_the_index"]

_RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")


def for_the_index(text: str, repository: str, tag: str) -> str:
    """Make relative links and pictures lead to a tag of the repository; without one they are text.

    ``repository`` is its address, as ``https://github.com/OWNER/NAME``, or empty where it has no public one.
    """

    def absolute(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if not repository:
            return f"*{words}*" if picture else words
        return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/{tag}/{target})"

    return _RELATIVE.sub(absolute, text)


class CustomMetadataHook(MetadataHookInterface):
    """Writes the README into the metadata; ``repository`` stands in ``pyproject.toml``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Give ``readme`` a text."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = str(self.config.get("repository", "")).rstrip("/")
        shown = for_the_index(text, repository, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}
