"""How the documentation is built: `nox -s docs`."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from sphinx.ext.napoleon.docstring import GoogleDocstring

project = "trio-dispatch"
copyright = "the trio-dispatch contributors"
release = metadata.version("trio-dispatch")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated"]
default_role = "py:obj"
html_theme = "furo"
html_title = f"trio-dispatch {release}"

myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Napoleon takes what stands before a colon in an attribute's docstring for the attribute's type.
# Ours are sentences, and the types are annotations.
GoogleDocstring._consume_inline_attribute = lambda self: ("", self._consume_to_end())

sys.path.insert(0, str(Path(__file__).parent))

import layers  # noqa: E402 - it stands beside this file

layers.write_lists()
