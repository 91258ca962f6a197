"""What an environment with the wheel and some of its extras can do: installed.py STORE [EXTRA ...]

Run by `make release-check`, outside of the clone. Every requirement of the extras is there; without `sampling`, nothing
that is imported or asked of a store needs torch; with all extras, every module of the package can be imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages

from packaging.requirements import Requirement

import devinterp


def main() -> None:
    store, *extras = sys.argv[1:]
    assert "site-packages" in devinterp.__file__, f"this is not the installed package: {devinterp.__file__}"
    about = metadata("devinterp")
    assert (about["Version"], about["License-Expression"]) == (devinterp.__version__, "MIT")
    (licence,) = (f for f in about.get_all("License-File"))
    assert (Path(devinterp.__file__).parent / "py.typed").is_file()
    assert (next(Path(devinterp.__file__).parents[1].glob("devinterp-*.dist-info")) / "licenses" / licence).is_file()

    missing = [str(r) for r in map(Requirement, requires("devinterp") or []) if _wanted(r, extras) and not _there(r)]
    assert not missing, f"not installed: {missing}"
    if "sampling" not in extras:
        assert find_spec("torch") is None, "torch came along"
    report = devinterp.validate(store, profile="devinterp-2.0")
    assert not report.errors, str(report)
    llc = float(devinterp.open_store(store, profile="devinterp-2.0").devinterp.llc()["llc_mean"])
    everything = set(about.get_all("Provides-Extra")) <= {*extras, "dev", "docs", "demo"}
    modules = [m.name for m in walk_packages(devinterp.__path__, "devinterp.")] if everything else []
    for module in modules:
        if not module.endswith("__main__"):
            import_module(module)
    said = f"; all {len(modules)} modules can be imported" if everything else ""
    print(f"devinterp {devinterp.__version__} with {', '.join(extras) or 'no extra'}: LLC {llc:.3f} of {store}{said}")


def _wanted(requirement: Requirement, extras: list[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ["", *extras])


def _there(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
