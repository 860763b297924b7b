"""A few SVG shapes. Colours and fonts come from the report's style sheet, by class."""

from xml.etree import ElementTree

from markupsafe import Markup

from adaptvis.evaluation.report.text import one_line

__all__ = ["Drawing"]


class Drawing:
    """An SVG picture of fixed proportions; units are its own pixels, the origin is top left.

    label: what it shows, for readers who do not see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self._root = ElementTree.Element(
            "svg",
            {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": one_line(label)},
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self._add("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(
        self, x: float, y: float, width: float, height: float, css: str, title: str = ""
    ) -> None:
        self._add("rect", css, title, x=x, y=y, width=max(width, 0), height=height)

    def circle(self, x: float, y: float, radius: float, css: str, title: str = "") -> None:
        self._add("circle", css, title, cx=x, cy=y, r=radius)

    def path(self, points: list[tuple[float, float]], css: str) -> None:
        """An open line through the points."""
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        ElementTree.SubElement(self._root, "polyline", {"class": css, "points": text})

    def text(
        self, x: float, y: float, text: str, css: str = "", anchor: str = "start", turn: float = 0
    ) -> None:
        attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": css}
        if turn:
            attributes["transform"] = f"rotate({turn:g} {x:.1f} {y:.1f})"
        ElementTree.SubElement(self._root, "text", attributes).text = one_line(text)

    def svg(self) -> Markup:
        """The picture as it stands in a page; the library has escaped all texts."""
        return Markup(ElementTree.tostring(self._root, encoding="unicode", method="html"))

    def _add(self, tag: str, css: str, title: str = "", **numbers: float) -> None:
        attributes = {name: f"{value:.1f}" for name, value in numbers.items()}
        element = ElementTree.SubElement(self._root, tag, {"class": css, **attributes})
        if title:
            ElementTree.SubElement(element, "title").text = one_line(title)
