"""Pages of the report, taken apart as a browser would.

Owns the parsing. Fails on markup that does not close what it opened.
"""

import functools
from html.parser import HTMLParser

from loadtest.measuring.figures import Figures
from loadtest.output.report import render
from tests.loadtest.reports import failing, point, report

HOSTILE = """<script>alert("&amp;'")</script> $x_$ & </svg></title>"""
SWEEP = report(point(1), point(8, per_s=400.0), failing(32))
VOID = {"meta", "link", "br"}
Attributes = list[tuple[str, str | None]]


class Page(HTMLParser):
    """What a reader finds in the page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.lines: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    @property
    def images(self) -> list[str]:
        """What is told of each image to those who can't see it."""
        return [" ".join(found["aria-label"].split()) for _, found in self.tags if found.get("role") == "img"]

    def all(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [found[attribute] for _, found in self.tags if attribute in found]

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag == "li":
            self.lines.append("")

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data
        if "li" in self._open:
            self.lines[-1] += data


@functools.cache
def sweep() -> str:
    """The page of a run over three loads."""
    return render(SWEEP)


def page(*points: Figures, **changes: object) -> Page:
    """The page of a run over these points."""
    return Page(render(report(*points, **changes)))
