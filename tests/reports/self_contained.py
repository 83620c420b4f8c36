"""Read a page as a browser would: its addresses, its words, and the numbers of its tables."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Every address of a page, its text, its images' descriptions, its `data` values, and whether its tags match."""

    VOID = frozenset({"meta", "img", "input", "br"})

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.alts, self.words, self.open, self.tags, self.values = [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[key] for key in ("src", "href", "xlink:href", "data-sheet") if key in attributes]
        if tag == "img":
            self.alts.append(attributes.get("alt"))
        if tag == "data":
            self.values.append(float(attributes["value"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read_alone(text: str) -> Page:
    """Read a page, and check that it needs nothing outside it."""
    page = Page(text)
    assert not page.open, "every tag is closed"
    assert page.addresses and all(address.startswith(("data:", "#")) for address in page.addresses)
    outside = re.sub(r"data:[\w/]+;base64,[\w+/=]*", "", text)
    assert not re.search(r"https?://|//\w+\.\w|@import|url\((?!#)", outside)
    assert not set(page.tags) & {"link", "iframe", "object", "embed", "base"}
    return page
