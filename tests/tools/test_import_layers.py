"""The picture of the architecture is that of the import contracts."""

from tools.import_layers import PAGE, layers, page, subject

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_shows_the_contracts() -> None:
    assert page(TEXT) == TEXT, "make docs"


def test_a_picture_altered_by_hand_is_seen_and_mended() -> None:
    altered = TEXT.replace("<!-- layers -->\n```\n__main__", "<!-- layers -->\n```\nsomewhere")
    assert page(altered) == TEXT != altered


def test_each_layer_says_what_it_is() -> None:
    assert all(subject(module) for layer in layers() for module in layer)
