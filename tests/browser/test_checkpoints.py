"""Two checkpoints on one page: what is chosen is what is framed, made, kept and found again."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.media.image import frame_photo, open_photo
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_frames, write_mp4
from svd_core.params import VideoParams
from tests.browser.visiting import (
    PHONE,
    colourful,
    done,
    generate,
    newcomer,
    open_tab,
    shot,
    upload,
    visitor,
)
from tests.fakes.engines import READY, SQUARE, DriftingEngine, RealWork, Served, examples, serve

TWO = replace(READY, catalog=ModelCatalog((READY.checkpoint, SQUARE)))
LONG = replace(SQUARE, name="stable-video-diffusion-img2vid-xt-1-1-of-somebody-else", source="a/b")


@dataclass(frozen=True)
class Two:
    served: Served
    engine: DriftingEngine

    def video(self, page: Page) -> Path:
        """The file of the newest one in this visitor's gallery."""
        source = page.locator("#tiles video").first.get_attribute("src") or ""
        return Path(source.partition("file=")[2])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("two")
    examples(folder)
    engine = DriftingEngine(TWO)
    work = RealWork(folder, engine=engine)
    with serve(folder, work, status=lambda: engine.status) as served:
        yield Two(served, engine)


@pytest.fixture
def page(context: BrowserContext, two: Two) -> Iterator[Page]:
    two.engine.status = TWO
    with newcomer(context, two.served.url) as page:
        open_tab(page, "history")
        yield page


def empty(page: Page, name: str) -> Locator:
    return page.locator(f"#{name}").get_by_role("textbox")


def choose(page: Page, name: str) -> None:
    open_tab(page, "fine")
    page.locator("#model").get_by_label(name).check()


def test_the_choice_is_framed_made_and_shown(page: Page, two: Two, tmp_path: Path) -> None:
    path = colourful(tmp_path, (400, 300))
    upload(page, path)
    choice = page.locator("#model")
    expect(choice).to_contain_text("loads the other model first")
    expect(choice.get_by_label("svd-nano")).to_be_checked()
    expect(page.locator("#framing figcaption")).to_contain_text("512 × 288")
    expect(empty(page, "num_inference_steps")).to_have_attribute("placeholder", "1 (automatic)")
    choose(page, "square")
    expect(empty(page, "num_inference_steps")).to_have_attribute("placeholder", "25 (automatic)")
    expect(empty(page, "num_frames")).to_have_attribute("placeholder", "5 (automatic)")
    page.get_by_label("Fast").check()
    expect(empty(page, "num_inference_steps")).to_have_attribute("placeholder", "14 (automatic)")
    page.get_by_label("Exact").check()
    expect(page.locator("#framing figcaption")).to_contain_text("96 × 96")
    expect(page.get_by_role("slider", name="Drag to choose")).to_be_visible()
    shot(page, "checkpoints")
    expect(page.locator("#device")).to_contain_text("svd-nano")
    generate(page)
    done(page)
    expect(page.locator("#summary")).to_contain_text("96 × 96")
    expect(page.locator("#summary")).to_contain_text("Made with square")
    expect(page.locator("#device")).to_contain_text("example/square, chosen by you")
    expect(page.locator("#tiles")).to_contain_text("Model square")
    made = two.video(page)
    framed = frame_photo(open_photo(path.read_bytes()), SQUARE.sizes, VideoParams())
    assert (Recipe.read(made).size, Recipe.read(made).model) == (framed.size, "square")
    choose(page, "svd-nano")
    expect(page.locator("#framing figcaption")).to_contain_text("512 × 288")
    generate(page)
    expect(page.locator("#summary")).to_contain_text("Made with svd-nano")
    assert [r.params.model for r in two.served.work.requests[-2:]] == ["square", None]
    expect(page.locator("#tiles li").first).not_to_contain_text("Model")


@pytest.mark.slow
def test_videos_give_their_checkpoint_back(page: Page, two: Two, tmp_path: Path) -> None:
    """From the gallery, as the file itself, and by the ways to go on."""
    choose(page, "square")
    generate(page)
    done(page)
    made = two.video(page)
    choose(page, "svd-nano")
    page.locator("#tiles").get_by_role("button", name="Reuse settings").click()
    expect(page.locator("#model").get_by_label("square")).to_be_checked()
    expect(page.locator("#framing figcaption")).to_contain_text("96 × 96")
    choose(page, "svd-nano")
    page.get_by_role("button", name="More motion").click()
    done(page)
    expect(page.locator("#model").get_by_label("square")).to_be_checked()
    assert two.served.work.requests[-1].params.model == "square"
    expect(page.locator("#tiles video")).to_have_count(2)
    choose(page, "svd-nano")
    drop(page, made)
    said = page.locator("#recipe-said")
    expect(said).to_contain_text("made with square")
    expect(said).not_to_contain_text("isn’t available here")
    expect(page.locator("#model").get_by_label("square")).to_be_checked()


@pytest.mark.slow
def test_a_video_of_a_checkpoint_that_is_not_here_says_so(
    page: Page, two: Two, tmp_path: Path
) -> None:
    generate(page)
    done(page)
    made = two.video(page)
    other = json.loads(Recipe.read(made).to_json()) | {"model": "tall", "source": "example/tall"}
    choose(page, "square")
    drop(page, write_mp4(read_frames(made), tmp_path / "x.mp4", 7, comment=json.dumps(other)))
    said = page.locator("#recipe-said")
    expect(said).to_contain_text("made with tall, which isn’t available here. svd-nano will give")
    expect(page.locator("#model").get_by_label("svd-nano")).to_be_checked()


@pytest.mark.slow
def test_links_and_code_carry_what_is_not_usual(browser: Browser, page: Page, two: Two) -> None:
    open_tab(page, "code")
    code = page.locator("#snippets")
    expect(code).to_contain_text("fal-ai/stable-video")
    expect(code).not_to_contain_text("model=")
    choose(page, "square")
    expect(code).to_contain_text('"model": "square"')
    link = page.locator("#snippets details").first.locator("code").inner_text()
    assert parse_qs(urlsplit(link).query) == {"model": ["square"]}
    with visitor(browser, link, two.served.url) as other:
        expect(other.locator("#model").get_by_label("square")).to_be_checked()
        expect(other.locator("#framing figcaption")).to_contain_text("96 × 96")
        expect(empty(other, "num_inference_steps")).to_have_attribute(
            "placeholder", "25 (automatic)"
        )
    elsewhere = f"{two.served.url}/?model=svd-xt&fps=9"
    with visitor(browser, elsewhere, two.served.url) as other:
        expect(other.locator("#link-said").get_by_role("alert")).to_contain_text(
            "does not have the model svd-xt. Choose one of these: svd-nano, square"
        )


@pytest.mark.slow
def test_drafts_are_made_by_it_too(page: Page, two: Two) -> None:
    """With steps of its own: 40 % of 25."""
    choose(page, "square")
    page.get_by_role("button", name="Try 4 seeds").click()
    expect(page.locator("#tiles video")).to_have_count(4)
    drafts = [request.params for request in two.served.work.requests[-4:]]
    assert {(draft.model, draft.num_inference_steps) for draft in drafts} == {("square", 10)}


@pytest.mark.slow
def test_on_a_phone_in_german_with_long_names(browser: Browser, tmp_path: Path) -> None:
    examples(tmp_path)
    three = replace(TWO, catalog=ModelCatalog((*TWO.catalog.checkpoints, LONG)))
    with (
        serve(tmp_path, status=lambda: three) as served,
        visitor(browser, served.url, viewport=PHONE, locale="de-DE") as page,
    ):
        for said in ("Modell", "das andere Modell geladen", "square", LONG.name):
            expect(page.locator("#model")).to_contain_text(said)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        label = page.locator("#model label").last.bounding_box()
        name = page.locator("#model label span").last.bounding_box()
        assert label is not None
        assert name is not None
        assert label["x"] <= name["x"] <= name["x"] + name["width"] <= label["x"] + label["width"]
        shot(page, "checkpoints-phone")


@pytest.mark.slow
def test_there_is_no_choice_where_there_is_one(browser: Browser, served: Served) -> None:
    with visitor(browser, served.url) as page:
        expect(page.get_by_role("radio", name="Exact")).to_be_visible()
        expect(page.locator("#model")).to_have_count(0)
        generate(page)
        done(page)
    assert served.work.requests[-1].params.model is None


def drop(page: Page, path: Path) -> None:
    open_tab(page, "recipe")
    page.locator("#recipe-file input[type=file]").set_input_files(path)
