"""Sphinx configuration. Build with ``make docs``: warnings are errors, and nothing is asked of the network."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
import versions

# What the kernels of the executed pages inherit: one thread each, no look-up of models, toy.py on the path, the commands of
# this environment, and no file of the reader's own (a module beside the page, an IPython profile).
_HERE = Path(__file__).parent
_PROFILE = _HERE / "_build" / "ipython" / "profile_default"
_PROFILE.mkdir(parents=True, exist_ok=True)
shutil.copy(_HERE / "_ext" / "ipython_kernel_config.py", _PROFILE)
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "IPYTHONDIR": str(_PROFILE.parent),
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(_HERE / "tutorials"), os.environ.get("PYTHONPATH", "")])),
}

project = "devinterp"
author = "The devinterp maintainers"
project_copyright = "The devinterp maintainers"
release = installed_version("devinterp")
version = ".".join(release.split(".")[:2])

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "mathml",
    "devinterp_docs",
    "narrow",
]
exclude_patterns = [
    "_build",
    "_ext",
    "rooms.md",
    "old-names.md",
    "starting-points.md",
    "examples/*/README.md",
    "**/.ipynb_checkpoints",
]
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!devinterp).*")]  # no inventory of other projects is fetched

# Pages
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # by default from a CDN
nb_render_markdown_format = "myst"

# API: signatures and defaults come from the code alone
default_role = "autolink"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
maximum_signature_line_length = 80
add_module_names = False
python_use_unqualified_type_names = True

# Look
html_theme = "pydata_sphinx_theme"
html_title = "devinterp"
html_static_path = ["_static"]
html_css_files = ["devinterp.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "devinterp"},
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

# Versions: on Read the Docs every page says which it is, and where the others are
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
_VERSIONS = _HERE / "_build" / "versions"
_switcher = versions.switcher(
    html_baseurl, os.environ.get("READTHEDOCS_VERSION", ""), _HERE.parent, _VERSIONS / versions.SWITCHER
)
if _switcher is not None:
    html_static_path.append(str(_VERSIONS / "_static"))
    html_theme_options |= {
        "switcher": _switcher,
        "check_switcher": False,  # would ask the network
        "navbar_start": ["navbar-logo", "version-switcher"],
        "show_version_warning_banner": True,
    }
html_sidebars = {"index": [], "start": []}
