"""How the documentation is built: `nox -s docs`."""

from importlib.metadata import version as installed_version

project = "kling_async"
author = "the kling_async authors"
project_copyright = "2026, the kling_async authors"
version = release = installed_version("kling-async")

extensions = ["myst_parser", "sphinx_copybutton", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

default_role = "code"  # single backticks mean the same in docstrings as on the pages
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
# An attrs class has its fields in the signature; "Attributes:" says what they mean.
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_extra_path = ["llms.txt"]
html_title = f"kling_async {release}"
