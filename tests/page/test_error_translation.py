"""The core's sentences as the page says them: none is forgotten, and what is in them stays."""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from svd_core import errors
from svd_core.checkpoints.defaults import warnings_for, with_defaults
from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.errors import InvalidRequest, SvdError
from svd_core.events import Failed, Progress, Stage
from svd_core.extend import drift
from svd_core.jobs.queue import QueueLimits
from svd_core.media.export import Export
from svd_core.media.image import open_photo, size_for
from svd_core.params import PARAMETERS, VideoParams
from svd_core.web.page import formatting
from svd_core.web.page.i18n import (
    CLAUSE,
    DEFAULT_LANGUAGE,
    ONE_WORD,
    PLACEHOLDER,
    Template,
    languages,
    templates,
    translate,
    translate_part,
)
from tests.fakes.engines import READY
from tests.fakes.work import front_queue, moving

ROOT = Path(__file__).parents[2] / "svd_core"
ELSEWHERE = {
    "training": "training is no part of the program",
    "benchmarks": "so is measuring",
    "cli": "the command line's own",
    "__main__.py": "the command line's own",
    "settings.py": "they end the start, before there is a page",
    "owner_lock.py": "it speaks before there is a page, or ends it",
    "cluster/config.py": "they end the program",
    "cluster/connection.py": "for the log; the page says that machines cannot be reached",
    "web/fal": "the API's own",
    "web/safe_http.py": "photos by their address come to the API alone",
    "web/request_body.py": "answers to what the page does not send",
    "web/middleware.py": "answers to what the page does not send",
    "web/origins.py": "answers to what the page does not send",
    "web/page/components.py": "answers to what the page does not send",
}
"""What says nothing to visitors of the page, and why."""

DE = languages()["de"]
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type)} - {
    "InvalidSettings"  # as with settings.py
}


def code() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not any(name == place or name.startswith(f"{place}/") for place in ELSEWHERE):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def sentences(node: ast.AST) -> Iterator[str]:
    """Every text below `node` that reads like a sentence or is an error's, {} for what is put in;
    no docstrings, no logs, nothing that ends the start."""
    match node:
        case ast.Expr(ast.Constant()):
            return
        case ast.Call(ast.Name("InvalidSettings")):
            return
        case ast.Call(ast.Attribute(ast.Name("log"))):
            return
        case ast.Call(ast.Name(name), arguments) if name in KINDS:
            at = 1 if name == "InvalidRequest" else 0  # which names the field first
            yield from filter(None, map(text_of, arguments[at : at + 1]))
    if (text := text_of(node)) is not None:
        if re.search(r"\w+ \w+.*(\.|: \{\})$", text):
            yield text
        children = [each.value for each in ast.walk(node) if isinstance(each, ast.FormattedValue)]
    else:
        children = list(ast.iter_child_nodes(node))  # type: ignore[arg-type]
    for child in children:
        yield from sentences(child)


def text_of(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(str(text)):
            return text if " " in text else None
        case ast.JoinedStr(values):
            return "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in values)  # type: ignore[misc]
    return None


def clauses(node: ast.AST) -> Iterator[str]:
    """Messages of other errors that are quoted in an error of ours."""
    for each in ast.walk(node):
        match each:
            case ast.Call(ast.Name("ValueError" | "TypeError"), [message]):
                yield text_of(message) or ""


def made_of(template: Template, text: str) -> bool:
    """Whether `template` is `text`, or what that becomes by filling some of its {}."""
    form = ".+".join(map(re.escape, text.split("{}")))
    return re.fullmatch(form, template.texts[DEFAULT_LANGUAGE], re.DOTALL) is not None


SAID = {text: name for name, tree in code() for text in sentences(tree)}
WITHIN = {
    text: name for name, tree in code() if name == "media/recipe.py" for text in clauses(tree)
}


def test_every_sentence_that_can_reach_the_page_has_a_template() -> None:
    assert len(SAID) > 80
    missing = [
        f"{name}: {text}"
        for text, name in SAID.items()
        if not any(made_of(template, text) for template in templates()[""])
    ]
    assert missing == []


def test_every_clause_of_a_recipes_error_has_a_template() -> None:
    assert len(WITHIN) > 5
    assert [
        text for text in WITHIN if not any(made_of(each, text) for each in templates()[CLAUSE])
    ] == []


def test_no_template_is_left_over() -> None:
    for known, found in ((SAID, templates()[""]), (WITHIN, templates()[CLAUSE])):
        assert [
            each.texts[DEFAULT_LANGUAGE]
            for each in found
            if not any(made_of(each, text) for text in known)
        ] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise InvalidImage("Too dark")', ["Too dark"]),
        ('raise InvalidRequest("fps", f"{n} is many.")', ["{} is many."] * 2),
        ('note = (f"It took {s} s; "\n "be patient.")', ["It took {} s; be patient."]),
        ('SAID = "It is over."', ["It is over."]),
        ("f\"{first('One is left.')} more\"", ["One is left."]),
        ('f"The model failed: {why}"', ["The model failed: {}"]),
        ('"""What a docstring says."""', []),
        ('log.error("It went wrong.")', []),
        ('raise InvalidSettings("That is no port.")', []),
        ('x = {"a key": "a value"}', []),
    ],
)
def test_sentences_are_found_wherever_they_stand(source: str, found: list[str]) -> None:
    tree = ast.parse(f"def f():\n    {source}" if source.startswith("raise") else source)
    assert list(sentences(tree)) == found


def test_templates_are_there_in_every_language_with_the_same_places() -> None:
    for template in itertools.chain(*templates().values()):
        assert set(template.texts) == set(languages())
        usual = template.texts[DEFAULT_LANGUAGE]
        for said in template.texts.values():
            assert sorted(PLACEHOLDER.findall(said)) == sorted(PLACEHOLDER.findall(usual)), usual
        assert len(set(PLACEHOLDER.findall(usual))) == len(PLACEHOLDER.findall(usual)), usual


@pytest.mark.parametrize(
    "template", templates()[""], ids=lambda each: each.texts[DEFAULT_LANGUAGE][:40]
)
def test_every_sentence_comes_back_in_german_with_its_values(template: Template) -> None:
    """Values that look like sentences themselves, where places may hold any text."""
    names = PLACEHOLDER.findall(template.texts[DEFAULT_LANGUAGE])
    plain = {name: f"<{name}>" for name in names}
    odd = {
        name: plain[name] if name in ONE_WORD else f"'{name}: no, 1.5, not' a b" for name in names
    }
    for values in (plain, odd):
        told = translate(template.texts[DEFAULT_LANGUAGE].format(**values), DE)
        assert told == template.texts["de"].format(**values)
        assert told != template.texts[DEFAULT_LANGUAGE].format(**values)


def german(error: Exception) -> str:
    assert isinstance(error, SvdError)
    return translate(error.message, DE)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"num_frames": "1"}, "num_frames muss eine ganze Zahl von 2 bis 50 sein, nicht '1'."),
        ({"focus_x": 1.5}, "focus_x muss eine Zahl von 0 bis 1 sein, nicht 1.5."),
        ({"fit": "a or b"}, "fit muss 'crop' oder 'pad' sein, nicht 'a or b'."),
        ({"speed": "x"}, "speed muss 'exact' oder 'fast' oder 'turbo' sein, nicht 'x'."),
        ({"fps": "1 to 2, not 3."}, "fps muss eine ganze Zahl von 1 bis 100 sein, nicht "
                                    "'1 to 2, not 3.'."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_setting(values: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        VideoParams.from_mapping(values)
    assert german(error.value) == told


def test_a_list_of_words_is_one_of_choices() -> None:
    for name, choice in PARAMETERS.items():
        if not choice.words:
            continue
        with pytest.raises(InvalidRequest) as error:
            VideoParams.from_mapping({name: "no"})
        assert german(error.value) == (
            f"{name} muss {' oder '.join(map(repr, choice.words))} sein, nicht 'no'."
        )
    with pytest.raises(InvalidRequest) as error:
        Export(format="avi")  # type: ignore[arg-type]
    assert german(error.value) == (
        "format muss 'mp4' oder 'gif' oder 'webp' oder 'png' sein, nicht 'avi'."
    )


def test_photos() -> None:
    with pytest.raises(InvalidRequest) as error:
        open_photo(b"")
    assert "wählen Sie ein Foto (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF oder HEIC)." in german(
        error.value
    )
    with pytest.raises(InvalidRequest) as error:
        size_for((2, 3), [(512, 288), (384, 384)], "portrait")
    assert german(error.value) == (
        "Dieses Modell macht keine Videos im Hochformat, nur im Querformat, Quadrat."
    )


def test_the_queue_is_full(tmp_path: Path) -> None:
    from svd_core.params import VideoRequest

    with front_queue(tmp_path, QueueLimits(0)) as queue:
        with pytest.raises(SvdError) as error:
            queue.submit(VideoRequest(b"", VideoParams()))
        assert german(error.value).startswith("0 Videos warten schon, mehr passen nicht;")
        queue.in_turn = False
        with pytest.raises(SvdError) as error:
            queue.submit(VideoRequest(b"", VideoParams()))
        assert german(error.value).startswith("0 Videos entstehen schon,")


def test_notes_of_a_video() -> None:
    notes = warnings_for(
        with_defaults(VideoParams(fps=60, num_frames=30), CHECKPOINTS["svd-xt"], 8),
        CHECKPOINTS["svd-xt"],
    )
    assert [translate(note, DE) for note in notes] == [
        "Das Modell kennt 5 bis 30 Bilder je Sekunde, darum ist die Bewegung für 30 gemacht; "
        "abgespielt wird das Video mit 60.",
        "svd-xt hat mit 25 Bildern gelernt; mehr sehen schlechter aus.",
    ]
    grey = moving()[:1] * 0
    softer, shifted = (translate(note, DE) for note in drift(moving(), grey[0]))
    assert softer.startswith("Das Ende des Videos hat 100% weniger Einzelheiten")
    assert re.match(r"Die Farben am Ende des Videos weichen um \d+% von", shifted)


def test_plans_and_two_notes_at_once() -> None:
    compiling = "The UNet is compiled for this size first, which takes minutes."
    for offload, split, whole, chunk in itertools.product(
        ("none", "model", "sequential"), (True, False), (True, False), (1, 4)
    ):
        plan = MemoryPlan(
            device="cuda", dtype="float16", offload=offload, decode_chunk_size=chunk,
            split_guidance=split, whole_clip=whole,
        )  # type: ignore[arg-type]  # fmt: skip
        note = f"Memory ran out, so it was made again with {plan.describe()}."
        told = translate(f"{note} {compiling}", DE)
        assert not re.search(r"\b(frames?|offload|guidance|itself|decoded|the|is)\b", told), told
        assert ("Bild auf einmal" in told) == (chunk == 1)
        assert told.endswith(", das dauert Minuten.")


def test_within_a_sentence_another_one() -> None:
    notice = (
        "a/b cannot be downloaded now: https://hub did not answer or broke off. Check the network "
        "and start again; files that came whole are kept. Until then svd-nano, a small "
        "demonstration model, runs here."
    )
    told = formatting.notice_html(replace(READY, notice=notice), DE)
    assert "a/b lässt sich gerade nicht herunterladen: https://hub antwortete nicht" in told
    assert told.endswith("Bis dahin läuft hier svd-nano, ein kleines Vorführmodell.</p>")


def test_the_page_says_errors_and_notes_in_the_visitors_language() -> None:
    failed = Failed(errors.GenerationFailed("The model failed: <boom>"))
    assert "Das Modell ist gescheitert: &lt;boom&gt;" in formatting.event_html(failed, DE)
    assert "The model failed: &lt;boom&gt;" in formatting.event_html(failed, languages()["en"])
    stopping = Progress(
        stage=Stage.DENOISING, note="Stopping; the step that is under way still runs to its end."
    )
    assert "der begonnene Schritt läuft noch zu Ende." in formatting.event_html(stopping, DE)


@pytest.mark.parametrize("text", ["", "Nobody says this.", "x" * 5000, "a. b. " * 150, "{name}."])
def test_what_is_unknown_stays_as_it_is(text: str) -> None:
    assert translate(text, DE) == text


def test_device_and_checkpoint_are_told_in_german() -> None:
    for checkpoint in CHECKPOINTS.values():
        assert translate_part("summary", checkpoint.summary, DE) != checkpoint.summary
    device = "NVIDIA L4, 24 GB, model offload"
    gpu = replace(READY, checkpoint=CHECKPOINTS["svd-xt"], device=device)
    told = formatting.device_html(gpu, DE)
    assert "auf NVIDIA L4, 24 GB, Auslagerung „model“" in told
    assert "Stable Video Diffusion XT, 25 Bilder. Lizenz:" in told
    assert "auf CPU, 2 Kerne" in formatting.device_html(READY, DE)
    waiting = replace(gpu, device="", state="loading", workers=0)
    assert "wartet auf einen Rechner mit GPU" in formatting.device_html(waiting, DE)
    several = replace(gpu, device="3 x NVIDIA L4, 24 GB, model offload", workers=3)
    assert "3 x NVIDIA L4, 24 GB, Auslagerung „model“" in formatting.device_html(several, DE)
    assert "on CPU, 2 cores" in formatting.device_html(READY, languages()["en"])
