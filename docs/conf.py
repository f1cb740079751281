"""
How the documentation is built: `make docs`. Warnings are errors there.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]

from vault_pool import __version__  # noqa: E402 - found by the line above

project = "vault_pool"
project_copyright = "the authors of vault_pool"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

# In docstrings, `name` is code; the pages of the reference are the links.
default_role = "code"
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
# The constructor's signature says it; the annotations of generic bases say it again, unreadably.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = "vault_pool"
html_static_path: list[str] = []
html_show_sphinx = False
# No page of ours may be looked up elsewhere: `make docs-links` asks the others, where there is a network.
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost)", r"https://vault\.example\.com"]
