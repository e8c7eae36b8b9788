"""The report as Markdown."""

import re

from hypothesis import given
from hypothesis import strategies as st

from pipeline.results.text import in_markdown


@given(st.text(alphabet="<>|`*_[]()#a\n \\"))
def test_markdown_cells_stay_in_their_cell(value):
    found = in_markdown(value)
    assert "\n" not in found and "<" not in found and not re.search(r"(?<!\\)(\\\\)*\|", found)
