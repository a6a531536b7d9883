"""How Sphinx builds the site: ``sphinx-build -W docs docs/site``."""

import re

from docutils import nodes

import torchpoly

project = "torchpoly"
author = "The torchpoly developers"
project_copyright = author
version = release = torchpoly.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "site",
    "examples",
    "sg_execution_times.rst",
    "gallery/sg_execution_times.rst",
    "gallery/**/*.ipynb",
]
nitpicky = True
default_role = "literal"

# Sphinx checks references itself; what is left are files. Other sites may be down, which is no error of ours.
linkcheck_ignore = ["https?://.*"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 10_000,
    "capture_repr": (),
}

html_theme = "pydata_sphinx_theme"
html_title = f"torchpoly {version}"
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "torchpoly"},
    "navigation_depth": 2,
    "show_toc_level": 2,
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "tango",
}
html_sidebars = {
    name: []
    for name in ["index", "get_started", "textbook", "how_it_works", "faq", "contributing", "words", "changelog"]
}

# Where other projects document their names. Links are made here, not from inventories that intersphinx would download,
# so that the site builds without a network and a name that is in none of these pages is an error.
PAGES = {
    r"sklearn\..*": "https://scikit-learn.org/stable/modules/generated/{}.html",
    r"matplotlib\.axes\.Axes\..*": "https://matplotlib.org/stable/api/_as_gen/{}.html",
    r"torch\.(nn|optim)": "https://docs.pytorch.org/docs/stable/{1}.html",
    r"torch\.nn\..*": "https://docs.pytorch.org/docs/stable/generated/{}.html",
    r"torch\.optim\..*": "https://docs.pytorch.org/docs/stable/optim.html#{}",
    r"torch\.export\.export": "https://docs.pytorch.org/docs/stable/export.html",
}


def link_elsewhere(app, env, node, content):
    """Return a link for a reference to a name of another project."""
    for pattern, page in PAGES.items():
        match = re.fullmatch(pattern, node.get("reftarget", ""))
        if match:
            reference = nodes.reference("", "", internal=False, refuri=page.format(match[0], *match.groups()))
            reference.append(content)
            return reference
    return None


def setup(app):
    app.connect("missing-reference", link_elsewhere)
