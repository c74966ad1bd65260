"""Checks that every link within the built pages leads to a page, and to a place in it.

usage: links.py FOLDER
"""

import html.parser
import pathlib
import sys
import urllib.parse


class Page(html.parser.HTMLParser):
    """Where a page leads, and the places in it."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}


def broken(folder: pathlib.Path) -> tuple[int, list[str]]:
    """The number of links of Sphinx's pages, and those that lead nowhere. rustdoc checks its own."""
    pages: dict[pathlib.Path, Page] = {}

    def page(path: pathlib.Path) -> Page:
        if path not in pages:
            pages[path] = Page(path)
        return pages[path]

    count, wrong = 0, []
    for path in sorted(folder.rglob("*.html")):
        if (folder / "rust") in path.parents:
            continue
        for link in page(path).links:
            target = urllib.parse.urlsplit(link)
            if target.scheme or target.netloc:
                continue
            count += 1
            to = (path.parent / urllib.parse.unquote(target.path)).resolve() if target.path else path.resolve()
            place = urllib.parse.unquote(target.fragment)
            if not to.is_file() or (place and to.suffix == ".html" and place not in page(to).places):
                wrong.append(f"{path.relative_to(folder)}: {link}")
    return count, wrong


def main() -> None:
    folder = pathlib.Path(sys.argv[1]).resolve()
    count, wrong = broken(folder)
    if wrong or not count:
        sys.exit("\n".join([f"{len(wrong)} of {count} links lead nowhere:", *wrong]))
    print(f"{count} links lead somewhere")


if __name__ == "__main__":
    main()
