"""The core's messages as the page shows them: in the visitor's language, with the page's labels."""

from dataclasses import replace

import pytest

from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.errors import GenerationFailed, InvalidRequest
from svd_core.events import Failed, Progress, Stage
from svd_core.messages import Message
from svd_core.params import VideoParams
from svd_core.web.page import formatting
from svd_core.web.page.i18n import languages
from tests.fakes.engines import READY

DE, EN = languages()["de"], languages()["en"]


@pytest.mark.parametrize(
    ("values", "english", "german"),
    [
        (
            {"num_frames": "1"},
            "“Frames” must be a whole number from 2 to 50, not '1'.",
            "„Bilder“ muss eine ganze Zahl von 2 bis 50 sein, nicht '1'.",
        ),
        (
            {"fit": "a or b"},
            "“Fit” must be one of crop, pad, not 'a or b'.",
            "„Einpassen“ muss einer dieser Werte sein: crop, pad. 'a or b' gehört nicht dazu.",
        ),
        (
            {"fps": "1 to 2, not 3."},
            "“FPS” must be a whole number from 1 to 100, not '1 to 2, not 3.'.",
            "„FPS“ muss eine ganze Zahl von 1 bis 100 sein, nicht '1 to 2, not 3.'.",
        ),
    ],
)
def test_a_wrong_setting_has_the_name_that_the_page_shows(
    values: dict[str, object], english: str, german: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        VideoParams.from_mapping(values)
    assert EN.message(error.value.message) == english
    assert DE.message(error.value.message) == german


def test_every_setting_has_a_label_of_its_own() -> None:
    for texts in (EN, DE):
        labels = {name: texts.label(name) for name in VideoParams().to_mapping()}
        assert len(set(labels.values())) == len(labels)
        assert not any(label == name for name, label in labels.items())


def test_the_page_says_errors_and_notes_in_the_visitors_language() -> None:
    failed = Failed(GenerationFailed("model_failed", reason="<boom>"))
    assert "Das Modell ist gescheitert: &lt;boom&gt;" in formatting.event_html(failed, DE)
    assert "The model failed: &lt;boom&gt;" in formatting.event_html(failed, EN)
    stopping = Progress(stage=Stage.DENOISING, note=Message("cancelling"))
    assert "Wird angehalten …" in formatting.event_html(stopping, DE)


def test_a_notice_within_a_notice_is_translated_too() -> None:
    reason = Message("hub_unreachable", model="a/b", address="https://hub")
    notice = Message("demo_instead", reason=reason, model="svd-nano")
    shown = formatting.notice_html(replace(READY, notice=notice), DE)
    assert "a/b lässt sich nicht herunterladen, weil https://hub nicht geantwortet" in shown
    assert shown.endswith("läuft hier das kleine Demomodell svd-nano.</p>")


def test_text_of_an_older_version_stays_as_it_is() -> None:
    assert DE.message("Memory ran out.") == "Memory ran out."


def test_device_and_checkpoint_are_translated() -> None:
    for checkpoint in CHECKPOINTS.values():
        assert DE.message(checkpoint.summary) != checkpoint.summary
    device = Message("device_offload", device="NVIDIA L4, 24 GB", way="model")
    gpu = replace(READY, checkpoint=CHECKPOINTS["svd-xt"], device=device)
    shown = formatting.device_html(gpu, DE)
    assert "auf NVIDIA L4, 24 GB, Auslagerung „model“" in shown
    assert "Stable Video Diffusion XT, 25 Bilder. Lizenz:" in shown
    waiting = replace(gpu, device="", state="loading", workers=0)
    assert "wartet auf einen Rechner mit GPU" in formatting.device_html(waiting, DE)
    several = replace(gpu, device=Message("device_several", count=3, device=device), workers=3)
    assert "3 x NVIDIA L4, 24 GB, Auslagerung „model“" in formatting.device_html(several, DE)
    assert "3 x NVIDIA L4, 24 GB, model offload" in formatting.device_html(several, EN)
