"""What stays: after a reload, a closed tab, a restarted server; and what is taken away."""

import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.visiting import done, generate, open_page, open_tab, plays, shot, visitor
from tests.fakes.engines import FakeWork, Served, examples, serve


def test_closing_the_tab_loses_nothing(page: Page, served: Served) -> None:
    with served.work.held():
        generate(page)
        expect(page.locator("#progress")).to_contain_text("step 2 of 8")
        again = page.context.new_page()
        page.close()
        again.goto(served.url)
        expect(again.locator("#progress")).to_contain_text("step 2 of 8")
        expect(again.get_by_role("button", name="Stop")).to_be_enabled()
        open_tab(again, "history")
        expect(again.locator("#history li")).to_have_count(1)
    done(again)
    plays(again)
    again.reload()
    done(again)
    expect(again.get_by_role("button", name="More motion")).to_be_visible()


def test_the_gallery_plays_and_gives_settings_and_photo_back(page: Page, served: Served) -> None:
    page.get_by_role("button", name="Cat").click()
    page.get_by_label("Wild").check()
    generate(page)
    done(page)
    seed = served.work.requests[-1].params.seed
    open_tab(page, "history")
    plays(page, "#tiles video")
    shot(page, "gallery")
    page.get_by_role("tab", name="Examples").click()
    page.get_by_role("button", name="Blue door").click()
    open_tab(page, "history")
    page.get_by_label("Still").check()
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.get_by_role("slider", name="Motion")).to_have_value("200")
    expect(page.get_by_label("Wild")).to_be_checked()
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(seed))
    expect(page.locator("#progress")).to_contain_text("and the photo")
    generate(page)
    done(page)
    again = served.work.requests[-1]
    assert again.params == served.work.requests[-2].params
    assert again.image == (served.work.folder / "examples" / "cat.jpg").read_bytes()


@pytest.mark.slow
def test_made_videos_play_on_while_another_is_made(page: Page, served: Served) -> None:
    generate(page)
    done(page)
    open_tab(page, "history")
    plays(page, "#tiles video")
    page.evaluate("document.querySelector('#tiles video').dataset.seen = 'yes'")
    with served.work.held():
        generate(page)
        expect(page.locator("#waiting")).to_contain_text("step 2 of 8")
        assert page.locator("#tiles video").get_attribute("data-seen") == "yes"
    expect(page.locator("#tiles video")).to_have_count(2)


def test_deleting_asks_first_and_takes_the_file_away(page: Page, served: Served) -> None:
    generate(page)
    done(page)
    plays(page)
    open_tab(page, "history")
    plays(page, "#tiles video")  # a file that goes while it is fetched is an error of the console
    source = page.locator("#tiles video").get_attribute("src")
    assert page.request.get(f"{served.url}/{source}").ok
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#tiles").get_by_role("button", name="Delete").click()
    expect(page.locator("#tiles video")).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#tiles").get_by_role("button", name="Delete").click()
    expect(page.locator("#nothing")).to_be_visible()
    expect(page.get_by_role("button", name="Download all")).to_be_hidden()
    assert not page.request.get(f"{served.url}/{source}").ok


@pytest.mark.slow
def test_all_videos_come_as_one_archive(page: Page, served: Served, tmp_path: Path) -> None:
    open_tab(page, "history")
    for count in (1, 2):
        generate(page)
        expect(page.locator("#tiles video")).to_have_count(count)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all").click()
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        seeds = [request.params.seed for request in served.work.requests[-2:]]
        assert sorted(archive.namelist()) == sorted(
            f"{number:02}-seed-{seed}.mp4" for number, seed in enumerate(reversed(seeds), 1)
        )
        assert all(archive.read(name)[4:8] == b"ftyp" for name in archive.namelist())


@pytest.mark.slow
def test_a_restarted_server_goes_on_where_it_was(browser: Browser, tmp_path: Path) -> None:
    examples(tmp_path)
    with serve(tmp_path, FakeWork(tmp_path)) as first:
        page = browser.new_page()
        open_page(page, first.url)
        generate(page)
        done(page)
        first.work.go.clear()
        generate(page)
        expect(page.locator("#progress")).to_contain_text("step 2 of 8")
        port = int(first.url.rpartition(":")[2])
    with serve(tmp_path, FakeWork(tmp_path), port=port) as second:
        open_page(page, second.url)
        done(page)
        open_tab(page, "history")
        expect(page.locator("#tiles video")).to_have_count(2)
        plays(page)
    page.close()


@pytest.mark.slow
def test_a_full_queue_says_so_and_the_page_goes_on(browser: Browser, served: Served) -> None:
    with visitor(browser, served.url) as page, served.work.held():
        generate(page)
        expect(page.locator("#progress")).to_contain_text("step 2 of 8")
        with visitor(browser, served.url) as other:
            other.get_by_role("button", name="Try 4 seeds").click()
            open_tab(other, "history")
            expect(other.locator("#history li")).to_have_count(4)
            with visitor(browser, served.url) as third:
                generate(third)
                expect(third.get_by_role("alert")).to_contain_text("The queue is full")
                expect(third.get_by_role("button", name="Generate")).to_be_enabled()
                shot(third, "queue-full")
            other.get_by_role("button", name="Stop").click()
            expect(other.locator("#progress")).to_contain_text(re.compile("Stopped"))
