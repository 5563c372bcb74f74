"""One cause is one failure."""

from __future__ import annotations

from sidetune_core.testing.findings import SEED, Broken, Finding, Make, examine, report, requires


def make(seed: int = SEED) -> int:
    return 3


def breaks(make: Make[int]) -> None:
    raise Broken("odd; make it even")


@requires("breaks")
def depends(make: Make[int]) -> None:
    raise Broken("cannot be halved")


@requires("depends")
def depends_on_that(make: Make[int]) -> None:
    raise Broken("cannot be quartered")


def repeats(make: Make[int]) -> None:
    raise Broken("odd; make it even")


def by_check(*checks: object) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine({"": make}, checks)}  # type: ignore[arg-type]


def test_a_check_is_not_run_where_its_requirement_fails() -> None:
    finding = by_check(breaks, depends)["depends"]
    assert finding.skipped
    assert finding.message == "not run, since 'breaks' fails"


def test_requirements_of_requirements_count() -> None:
    assert by_check(breaks, depends, depends_on_that)["depends_on_that"].message.endswith("'breaks' fails")


def test_a_failure_with_the_message_of_an_earlier_one_is_skipped() -> None:
    found = by_check(breaks, repeats)
    assert not found["breaks"].passed
    assert found["repeats"].outcome == "skipped"


def test_a_failed_requirement_of_another_setup_does_not_matter() -> None:
    def even(seed: int = SEED) -> int:
        return 2

    def is_even(make: Make[int]) -> None:
        if make() % 2:
            raise Broken("odd")

    @requires("is_even")
    def fails(make: Make[int]) -> None:
        raise Broken("never")

    found = {finding.check: finding for finding in examine({"two": even, "three": make}, [is_even, fails])}
    assert found["fails"].message == "two: never"


def test_the_last_line_of_a_report_says_what_was_not_checked() -> None:
    unfit = Finding("it_fits", True, "on maps: does not fit: needs (C,)", skipped=True)
    assert report([unfit], ("a real GPU",)).splitlines()[-1] == (
        "not checked: a real GPU; it fits (on maps: does not fit: needs (C,))"
    )
