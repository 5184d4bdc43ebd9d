"""Settings of the site: Markdown by MyST, drawn by Furo, nothing from a network."""

from __future__ import annotations

import importlib
import inspect
import sys

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from skipstone.version import __version__

project = "Skipstone"
version = release = __version__
html_title = f"Skipstone {__version__}"
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
# What stands in quotes is to be typed as it stands.
smartquotes = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
extensions += ["sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["__pycache__"]
# Headings are anchors, under the names that a forge gives them; links to none are warned of.
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
nitpicky = True
# torch has no index here; what is imported for its types alone keeps the name that it has there.
nitpick_ignore = [
    ("py:class", "nn.Module"),
    ("py:class", "skipstone.foreign.explain.evidence.Observation"),
    ("py:class", "skipstone.engine.loop.Loop"),
    ("py:class", "skipstone.engine.request.Done"),
    ("py:class", "skipstone.ops.model.reference.HeadNorms"),
    ("py:class", "skipstone.alike.Alike"),
    ("py:class", "SettingsFields"),
    ("py:class", "Geometry"),
    ("py:exc", "CancelledError"),
]

autosummary_generate = False
autodoc_default_options = {"undoc-members": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Where readers import a name from: it is documented there, whatever file it is written in.
HOMES = (
    "skipstone.record",
    "skipstone.diff",
    "skipstone.sweep",
    "skipstone.cache",
    "skipstone.skip",
    "skipstone.unmask",
    "skipstone.engine",
    "skipstone",
)


def publish() -> None:
    """Tell every public class and function that it lives where it is imported from."""
    for home in HOMES:
        module = importlib.import_module(home)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                value.__module__ = home


# Types of other packages, which this site does not describe.
ELSEWHERE = frozenset(("torch", "numpy", "np", "collections", "pathlib", "os", "types", "click"))
SHORT = frozenset(("Tensor", "Path", "Callable", "Sequence", "Iterator", "Mapping", "ndarray"))


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element
) -> nodes.Node | None:
    """Find what a docstring or a signature names in short; other packages are left as text."""
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py":
        return None
    last = target.rpartition(".")[2]
    if target.partition(".")[0] in ELSEWHERE or last in SHORT:
        return shown
    domain = env.domains.python_domain
    found = [name for name in domain.objects if name.rpartition(".")[2] == last]
    if len(found) != 1:
        return shown if is_alias(last) else None
    place, kind = str(node["refdoc"]), str(node["reftype"])
    return domain.resolve_xref(env, place, app.builder, kind, found[0], node, shown)


def is_alias(name: str) -> bool:
    """Whether a name stands for a type that has no page of its own: a union, or a few literals."""
    own = (module for path, module in sys.modules.items() if path.startswith("skipstone"))
    values = (vars(module)[name] for module in own if name in vars(module))
    return any(not inspect.isclass(value) for value in values)


def plain(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Keep napoleon from reading ``int64 [N]: positions`` as the type of an attribute."""
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(": ", " – ")


def setup(app: Sphinx) -> None:
    """Publish names before they are read, and resolve short ones."""
    publish()
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", plain, priority=1)
