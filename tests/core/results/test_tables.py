"""One table in each layout."""

from __future__ import annotations

from sidetune_core.results.tables import aligned, comma_separated, latex, markdown

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
