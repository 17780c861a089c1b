"""Settings come from the environment whole, or the start stops with one sentence."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from svd_core.database import Database
from svd_core.errors import InvalidSettings
from svd_core.jobs.schema import create_tables
from svd_core.messages import Message
from svd_core.settings import PREFIX, Settings
from tests.fakes.errors import english


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({"PATH": "/bin", "MY_SVD_MODEL": "x", "svd_model": "y"})
    assert settings == Settings()
    assert (settings.model, settings.offload, settings.max_queue) == ("auto", "auto", 32)
    assert settings.data_dir.is_absolute()


def test_each_variable_is_read() -> None:
    settings = Settings.from_env(
        {
            "SVD_MODEL": "svd-xt",
            "SVD_OFFLOAD": "sequential",
            "SVD_DATA_DIR": "/data",
            "SVD_PAGE_AUTH": "ann:pass:word",
            "SVD_API_KEYS": "ann:s3cret, bob:other:one",
            "SVD_PROXY_ORIGINS": "https://example.org,http://127.0.0.1:3000",
            "SVD_PUBLIC_URL": "https://svd.example.org/studio",
            "SVD_ALLOW_PRIVATE_URLS": "1",
            "SVD_MAX_UPLOAD_MB": "20",
            "SVD_UPLOADS_GB": "0.5",
            "SVD_DATABASE_URL": "postgresql+psycopg://ann:s3cret@localhost/svd",
            "SVD_MAX_QUEUE": "5",
            "SVD_MAX_QUEUE_PER_KEY": "3",
            "SVD_BODY_SECONDS": "60",
            "SVD_MAX_QUEUE_PER_ADDRESS": "4",
            "SVD_MAX_STEPS": "25",
            "SVD_MAX_FRAMES": "30",
            "SVD_MAX_CONNECTIONS": "100",
            "SVD_ALLOWED_ORIGINS": "https://a.example,https://b.example:8",
            "SVD_KEEP_HOURS": "0.5",
            "SVD_KEEP_GB": "inf",
        }
    )
    assert settings == Settings(
        model="svd-xt",
        offload="sequential",
        data_dir=Path("/data"),
        page_auth="ann:pass:word",
        api_keys="ann:s3cret, bob:other:one",
        proxy_origins="https://example.org,http://127.0.0.1:3000",
        public_url="https://svd.example.org/studio",
        allow_private_urls=True,
        max_upload_mb=20,
        uploads_gb=0.5,
        database_url="postgresql+psycopg://ann:s3cret@localhost/svd",
        max_queue=5,
        max_queue_per_key=3,
        body_seconds=60,
        max_queue_per_address=4,
        max_steps=25,
        max_frames=30,
        max_connections=100,
        allowed_origins="https://a.example,https://b.example:8",
        keep_hours=0.5,
        keep_gb=float("inf"),
    )


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_MODEL", "svd")
    assert Settings.from_env().model == "svd"
    with pytest.raises(InvalidSettings):
        Settings.from_env(dict(SVD_MODEL="svd", SVD_NO="1"))


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_an_empty_variable_counts_as_not_set(name: str) -> None:
    assert Settings.from_env({PREFIX + name.upper(): ""}) == Settings()


def test_the_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert Settings.from_env({"SVD_DATA_DIR": "~/videos"}).data_dir == Path("/home/ann/videos")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SVD_OFFLOAD", "some"),
        ("SVD_MAX_QUEUE", "0"),
        ("SVD_MAX_QUEUE_PER_KEY", "0"),
        ("SVD_MAX_QUEUE", "many"),
        ("SVD_MAX_QUEUE", "1.5"),
        ("SVD_KEEP_HOURS", "-1"),
        ("SVD_KEEP_HOURS", "nan"),
        ("SVD_KEEP_GB", "2GB"),
        ("SVD_PAGE_AUTH", "s3cret"),
        ("SVD_PAGE_AUTH", ":s3cret"),
        ("SVD_API_KEYS", "s3cret"),
        ("SVD_API_KEYS", ":s3cret"),
        ("SVD_API_KEYS", "ann:s3cret,"),
        ("SVD_API_KEYS", "ann:s3cret,bob"),
        ("SVD_API_KEYS", "ann smith:s3cret"),
        ("SVD_API_KEYS", "../ann:s3cret"),
        ("SVD_PROXY_ORIGINS", "https://example.org/"),
        ("SVD_PROXY_ORIGINS", "*"),
        ("SVD_ALLOWED_ORIGINS", "https://example.org/"),
        ("SVD_ALLOWED_ORIGINS", "*,https://example.org"),
        ("SVD_ALLOWED_ORIGINS", "example.org"),
        ("SVD_BODY_SECONDS", "0"),
        ("SVD_MAX_QUEUE_PER_ADDRESS", "-1"),
        ("SVD_MAX_STEPS", "0"),
        ("SVD_MAX_STEPS", "101"),
        ("SVD_MAX_FRAMES", "1"),
        ("SVD_MAX_CONNECTIONS", "0"),
        ("SVD_PUBLIC_URL", "example.org"),
        ("SVD_PUBLIC_URL", "ftp://example.org"),
        ("SVD_PUBLIC_URL", "https://ann:s3cret@example.org"),
        ("SVD_PUBLIC_URL", "https://example.org/?a=b"),
        ("SVD_PUBLIC_URL", "https://example.org/#a"),
        ("SVD_PUBLIC_URL", "https://example.org:99999"),
        ("SVD_PUBLIC_URL", "https://example.org:0"),
        ("SVD_PUBLIC_URL", "https://example .org"),
        ("SVD_PUBLIC_URL", "https://a..b"),
        ("SVD_PUBLIC_URL", "https://[::1"),
        ("SVD_PUBLIC_URL", "https://"),
        ("SVD_PUBLIC_URL", "https://example.org/fal"),
        ("SVD_PUBLIC_URL", "https://example.org/gradio_api/x"),
        ("SVD_ALLOW_PRIVATE_URLS", "perhaps"),
        ("SVD_MAX_UPLOAD_MB", "0"),
        ("SVD_UPLOADS_GB", "-1"),
    ],
)
def test_wrong_values_stop_the_start(variable: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=f"^{variable} is wrong: .+\\. The table") as caught:
        Settings.from_env({variable: value})
    reason = caught.value.message.values["reason"]
    assert isinstance(reason, Message)
    assert reason.code != "reason_other"
    assert not english(caught.value.message.render("de"))
    assert "s3cret" not in caught.value.message
    assert caught.value.__cause__ is None  # its text would show the password
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("variable", ["SVD_MODLE", "SVD_model", "SVD_"])
def test_unknown_variables_stop_the_start(variable: str) -> None:
    with pytest.raises(InvalidSettings, match=f"^{variable} is not a setting.*SVD_MODEL"):
        Settings.from_env({variable: "svd"})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("SVD_MODLE", "SVD_MODEL"), ("SVD_model", "SVD_MODEL"), ("SVD_APIKEYS", "SVD_API_KEYS"),
        ("SVD_PUBLICURL", "SVD_PUBLIC_URL"),
        ("SVD_DATADIR", "SVD_DATA_DIR"), ("SVD_QUEUE_MAX", "SVD_MAX_QUEUE"),
        ("SVD_SERVER_PORT", "GRADIO_SERVER_PORT"), ("SVD_HOST", "GRADIO_SERVER_NAME"),
    ],
)  # fmt: skip
def test_a_misspelt_variable_is_told_what_it_may_mean(variable: str, meant: str) -> None:
    sentence = rf"^{variable} is not a setting\. Did you mean {meant}\?"
    with pytest.raises(InvalidSettings, match=sentence):
        Settings.from_env({variable: "7860"})


def test_nothing_is_guessed_for_a_variable_that_resembles_none() -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_env({"SVD_SOMETHING_ELSE": "x"})
    assert "Did you mean" not in caught.value.message


SERVICE = {  # as Kubernetes writes them for a service called svd, and one called svd-studio
    "SVD_SERVICE_HOST": "10.96.0.12",
    "SVD_SERVICE_PORT": "7860",
    "SVD_SERVICE_PORT_HTTP": "7860",
    "SVD_PORT": "tcp://10.96.0.12:7860",
    "SVD_PORT_7860_TCP": "tcp://10.96.0.12:7860",
    "SVD_PORT_7860_TCP_PROTO": "tcp",
    "SVD_PORT_7860_TCP_PORT": "7860",
    "SVD_PORT_7860_TCP_ADDR": "10.96.0.12",
    "SVD_STUDIO_SERVICE_HOST": "10.96.0.12",
    "SVD_STUDIO_SERVICE_PORT": "7860",
    "SVD_STUDIO_SERVICE_PORT_WEB_UI": "7860",
    "SVD_STUDIO_PORT": "tcp://[fd00::12]:7860",
    "SVD_STUDIO_PORT_7860_UDP_ADDR": "10.96.0.12",
}
LINK = {  # as Docker writes them for a linked container
    "SVD_NAME": "/proxy/svd",
    "SVD_PORT": "tcp://172.17.0.5:7860",
    "SVD_PORT_7860_TCP_ADDR": "172.17.0.5",
    "SVD_ENV_PATH": "/bin",
    "SVD_1_PORT_7860_TCP": "tcp://172.17.0.5:7860",
    "SVD_API_NAME": "/proxy/svd-api",
    "SVD_API_ENV_PATH": "/bin",
    "SVD_1_NAME": "/proxy/svd_1",
}


@pytest.mark.parametrize("environ", [SERVICE, LINK])
def test_variables_of_orchestrators_are_passed_over(environ: dict[str, str]) -> None:
    assert Settings.from_env(environ) == Settings()
    for variable, value in environ.items():
        assert Settings.from_env({variable: value, "SVD_MODEL": "svd"}).model == "svd"


def test_a_name_that_is_not_a_link_is_a_misspelt_setting() -> None:
    with pytest.raises(InvalidSettings, match="^SVD_MODEL_NAME is not a setting"):
        Settings.from_env({"SVD_MODEL_NAME": "svd-xt"})


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://svd.example", "https://svd.example"),
        ("HTTPS://SVD.Example:443/", "https://svd.example"),
        ("http://svd.example:80//a///b/", "http://svd.example/a/b"),
        (" https://svd.example/Svd\n", "https://svd.example/Svd"),
        ("https://svd.example:8443/svd", "https://svd.example:8443/svd"),
        ("https://münchen.example/söhne", "https://xn--mnchen-3ya.example/s%C3%B6hne"),
        ("https://svd.example/s%C3%B6hne", "https://svd.example/s%C3%B6hne"),
        ("https://svd.example/my photos/", "https://svd.example/my%20photos"),
        ("https://svd.example/a/../svd/.", "https://svd.example/svd"),
        ("http://[::1]:80", "http://[::1]"),
        ("  ", ""),
    ],
)
def test_one_address_has_one_form(url: str, same: str) -> None:
    assert Settings.from_env({"SVD_PUBLIC_URL": url}).public_url == same


@pytest.mark.parametrize("netloc", ["svd.example:99999", "svd.example:https", "[::1", "a:1:2"])
def test_what_is_wrong_with_an_address_is_said_in_plain_words(netloc: str) -> None:
    with pytest.raises(InvalidSettings, match="wrong: the host or port is wrong"):
        Settings.from_env({"SVD_PUBLIC_URL": f"https://{netloc}/svd"})


def test_passwords_are_not_printed() -> None:
    assert "s3cret" not in repr(Settings(page_auth="ann:s3cret", api_keys="ann:s3cret"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://ann:s3cret@127.0.0.1:1/db",
        "postgresql+psycopg://ann@127.0.0.1:1/db?password=s3cret",
        "postgresql+psycopg://ann@127.0.0.1:1/db?sslpassword=s3cret&password=s3cret",
        "postgresql+psycopg:///db?host=127.0.0.1&port=1&password=s3cret",
        "postgresql+psycopg://ann:s3cret@127.0.0.1:port/db",
        "postgresql+psycopg://ann:pass@s3cret:1:x/db",
        "postgresql+psycopg://ann:s3cret@[::1/db",
        "nosuch://ann:s3cret@127.0.0.1/db?password=s3cret",
        "mysql+nosuch://ann:s3cret@127.0.0.1/db",
        "//s3cret",
        "s3cret",
        "postgresql+psycopg://ann:s3cret@127.0.0.1:99999999999999999999/db",
    ],
)
def test_the_password_of_the_job_table_is_not_printed(url: str) -> None:
    with pytest.raises(InvalidSettings, match="SVD_DATABASE_URL") as caught:
        create_tables(Database(url))
    told = "".join(traceback.format_exception_only(caught.value)) + caught.value.message
    assert "s3cret" not in told
    assert "\n" not in caught.value.message
    assert caught.value.__cause__ is None


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_nothing_is_read_or_made_at_import() -> None:
    code = "import svd_core.settings, svd_core.generate, sys; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"SVD_BAD": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert not any(f"'{name}'" in done.stdout for name in ("torch", "diffusers", "gradio"))
