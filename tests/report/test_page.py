"""The page: self-contained, escaped, well-formed, with the pictures' own bytes in it."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.evaluation import Criterion, Estimate, Table
from score_lab.report import Page, save_samples, versions

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Checks that tags close in order; keeps cells and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.sources, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.sources += [value for name, value in attrs.items() if name in ("src", "href")]
        if tag == "td":
            self.cells.append(attrs.get("class"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(tmp_path):
    table = Table([Criterion("agreement", ">= 0.9", lambda v: v >= 0.9)], ["classifier <SVC>"])
    table.add({"sampler": "DDIM <0>"}, {"agreement": Estimate(0.95, 0.9, 0.99, 100), "frechet": Estimate(1.5, 1.0, 2.0, 100)})
    table.add({"sampler": "Euler"}, {"agreement": Estimate(0.5, 0.4, 0.6, 100)})
    picture = save_samples(tmp_path / "a.png", {"p": np.zeros((3, 8, 8, 1), np.float32)})
    page = Page("Digits & noise", 'lead with "quotes"').section("Samples", "a < b").picture(picture, 'what "you" see & <why>').table(table)
    return picture, page.commands(["make digits", "python -m x --a=1 > out"]).write(tmp_path / "new" / "report.html")


def read(file):
    reader = Reader()
    reader.feed(file.read_text(encoding="utf-8"))
    assert not reader.open
    return reader


def test_nothing_is_fetched_and_the_picture_is_inside(page):
    picture, file = page
    reader = read(file)
    assert len(reader.sources) == 1
    head, data = reader.sources[0].split(",")
    assert head == "data:image/png;base64" and base64.b64decode(data) == picture.read_bytes()
    assert not re.search(r"https?://|<script|@import|url\(", file.read_text())


def test_text_is_escaped_and_cells_say_whether_they_are_met(page):
    reader = read(page[1])
    text = "".join(reader.text)
    for part in ("Digits & noise", 'lead with "quotes"', "a < b", "DDIM <0>", "classifier <SVC>", "=1 > out", "0.95", "[0.9, 0.99]", "–"):
        assert part in text
    assert reader.cells == [None, "met", None, None, "missed", None]


def test_versions_name_what_made_it_and_no_machine(page):
    import jax

    found = versions()
    assert found["jax"] == jax.__version__ and found["devices"] == "4 x cpu"
    assert f"jax {jax.__version__}" in page[1].read_text()


def test_a_picture_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    for name in ("a.png", "missing.png"):
        with pytest.raises(ConfigError, match="PNG"):
            Page("x").picture(tmp_path / name)
