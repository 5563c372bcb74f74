"""One table in each layout."""

from __future__ import annotations

import pytest

from sidetune_core.results.tables import (
    aligned,
    comma_separated,
    latex,
    latex_comment,
    markdown,
    markdown_code,
)

TABLE = [["name", "value\n(2017)"], ["first", "1"], ["b_2 & c", "-10 ± 0.5 %"]]


def test_text_has_aligned_columns_and_headers() -> None:
    assert aligned(TABLE).splitlines() == [
        "               value",
        "name          (2017)",
        "first              1",
        "b_2 & c  -10 ± 0.5 %",
    ]


def test_markdown_aligns_numbers_right() -> None:
    assert markdown(TABLE).splitlines()[:2] == ["| name | value (2017) |", "| :--- | ---: |"]


def test_latex_is_a_booktabs_table_with_special_characters_escaped() -> None:
    assert latex(TABLE).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r" & value \\",
        r"name & (2017) \\",
        r"\midrule",
        r"first & 1 \\",
        r"b\_2 \& c & $-$10 $\pm$ 0.5 \% \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_backslash_is_escaped_once() -> None:
    assert r"a\textbackslash{}b\textasciicircum{}c" in latex([["x"], [r"a\b^c"]])


def test_a_name_that_begins_with_a_hyphen_is_no_negative_number() -> None:
    assert "\n-x \\\\\n" in latex([["name"], ["-x"]])


def test_csv_holds_plain_values_and_leaves_unknown_ones_empty() -> None:
    assert comma_separated([["a", "b"], ["x, y", None], ["z", 1 / 3]]) == 'a,b\n"x, y",\nz,0.3333333333333333'


EVIL = "a\x1b[2J|`<b>](x)\n\u202e"


def test_cells_of_others_stay_in_their_cells() -> None:
    table = [["name"], [EVIL]]
    assert aligned(table).splitlines()[1:] == [r"a\x1b[2J|`<b>](x)\n\u202e"]
    assert markdown(table).splitlines()[2] == r"| a\\x1b[2J\|\`&lt;b>]\(x) \\u202e |"
    assert comma_separated(table).splitlines()[1] == r"a\x1b[2J|`<b>](x)\n\u202e"
    assert r"a\textbackslash{}x1b[2J|`<b>](x)\textbackslash{}n\textbackslash{}u202e" in latex(table)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_formula_is_text_in_csv(text: str) -> None:
    assert comma_separated([["name", "value"], [text, -1.5]]).splitlines()[1] == f"'{text},-1.5"


def test_a_comment_ends_with_its_line() -> None:
    assert latex_comment("a\n\\input{/etc/passwd}") == r"% a\n\input{/etc/passwd}"


def test_code_of_others_ends_where_it_should() -> None:
    assert (markdown_code("a"), markdown_code("a`b")) == ("`a`", "`` a`b ``")
