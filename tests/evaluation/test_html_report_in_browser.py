"""The report as Chromium shows it: no script error, nothing hostile runs, examples browse."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluation.browser import Browser, find_chromium
from evaluation.hostile import hostile_report
from PIL import Image

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="needs a Chromium: apt-get install chromium, or name one in the variable CHROMIUM",
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    browser = Browser(CHROMIUM or "")
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser, report: Path) -> Browser:
    """The report, open on a wide screen, with the first picture painted."""
    chromium.resize(1280)
    chromium.open(report)
    chromium.wait_for("document.querySelector('#pictures canvas')?.width === 192")
    return chromium


def text(browser: Browser, selector: str) -> str:
    found = browser.evaluate(f"document.querySelector({selector!r}).textContent")
    assert isinstance(found, str)
    return found


def test_no_error_and_nothing_hostile_runs(browser: Browser) -> None:
    for _ in range(40):
        browser.press("ArrowRight")
    assert text(browser, "#position").startswith("32 of 32")
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert browser.problems() == []
    # Our own picture, and canvases; the attack's tags are words on the page.
    assert browser.evaluate("document.images.length") == 1
    assert browser.evaluate("document.scripts.length") == 2
    assert "<img src=x onerror=" in text(browser, "#answers")
    assert all(url.startswith(("file:", "data:")) for url in browser.requests())


def test_the_policy_stops_what_escaping_would_miss(browser: Browser) -> None:
    browser.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=4\">')"
    )
    browser.wait_for("true")
    browser.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in problem for problem in browser.problems())


def test_examples_browse(browser: Browser) -> None:
    first = text(browser, "#question")
    assert text(browser, "#position").startswith("1 of 32 · wrong to right (8 of 16 shown)")
    assert browser.evaluate("document.getElementById('previous').disabled")
    browser.evaluate("document.getElementById('next').click()")
    assert text(browser, "#question") != first
    browser.press("ArrowLeft")
    assert text(browser, "#question") == first
    choose(browser, "filter-direction", "right to wrong")
    assert text(browser, "#position").startswith("1 of 16 · right to wrong (8 of 8 shown)")
    assert "right" in text(browser, "#answers tbody tr:first-child")
    assert "wrong" in text(browser, "#answers tbody tr:last-child")
    categories = browser.evaluate("document.getElementById('filter-category').options.length")
    assert categories == 3
    browser.evaluate(
        "(() => { const s = document.getElementById('filter-category'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert text(browser, "#position").startswith("1 of 8")


def test_arrow_keys_belong_to_the_control_in_use(browser: Browser) -> None:
    browser.evaluate("document.getElementById('layer').focus()")
    browser.press("ArrowRight")
    assert text(browser, "#position").startswith("1 of")


def test_the_overlay_lies_where_the_attention_is(browser: Browser) -> None:
    # Unsteered looks at the left half, steered at the right one, with 60 % against 30 %.
    assert "30.0 % of the attention unsteered, 60.0 % steered" in text(browser, "#share")
    overlay(browser, "steered")
    assert opacity(browser, 0.25) == 0
    assert opacity(browser, 0.75) > 150
    overlay(browser, "unsteered")
    assert 50 < opacity(browser, 0.25) < 180
    assert opacity(browser, 0.75) == 0
    overlay(browser, "change")
    left, right = pixel(browser, 0.25), pixel(browser, 0.75)
    assert left[2] > left[0]
    assert right[0] > right[2]
    overlay(browser, "off")
    assert opacity(browser, 0.25) == opacity(browser, 0.75) == 0
    browser.evaluate(
        "(() => { const s = document.getElementById('layer'); s.value = 1;"
        "s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    assert "40.0 % of the attention unsteered, 80.0 % steered" in text(browser, "#share")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_and_follows_its_scheme(
    browser: Browser, report: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.resize(width, dark=dark)
    browser.open(report)
    browser.wait_for("document.querySelector('#pictures canvas')?.width === 192")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.screenshot(tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as shot:
        assert shot.width == width
        paper = shot.convert("L").getpixel((3, 3))
        assert isinstance(paper, int)
        assert (paper < 60) if dark else (paper > 200)
    small = browser.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map("
        "(t) => t.getBoundingClientRect().height))"
    )
    assert small > 7


def choose(browser: Browser, select: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const s = document.getElementById({select!r}); s.value = {value!r};"
        "s.dispatchEvent(new Event('change')); })()"
    )


def overlay(browser: Browser, kind: str) -> None:
    browser.evaluate(f"document.querySelector('input[value={kind}]').click()")


def pixel(browser: Browser, x: float) -> list[int]:
    found = browser.evaluate(
        "(() => { const c = document.querySelector('#pictures canvas');"
        f"return [...c.getContext('2d').getImageData({x} * c.width, 40, 1, 1).data]; }})()"
    )
    assert isinstance(found, list)
    return found


def opacity(browser: Browser, x: float) -> int:
    return pixel(browser, x)[3]
