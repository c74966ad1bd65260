"""Lays out what Sphinx reads: the project as it stands, and reference pages of the program, the C header and the Python package.

usage: stage.py PROJECT FOLDER, with UNICON_PROGRAM in the environment
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

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


def prose(comment: str) -> str:
    """A Doxygen comment as Markdown."""
    lines = [re.sub(r"^\s*\* ?", "", line) for line in comment.strip().splitlines()]
    text = "\n".join(lines).strip()
    text = re.sub(r"@code(?:\{\.(\w+)\})?\n(.*?)@endcode", lambda m: f"```{m[1] or 'text'}\n{m[2]}```", text, flags=re.S)
    text = re.sub(r"(?m)^@par (.+)$", r"\n**\1.**\n", text)
    text = re.sub(r"(?m)^@param(?:\[(?:in|out|in,out)\])? (\w+)", r"- `\1`:", text)
    text = re.sub(r"(?m)^@return\b", "- Returns", text)
    text = re.sub(r"(?m)^@(?:brief|file \S+|note|warning)\s*", "", text)
    return re.sub(r"::(\w+)", r"`\1`", text)


def declaration(lines: list[str]) -> str:
    """The lines up to the end of what the first of them begins: a definition, a prototype, a macro."""
    depth, taken = 0, []
    for line in lines:
        taken.append(line)
        depth += line.count("{") - line.count("}")
        if depth == 0 and (line.rstrip().endswith((";", "}")) or line.startswith("#define") and not line.endswith("\\")):
            break
    return "\n".join(taken)


def header(path: pathlib.Path) -> str:
    """unicon.h: the conventions, and every declaration with its comment."""
    text = path.read_text()
    out = ["# C reference", "", "From `include/unicon.h`. [Examples](../../ffi-examples/c/README.md).", "",
           prose(text[text.index("/**") + 3 : text.index("*/")]), ""]
    body = text[text.index('extern "C"') :]
    # Comments that begin a line; those within a struct are indented and stay where they are.
    for match in re.finditer(r"^/\*\*(?!<)(.*?)\*/", body, flags=re.S | re.M):
        comment, after = match[1].strip(), body[match.end() :].lstrip("\n").splitlines()
        section = re.match(r"@name (.+)", comment)
        if section:
            out += [f"## {section[1].strip()}", ""]
        elif comment[0] != "@":
            declared = declaration(after)
            # A type of functions, any other type, a macro, a function.
            names = [r"^typedef [^{]*?\(\*(\w+)\)", r"^typedef .*\b(\w+);\Z", r"^(?:enum|struct|#define) (\w+)", r"\b(unicon_\w+)\s*\("]
            title = next(found for name in names if (found := re.search(name, declared, flags=re.S)))
            out += [f"### {title[1]}", "", "```c", declared, "```", "", prose(comment), ""]
    return "\n".join(out)


def main() -> None:
    project, folder = map(pathlib.Path, sys.argv[1:])
    laid_out(project, folder)
    pages = {"cli": command_line(os.environ["UNICON_PROGRAM"]), "c": header(project / "include/unicon.h"), "python": PYTHON}
    for name, text in pages.items():
        (folder / f"docs/reference/{name}.md").write_text(text)


if __name__ == "__main__":
    main()
