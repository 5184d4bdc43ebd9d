"""Settings of the site: Markdown by MyST, drawn by Furo, nothing from a network."""

from skipstone.version import __version__

project = "Skipstone"
version = release = __version__
html_title = f"Skipstone {__version__}"
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False

extensions = ["myst_parser"]
exclude_patterns = ["__pycache__"]
# Headings are anchors, under the names that a forge gives them; links to none are warned of.
myst_heading_anchors = 4
nitpicky = True
