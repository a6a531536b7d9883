"""Check that links within the built site, anchors and pictures lead somewhere: python docs/check_links.py docs/site.

Sphinx's own linkcheck looks at what it writes itself; this looks at the pages as a browser does.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The targets of a page's links, and the places that links can lead to."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.targets |= {attributes[name] for name in ("href", "src") if attributes.get(name)}
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}


def main(site):
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            known = pages[file].anchors if file in pages else set()
            if not file.exists() or (parts.fragment and file in pages and unquote(parts.fragment) not in known):
                broken.append(f"{path.relative_to(site.resolve())}: {target}")
    n_links = sum(len(page.targets) for page in pages.values())
    print(f"{len(pages)} pages, {n_links} links, {len(broken)} broken", *broken, sep="\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
