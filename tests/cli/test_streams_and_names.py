"""Names that consoles and disks lack, streams that are closed or full, and bare environments.

A finished video is never lost, the next photo follows, and no one sees a traceback.
"""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from svd_core.cli.main import main
from svd_core.cli.output import OutputFolder
from svd_core.media.ffmpeg import _write_error
from svd_core.media.image import MAX_BYTES
from svd_core.media.video import read_frames
from svd_core.settings import Settings
from tests.cli.test_main import ROOT, Recorder, left_behind, one_sentence, photo, recorder, run

__all__ = ["recorder", "run"]  # fixtures of the other file

PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from svd_core.cli.main import run
from tests.cli.test_main import Recorder
sys.exit(run(sys.argv[1:], Recorder(notes=("A note.",)).open))
"""


def program(
    folder: Path,
    *arguments: str | bytes,
    redirects: str = "",
    prefix: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    **options: object,
) -> "subprocess.CompletedProcess[bytes]":
    """The command line in `folder` with an engine that repeats the photo.

    `redirects`: of the shell. `prefix`: command that starts it. `environ`: instead of this one's.
    """
    command = [*prefix, sys.executable, "-c", PROGRAM, str(ROOT), *arguments]
    if redirects:
        command = ["sh", "-c", f'exec "$@" {redirects}', "sh", *command]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ if environ is None else environ,
        capture_output=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def sane(done: "subprocess.CompletedProcess[bytes]") -> None:
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert b"Exception ignored" not in done.stderr, done.stderr.decode()


CONSOLES = {
    "Windows": {"PYTHONIOENCODING": "cp1252"},
    "DOS": {"PYTHONIOENCODING": "cp437"},
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "C locale": {"LC_ALL": "C"},
    "C locale as it is": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8:strict"},
}


@pytest.mark.parametrize("console", CONSOLES.values(), ids=CONSOLES)
def test_a_name_that_the_console_lacks_ends_nothing(
    tmp_path: Path, console: dict[str, str]
) -> None:
    names = ["写真.jpg", "été 🌞.jpg", os.fsdecode(b"b\xffd.jpg"), "b.jpg"]
    for name in names:
        photo(tmp_path / "a.jpg").rename(tmp_path / name)
    environ = {**os.environ, **console}
    done = program(tmp_path, *map(os.fsencode, names), "-o", "out/", environ=environ)
    sane(done)
    assert done.returncode == 0, done.stderr
    assert left_behind(tmp_path / "out") == sorted(f"{name[:-4]}.mp4" for name in names)
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    assert all(b".mp4: 3 frames" in line for line in lines)
    assert lines[-1].startswith(b"out/b.mp4: 3 frames")


def test_in_utf_8_a_name_comes_out_as_the_bytes_it_is(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg").rename(tmp_path / os.fsdecode(b"b\xffd.jpg"))
    done = program(tmp_path, b"b\xffd.jpg", environ={**os.environ, **CONSOLES["UTF-8"]})
    made = done.stdout.partition(b":")[0]
    assert made == b"b\xffd.mp4"
    assert os.path.isfile(os.fsencode(tmp_path) + b"/" + made)


def test_such_names_are_errors_in_a_sentence_too(tmp_path: Path) -> None:
    done = program(
        tmp_path, "写真.jpg", environ={**os.environ, "PYTHONIOENCODING": "cp1252:strict"}
    )
    sane(done)
    assert done.returncode == 2
    assert b"There is no such file" in done.stderr


# -- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/null 2>&1 < /dev/null"]
)
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    photo(tmp_path / "photo.jpg")
    done = program(tmp_path, "photo.jpg", "photo.jpg", "-o", "out/", redirects=closed)
    sane(done)
    assert done.returncode == 0, done.stderr
    assert left_behind(tmp_path / "out") == ["photo-2.mp4", "photo.mp4"]
    for path in (tmp_path / "out").iterdir():
        assert len(read_frames(path)) == 3
    assert b"A note." not in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_report_that_does_not_fit_loses_no_video(tmp_path: Path, form: list[str]) -> None:
    photo(tmp_path / "photo.jpg")
    done = program(tmp_path, "photo.jpg", "photo.jpg", "-o", "out/", *form, redirects="> /dev/full")
    sane(done)
    assert done.returncode == 1
    assert left_behind(tmp_path / "out") == ["photo-2.mp4", "photo.mp4"]
    assert b"photo.mp4 is done, but could not be reported: stdout cannot be wr" in done.stderr
    assert b"(No space" in done.stderr
    assert b"photo-2.mp4 is done, but" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_that_does_not_fit_ends_quietly(tmp_path: Path, arguments: list[str]) -> None:
    done = program(tmp_path, *arguments, redirects="> /dev/full")
    sane(done)
    assert done.returncode in (0, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_notes_that_do_not_fit_are_lost_alone(tmp_path: Path) -> None:
    photo(tmp_path / "photo.jpg")
    done = program(tmp_path, "photo.jpg", "missing.jpg", "-o", "out/", redirects="2> /dev/full")
    assert done.returncode == 2
    assert done.stdout.startswith(b"out/photo.mp4: 3 frames")


def test_a_reader_that_has_enough_ends_the_batch(tmp_path: Path) -> None:
    photo(tmp_path / "photo.jpg")
    command = [sys.executable, "-c", PROGRAM, str(ROOT), "photo.jpg", "photo.jpg", "-o", "out/"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read().replace(b"A note.\n", b""), process.wait()) == (b"", 1)
    assert left_behind(tmp_path / "out") == ["photo.mp4"]


# -- keeping ------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "staging").mkdir()
    path = tmp_path / "staging" / "x.mp4"
    path.write_bytes(b"video")
    return path


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ, errno.ENOENT])
def test_a_name_that_the_disk_cannot_have_becomes_a_plain_one(
    made: Path, monkeypatch: pytest.MonkeyPatch, number: int, tmp_path: Path
) -> None:
    """A memory card lacks colons, and an old network drive everything but ASCII."""
    touch = Path.touch

    def refuse(path: Path, *args: object, **options: object) -> None:
        if set(path.name) & set("é:写?"):
            raise OSError(number, os.strerror(number))
        touch(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "touch", refuse)
    assert OutputFolder(tmp_path, None).publish(made, "été: 1?").name == "t_1.mp4"
    made.write_bytes(b"other")
    assert OutputFolder(tmp_path, None).publish(made, "写真").name == "video.mp4"
    made.write_bytes(b"third")
    assert OutputFolder(tmp_path, None).publish(made, "写真").name == "video-2.mp4"


def test_a_name_that_is_too_long_with_its_number_is_shortened(made: Path, tmp_path: Path) -> None:
    stem = "x" * 251
    folder = OutputFolder(tmp_path, None)
    assert folder.publish(made, stem).name == f"{stem}.mp4"
    made.write_bytes(b"other")
    assert folder.publish(made, stem).name == f"{'x' * 60}.mp4"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EBUSY, errno.EISDIR])
def test_a_file_that_cannot_be_replaced_gets_a_neighbour(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On Windows, a player that shows out.mp4 locks it."""
    (tmp_path / "out.mp4").write_bytes(b"old")
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if target.name == "out.mp4":
            raise OSError(number, os.strerror(number))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    assert OutputFolder(tmp_path, "out.mp4").publish(made, "photo").name == "out-2.mp4"
    assert "out.mp4 cannot be written" in one_sentence(capsys.readouterr().err)
    assert left_behind(tmp_path) == ["out-2.mp4", "out.mp4", "staging"]
    assert (tmp_path / "out.mp4").read_bytes() == b"old"


def test_a_folder_that_is_closed_meanwhile_keeps_the_video_where_it_is(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", refuse)
        assert run("photo.jpg", "photo.jpg", "-o", "out/", "--json") == 0
    out, err = capsys.readouterr()
    assert err.count("cannot be moved to out (Read-only file system). It is kept here") == 2
    for line in out.splitlines():
        path = tmp_path / json.loads(line)["path"]
        assert path.parent.name.startswith(".svd-")
        assert len(read_frames(path)) == 3


def test_a_report_that_fails_for_any_reason_is_a_sentence(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("photo.jpg", "-o", "first.mp4") == 0

    def fail(*_: object) -> list[str]:
        raise KeyError("torch")

    monkeypatch.setattr("svd_core.cli.main._differences", fail)
    capsys.readouterr()
    assert run("--from-recipe", "first.mp4", "photo.jpg", "photo.jpg", "-o", "out/") == 1
    assert left_behind(tmp_path / "out") == ["photo-2.mp4", "photo.mp4"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" is done, but could not be reported: ")[0] for line in lines] == [
        "out/photo.mp4", "out/photo-2.mp4",
    ]  # fmt: skip


def test_a_bad_photo_and_a_bad_report_leave_the_first_exit_code(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The report of later photos is not left out either."""
    reported: list[str] = []
    monkeypatch.setattr(
        "svd_core.cli.main.print_result", lambda photo, *_: reported.append(photo.name)
    )
    assert run("missing.jpg", "photo.jpg", "-o", "out/") == 2
    assert reported == ["photo.jpg"]


@pytest.mark.parametrize("error", [RuntimeError("cuDNN\nerror"), KeyError("x"), OSError(5, "I/O")])
def test_what_is_not_expected_is_a_sentence(
    run: Callable[..., int],
    recorder: Recorder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    recorder.error = error
    assert run("photo.jpg") == 1
    assert type(error).__name__ in one_sentence(capsys.readouterr().err)
    assert left_behind(tmp_path) == ["photo.jpg"]


def test_a_full_disk_says_what_the_command_line_can_do(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> bytes:
        raise _write_error(1, "av_interleaved_write_frame(): No space left on device")

    monkeypatch.setattr("svd_core.media.video.encode", full)
    assert run("photo.jpg") == 1
    sentence = one_sentence(capsys.readouterr().err)
    assert "disk is full" in sentence
    assert "with -o" in sentence
    assert "SVD_DATA_DIR" not in sentence
    assert left_behind(tmp_path) == ["photo.jpg"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("-", "cannot be written to stdout.*-o out.mp4"),
        (f"{'x' * 300}/out.mp4", "Choose another place with -o"),
        ("photo.jpg/", "Choose another place with -o"),
        ("/proc/nothing/out.mp4", "Choose another place with -o"),
    ],
)
def test_a_place_that_cannot_be_is_a_sentence(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], output: str, words: str
) -> None:
    assert run("photo.jpg", "-o", output) == 2
    assert re.search(words, one_sentence(capsys.readouterr().err))


def test_a_folder_of_the_home_is_found_where_the_shell_leaves_it(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    photo(tmp_path / "home" / "b.jpg")
    assert run("~/b.jpg", "-o", "~/videos/") == 0
    assert left_behind(tmp_path / "home" / "videos") == ["b.mp4"]


# -- photos -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["*.jpg", "sub/../*.jpg", "?.jpg", "[a-c].jpg", "**/*.jpg"])
def test_patterns_that_the_shell_leaves(
    run: Callable[..., int], tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell of Windows leaves them all."""
    (tmp_path / "photo.jpg").unlink()
    for name in ("c", "a", "b"):
        photo(tmp_path / f"{name}.jpg")
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.jpg").mkdir()
    reported: list[str] = []
    monkeypatch.setattr(
        "svd_core.cli.main.print_result", lambda photo, *_: reported.append(Path(photo.name).stem)
    )
    assert run(pattern, "-o", "out/") == 0
    assert reported == ["a", "b", "c"]
    assert left_behind(tmp_path / "out") == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_name_with_brackets_is_no_pattern(run: Callable[..., int], tmp_path: Path) -> None:
    photo(tmp_path / "IMG[1].jpg", shade=0)
    photo(tmp_path / "IMG1.jpg", shade=250)
    assert run("IMG[1].jpg", "-o", "out/") == 0
    assert left_behind(tmp_path / "out") == ["IMG[1].mp4"]


def test_a_pattern_of_one_photo_is_one_photo(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("*.jpg", "-o", "out.mp4") == 0
    assert left_behind(tmp_path) == ["out.mp4", "photo.jpg"]


def test_a_pattern_of_several_photos_needs_a_folder(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "other.jpg")
    assert run("*.jpg", "-o", "out.mp4") == 2
    assert "-o out/" in one_sentence(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("*.gif", "There is no such file"),
        ("[", "There is no such file"),
        ("x" * 300 + ".jpg", "cannot be read"),
        ("folder", " folder/*.jpg"),
        ("folder/", " folder/*.jpg"),
        ("", "name of a photo is empty"),
    ],
)
def test_what_is_no_photo_is_a_sentence_and_the_next_follows(
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    words: str,
) -> None:
    (tmp_path / "folder").mkdir()
    assert run(name, "photo.jpg", "-o", "out/") == 2
    sentence = one_sentence(capsys.readouterr().err)
    assert sentence.startswith(f"{name}: ")
    assert words in sentence
    assert left_behind(tmp_path / "out") == ["photo.mp4"]


def test_stdin_is_a_photo(tmp_path: Path) -> None:
    data = photo(tmp_path / "photo.jpg").read_bytes()
    done = program(tmp_path, "-", "--json", input=data)
    sane(done)
    line = json.loads(done.stdout)
    assert (line["photo"], line["path"]) == ("-", "stdin.mp4")
    assert len(read_frames(tmp_path / "stdin.mp4")) == 3
    assert program(tmp_path, "-", "-o", "out.mp4", input=data).returncode == 0
    assert (tmp_path / "out.mp4").is_file()


@pytest.mark.parametrize("redirects", ["", "<&-", "< /dev/null"])
def test_a_stdin_without_a_photo_is_a_sentence(tmp_path: Path, redirects: str) -> None:
    done = program(tmp_path, "-", redirects=redirects, **({} if redirects else {"input": b""}))
    sane(done)
    assert done.returncode == 2
    assert one_sentence(done.stderr.decode()).startswith("-: ")


def test_stdin_is_named_once(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-", "photo.jpg", "-", "-o", "out/") == 2
    assert "named once" in one_sentence(capsys.readouterr().err)
    assert left_behind(tmp_path) == ["photo.jpg"]


@pytest.mark.parametrize("name", ["photo.mp4", "./photo.mp4", "linked.mp4", "hard.mp4"])
def test_a_file_that_is_read_is_never_replaced(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Photos have any suffix, and a recipe is read from a video."""
    data = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").rename(tmp_path / "photo.mp4")
    (tmp_path / "linked.mp4").symlink_to("photo.mp4")
    (tmp_path / "hard.mp4").hardlink_to(tmp_path / "photo.mp4")
    assert run("photo.mp4", "-o", name) == 2
    assert "photo.mp4 is read for this video" in one_sentence(capsys.readouterr().err)
    assert (tmp_path / "photo.mp4").read_bytes() == data
    assert run("photo.mp4", "-o", "first.mp4") == 0
    assert run("--from-recipe", "first.mp4", "photo.mp4", "-o", "first.mp4") == 2
    assert "first.mp4 is read for this video" in capsys.readouterr().err
    assert run("photo.mp4", "-o", "first.mp4") == 0


def test_of_a_file_without_an_end_no_more_is_read_than_a_photo_has(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("/dev/zero") == 2
    assert f"larger than {MAX_BYTES >> 20} MB" in one_sentence(capsys.readouterr().err)


# -- bare environments --------------------------------------------------------------------------

NAMELESS = (
    "setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip
"""A user without a name, as containers have; it may read the Python of this machine."""

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "no home": {"HOME": ""},
    "home is the root": {"HOME": "/"},
    "home is gone": {"HOME": "/nowhere", "TMPDIR": "/nowhere"},
    "cron": {"HOME": "/", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "LC_ALL": "C"},
    "dumb terminal": {"TERM": "dumb", "COLUMNS": "0", "LINES": "x"},
}


@pytest.mark.parametrize("environ", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
@pytest.mark.parametrize("user", [pytest.param("this", marks=pytest.mark.slow), "nameless"])
def test_bare_environments(tmp_path: Path, environ: dict[str, str], user: str) -> None:
    if user == "nameless" and (os.geteuid() != 0 or shutil.which("setpriv") is None):
        pytest.skip("needs root and setpriv to become another user")
    photo(tmp_path / "photo.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    prefix = NAMELESS if user == "nameless" else ()
    done = program(tmp_path, "photo.jpg", "-o", "out/", environ=environ, prefix=prefix)
    sane(done)
    assert done.returncode == 0, done.stderr
    assert left_behind(tmp_path / "out") == ["photo.mp4"]


def test_without_a_home_the_data_is_in_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_data_path", homeless)
    assert Settings.from_env({}).data_dir == Path.cwd() / "svd-studio"


def test_a_current_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = program(gone, "photo.jpg", prefix=("sh", "-c", f'rmdir "{gone}"; exec "$@"', "sh"))
    sane(done)
    assert done.returncode in (1, 2)


def test_where_there_is_no_folder_for_temporary_files_the_output_folder_has_one(
    run: Callable[..., int],
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch asks for one when it is imported."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    monkeypatch.setenv("TMPDIR", "/nowhere")
    found = []
    load = recorder.load
    recorder.load = lambda *args: found.append(tempfile.gettempdir()) or load(*args)  # type: ignore[method-assign]
    assert run("photo.jpg", "-o", "out/") == 0
    assert Path(found[0]).parent == tmp_path / "out"
    assert left_behind(tmp_path / "out") == ["photo.mp4"]


def test_a_console_is_prepared_only_for_the_program_itself(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who calls `main` keeps streams of its own."""
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run("photo.jpg", "-o", "out.mp4") == 0
    assert stream.errors == "strict"
    assert main(["--recipe", "out.mp4"]) == 0
