"""Lays out what Sphinx reads: the project as it stands, reference pages, and the notebooks, which are run.

usage: stage.py PROJECT FOLDER, with UNICON_PROGRAM and UNICON_LIBRARY in the environment
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import nbclient
import nbconvert
import nbformat

PYTHON = """# Python reference

[docs/python.md](../python.md) is the way in.

```{eval-rst}
.. automodule:: unicon_align
   :members: Context, Model, Weights, PartialFit, Items, Positives, FitInfo, Digits, Error, Cancelled, load, loss, kernel, refine,
             minibatch, damping, digits, device_count, version

.. automodule:: unicon_align.sklearn
   :members:

.. automodule:: unicon_align.torch
   :members: ClipLoss, SigLipLoss, ContrastiveLoss, group
```
"""


def laid_out(project: pathlib.Path, folder: pathlib.Path) -> None:
    """A copy of everything but what is hidden or built: pages link to sources, too."""
    left_out = shutil.ignore_patterns(".*", "target", "__pycache__")
    shutil.copytree(project, folder, ignore=left_out, symlinks=True, dirs_exist_ok=True)
    (folder / "docs/reference").mkdir()
    # It links to the reference, which is not there without a build.
    (folder / "docs/site/index.md").rename(folder / "docs/index.md")


def command_line(program: str) -> str:
    """`unicon --help`, and that of every command."""

    def told(*arguments: str) -> str:
        text = subprocess.run([program, *arguments, "--help"], check=True, capture_output=True, text=True).stdout
        return "\n".join(line.rstrip() for line in text.rstrip().splitlines())

    first = told()
    commands = re.findall(r"(?m)^  ([a-z]+)  ", first.split("Commands:")[1].split("\n\n")[0])
    out = ["# Command line", "", "What `unicon --help` and `unicon COMMAND --help` print.", "", "```text", first, "```", ""]
    for command in commands:
        if command != "help":
            out += [f"## unicon {command}", "", "```text", told(command), "```", ""]
    return "\n".join(out)


def julia(folder: pathlib.Path) -> str:
    """The documentation strings of the Julia package, of what it exports."""
    text = "\n".join(path.read_text() for path in sorted(folder.glob("*.jl")) if path.name != "abi.jl")
    exported = set(re.findall(r"\w+!?", " ".join(re.findall(r"(?m)^export (.+)$", text))))
    out = ["# Julia reference", "", "The documentation strings of the package `UniCon`; `?fit` shows them in Julia, too. "
           "[Examples](../../ffi-examples/julia/README.md).", ""]
    documented = {}
    for words, after in re.findall(r'(?ms)^"""\n(.*?)^"""\n(.+?)$', text):
        name = re.search(r"(?:mutable struct|struct|module|function|const)?\s*(?:\w+\.)?(\w+!?)", after)
        if name and name[1] in exported:
            documented.setdefault(name[1], []).append(words)
    for name in sorted(documented, key=lambda name: (name[0].islower(), name)):
        out += [f"## {name}", ""]
        for words in documented[name]:
            # Signatures are indented; references to other names become plain.
            words = re.sub(r"\[(`[^`]+`)\]\(@ref\)", r"\1", words)
            signature = re.match(r"(?:    .*\n)+", words)
            if signature:
                lines = signature[0].rstrip().splitlines()
                out += ["```julia", *(line[4:] for line in lines), "```", ""]
                words = words[signature.end() :]
            out += [words.strip(), ""]
    return "\n".join(out)


def notebook(path: pathlib.Path) -> None:
    """Runs a notebook in its folder and puts what it shows beside it as a page; an error in it is one here."""
    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()
    exporter = nbconvert.MarkdownExporter()
    text, found = exporter.from_notebook_node(book, {"output_files_dir": f"{path.stem}_files"})
    for name, data in found["outputs"].items():
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(data)
    path.with_suffix(".md").write_text(text)


C = """# C reference

From `include/unicon.h`, by Doxygen. [Examples](../../ffi-examples/c/README.md).

```{eval-rst}
.. doxygenfile:: unicon.h
   :project: unicon
```
"""

RUST = """# Rust reference

<a href="../../rust/unicon/index.html">The crate's own documentation</a> (`cargo doc --no-deps --open` makes it from a checkout) begins with a map from
the paper's equations to functions. [The README](../../README.md#from-rust) has an example.
"""


def main() -> None:
    project, folder = map(pathlib.Path, sys.argv[1:])
    laid_out(project, folder)
    doxygen = folder / "doxygen"
    doxygen.mkdir()
    environment = {**os.environ, "UNICON_DOXYGEN": str(doxygen)}
    subprocess.run(["doxygen", "docs/site/Doxyfile"], cwd=folder, env=environment, check=True)
    pages = {
        "cli": command_line(os.environ["UNICON_PROGRAM"]),
        "c": C,
        "python": PYTHON,
        "julia": julia(project / "ffi-examples/julia/UniCon/src"),
        "rust": RUST,
    }
    for name, text in pages.items():
        (folder / f"docs/reference/{name}.md").write_text(text)
    for path in sorted((folder / "docs/notebooks").glob("*.ipynb")):
        notebook(path)


if __name__ == "__main__":
    main()
