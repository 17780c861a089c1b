"""A video tells what made it, and nothing that pretends to be a recipe gets through."""

import hashlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svd_core.checkpoints.table import ASSETS, CHECKPOINTS
from svd_core.errors import InvalidRecipe
from svd_core.media.export import Export, Format, export
from svd_core.media.image import FramedPhoto, frame_photo, open_photo
from svd_core.media.recipe import FORMAT, MAX_CLIPS, Recipe, fingerprint
from svd_core.media.video import read_frames, write_mp4
from svd_core.params import VideoParams
from svd_core.types import Frames, GenerationResult
from tests.fakes.errors import has_code

FRAMES: Frames = np.full((3, 32, 64, 3), 90, np.uint8)


def photo_file(width: int = 300, height: int = 200) -> bytes:
    file = io.BytesIO()
    shades = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(shades).save(file, "PNG")
    return file.getvalue()


def framed(params: VideoParams, data: bytes) -> FramedPhoto:
    return frame_photo(open_photo(data), [(128, 64), (64, 128)], params)


PHOTO = photo_file()
PARAMS = VideoParams(seed=2**32 - 1, motion_bucket_id=40, noise_aug_strength=0.05, focus_x=0.25)
USED = replace(PARAMS, num_frames=3, num_inference_steps=8, decode_chunk_size=2)
RECIPE = Recipe.from_clip(
    GenerationResult(FRAMES, USED, ("Held to 30 fps — as trained.",)),
    CHECKPOINTS["svd-xt"],
    framed(USED, PHOTO),
    PHOTO,
)


@dataclass(frozen=True)
class Local:
    """A checkpoint in a folder."""

    folder: Path
    name: str = "mine"
    revision: str = ""

    @property
    def source(self) -> str:
        return str(self.folder)


@pytest.fixture
def local(tmp_path: Path) -> Local:
    folder = tmp_path / "secret place" / "my-model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").write_bytes(b"a" * 300_000)
    (folder / "model_index.json").write_text("{}")
    return Local(folder)


def test_a_recipe_travels_in_its_video(tmp_path: Path) -> None:
    path = write_mp4(FRAMES, tmp_path / "a.mp4", 7, RECIPE.to_json())
    assert Recipe.read(path) == RECIPE


def test_it_tells_what_made_the_video() -> None:
    found = json.loads(RECIPE.to_json())
    assert found["format"] == FORMAT
    assert found["source"] == "stabilityai/stable-video-diffusion-img2vid-xt"
    assert found["params"]["seed"] == 2**32 - 1
    assert found["params"]["num_inference_steps"] == 8
    assert found["box"] == pytest.approx([0, 25, 300, 175])
    assert found["size"] == [128, 64]
    assert found["image_sha256"] == hashlib.sha256(PHOTO).hexdigest()
    assert found["notes"] == ["Held to 30 fps — as trained."]
    assert found["versions"]["torch"] == metadata.version("torch")
    assert "svd_core" in found["versions"]


def test_it_tells_when_the_video_was_made() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    made = Recipe.from_clip(
        GenerationResult(FRAMES, USED, ()), CHECKPOINTS["svd-xt"], framed(USED, PHOTO), PHOTO
    ).created
    assert before <= datetime.fromisoformat(made) <= datetime.now(UTC)


def test_packages_that_are_not_there_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    made = Recipe.from_clip(
        GenerationResult(FRAMES, USED), CHECKPOINTS["svd"], framed(USED, PHOTO), PHOTO
    )
    assert "torch" not in made.versions
    assert made.versions["diffusers"] == "1"


def test_the_model_libraries_are_not_loaded() -> None:
    code = (
        "import sys, svd_core.media.recipe as r; r._versions(); "
        "print([m for m in ('torch', 'diffusers', 'gradio') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"[]\n"


def imagined(image: Image.Image, params: VideoParams) -> Frames:
    """Frames that depend on every pixel and on the seed, as a model's do."""
    noise = np.random.default_rng(params.seed).integers(0, 64, (3, *image.size[::-1], 3))
    moved = [
        np.roll(np.asarray(image, np.int64), 4 * t * params.motion_bucket_id) for t in range(3)
    ]
    return ((np.stack(moved) // 2) + noise).astype(np.uint8)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_video_can_be_made_again_frame_by_frame(tmp_path: Path, fit: str) -> None:
    asked = VideoParams.from_mapping({"fit": fit, "focus_x": 0.1234567890123, "focus_y": 1 / 3})
    first = framed(asked, PHOTO)
    clip = GenerationResult(imagined(first.image, asked), asked)
    recipe = Recipe.from_clip(clip, CHECKPOINTS["svd-nano"], first, PHOTO)
    path = write_mp4(clip.frames, tmp_path / "a.mp4", asked.rate, recipe.to_json())

    told = Recipe.read(path)
    again = framed(told.params, PHOTO)
    frames = imagined(again.image, told.params)
    assert told.params == asked
    assert (again.box, again.size, again.fit) == (told.box, told.size, told.fit)
    assert (frames == clip.frames).all()
    copy = write_mp4(frames, tmp_path / "b.mp4", told.params.rate, told.to_json())
    assert (read_frames(copy) == read_frames(path)).all()


def test_it_knows_its_photo() -> None:
    assert RECIPE.matches(PHOTO)
    assert not RECIPE.matches(PHOTO + b"\0")


def test_a_folder_is_known_by_its_weights_and_not_by_its_path(local: Local) -> None:
    made = Recipe.from_clip(GenerationResult(FRAMES, USED), local, framed(USED, PHOTO), PHOTO)
    assert made.source == "my-model"
    assert "secret place" not in made.to_json()
    assert made.made_with(local)
    assert not made.made_with(CHECKPOINTS["svd-xt"])
    weights = local.folder / "unet" / "model.safetensors"
    before = fingerprint(local.folder)
    for changed in (b"a" * 299_999 + b"b", b"b" + b"a" * 299_999, b"a" * 300_001):
        weights.write_bytes(changed)
        assert fingerprint(local.folder) != before
    assert not made.made_with(local)


def test_another_revision_of_a_hub_model_is_another_model() -> None:
    assert RECIPE.made_with(CHECKPOINTS["svd-xt"])
    assert not RECIPE.made_with(replace(CHECKPOINTS["svd-xt"], revision="0ldc0mm1t"))
    assert not RECIPE.made_with(CHECKPOINTS["svd-xt-1.1"])


@pytest.mark.parametrize(
    ("comment", "code"),
    [
        ("", "recipe_missing"),
        ("Made with a camera", "recipe_missing"),
        ('{"prompt": {"3": {"class_type": "KSampler"}}}', "recipe_missing"),
        ('{"format": "mp4"}', "recipe_missing"),
        ("[1]", "recipe_missing"),
        (RECIPE.to_json()[:-9], "recipe_unreadable"),
        (RECIPE.to_json().replace("format", "format\\x"), "recipe_unreadable"),
        ('{"a":' * 13_000, "recipe_unreadable"),
        (json.dumps({"format": FORMAT + 1}), "recipe_too_new"),
        (json.dumps({"format": 0}), "recipe_missing"),
        (json.dumps({"format": FORMAT, "model": "x" * 2**16}), "recipe_too_long"),
        (json.dumps({"format": FORMAT}), "recipe_invalid"),
    ],
)
def test_other_comments_are_refused_by_their_fault(tmp_path: Path, comment: str, code: str) -> None:
    path = write_mp4(FRAMES, tmp_path / "a.mp4", 7, comment)
    with pytest.raises(InvalidRecipe, check=has_code(code)) as caught:
        Recipe.read(path)
    assert (caught.value.field, caught.value.status) == ("recipe", 422)


@pytest.mark.parametrize("kind", ["text", "gone"])
def test_other_files_are_refused_in_words(tmp_path: Path, kind: str) -> None:
    if kind == "text":
        (tmp_path / "a.mp4").write_text("hello")
    code = "video_unreadable" if kind == "text" else "file_missing"
    with pytest.raises(InvalidRecipe, check=has_code(code, file="a.mp4")):
        Recipe.read(tmp_path / "a.mp4")


FITTING = [
    ("model", "x"), ("source", "x"), ("revision", "x"), ("notes", []), ("versions", {}),
    ("continues", None),
]  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe)])
@pytest.mark.parametrize("value", [None, 7, "x", [], {}, [[]], {"a": None}, float("nan")])
def test_each_field_is_checked(name: str, value: object) -> None:
    """Any text is a valid name; values of another type are refused."""
    found = json.loads(RECIPE.to_json())
    fitting = (name, value) in FITTING
    found[name] = value
    if fitting:
        assert Recipe.from_json(json.dumps(found))
    else:
        with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid")):
            Recipe.from_json(json.dumps(found))


@pytest.mark.parametrize("name", ["size", "box"])
@pytest.mark.parametrize("edge", ["NaN", "Infinity", '"x"', "[]"])
def test_sizes_and_boxes_are_finite(name: str, edge: str) -> None:
    found = json.loads(RECIPE.to_json())
    found[name][0] = "EDGE"
    with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid", part=name)):
        Recipe.from_json(json.dumps(found).replace('"EDGE"', edge))


HOSTILE = [
    ("model", "../../etc/passwd"),
    ("model", "..\\windows"),
    ("model", "<script>alert(1)</script>"),
    ("model", "x" * 201),
    ("model", ""),
    ("model", "a\nb"),
    ("source", "/etc/passwd"),
    ("source", "../model"),
    ("source", "a/../b"),
    ("source", "owner/name/more"),
    ("source", "https://evil.example/model"),
    ("revision", "../main"),
    ("revision", "main; rm -rf"),
    ("fingerprint", "x"),
    ("fingerprint", "0" * 17),
    ("image_sha256", "x"),
    ("image_sha256", "../" + "0" * 61),
    ("created", "<b>now</b>"),
    ("notes", ["<img src=x onerror=alert(1)>"]),
    ("notes", ["x" * 501]),
    ("notes", ["x"] * 51),
    ("versions", {"<b>": "1"}),
    ("versions", {"torch": "<b>"}),
    ("size", [10**30, 64]),
    ("size", [2**16 + 1, 64]),
    ("size", [0, 64]),
    ("size", [-64, 64]),
    ("size", [1e308, 64]),
    ("box", [0, 0, 1e300, 5]),
    ("box", [-1e9, 0, 5, 5]),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_hostile_values_are_refused(name: str, value: object) -> None:
    found = json.loads(RECIPE.to_json())
    found[name] = value
    with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid")):
        Recipe.from_json(json.dumps(found))


@pytest.mark.parametrize("value", ["1e400", "9" * 5000, "-" + "9" * 400])
@pytest.mark.parametrize("name", ["seed", "num_frames", "noise_aug_strength"])
def test_huge_numbers_are_refused(name: str, value: str) -> None:
    found = json.loads(RECIPE.to_json())
    found["params"][name] = "NUMBER"
    with pytest.raises(InvalidRecipe) as caught:
        Recipe.from_json(json.dumps(found).replace('"NUMBER"', value))
    assert caught.value.code in ("recipe_invalid", "recipe_unreadable")  # Python may not read it


def test_names_that_people_give_their_checkpoints_are_taken() -> None:
    for name in ("Größe 2 (final)", "my.model", "a'b"):
        assert replace(RECIPE, model=name, source=name) == Recipe.from_json(
            replace(RECIPE, model=name, source=name).to_json()
        )


def as_format_1(recipe: Recipe) -> str:
    found = json.loads(recipe.to_json()) | {"format": 1}
    del found["continues"], found["params"]["orientation"], found["params"]["speed"]
    return json.dumps(found)


def test_recipes_of_format_1_are_read() -> None:
    assert Recipe.from_json(as_format_1(RECIPE)) == RECIPE
    lacking = json.loads(as_format_1(RECIPE)) | {"format": 2}
    with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid", part="continues")):
        Recipe.from_json(json.dumps(lacking))


def test_recipes_of_format_2_are_read_with_what_they_continue() -> None:
    found = json.loads(replace(RECIPE, continues=RECIPE).to_json()) | {"format": 2}
    for recipe in (found, found["continues"]):
        del recipe["params"]["speed"]
    assert Recipe.from_json(json.dumps(found)) == replace(RECIPE, continues=RECIPE)


@pytest.mark.parametrize("video", sorted((ASSETS / "examples").glob("*.mp4")), ids=lambda p: p.stem)
def test_the_examples_tell_how_they_were_made(video: Path) -> None:
    recipe = Recipe.read(video)
    assert recipe.model == "svd-nano"
    assert recipe.matches(video.with_suffix(".jpg").read_bytes())


def joined(clips: int) -> Recipe:
    recipe = RECIPE
    for seed in range(1, clips):
        recipe = replace(RECIPE, params=replace(USED, seed=seed), continues=recipe)
    return recipe


def test_a_joined_video_tells_of_each_of_its_clips() -> None:
    recipe = joined(3)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert [clip.params.seed for clip in recipe.clips] == [USED.seed, 1, 2]
    assert recipe.clips[0] == RECIPE
    assert recipe.clips[0].matches(PHOTO)


def test_what_a_clip_continues_is_checked_as_well() -> None:
    found = json.loads(joined(3).to_json())
    found["continues"]["continues"]["model"] = "../../etc/passwd"
    with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid", part="model")):
        Recipe.from_json(json.dumps(found))


def test_only_so_many_clips_are_joined() -> None:
    assert len(Recipe.from_json(joined(MAX_CLIPS).to_json()).clips) == MAX_CLIPS
    with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid", part="continues")):
        Recipe.from_json(joined(MAX_CLIPS + 1).to_json())


@pytest.mark.parametrize("format", ["gif", "webp", "png"])
def test_an_export_carries_the_recipe_too(tmp_path: Path, format: Format) -> None:
    path = export(FRAMES, Export(format=format), tmp_path / "a.bin", RECIPE.to_json())
    assert Recipe.read(path) == RECIPE


@pytest.mark.parametrize("name", [f.name for f in fields(VideoParams) if f.name != "model"])
def test_no_setting_may_be_lost_or_wrong(name: str) -> None:
    """A lost seed would otherwise be drawn again, and give another video."""
    found = json.loads(RECIPE.to_json())
    found["params"][name] = "swift"
    with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid", part=name)):
        Recipe.from_json(json.dumps(found))
    del found["params"][name]
    with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid", part=name)):
        Recipe.from_json(json.dumps(found))


def test_the_model_is_told_once_beside_the_settings() -> None:
    """So recipes of before the model could be chosen read the same, and no two names disagree."""
    for clip in (json.loads(RECIPE.to_json()), json.loads(joined(2).to_json())["continues"]):
        assert "model" not in clip["params"]
        clip["params"]["model"] = "svd"
        with pytest.raises(InvalidRecipe, check=has_code("recipe_invalid", part="model")):
            Recipe.from_json(json.dumps(clip | {"format": 3}))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(name=st.sampled_from([f.name for f in fields(Recipe)]), value=JSON)
def test_edited_recipes_are_read_or_refused(name: str, value: Any) -> None:
    found = json.loads(RECIPE.to_json()) | {name: value}
    try:
        recipe = Recipe.from_json(json.dumps(found))
    except InvalidRecipe:
        return
    assert Recipe.from_json(recipe.to_json()) == recipe


@given(text=st.text() | JSON.map(json.dumps))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRecipe):
        Recipe.from_json(text)
