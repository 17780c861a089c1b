"""The evaluator of svd-nano: good clips meet every target, and each kind of bad clip misses one."""

import hashlib
import io
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd_core.models import ASSETS
from svd_core.nano import photos

EXAMPLES = sorted((ASSETS / "examples").glob("*.jpg"))


def encoded(seed: int) -> bytes:
    """A PNG whose pixels, and so whose hash, are `seed`'s own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_six_listed_photos_are_kept_from_training() -> None:
    uses = Counter(source.use for source in photos.sources())
    assert set(uses) == {"training", "evaluation"}
    assert uses["evaluation"] == 6
    assert uses["training"] == len(list(photos.sources("training"))) > 50
    kept = photos.kept_from_training()
    assert len(kept) == 6 + len(list((ASSETS / "examples").iterdir()))
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in EXAMPLES} <= kept
    assert not kept & {source.sha256 for source in photos.sources("training")}


def test_training_never_reads_a_photo_of_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seed in (("mine.png", 1), ("innocent-name.png", 2)):
        (tmp_path / name).write_bytes(encoded(seed))
    (tmp_path / "cat.jpg").write_bytes(EXAMPLES[0].read_bytes())
    listed = photos.Source(
        "package", "/x.png", hashlib.sha256(encoded(2)).hexdigest(), "CC0", "evaluation"
    )
    monkeypatch.setattr(photos, "sources", lambda use=None: iter([listed]))
    with caplog.at_level(logging.WARNING):
        (learnt,) = photos.load_photos(tmp_path)
    assert np.array_equal(
        learnt.permute(1, 2, 0).numpy(), np.asarray(Image.open(io.BytesIO(encoded(1))))
    )
    assert "innocent-name.png skipped: it is kept for the evaluation" in caplog.text
    assert "cat.jpg skipped: it is kept for the evaluation" in caplog.text


def test_only_the_photos_of_one_use_are_fetched_and_only_those_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "photos.tsv"
    rows = ["package\tpath\tsha256\tlicence\tuse"]
    for seed, use in ((1, "training"), (2, "evaluation"), (3, "evaluation")):
        digest = hashlib.sha256(encoded(seed)).hexdigest()
        rows.append(f"package{seed}\t/{seed}.png\t{digest}\tCC0\t{use}")
    table.write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(photos, "SOURCES", table)
    asked = []

    def run(*command: str, folder: str) -> None:
        asked.append(command[:3])
        if command[0] == "apt-get":
            (Path(folder) / f"{command[2]}_1.deb").touch()
        else:
            seed = int(Path(command[2]).name.removeprefix("package")[0])
            (Path(folder) / f"{seed}.png").write_bytes(encoded(seed))

    monkeypatch.setattr(photos, "_run", run)
    second, third = photos.sources("evaluation")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / second.file).write_bytes(encoded(2))
    (tmp_path / "folder" / third.file).write_bytes(encoded(3)[:-1])
    photos.fetch_photos(tmp_path / "folder", "evaluation")
    assert [command for command in asked if command[0] == "apt-get"] == [
        ("apt-get", "download", "package3")
    ]
    assert (tmp_path / "folder" / third.file).read_bytes() == encoded(3)
    assert len(list((tmp_path / "folder").iterdir())) == 2
