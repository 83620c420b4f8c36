"""The pages in a browser: no error, nothing asked for outside the file, one cursor for all videos and curves."""

import asyncio

import pytest

from evaluation.second_curves import CURVES
from tests.fakes.films import write_film
from tests.reports import chromium
from tests.reports.judged import judge_folders, moving_square
from tests.reports.test_paper_report import paper_page
from tests.reports.test_run_report import make_arms, page

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(chromium.FOUND is None, reason="no chromium on this machine: apt-get install chromium"),
]
VIEWS = [(1280, False), (1280, True), (390, False), (390, True)]
PLACES = "[...document.querySelectorAll('video')].map((video) => video.currentTime)"
CURSORS = "[...document.querySelectorAll('.cursor')].map((line) => Number(line.getAttribute('x1')))"
PIXELS = "[...document.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL())"
VALUES = "[...document.querySelectorAll('.values output')].map((output) => output.textContent)"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two methods with two films of six seconds each."""
    folder = tmp_path_factory.mktemp("films")
    for method, fade in (("steady", 0.0), ("fading", 0.8)):
        (folder / method).mkdir()
        for i in range(2):
            write_film(folder / method / f"{i}.mp4", moving_square(72, 96, 128 + 16 * i, fade), 12)
    judge_folders({"steady": folder / "steady", "fading": folder / "fading"}, folder / "out")
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """The demo's page."""
    folder = tmp_path_factory.mktemp("sheets")
    page(folder, make_arms())
    return folder / "report.html"


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The page of the paper's table."""
    return paper_page(tmp_path_factory.mktemp("paper"))[1]


def in_browser(tmp_path, path, width, dark, check):
    async def look():
        async with chromium.tab(tmp_path / "browser") as tab:
            await tab.show(path, width, 900, dark)
            await check(tab)
            assert not tab.errors and all(url.startswith(("file:", "data:", "blob:")) for url in tab.requests)

    asyncio.run(asyncio.wait_for(look(), 240))


@pytest.mark.parametrize(("width", "dark"), VIEWS)
@pytest.mark.parametrize("kind", ["films", "sheets", "paper"])
def test_the_page_fits_the_window_and_follows_light_and_dark(kind, width, dark, tmp_path, request):
    async def check(tab):
        assert await tab.run("document.documentElement.scrollWidth") == width
        red = await tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(red) < 64) == dark
        await tab.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 20_000

    in_browser(tmp_path, request.getfixturevalue(kind), width, dark, check)


def test_playing_moves_every_film_and_the_cursor_of_every_chart(films, tmp_path):
    async def check(tab):
        await tab.until("[...document.querySelectorAll('video')].every((video) => video.readyState >= 3)")
        before = await tab.run(VALUES)
        await tab.run("document.getElementById('toggle').click()")
        await tab.until(f"{PLACES}.every((time) => time > 1.5) && {CURSORS}.every((x) => x > 250)")
        await tab.run("document.getElementById('toggle').click()")
        await tab.until("[...document.querySelectorAll('video')].every((video) => video.paused && !video.seeking)")
        now = await tab.run("Number(document.getElementById('time').value)")
        assert await tab.run(PLACES) == pytest.approx([now] * 4, abs=0.126)
        assert await tab.run(VALUES) != before

    in_browser(tmp_path, films, 1280, False, check)


def test_charts_keys_slider_and_buttons_move_the_same_cursor(films, tmp_path):
    async def check(tab):
        await tab.until("[...document.querySelectorAll('video')].every((video) => video.readyState >= 3)")
        await tab.run("document.querySelector('.plot').scrollIntoView({block: 'center'})")
        x, y = await tab.run("""(() => { const box = document.querySelector('.plot').getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2]; })()""")
        await tab.click(x, y)
        at_rest = "[...document.querySelectorAll('video')].every((video) => !video.seeking)"
        for act, time in (
            (None, 3.0),
            (lambda: tab.press("ArrowRight"), 4.0),
            (lambda: tab.press("ArrowLeft"), 3.0),
            (lambda: tab.run("document.querySelector('[data-stop=\"2.0\"]').click()"), 2.0),
            (
                lambda: tab.run(
                    "(s => {s.value = 5; s.dispatchEvent(new Event('input'))})(document.getElementById('time'))"
                ),
                5.0,
            ),
        ):
            if act:
                await act()
            await tab.until(f"{at_rest} && {PLACES}.every((place) => Math.abs(place - {time}) < 0.13)")
            assert await tab.run(CURSORS) == pytest.approx([1000 * time / 6] * len(CURVES), abs=3)

    in_browser(tmp_path, films, 390, False, check)


def test_a_chosen_video_shows_its_own_lines_and_values(films, tmp_path):
    async def check(tab):
        await tab.run("(v => {v.value = '2'; v.dispatchEvent(new Event('change'))})(document.getElementById('view'))")
        seen = "[...document.querySelectorAll('[data-view]')].filter((g) => getComputedStyle(g).display !== 'none')"
        assert await tab.run(f"{seen}.map((g) => g.dataset.view).join()") == ",".join("2" * len(CURVES))
        own = await tab.run("data.values.luma[2].map((line) => String(Number(line[0].toPrecision(3))))")
        assert (await tab.run(VALUES))[:2] == own

    in_browser(tmp_path, films, 1280, True, check)


def test_playing_moves_every_sheet_and_a_chart_moves_it_back(sheets, tmp_path):
    async def check(tab):
        await tab.until(f"new Set({PIXELS}).size === 8")  # all are black before their sheet is decoded
        first = await tab.run(PIXELS)
        await tab.press(" ")
        await tab.until(f"{CURSORS}.every((x) => x > 100)")
        await tab.press(" ")
        moved = await tab.run(PIXELS)
        assert len(moved) == 24 and all(a != b for a, b in zip(first, moved, strict=True))
        await tab.run("stop(0)")
        assert await tab.run(PIXELS) == first
        assert "horizon" in await tab.run("document.getElementById('clock').textContent")

    in_browser(tmp_path, sheets, 1280, False, check)
