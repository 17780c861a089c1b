"""From a photo to a kept video: what a visitor does and sees, with a fake engine behind it."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from svd_core.params import Interpolation
from svd_core.storage import ResultStore
from tests.browser.visiting import (
    colourful,
    done,
    generate,
    open_menu,
    open_tab,
    plays,
    shot,
    upload,
    visitor,
)
from tests.fakes.engines import READY, Served, serve


def test_a_visitor_turns_a_photo_into_a_video(page: Page, served: Served, tmp_path: Path) -> None:
    path = colourful(tmp_path)
    upload(page, path)
    page.get_by_role("slider", name="Motion").fill("201")
    progress = page.locator("#progress")
    with served.work.held():
        generate(page)
        expect(progress).to_contain_text("Imagining the motion · step 2 of 8")
        expect(progress).to_contain_text(re.compile(r"[2-9] s so far · about [1-6] s left"))
        expect(progress.get_by_role("progressbar")).to_be_visible()
        preview = page.get_by_role("img", name="Preview of the video in progress")
        expect(preview).to_be_visible()
        assert preview.evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
        expect(page.get_by_role("button", name="Generate")).to_be_disabled()
        shot(page, "making")
    done(page)
    plays(page)
    request = served.work.requests[-1]
    assert request.image == path.read_bytes()
    assert request.params.motion_bucket_id == 201
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(request.params.seed))
    expect(page.locator("#summary")).to_contain_text("8 frames, 128 × 72, 7 fps, 1.1 s")
    expect(page.locator("#summary")).to_contain_text("Made with fake. Peak memory: 1.2 GB")
    expect(page.locator("#summary [aria-current]")).to_have_text("gentle")
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    shot(page, "made")
    with page.expect_download() as download:
        page.locator("#video").get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.endswith(".mp4")


def test_a_kept_seed_and_fine_control_reach_the_core(page: Page, served: Served) -> None:
    page.get_by_label("Seed", exact=True).fill("4294967295")
    page.get_by_label("New seed every time").uncheck()
    page.get_by_label("Blurred edges").check()
    page.get_by_role("textbox", name="Steps").fill("5")
    generate(page)
    done(page)
    params = served.work.requests[-1].params
    assert (params.seed, params.fit, params.num_inference_steps) == (4294967295, "pad", 5)
    assert params.num_frames is None


def test_words_set_the_sliders_and_sliders_find_their_word(page: Page, served: Served) -> None:
    motion, noise = (page.get_by_role("slider", name=name) for name in ("Motion", "Noise"))
    page.get_by_label("Wild").check()
    expect(motion).to_have_value("200")
    expect(noise).to_have_value("0.08")
    motion.fill("201")
    expect(page.get_by_label("Wild")).not_to_be_checked()
    page.get_by_label("Still").check()
    expect(motion).to_have_value("20")
    generate(page)
    done(page)
    params = served.work.requests[-1].params
    assert (params.motion_bucket_id, params.noise_aug_strength) == (20, 0.02)


def test_stop_ends_the_job_and_leaves_the_page_ready(page: Page, served: Served) -> None:
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_disabled()
    with served.work.held():
        generate(page)
        expect(page.locator("#progress")).to_contain_text("step 2 of 8")
        preview = page.get_by_role("img", name="Preview of the video")
        expect(preview).to_be_visible()
        stop.click()
        expect(page.locator("#progress")).to_contain_text("Stopped at step 2 of 8")
        expect(preview).to_be_visible()
        shot(page, "stopped")
    expect(stop).to_be_disabled()
    generate(page)
    done(page)


@pytest.mark.slow
def test_a_video_begun_while_the_last_one_gets_its_in_between_frames(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, playback = threading.Event(), ResultStore.playback

    def slow(store: ResultStore, job_id: str, interpolation: Interpolation) -> Path:
        assert go.wait(60)
        return playback(store, job_id, interpolation)

    monkeypatch.setattr(ResultStore, "playback", slow)
    generate(page)
    done(page)
    with served.work.held():
        generate(page)
        expect(page.locator("#progress")).to_contain_text("step 2 of 8")
        go.set()
        expect(page.get_by_role("img", name="Preview of the video in progress")).to_be_visible()
        expect(page.get_by_role("group", name="Smooth playback")).to_be_hidden()
    done(page)
    expect(page.locator("#video video")).to_have_attribute("src", re.compile(r"\.4x\.mp4$"))
    plays(page)


@pytest.mark.slow
def test_more_and_less_motion_and_another_seed(page: Page, served: Served) -> None:
    generate(page)
    done(page)
    first = served.work.requests[-1].params
    for name, motion in (("More motion", 203), ("Less motion", 127), ("New seed", 127)):
        if name == "Less motion":
            open_menu(page)
        with served.work.held():
            page.get_by_role("button", name=name).click()
            expect(page.locator("#progress")).to_contain_text("step 2 of 8")
            expect(page.get_by_role("slider", name="Motion")).to_have_value(str(motion))
        done(page)
        expect(page.get_by_role("button", name=name)).to_be_visible()
        params = served.work.requests[-1].params
        assert params.motion_bucket_id == motion
        assert (params.seed == first.seed) is (name != "New seed")


def test_a_click_on_an_example_shows_its_photo_and_video(page: Page, served: Served) -> None:
    plays(page)
    before = len(served.work.requests)
    page.get_by_role("button", name="Cat").click()
    expect(page.locator("#progress")).to_contain_text("Example: Cat")
    expect(page.locator("#video video")).to_have_attribute("src", re.compile(r"\.4x\.mp4$"))
    expect(page.locator("#photo img")).to_have_attribute("src", _ends("cat.jpg"))
    plays(page)
    assert len(served.work.requests) == before
    generate(page)
    done(page)
    cat = served.work.folder / "examples" / "cat.jpg"
    assert served.work.requests[-1].image == cat.read_bytes()


def test_four_seeds_and_the_chosen_one_in_full(page: Page, served: Served) -> None:
    page.get_by_role("textbox", name="Steps").fill("20")
    before = len(served.work.requests)
    page.get_by_role("button", name="Try 4 seeds").click()
    expect(page.locator("#progress")).to_contain_text("Pick one to make it in full")
    shot(page, "four-seeds")
    drafts = [request.params for request in served.work.requests[before:]]
    assert len({params.seed for params in drafts}) == 4
    assert {params.num_inference_steps for params in drafts} == {8}
    chosen = drafts[2].seed
    page.get_by_role("button", name=f"seed {chosen}").click()
    done(page)
    plays(page)
    full = served.work.requests[-1].params
    assert (full.seed, full.num_inference_steps) == (chosen, 20)
    assert len(served.work.requests) == before + 5


def test_several_photos_each_become_a_video(page: Page, served: Served, tmp_path: Path) -> None:
    paths = [colourful(tmp_path, (320 + 16 * n, 180)) for n in range(3)]
    bad = tmp_path / "letter.png"
    bad.write_text("just text")
    before = len(served.work.requests)
    open_tab(page, "batch")
    page.locator("#photos input[type=file]").set_input_files([*paths, bad])
    expect(page.locator("#photos")).to_contain_text("letter")
    page.get_by_role("button", name="Make a video from each").click()
    expect(page.locator("#batch-said")).to_contain_text("settings above: 3.")
    expect(page.locator("#batch-said")).to_contain_text("letter.png: The file is not a photo")
    open_tab(page, "history")
    expect(page.locator("#tiles video")).to_have_count(3)
    assert [r.image for r in served.work.requests[before:]] == [p.read_bytes() for p in paths]
    shot(page, "several")


def test_loading_and_a_notice_are_shown_until_the_model_is_ready(
    browser: Browser, tmp_path: Path
) -> None:
    sentence = "The hub cannot be reached. Until then svd-nano runs here."
    now = [replace(READY, state="loading", notice=sentence)]
    with serve(tmp_path, status=lambda: now[0]) as served:
        page = browser.new_page()
        page.goto(served.url)
        expect(page.locator("#device")).to_contain_text("loading")
        expect(page.locator("#notice")).to_contain_text(sentence)
        now[0] = READY
        expect(page.locator("#device")).not_to_contain_text("loading")
        expect(page.locator("#notice")).to_be_hidden()
        page.close()


@pytest.mark.slow
def test_two_visitors_wait_for_each_other_and_never_see_the_others_work(
    browser: Browser, served: Served
) -> None:
    with visitor(browser, served.url) as ann, visitor(browser, served.url) as bob:
        with served.work.held():
            generate(ann)
            expect(ann.locator("#progress")).to_contain_text("step 2 of 8")
            generate(bob)
            expect(bob.locator("#progress")).to_contain_text("1 video ahead of yours")
            open_tab(bob, "history")
            expect(bob.locator("#history li")).to_have_count(1)
            shot(bob, "waiting")
        done(ann)
        done(bob)
        seeds = [one.get_by_label("Seed", exact=True).input_value() for one in (ann, bob)]
        for one, own, others in ((ann, *seeds), (bob, *reversed(seeds))):
            one.reload()
            open_tab(one, "history")
            expect(one.locator("#tiles video")).to_have_count(1)
            expect(one.locator("#tiles")).to_contain_text(own)
            expect(one.locator("#tiles")).not_to_contain_text(others)


def _ends(name: str) -> "re.Pattern[str]":
    return re.compile(rf"/{re.escape(name)}$")
