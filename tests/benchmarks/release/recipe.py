"""The conda recipe, filled in for an sdist and rendered: recipe.py RECIPE SDIST OUT

Run by `make release-check`. What conda would build is what lies in dist/: its version, and the hash of its sdist.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from rattler_build import RenderConfig, Stage0Recipe, VariantConfig


def main() -> None:
    recipe, sdist, out = map(Path, sys.argv[1:])
    found = re.fullmatch(r"devinterp-(.+)\.tar\.gz", sdist.name)
    assert found is not None, f"not an sdist: {sdist}"
    text = recipe.read_text(encoding="utf-8")
    filled, count = re.subn(r'sha256: "0{64}"', f'sha256: "{hashlib.sha256(sdist.read_bytes()).hexdigest()}"', text)
    assert count == 1, "the recipe has no place for the hash"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(filled, encoding="utf-8")
    (rendered,) = Stage0Recipe.from_file(out).render(VariantConfig(), RenderConfig())
    package = rendered.recipe.package
    assert str(package.version) == found[1], f"the recipe is of {package.version}, the sdist of {found[1]}"
    print(f"{out}: {package.name} {package.version} renders")


if __name__ == "__main__":
    main()
