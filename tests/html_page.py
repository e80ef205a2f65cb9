"""HTML pages in tests."""

import html.parser


class Checker(html.parser.HTMLParser):
    """Asserts that every tag is closed, and collects what the page refers to."""

    VOID = frozenset(["meta", "img", "br", "link", "input", "hr"])

    def __init__(self):
        super().__init__()
        self.open, self.references, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
