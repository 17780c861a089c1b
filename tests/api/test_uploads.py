"""Uploaded files: whole or not there, within their limits, gone when their time is over."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from svd_core.errors import StorageFull
from svd_core.web.fal.responses import ApiError
from svd_core.web.fal.signed_tokens import SignedTokens
from svd_core.web.fal.uploads import UploadLimits, UploadStore

HOUR = 3600.0
LIMITS = UploadLimits(file=1000, owner=2500, all=4000, keep_s=HOUR)


@pytest.fixture
def store(tmp_path: Path) -> UploadStore:
    return UploadStore(tmp_path / "uploads", LIMITS, SignedTokens(b"x" * 32))


def put(store: UploadStore, size: int = 5, owner: str = "ann", keep_s: float | None = None) -> str:
    name = store.new_name(owner, "image/png", "")
    with store.writing(name, keep_s) as incoming:
        incoming.write(b"a" * size)
    return name


def left(store: UploadStore) -> list[Path]:
    return [path for path in store.folder.rglob("*") if path.is_file()]


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value.response.status, caught.value.response.body["detail"]


@pytest.mark.parametrize(
    ("content_type", "file_name", "ending"),
    [
        ("image/png", "a.jpg", ".png"),
        ("image/jpeg; q=1", "", ".jpg"),
        ("IMAGE/WEBP", "", ".webp"),
        ("application/octet-stream", "Photo.HEIC", ".heic"),
        ("", "photo.jpeg", ".jpg"),
        ("image/svg+xml", "a.svg", ".bin"),
        ("text/html", "a.html", ".bin"),
        ("", "../../etc/passwd", ".bin"),
        ("", "a.png/../../b", ".bin"),
        ("", "..", ".bin"),
    ],
)
def test_a_name_shows_only_known_endings(
    store: UploadStore, content_type: str, file_name: str, ending: str
) -> None:
    name = store.new_name("ann", content_type, file_name)
    folder, _, file = name.partition("/")
    assert (len(folder), len(file)) == (8, 32 + len(ending))
    assert file.endswith(ending)
    assert store.new_name("ann", content_type, file_name) != name
    assert store.new_name("ann", "", "").startswith(folder)
    assert not store.new_name("bob", "", "").startswith(folder)
    assert "ann" not in name


def test_a_file_is_there_whole_or_not_at_all(store: UploadStore) -> None:
    name = store.new_name("ann", "image/png", "")
    with store.writing(name) as incoming:
        incoming.write(b"abc")
        assert store.find(name) is None
        incoming.write(b"def")
    found = store.find(name)
    assert found is not None
    assert found.read_bytes() == b"abcdef"
    assert left(store) == [found]


def test_a_client_that_goes_away_leaves_nothing(store: UploadStore) -> None:
    name = store.new_name("ann", "image/png", "")
    with pytest.raises(ConnectionError), store.writing(name) as incoming:  # noqa: PT012
        incoming.write(b"abc")
        raise ConnectionError
    with pytest.raises(ConnectionError), store.writing_part(name, 1) as incoming:  # noqa: PT012
        incoming.write(b"abc")
        raise ConnectionError
    assert left(store) == []


def test_a_second_try_that_fails_leaves_the_first(store: UploadStore) -> None:
    name = put(store)
    with pytest.raises(ConnectionError), store.writing(name) as incoming:  # noqa: PT012
        incoming.write(b"other")
        raise ConnectionError
    found = store.find(name)
    assert found is not None
    assert found.read_bytes() == b"aaaaa"


def test_one_file_has_a_limit(store: UploadStore) -> None:
    assert put(store, 1000)
    assert refusal(lambda: put(store, 1001))[0] == 413
    assert len(left(store)) == 1


def test_a_key_has_a_limit_and_others_have_their_own(store: UploadStore) -> None:
    for _ in range(2):
        put(store, 1000)
    status, detail = refusal(lambda: put(store, 501))
    assert status == 413
    assert "all uploads of a key together" in detail
    assert put(store, 500)
    assert put(store, 1000, "bob")


def test_uploads_at_the_same_time_count_together(
    store: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_core.web.fal.uploads.CHECK_INTERVAL_BYTES", 100)

    def write_three() -> None:
        names = [store.new_name("ann", "image/png", "") for _ in range(3)]
        with (
            store.writing(names[0]) as one,
            store.writing(names[1]) as two,
            store.writing(names[2]) as three,
        ):
            for _ in range(10):
                for incoming in (one, two, three):
                    incoming.write(b"a" * 100)

    assert refusal(write_three)[0] == 413
    assert left(store) == []


def test_empty_files_are_limited_by_their_number(
    store: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file that comes has all others of its key looked at."""
    monkeypatch.setattr("svd_core.web.fal.uploads.MAX_FILES", 5)
    for _ in range(5):
        put(store, 0)
    status, sentence = refusal(lambda: put(store, 0))
    assert status == 429
    assert "5 uploads" in sentence
    assert len(left(store)) == 5
    put(store, 0, "bob")


def test_what_is_announced_as_too_much_is_refused_at_once(store: UploadStore) -> None:
    put(store, 1000)
    put(store, 1000)
    with store.writing(store.new_name("ann", "", "")) as incoming:
        incoming.expect(500)
        assert refusal(lambda: incoming.expect(501))[0] == 413
    with store.writing(store.new_name("bob", "", "")) as incoming:
        incoming.expect(1000)
        assert refusal(lambda: incoming.expect(1001))[0] == 413


def test_a_full_disk_is_told_and_leaves_nothing(
    store: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    name = store.new_name("ann", "image/png", "")
    monkeypatch.setattr("svd_core.web.fal.uploads.os.write", full)
    with pytest.raises(StorageFull), store.writing(name) as incoming:
        incoming.write(b"abc")
    monkeypatch.undo()
    assert left(store) == []


def parts_of(store: UploadStore, name: str, *contents: bytes) -> list[tuple[int, str]]:
    found = []
    for number, content in enumerate(contents, start=1):
        with store.writing_part(name, number) as incoming:
            incoming.write(content)
        found.append((number, incoming.etag))
    return found


def test_parts_are_joined_in_the_order_of_their_numbers(store: UploadStore) -> None:
    name = store.new_name("ann", "image/png", "")
    parts = parts_of(store, name, *(f"<{number}>".encode() for number in range(1, 13)))
    assert store.find(name) is None
    store.join(name, [*reversed(parts)], None)
    found = store.find(name)
    assert found is not None
    assert found.read_bytes() == b"".join(f"<{number}>".encode() for number in range(1, 13))
    assert left(store) == [found]


def test_a_part_sent_again_replaces_the_first(store: UploadStore) -> None:
    name = store.new_name("ann", "image/png", "")
    (first,) = parts_of(store, name, b"old")
    (second,) = parts_of(store, name, b"new")
    assert refusal(lambda: store.join(name, [first], None))[0] == 400
    store.join(name, [second], None)
    found = store.find(name)
    assert found is not None
    assert found.read_bytes() == b"new"


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(1, "0" * 32)],
        [(3, "0" * 32)],
        [(1, "")],
        [(1, "../../secret")],
        [(1, "x/../../../secret")],
    ],
)
def test_parts_that_were_not_uploaded_are_not_joined(
    store: UploadStore, parts: list[tuple[int, str]]
) -> None:
    name = store.new_name("ann", "image/png", "")
    parts_of(store, name, b"abc")
    (store.folder / "secret").write_bytes(b"secret")
    (store.folder / name).with_name(f"{Path(name).name}.parts").joinpath("1-x").mkdir()
    assert refusal(lambda: store.join(name, parts, None))[0] == 400
    assert store.find(name) is None


def test_a_part_named_twice_is_refused(store: UploadStore) -> None:
    name = store.new_name("ann", "image/png", "")
    (part,) = parts_of(store, name, b"abc")
    assert refusal(lambda: store.join(name, [part, (1, "0" * 32)], None))[0] == 400


def test_parts_have_the_limits_of_a_file(store: UploadStore) -> None:
    name = store.new_name("ann", "image/png", "")
    parts = parts_of(store, name, b"a" * 600, b"b" * 600)
    assert refusal(lambda: store.join(name, parts, None))[0] == 413
    assert store.find(name) is None
    parts_of(store, name, b"a" * 600, b"b" * 600, b"c" * 600, b"d" * 600)
    assert refusal(lambda: parts_of(store, name, *[b"e" * 800] * 5))[0] == 413


@pytest.mark.parametrize(
    "name",
    ["", "a", "../../etc/passwd", "00000000/../../x.png", f"00000000/{'0' * 32}", f"{'0' * 32}.png",
     f"00000000/{'0' * 32}.png/", f"00000000/{'0' * 32}.png\n", f"0000000G/{'0' * 32}.png"],
)  # fmt: skip
def test_other_names_are_no_files(store: UploadStore, name: str) -> None:
    assert refusal(lambda: store.find(name))[0] == 404


def test_a_file_goes_when_its_time_is_over(store: UploadStore) -> None:
    usual, short, long = put(store), put(store, keep_s=60), put(store, keep_s=10 * HOUR)
    now = time.time()
    for name, lasting in ((usual, HOUR), (short, 60), (long, HOUR)):
        found = store.find(name)
        assert found is not None
        assert found.stat().st_mtime == pytest.approx(now + lasting, abs=5)
    os.utime(store.folder / short, (now, now - 1))
    assert store.find(short) is None
    store.sweep()
    assert {path.name for path in left(store)} == {Path(usual).name, Path(long).name}


def test_what_goes_soonest_goes_first_where_all_are_too_many(store: UploadStore) -> None:
    names = [put(store, 1000, owner, keep_s=60 + index) for index, owner in enumerate("abcde")]
    store.sweep()
    assert [store.find(name) is not None for name in names] == [False, True, True, True, True]


def test_unfinished_files_go_when_nobody_goes_on_with_them(store: UploadStore) -> None:
    name = store.new_name("ann", "image/png", "")
    parts_of(store, name, b"abc")
    (part,) = left(store)
    with store.writing(name) as incoming:
        incoming.write(b"abc")
        old = time.time() - 2 * HOUR
        os.utime(part, (old, old))
        store.sweep()
        assert incoming.draft.is_file()
        assert part.is_file()
        os.utime(incoming.draft, (old, old))
        os.utime(part, (old - 86_400, old - 86_400))
        store.sweep()
        assert left(store) == []
        incoming.draft.touch()


def test_empty_folders_go_too(store: UploadStore) -> None:
    name = store.new_name("ann", "image/png", "")
    parts_of(store, name, b"abc")
    (part,) = left(store)
    os.utime(part, (1, 1))
    store.sweep()
    assert not part.parent.exists()


def test_a_key_has_only_so_many_files(tmp_path: Path) -> None:
    """Empty ones too, since each upload looks at all of its key's."""
    store = UploadStore(tmp_path / "uploads", replace(LIMITS, count=5), SignedTokens(b"x" * 32))
    for _ in range(5):
        put(store, size=0)
    status, told = refusal(lambda: put(store, size=0))
    assert status == 413
    assert "5 uploads" in told
    assert len(left(store)) == 5
    put(store, size=0, owner="bob")
