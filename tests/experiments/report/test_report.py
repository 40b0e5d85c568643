"""The report: what stands in it, and that it works in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.command.program import guarded
from experiments.report import __main__ as command
from experiments.report import gallery as images_page
from experiments.report import page as report
from experiments.store.reading import read_results
from suny import plots
from suny.bivariate import bivariate
from tests.cells import change_record, write_cell
from tests.gates import HANG

SCRIPT = "</script><script>document.title='broken'</script>"
HOSTILE = f"<img src=x onerror=document.title='broken'>{SCRIPT}&amp;\u2028"

CLASSES = ("cat", HOSTILE.replace("/", "|"))  # a folder's name has no slash

# the stored ramp of eight columns as it is seen, bilinear: its ends are the middles of the outer columns
RAMP = np.interp(np.clip((np.arange(224) + 0.5) / 28 - 0.5, 0, 7), np.arange(8), np.linspace(1, 0, 8))

# p while the 0, 50, 100 % most salient pixels are removed: .8 * (1 - N); or alone kept: .8 * S
NECESSITY = [0.0, 0.5, 1.0]
SUFFICIENCY = [0.0, 0.25, 1.0]


def curve(values: list[float]) -> dict[str, list[float]]:
    return {"value": values, "fraction": [0.0, 0.5, 1.0]}


METHODS = ("gradcam", "suny", "center")
# as many as a page of a large comparison has
MANY = (*METHODS, "rise", "scorecam", "groupcam", "layercam", "hirescam", "suny_semi", "edges")


def make_results(root: Path, count: int = 6, methods: Sequence[str] = METHODS) -> Path:
    """Cells of photographs that are there, with maps whose left half is the more salient; image-002 is a wrong class."""
    for i in range(count):
        folder = root / "photos" / CLASSES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (256, 256), (200, 40 + i % 200, 40)).save(folder / f"photo-{i:04d}.png")
    names = sorted(f"{CLASSES[i % 2]}/photo-{i:04d}" for i in range(count))
    data = ("dataset=imagefolder", f"dataset.root={root / 'photos'}", "maps=true")
    ramp = np.tile(np.linspace(1, 0, 8, dtype=np.float32), (8, 1))
    for shift, method in enumerate(methods):
        values = [0.1 * shift + 0.01 * i * (1 + shift) for i in range(count)]
        found: dict[str, list[Any]] = {"deletion": values, "overall": [1 - v for v in values]}
        curves = [{"necessity": curve(NECESSITY), "sufficiency": curve(SUFFICIENCY)}] * count
        records = {
            "curves": curves,
            "predicted": [0 if i == 2 else 1 for i in range(count)],
            "target": [0 if i == 2 else 1 for i in range(count)],
        }
        folder = write_cell(root / "results", method, found, overrides=data, records=records, names=names)
        _rewrite_digest(folder, root / "photos")
        for name in names:
            path = folder / "maps" / f"{name}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sides = {"necessity": ramp, "sufficiency": ramp[:, ::-1]} if method.startswith("suny") else {}
            np.savez_compressed(path, saliency=np.roll(ramp, shift, 1) if shift == 2 else ramp, **sides)
    return root / "results"


def _rewrite_digest(folder: Path, photos: Path) -> None:
    """The card's list of images is that of the photographs."""
    from suny.images.imagefolder import ImageFolder

    digest = ImageFolder(name="imagefolder", root=str(photos)).load().digest
    card = (folder / "card.yaml").read_text()
    (folder / "card.yaml").write_text(re.sub(r"(images:\n    count: \d+\n    sha256: )\w+", rf"\g<1>{digest}", card))


def pieces(page: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The page's data, and what each image has apart."""
    scripts = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page, re.S)
    assert scripts[0][0] == "data"
    return json.loads(scripts[0][1]), [json.loads(content) for _, content in scripts[1:]]


def test_the_page_holds_everything_and_needs_nothing(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    page = report.page(read_results(results))
    assert not re.findall(r'(?:src|href)\s*=\s*["\'](?!#)', page)
    assert "default-src 'none'" in page
    data, images = pieces(page)
    (gallery,) = data["galleries"]
    assert len(images) == len(gallery["images"]) == 6
    assert gallery["methods"] == ["gradcam", "suny", "center"]
    assert [list(v) for v in gallery["images"][0]["values"]] == [["deletion ↓", "overall ↑"]] * 3
    assert [i["failures"] for i in gallery["images"]].count(["wrong class"]) == 1
    one = images[0]
    assert one["photo"].startswith("data:image/jpeg;base64,")
    assert [sorted(m) for m in one["maps"]] == [
        ["kept", "levels", "rank", "removed", "substrate"],
        ["kept", "rank", "removed", "sides", "substrate", "weak"],
        ["kept", "levels", "rank", "removed", "substrate"],
    ]
    levels = np.frombuffer(base64.b64decode(one["maps"][0]["levels"]), np.uint8)
    # rank k begins where k / 256 of the pixels, which are columns of the falling ramp, are more salient
    np.testing.assert_allclose(levels, 255 * RAMP[np.arange(256) * 224 // 256], atol=0.51)
    assert gallery["grids"] == [[0.0, 0.5, 1.0]]
    assert one["maps"][0]["removed"]["p"] == [0.8, 0.4, 0.0]
    assert one["maps"][0]["kept"]["p"] == [0.0, 0.2, 0.8]
    rank = np.array(Image.open(io.BytesIO(base64.b64decode(one["maps"][0]["rank"].split(",")[1]))))
    assert rank.shape == (112, 112)
    assert (rank[:, :56] < 128).all()  # the left half is the more salient
    assert (rank[:, 56:] >= 128).all()
    # spread of deletion over the methods without the control: .1 + .01 i
    spreads = [i["spreads"]["deletion ↓"] for i in gallery["images"]]
    assert spreads == pytest.approx([0.1 + 0.01 * i for i in range(6)])
    assert gallery["images"][0]["disagreement"] == pytest.approx(0)


def test_texts_of_the_data_set_are_no_markup(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    page = report.page(read_results(results))
    assert "<img src=x" not in page
    assert page.count("</script>") == page.count("<script")
    data, _ = pieces(page)
    assert any("onerror" in i["id"] for i in data["galleries"][0]["images"])
    assert json.loads(report.embedded({"a": HOSTILE})) == {"a": HOSTILE}
    assert not set("<>&\u2028") & set(report.embedded({"a": HOSTILE}))


def test_ranks_by_hand() -> None:
    saliency = np.array([[0.1, 0.4], [0.3, 0.2]])
    np.testing.assert_array_equal(images_page._rank(saliency, 2), [[192, 0], [64, 128]])
    np.testing.assert_array_equal(images_page._rank(np.kron(saliency, np.ones((2, 2))), 2) // 64, [[3, 0], [1, 2]])
    np.testing.assert_array_equal(images_page._rank(saliency, 4)[::2, ::2], [[192, 0], [64, 128]])


def test_maps_that_differ_disagree() -> None:
    up, down = np.arange(9), np.arange(9)[::-1]
    assert images_page._disagreement([up, up]) == pytest.approx(0)
    assert images_page._disagreement([up, down]) == pytest.approx(2)
    assert images_page._disagreement([up, up, down]) == pytest.approx(1 - (1 - 1 - 1) / 3, abs=1e-4)
    assert images_page._disagreement([up, np.zeros(9)]) is None


def test_results_without_maps_curves_and_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = write_cell(tmp_path / "results", "gradcam", {"deletion": [0.1, 0.2, 0.3]})
    change_record(cell, 1, status="unreadable", deletion=None, prob=None, target=None)
    out = tmp_path / "page" / "report.html"
    assert guarded(lambda: command.main([f"results_dir={tmp_path / 'results'}", f"out={out}", "images=2"])) == 0
    assert str(out) in capsys.readouterr().out
    data, images = pieces(out.read_text())
    note = data["galleries"][0]["note"]
    for said in ("The first 2 of 3 images.", "No photographs: the data set has changed", "maps=true", "curves=true"):
        assert said in note
    assert images == [{"photo": None, "boxes": [], "maps": [{}]}] * 2
    assert data["galleries"][0]["images"][1]["failures"] == ["unreadable"]


@pytest.mark.parametrize(("given", "said"), [("images=few", "give a number of images"), ("outfile=x", "unknown key outfile")])
def test_mistakes(capsys: pytest.CaptureFixture[str], given: str, said: str) -> None:
    assert guarded(lambda: command.main([given])) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error


# in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs a Chromium browser on the path")
    with playwright.sync_playwright() as driver:
        # the sandbox does not start for root
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = driver.chromium.launch(executable_path=found, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    page = root / "report.html"
    page.write_text(report.page(read_results(make_results(root))))
    return page


@pytest.fixture
def tab(browser: Any, made: Path) -> Iterator[Any]:
    yield from opened(browser, made)


def opened(browser: Any, page: Path, **options: Any) -> Iterator[Any]:
    """A tab with the page; at its end nothing may have gone wrong, and nothing may have been asked of a network."""
    wrong: list[str] = []
    context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options))
    tab = context.new_page()
    tab.on("console", lambda m: wrong.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: wrong.append(str(e)))
    tab.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    tab.set_default_timeout(1000 * HANG)
    tab.goto(page.as_uri())
    tab.evaluate("document.getElementById('images').scrollIntoView()")
    until(tab, "document.querySelectorAll('.card')[0].querySelectorAll('.tile .open canvas').length >= 3")
    yield tab
    assert tab.title() == "Visual explanations: report"  # no text of the data set has run
    context.close()
    assert wrong == []


def until(tab: Any, condition: str) -> None:
    """Waits for a condition in JavaScript; the page's own policy forbids the driver's way of waiting."""
    end = time.monotonic() + HANG
    while not tab.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.03)


def first_column(tab: Any) -> list[str]:
    return tab.locator("#tables table").first.locator("tbody tr th").all_inner_texts()


def test_tables_sort(tab: Any) -> None:
    assert first_column(tab) == ["gradcam", "suny", "center"]
    header = tab.locator("#tables table").first.get_by_role("button", name="overall")
    header.click()  # means fall from method to method
    assert first_column(tab) == ["center", "suny", "gradcam"]
    header.focus()
    tab.keyboard.press("Enter")
    assert first_column(tab) == ["gradcam", "suny", "center"]
    assert tab.locator("th[aria-sort]").first.get_attribute("aria-sort") == "descending"


def visible(tab: Any) -> int:
    return tab.locator(".card:not([hidden])").count()


def test_filters(tab: Any) -> None:
    assert tab.inner_text("#count") == "6 of 6 images"
    tab.select_option("#failure", "wrong class")
    assert visible(tab) == 1
    assert "wrong class" in tab.locator(".card:not([hidden]) h3").inner_text()
    tab.select_option("#failure", "")
    tab.fill("#search", "photo-0003")
    assert visible(tab) == 1
    tab.fill("#search", "")
    tab.select_option("#class", CLASSES[1])
    assert visible(tab) == 1  # the one that is taken for it
    tab.select_option("#class", "")
    # overall: the spreads of the six are .1 + .01 i; at least 90 % of the largest, .135: two
    tab.locator("#spread").fill("90")
    assert tab.inner_text("#spread-value") == "0.14"
    assert visible(tab) == 2
    tab.locator("#spread").fill("0")
    tab.select_option("#order", "spread")
    first = tab.locator(".card").first.locator("h3").text_content()
    tab.select_option("#order", "image")
    assert tab.locator(".card").last.locator("h3").text_content() == first
    assert "6 of 6" in tab.inner_text("#count")


def pixel(tab: Any, x: float, y: float = 0.5, canvas: int = 1) -> list[int]:
    """Colour of a place of a canvas of the first card; the first one is the photograph."""
    return tab.evaluate(
        """([canvas, x, y]) => { const c = document.querySelectorAll(".card canvas")[canvas];
        return [...c.getContext("2d").getImageData(x * c.width, y * c.height, 1, 1).data].slice(0, 3); }""",
        [canvas, x, y],
    )


def test_the_slider_removes_and_keeps_side_by_side(tab: Any) -> None:
    tile = tab.locator(".card").first.locator(".tile .open").first
    photo = pixel(tab, 0.25, canvas=0)
    tab.check("input[value=area]")
    tab.locator("#area").fill("50")
    until(tab, "document.querySelector('.card .open').innerText.includes('removed: p 0.400')")
    assert "kept: p 0.200" in tile.inner_text()
    grey = tab.evaluate("data.galleries[0].fill")
    assert grey == [128, 128, 128]
    assert pixel(tab, 0.25) == grey  # the left half is gone
    assert pixel(tab, 0.75) == pytest.approx(photo, abs=3)
    assert pixel(tab, 0.25, canvas=2) == pytest.approx(photo, abs=3)
    assert pixel(tab, 0.75, canvas=2) == grey
    tab.focus("#area")
    for _ in range(25):
        tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#area-value") == "75 %"
    until(tab, "document.querySelector('.card .open').innerText.includes('kept: p 0.500')")  # between .2 and .8
    assert pixel(tab, 0.65, canvas=2) == pytest.approx(photo, abs=3)
    assert pixel(tab, 0.9, canvas=2) == grey


def test_maps_have_the_colours_of_all_pictures(tab: Any) -> None:
    """What the page paints is what :mod:`suny.plots` draws."""
    photo = np.tile(np.array(pixel(tab, 0.5, canvas=0)) / 255, (224, 224, 1))
    ramp = np.tile(RAMP, (224, 1))
    drawn = {
        1: plots.over(photo, *plots.heat(ramp)),
        2: plots.two_sided(photo, ramp, ramp[:, ::-1]),
    }
    for canvas, colours in drawn.items():
        for place in (5, 42, 70, 154, 182, 218):
            assert pixel(tab, (place + 0.5) / 224, canvas=canvas) == pytest.approx(255 * colours[112, place], abs=4), (
                canvas,
                place,
            )
    tab.check("input[value=sufficiency]")
    one_side = plots.two_sided(photo, 0.0, ramp[:, ::-1])[112]
    # the left half is without necessity now
    until(tab, "document.querySelectorAll('.card canvas')[2].getContext('2d').getImageData(5, 112, 1, 1).data[2] < 200")
    row = [pixel(tab, (at + 0.5) / 224, canvas=2) for at in range(224)]
    assert sum(seen == pytest.approx(255 * own, abs=4) for seen, own in zip(row, one_side, strict=True)) >= 222
    line = 255 * bivariate(0, 1)
    assert sum(seen == pytest.approx(line, abs=2) for seen in row) == 2  # its width


def test_enlarging_by_keyboard(tab: Any) -> None:
    tile = tab.locator(".card").first.locator(".tile .open").nth(1)
    tile.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector("dialog[open]")
    # input, necessity, sufficiency, both, removed, kept
    assert tab.locator("#large-pictures figure").count() == 6
    tab.locator("#large-area").fill("100")
    assert "100 % removed, p 0.000" in tab.inner_text("#large-pictures")
    assert "100 % kept, p 0.800" in tab.inner_text("#large-pictures")
    before = tab.inner_text("#large-title")
    tab.focus("#large-next")
    tab.keyboard.press("ArrowRight")
    until(tab, f"document.getElementById('large-title').innerText !== {json.dumps(before)}")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("dialog", state="hidden")


def test_pictures_use_the_width(tab: Any) -> None:
    widths = tab.evaluate("[...document.querySelector('.card .tiles').children].map((t) => t.getBoundingClientRect())")
    assert len(widths) == 4
    assert all(t["width"] >= 220 for t in widths)
    assert len({t["top"] for t in widths}) == 1
    assert tab.locator(".card").first.locator("canvas").first.evaluate("(c) => c.getBoundingClientRect().width") >= 220


def test_two_methods_are_pinned(tab: Any) -> None:
    for name in ("suny", "center"):
        tab.locator(".card").first.get_by_role("button", name=f"pin {name} to compare").click()
    until(tab, "document.querySelectorAll('.card')[0].querySelectorAll('.tile .open canvas').length == 2")
    assert tab.locator(".card").first.locator(".name span").all_inner_texts() == ["suny", "center"]
    assert tab.locator("#one").input_value() == "1"
    tab.locator("#spread").fill("100")
    # overall falls by .1 + .01 i from method to method: the two differ most on the last image
    assert tab.inner_text("#spread-value") == "0.15"
    assert visible(tab) == 1
    tab.locator(".card:not([hidden])").get_by_role("button", name="pin suny to compare").click()
    tab.locator("#spread").fill("0")
    until(tab, "document.querySelectorAll('.card')[0].querySelectorAll('.tile .open canvas').length == 3")


def test_curves_are_shown_on_the_way(tab: Any) -> None:
    tile = tab.locator(".card").first.locator(".tile .open").first
    tile.hover()
    tab.wait_for_selector("#hover:not([hidden])")
    texts = tab.locator("#hover text").all_text_contents()
    for said in ("most salient pixels, %", "p of the class", "removed", "kept", "0", "25", "50", "75", "100", "1.00"):
        assert said in texts
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#hover", state="hidden")
    tile.focus()
    tab.wait_for_selector("#hover:not([hidden])")


def test_on_a_phone(browser: Any, made: Path) -> None:
    for tab in opened(browser, made, viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True):
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        head = tab.locator("#tables table").first.locator("thead th").all_inner_texts()
        assert head[:2] == ["method", "overall ↑"]  # the key column follows the names
        tab.locator(".card .tile .open").first.tap()
        tab.wait_for_selector("dialog[open]")
        assert tab.evaluate("document.querySelector('dialog').getBoundingClientRect().width") <= 360


def test_nothing_stands_in_the_way_of_a_screen_reader(browser: Any, made: Path) -> None:
    """axe-core's rules, light and dark, wide and narrow, everything open: no finding of any severity."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    for scheme in ("light", "dark"):
        for width in (1400, 390):
            for tab in opened(browser, made, viewport={"width": width, "height": 900}, color_scheme=scheme):
                tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
                found = axe.run(tab).response
                assert len(found["passes"]) > 30
                assert [(v["id"], v["impact"], [n["html"] for n in v["nodes"]]) for v in found["violations"]] == []


def test_tables_are_copied(browser: Any, made: Path) -> None:
    for tab in opened(browser, made, permissions=["clipboard-read", "clipboard-write"]):
        copied = {}
        for form in ("Markdown", "CSV", "LaTeX"):
            tab.locator("#tables .copy").first.get_by_role("button", name=form).click()
            until(tab, "document.querySelector('#tables .copy [role=status]').textContent === 'copied'")
            copied[form] = tab.evaluate("navigator.clipboard.readText()").splitlines()
        head = "| method | n | deletion ↓ | overall ↑ | failures |"
        assert copied["Markdown"][0] == head
        assert copied["Markdown"][1] == "| --- | --- | --- | --- | --- |"
        # deletion of gradcam: .00 to .05 on six images
        assert copied["Markdown"][2].startswith("| gradcam | 6 | 0.025 [")
        assert (
            copied["CSV"][0]
            == "method,n,deletion ↓,deletion ↓ low,deletion ↓ high,overall ↑,overall ↑ low,overall ↑ high,failures"
        )
        name, n, mean, low, high, *_ = copied["CSV"][1].split(",")
        assert (name, n) == ("gradcam", "6")
        assert float(mean) == pytest.approx(0.025)
        assert float(low) < 0.025 < float(high)
        assert copied["LaTeX"][1:3] == [r"\begin{tabular}{lrrrr}", r"\toprule"]
        assert r"deletion $\downarrow$" in copied["LaTeX"][3]
        assert len(copied["LaTeX"]) == 10


def test_a_shadow_says_that_a_table_goes_on(browser: Any, made: Path) -> None:
    for tab in opened(browser, made, viewport={"width": 360, "height": 700}):
        assert tab.locator("#tables .frame").first.get_attribute("class") == "frame more"
        box = tab.locator("#tables .scroll").first
        box.evaluate("(e) => { e.scrollLeft = 1e6; }")
        until(tab, "document.querySelector('#tables .frame').className === 'frame'")
        # the methods' names stay
        assert box.locator("tbody th").first.evaluate("(e) => e.getBoundingClientRect().left") >= 0


def test_print_has_pictures_and_no_controls(tab: Any) -> None:
    tab.evaluate("window.print = () => { window.printed = document.querySelectorAll('.card.drawn').length; }")
    tab.get_by_role("button", name="Print").click()
    until(tab, "window.printed === 6")
    tab.evaluate("(near.disconnect(), prepare())")  # as it is while the browser prints
    tab.emulate_media(media="print")
    for gone in ("#controls", "nav", ".copy", ".name button"):
        assert tab.locator(gone).first.evaluate("(e) => getComputedStyle(e).display") == "none"
    assert tab.evaluate("[...document.querySelectorAll('details')].every((d) => d.open)")
    assert tab.locator(".card:last-child canvas").count() == 4
    # no column is cut: the tables are as wide as the page
    cut = "[...document.querySelectorAll('section table')].filter((t) => t.getBoundingClientRect().right > innerWidth).length"
    assert tab.evaluate(cut) == 0


class Steps:
    """Counts what a page's script does: how many of its blocks are run through, and how often the page is laid out anew."""

    def __init__(self, tab: Any) -> None:
        self.session = tab.context.new_cdp_session(tab)
        self.session.send("Performance.enable")
        self.session.send("Profiler.enable")
        self.session.send("Profiler.startPreciseCoverage", {"callCount": True, "detailed": True})

    def layouts(self) -> int:
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return next(int(m["value"]) for m in metrics if m["name"] == "LayoutCount")

    def heap(self) -> float:
        """Memory of the page's objects, MB, once what nobody holds is gone."""
        self.session.send("HeapProfiler.collectGarbage")
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize") / 1e6

    def blocks(self) -> int:
        """Since this was asked last."""
        scripts = self.session.send("Profiler.takePreciseCoverage")["result"]
        # pixel by pixel, of the few cards near the window
        painting = {
            "paintMap",
            "paintArea",
            "outline",
            "grown",
            "pixels",
            "square",
            "heat",
            "n",
            "s",
            "colour",
            "value",
            "unpack",
        }
        functions = [f for s in scripts for f in s["functions"] if f["functionName"] not in painting]
        return sum(r["count"] for f in functions for r in f["ranges"])


@pytest.mark.slow
def test_a_thousand_images_stay_responsive(browser: Any, tmp_path: Path) -> None:
    """Only what is near the window is drawn, and the rest of the work grows no faster than the images: in counts, for a
    time would be the machine's. The times are printed, as ratios of the two pages."""
    filled = "[...document.querySelectorAll('.card')].filter((c) => c.filled).length"
    clock = """async () => { const begin = performance.now(); WHAT; document.body.offsetHeight;
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); return performance.now() - begin; }"""
    # cards are drawn in frames to come: until five of them have drawn none, a count would be that of a part
    settled = """async () => { for (let still = 0, before = -1; still < 5; ) {
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        const now = FILLED; still = now === before ? still + 1 : 0; before = now; } }""".replace("FILLED", filled)
    opening, searching, scrolling, memory, sizes = [], [], [], [], []
    times: dict[str, list[float]] = {"first paint": [], "filter": [], "scroll": []}
    for count, start in ((100, "005"), (1000, "05")):
        (tmp_path / str(count)).mkdir()
        page = tmp_path / f"{count}.html"
        page.write_text(report.page(read_results(make_results(tmp_path / str(count), count, MANY))))
        sizes.append(page.stat().st_size / count)
        for tab in opened(browser, page):
            assert tab.evaluate(filled) < 40  # only what is near the window
            steps = Steps(tab)
            tab.reload()
            until(tab, "performance.getEntriesByName('first-contentful-paint').length")
            until(tab, f"{filled} > 0")
            tab.evaluate(settled)
            opening.append(steps.blocks())
            times["first paint"].append(tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            laid_out = steps.layouts()
            search = f"at('search').value = 'photo-{start}'; at('search').dispatchEvent(new Event('input'))"
            times["filter"].append(tab.evaluate(clock.replace("WHAT", search)))
            tab.evaluate(settled)
            assert steps.layouts() - laid_out < 100  # one, and those of cards that come near the window
            searching.append(steps.blocks())
            assert visible(tab) == count / 10
            tab.fill("#search", "")
            tab.evaluate(settled)
            steps.blocks()
            times["scroll"].append(tab.evaluate(clock.replace("WHAT", "scrollTo(0, document.body.scrollHeight / 2)")))
            tab.evaluate("window.scrollTo(0, document.body.scrollHeight)")
            until(tab, "document.querySelector('.card:last-child').filled")
            tab.evaluate(settled)
            assert tab.evaluate(filled) < 60
            scrolling.append(steps.blocks())
            memory.append(steps.heap())
    print({name: f"{many / few:.1f} times ({few:.0f} and {many:.0f} ms)" for name, (few, many) in times.items()})
    print(f"memory {memory[0]:.1f} and {memory[1]:.1f} MB, {sizes[0] / 1000:.1f} and {sizes[1] / 1000:.1f} kB per image")
    for few, many in (opening, searching, scrolling):
        assert 1000 < many <= 10 * few + 3000  # the rest: cards that come near the window
    # what is held grows by an image's texts and numbers, not by its pictures
    assert memory[1] - memory[0] < 900 * sizes[1] / 1e6
    assert sizes[1] <= sizes[0]
