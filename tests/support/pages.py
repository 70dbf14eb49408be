"""Pages as a browser reads them: what they load, what they run, what they hold."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlsplit

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}

_ADDRESSES = ("src", "href", "action", "formaction", "poster", "hx-get", "hx-post", "hx-sse:connect")
_VOID = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")


@dataclass
class Element:
    """A tag with what it encloses."""

    tag: str
    attributes: Mapping[str, str | None]
    text: str = ""
    inside: "list[Element]" = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name) or ""

    def __iter__(self) -> "Iterator[Element]":
        """This one and all within, in the order of the page."""
        yield self
        for one in self.inside:
            yield from one

    @property
    def words(self) -> str:
        """All its text, spaces made one."""
        return " ".join(self.text.split())

    def find(self, tag: str | None = None, **attributes: str) -> "list[Element]":
        """All such elements; `id="x"` and the like are compared whole, `class_` by one of its names."""
        named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            one
            for one in self
            if tag in (None, one.tag)
            and all(
                value in one[name].split() if name == "class" else one[name] == value
                for name, value in named.items()
            )
        ]

    def one(self, tag: str | None = None, **attributes: str) -> "Element":
        """The only such element."""
        [found] = self.find(tag, **attributes)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        assert len(element.attributes) == len(attrs), f"an attribute twice: {self.get_starttag_text()}"
        self.open[-1].inside.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>, line {self.getpos()[0]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def read(html: str) -> Element:
    """The page; every tag must be closed by its own end."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is never closed"
    return reader.open[0]


def offences(html: str) -> list[str]:
    """What our Content-Security-Policy would stop, or what another host would learn of."""
    found = []
    for element in read(html):
        if element.tag == "style" or (element.tag == "script" and (element.text or not element["src"])):
            found.append(f"<{element.tag}> with content")
        for name, value in element.attributes.items():
            if name == "style" or name.startswith(("on", "hx-on")):
                found.append(f"{element.tag} {name}={value}")
            if name in _ADDRESSES and not is_local(value or ""):
                found.append(f"{element.tag} {name}={value}")
    return found


def is_local(address: str) -> bool:
    """Whether a browser would ask our own host."""
    parts = urlsplit(address)
    return not parts.scheme and not parts.netloc and re.match(r"[/\\]{2}", address) is None


def fields(form: Element) -> dict[str, str | list[str]]:
    """What a browser would send of a form that nobody has touched."""
    sent: dict[str, str | list[str]] = {}
    for element in form:
        name = element["name"]
        if not name or "disabled" in element.attributes:
            continue
        if element.tag == "select":
            options = element.find("option")
            chosen = [one for one in options if "selected" in one.attributes] or options[:1]
            assert len(chosen) == 1, f"{name} has {len(chosen)} choices at once"
            sent[name] = chosen[0]["value"] if "value" in chosen[0].attributes else chosen[0].words
        elif element["type"] == "checkbox":
            boxes = sent.setdefault(name, [])
            if "checked" in element.attributes and isinstance(boxes, list):
                boxes.append(element["value"])
        elif element.tag == "textarea":
            sent[name] = element.text
        elif element.tag == "input":
            sent[name] = element["value"]
    return sent


def messages(parts: Iterable[str]) -> Iterator[dict[str, str]]:
    """Server-sent events as the HTML standard reads them, however the text is cut into parts."""
    lines: list[str] = []
    rest = ""
    for part in parts:
        *whole, rest = re.split(r"\r\n|\r|\n", rest + part)
        for line in whole:
            if line:
                lines.append(line)
                continue
            found: dict[str, str] = {}
            for name, _, given in (one.partition(":") for one in lines if not one.startswith(":")):
                value = given.removeprefix(" ")
                found[name] = f"{found[name]}\n{value}" if name == "data" and name in found else value
            lines = []
            if "data" in found:
                yield found
