"""Sphinx: the pages as they stand on GitHub, and what stage.py makes. Built by scripts/site."""

import os

import unicon_align

project = "UniCon"
version = release = unicon_align.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "breathe"]
breathe_projects = {"unicon": os.environ["UNICON_DOXYGEN_XML"]}
breathe_domain_by_extension = {"h": "c"}
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "docs/*.md", "docs/reference/*", "docs/notebooks/*.md", "python/README.md", "ffi-examples/*/README.md",
                    "data/digits_halves/ATTRIBUTION.md", "data/icons/README.md", "fuzz/README.md", "tests/cuda_standin/README.md"]
html_theme = "alabaster"
html_title = "UniCon"
html_theme_options = {"description": "Closed-form contrastive alignment", "page_width": "1150px", "sidebar_width": "260px"}
# Anchors of headings as GitHub makes them.
myst_heading_anchors = 4
# The package is read without these.
autodoc_mock_imports = ["torch", "sklearn", "tqdm"]
autodoc_member_order = "bysource"
# Blocks in the languages of this project that Pygments does not know stay plain.
# In C a struct and a function may have one name (unicon_pairs), and a field and a parameter of theirs too.
suppress_warnings = ["misc.highlighting_failure", "myst.header", "duplicate_declaration.c"]
