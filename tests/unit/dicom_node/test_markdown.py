"""Model cards as blocks: what is known becomes structure, what is not stays text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.web.markdown import Block, Span, blocks, spans


def _text(block: Block) -> str:
    return "".join(span.text for span in block.spans)


def test_every_kind_of_block_of_a_card() -> None:
    card = (
        "# unet 1.0\n\n**Research use only.** Not more\nthan that.\n\n- first `a*b`,\n  going on\n"
        "- second\n\n| Figure | Value |\n|---|---:|\n| Dice | 0.7 |\n\n    make it\n      again\n"
    )
    heading, paragraph, bullets, table, code = blocks(card)
    assert (heading.kind, heading.level, _text(heading)) == ("heading", 1, "unet 1.0")
    assert paragraph.spans == (
        Span("strong", "Research use only."),
        Span("text", " Not more than that."),
    )
    assert bullets.items == (
        (Span("text", "first "), Span("code", "a*b"), Span("text", ", going on")),
        (Span("text", "second"),),
    )
    assert table.rows == (
        ((Span("text", "Figure"),), (Span("text", "Value"),)),
        ((Span("text", "Dice"),), (Span("text", "0.7"),)),
    )
    assert code.text == "make it\n  again"


def test_markup_links_and_pictures_are_text() -> None:
    hostile = "<script>alert(1)</script> [x](javascript:alert(1)) ![y](http://z)"
    (block,) = blocks(hostile)
    assert block.spans == (Span("text", hostile),)


def test_headings_stand_for_themselves() -> None:
    assert [(each.kind, _text(each)) for each in blocks("# a\n# b\nc")] == [
        ("heading", "a"),
        ("heading", "b"),
        ("paragraph", "c"),
    ]


def test_spans_that_are_not_closed_are_text() -> None:
    assert spans("a ** b ` c") == (Span("text", "a ** b ` c"),)


@pytest.mark.parametrize("name", ["unet", "adversarial-unet", "two-step"])
def test_shipped_cards_lose_nothing(repository: Path, name: str) -> None:
    card = (repository / "worker" / "bundles" / name / "docs" / "README.md").read_text()
    found = blocks(card)
    assert {each.kind for each in found} >= {"heading", "paragraph", "bullets", "table", "code"}
    pieces = [span.text for each in found for span in each.spans]
    pieces += [span.text for each in found for item in each.items for span in item]
    pieces += [span.text for it in found for row in it.rows for cell in row for span in cell]
    pieces += [each.text for each in found]
    words = set(" ".join(pieces).split())
    for word in card.replace("**", " ").replace("`", " ").replace("|", " ").split():
        is_mark = not word.strip("#-:")
        assert is_mark or word in words or any(word in each for each in words), word


@given(st.text(alphabet="ab *`|-#\n ", max_size=200))
def test_any_text_is_understood_somehow(text: str) -> None:
    blocks(text)
