"""Settings: defaults that work, refusals that name variable, value and bound, and docs/settings.md."""

import dataclasses
from pathlib import Path

import pytest

from broker.keys import MODEL_NAME
from settings import SettingError, Settings, for_own_code, masked, misspelt, weights
from tests import settings_page


def test_the_defaults_need_no_environment() -> None:
    settings = Settings.from_env({})
    assert settings.port == 5000
    assert settings.models == ("resnet50", "digits")
    assert settings.default_model == "resnet50"
    assert settings.redis_url == ""


def test_a_variable_that_is_nearly_a_setting_is_seen() -> None:
    slips = {"API_KEY": "API_KEYS", "ACCES_LOG": "ACCESS_LOG", "RESNET50_WEIGHT": "RESNET50_WEIGHTS"}
    others = dict.fromkeys(("UV_CACHE_DIR", "HOST", "REDIS_PORT", "RESNET18_WEIGHTS", "API_KEYS"), "x")
    assert misspelt(others | dict.fromkeys(slips, "x") | {"MODEL": " "}) == slips


def test_the_first_model_is_the_default() -> None:
    assert Settings.from_env({"MODELS": "digits, resnet50"}).default_model == "digits"
    assert Settings.from_env({"MODELS": "digits", "DEFAULT_MODEL": "other"}).default_model == "other"


def test_a_fallback_is_served_beside_the_models_and_none_is_none() -> None:
    assert Settings.from_env({"MODELS": "a,b", "FALLBACK_MODEL": "c"}).served == ("a", "b", "c")
    assert Settings.from_env({"MODELS": "a,b", "FALLBACK_MODEL": "b"}).served == ("a", "b")
    for text in ("none", ""):
        assert Settings.from_env({"FALLBACK_MODEL": text}).fallback_model == ""


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)),
        ("https://a.example, http://localhost:3000", ("https://a.example", "http://localhost:3000")),
        ("http://[::1]:3000", ("http://[::1]:3000",)),
    ],
)
def test_origins_are_a_list_or_all(text: str, origins: tuple[str, ...]) -> None:
    settings = Settings.from_env({"CORS_ORIGINS": text})
    assert settings.cors_origins == origins
    assert Settings.from_env(settings.environment()) == settings


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_env({"PORT": "", "LEASE_S": "  "}) == Settings.from_env({})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("gs://bucket", "gs://bucket"),
        ("hf://org/repo@refs%2Fpr%2F1/sub", "hf://org/repo@refs%2Fpr%2F1/sub"),
        ("https://host:8443/a/x.tar.gz?X-Amz-Signature=hunter2", "https://host:8443/a/x.tar.gz"),
        ("https://user:hunter2@host/x.zip", "https://host/x.zip"),
        ("http://[::1]:80/x.tgz", "http://[::1]:80/x.tgz"),
        ("/srv/models", "/srv/models"),
    ],
)
def test_a_store_s_address_is_taken_and_shown_without_secrets(address: str, shown: str) -> None:
    settings = Settings.from_env({"MODELS_DIR": address})
    assert settings.models_dir == address
    assert settings.has_store is ("://" in address)
    assert settings.models_place == shown
    assert "hunter2" not in repr(settings)
    if settings.has_store:
        with pytest.raises(SettingError, match=r"`check` works on a local folder, and MODELS_DIR is "):
            settings.require_directory("check")


@pytest.mark.parametrize(
    "address",
    [
        "s3://",
        "s3://secret:secret@bucket/a",
        "s3://bucket/../other",
        "s3://bucket/a?secret",
        "hf://repository",
        "https://host/models",
        "https:///x.zip",
        "https://user:se/secret@host/x.zip",
        "http://host/x.zip",
        "ftp://host/x.zip",
        "file:///etc/x.zip",
    ],
)
def test_another_address_is_refused_and_its_secrets_are_not_shown(address: str) -> None:
    with pytest.raises(
        SettingError, match=r"MODELS_DIR=.* is not a directory, s3://BUCKET/FOLDER"
    ) as refusal:
        Settings.from_env({"MODELS_DIR": address})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "value", "bound"),
    [
        ("PORT", "0", "from 1 to 65535"),
        ("PORT", "65536", "from 1 to 65535"),
        ("PORT", "5000.5", "whole number"),
        ("WEB_THREADS", "8", "0 or a whole number from 9 to 2048"),
        ("LEASE_S", "nan", "from 0.5 to 60"),
        ("BATCH_SIZE", "many", "from 1 to 1024"),
        ("ENGINE", "magic", "one of auto, tensorflow, openvino, jax"),
        ("PRECISION", "fp8", "one of auto, fp32, bf16, fp16, int8"),
        ("KERAS_BACKEND", "torch", "one of tensorflow, jax"),
        ("ENGINE_THREADS", "-1", "from 0 to 1024"),
        ("MODELS", "a,,b", "model names"),
        ("MODELS", "a,a", "unique"),
        ("MODELS", "../etc", "a-z"),
        ("DEFAULT_MODEL", "A", "a-z"),
        ("FALLBACK_MODEL", "A", "or none"),
        ("CORS_ORIGINS", "example.org", "origins like"),
        ("CORS_ORIGINS", "https://example.org/", "origins like"),
        ("CORS_ORIGINS", "https://example.org,", "origins like"),
        ("CORS_ORIGINS", "https://example.org,*", "origins like"),
        ("CORS_ORIGINS", "https://*.example.org", "origins like"),
        ("CORS_ORIGINS", "https://Example.org", "origins like"),
        ("CORS_ORIGINS", "https://user@example.org", "origins like"),
        ("CORS_ORIGINS", "https://example.org:99999", "origins like"),
        ("CORS_ORIGINS", "ftp://example.org", "origins like"),
        ("CORS_ORIGINS", "null", "origins like"),
        ("REDIS_URL", "http://x", "redis://HOST"),
        ("REDIS_URL", "redis://", "redis://HOST"),
        ("REDIS_URL", "sentinel://host:26379", "sentinel://HOST:PORT,HOST:PORT/NAME"),
        ("REDIS_URL", "sentinel://host:26379,/name", "sentinel://HOST:PORT,HOST:PORT/NAME"),
        ("REDIS_URL", "sentinel://host:no/name", "sentinel://HOST:PORT,HOST:PORT/NAME"),
        ("REDIS_URL", "cluster://host:6379,", "cluster://HOST:PORT,HOST:PORT"),
        ("REDIS_URL", "cluster://host:6379/3", "cluster://HOST:PORT,HOST:PORT"),
        ("LOG_LEVEL", "loud", "one of debug"),
        ("LOG_FORMAT", "xml", "one of text, json"),
        ("ACCESS_LOG", "yes", "one of off, on"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "http://HOST:PORT or https://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:x", "http://HOST:PORT or https://HOST:PORT"),
    ],
)
def test_a_bad_value_is_refused_with_variable_value_and_bound(variable: str, value: str, bound: str) -> None:
    with pytest.raises(SettingError) as refusal:
        Settings.from_env({variable: value})
    assert str(refusal.value).startswith(f"{variable}='{value.strip()}'")
    assert bound in str(refusal.value)


def test_the_bounds_themselves_are_accepted() -> None:
    lowest = Settings.from_env({"PORT": "1", "LEASE_S": "0.5", "WEB_THREADS": "0"})
    assert (lowest.port, lowest.lease_s, lowest.web_threads) == (1, 0.5, 0)
    highest = Settings.from_env({"PORT": "65535", "LEASE_S": "60", "WEB_THREADS": "2048"})
    assert (highest.port, highest.lease_s, highest.web_threads) == (65535, 60.0, 2048)


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_each_default_is_within_its_own_bound(field: dataclasses.Field[object]) -> None:
    defaults = Settings()
    text = defaults.environment()[field.name.upper()]
    if text:
        assert getattr(Settings.from_env({field.name.upper(): text}), field.name) == field.default


@pytest.mark.parametrize("name", ["resnet50", "a-b_9", "A", "a.b", "é", "a\n", "../a", " "])
def test_a_model_s_name_is_the_same_to_the_settings_and_to_the_keys(name: str) -> None:
    accepted = True
    try:
        Settings.from_env({"MODELS": f"x,{name}y"})
    except SettingError:
        accepted = False
    assert accepted is bool(MODEL_NAME.fullmatch(f"{name}y".strip()))


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host",
        "redis://[:secret@host",  # what urlsplit raises on
        "redis:secret@host",
        "user:secret@host",
        "redis://:sec/secret@",
        "http://h?password=secret",
    ],
)
def test_a_refused_url_keeps_its_password_to_itself(url: str) -> None:
    with pytest.raises(SettingError, match=r"^REDIS_URL='.*' is not redis://HOST") as refusal:
        Settings.from_env({"REDIS_URL": url})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:6379/0", "redis://user:***@host:6379/0"),
        ("redis://:s@host", "redis://:***@host"),
        ("redis://u:p@ss@host/0", "redis://u:***@host/0"),
        ("redis://u:p#s@host/0", "redis://u:***@host/0"),
        ("redis://user@host:6379/0", "redis://user@host:6379/0"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("unix:///tmp/x.sock", "unix:///tmp/x.sock"),
        (
            "sentinel://u:s@h:1,g:2/name?sentinel_password=s@t",
            "sentinel://u:***@h:1,g:2/name?sentinel_password=***",
        ),
        ("sentinel://u@h:1,g:2/name/0", "sentinel://u@h:1,g:2/name/0"),
        ("cluster://u:s@h:1,g:2", "cluster://u:***@h:1,g:2"),
        ("unix:///r.sock?db=1&password=s%20t", "unix:///r.sock?db=1&password=***"),
        ("redis://h:1/0?PASSWORD=s@t&username=u", "redis://h:1/0?PASSWORD=***&username=u"),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("secret", ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_no base64!"])
def test_a_refused_webhook_secret_keeps_itself_to_itself(secret: str) -> None:
    with pytest.raises(SettingError) as refusal:
        Settings.from_env({"WEBHOOK_SECRET": secret})
    assert str(refusal.value).startswith("WEBHOOK_SECRET='***' is not `whsec_` and the base64 of 24 to 64")


def test_webhooks_are_signed_or_not_sent() -> None:
    with pytest.raises(SettingError, match="WEBHOOK_HOSTS is set, but WEBHOOK_SECRET is not"):
        Settings.from_env({"WEBHOOK_HOSTS": "hooks.example.org"})


def test_of_two_webhook_secrets_the_representation_has_neither() -> None:
    one, other = "whsec_" + "QUJD" * 8, "whsec_" + "REVG" * 8
    settings = Settings.from_env({"WEBHOOK_HOSTS": "h", "WEBHOOK_SECRET": f"{one}  {other}"})
    assert settings.webhook_secret == f"{one} {other}"
    assert "QUJD" not in repr(settings)
    assert "REVG" not in repr(settings)
    assert "webhook_secret=***" in repr(settings)
    assert Settings.from_env(settings.environment()) == settings


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://web@host:1/0", "redis://web:a%2Fb%40c@host:1/0"),
        ("redis://host:1/0", "redis://:a%2Fb%40c@host:1/0"),
        ("unix://web@/run/redis.sock?db=1", "unix://web:a%2Fb%40c@/run/redis.sock?db=1"),
        ("sentinel://web@h:1,[::1]:2/name/0", "sentinel://web:a%2Fb%40c@h:1,[::1]:2/name/0"),
        ("clusters://web@h:1,[::1]:2", "clusters://web:a%2Fb%40c@h:1,[::1]:2"),
        ("rediss://web:old@[::1]:1/0?ssl_ciphers=a@b", "rediss://web:a%2Fb%40c@[::1]:1/0?ssl_ciphers=a@b"),
    ],
)
def test_a_password_comes_from_a_file(url: str, whole: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a/b@c\n")
    settings = Settings.from_env({"REDIS_URL": url, "REDIS_PASSWORD_FILE": str(tmp_path / "password")})
    assert settings.redis_url == whole
    assert "a%2Fb" not in repr(settings)
    assert Settings.from_env(settings.environment()) == settings


def test_a_password_s_file_that_is_missing_is_named() -> None:
    with pytest.raises(SettingError, match="REDIS_PASSWORD_FILE='/nowhere' can't be read: No such file"):
        Settings.from_env({"REDIS_URL": "redis://web@host", "REDIS_PASSWORD_FILE": "/nowhere"})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rediss://h/0?ssl_cert_reqs=none", "turns off the check"),
        ("rediss://h/0?ssl_cert_reqs=optional", "turns off the check"),
        ("rediss://h/0?ssl_check_hostname=false", "turns off the check"),
        ("rediss://h/0?ssl_ca_certs=/nowhere", "ssl_ca_certs='/nowhere' in REDIS_URL can't be read: No such"),
        ("redis://h/0?ssl_ca_certs=/etc/hostname", "TLS begins with rediss://"),
        (
            "sentinel://h/name?ssl_ca_certs=/etc/hostname",
            "TLS begins with rediss://, sentinels:// or clusters://",
        ),
        ("sentinels://h/name?ssl_cert_reqs=none", "turns off the check"),
        ("cluster://h?ssl_ca_certs=/etc/hostname", "TLS begins with rediss://"),
        ("clusters://h?ssl_check_hostname=false", "turns off the check"),
    ],
)
def test_tls_that_would_verify_nobody_is_refused(url: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Settings.from_env({"REDIS_URL": url})


def test_the_repr_keeps_the_password_to_itself() -> None:
    settings = Settings.from_env({"REDIS_URL": "redis://:hunter2@host:1/0"})
    assert "hunter2" not in repr(settings)
    assert "host:1" in repr(settings)


def test_what_a_collector_asks_for_is_shown_to_nobody() -> None:
    given = {"OTEL_EXPORTER_OTLP_HEADERS": "k=hunter2", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:hunter2@h"}
    settings = Settings.from_env(given)
    assert "hunter2" not in repr(settings)
    assert settings.environment().items() >= given.items()
    with pytest.raises(SettingError, match=r"^OTEL_EXPORTER_OTLP_HEADERS='\*\*\*' is not NAME=VALUE"):
        Settings.from_env({"OTEL_EXPORTER_OTLP_HEADERS": "hunter2"})


def test_each_model_s_weights_have_a_variable() -> None:
    given = {
        "RESNET50_WEIGHTS": "random",
        "DENSENET121_WEIGHTS": " /a/b.h5 ",
        "MY_NET_WEIGHTS": "",
        "PORT": "1",
    }
    assert weights(Settings.from_env(given), given) == {
        "RESNET50_WEIGHTS": "random",
        "DENSENET121_WEIGHTS": "/a/b.h5",
    }
    assert weights(Settings.from_env({}), {}) == {}  # each model.toml's own


def test_a_child_gets_the_same_settings() -> None:
    settings = Settings.from_env({"MODELS": "digits,b", "REQUEST_TIMEOUT_S": "2.5", "MODEL_SERVERS": "3"})
    assert Settings.from_env(settings.environment()) == settings


def test_keys_outlive_the_longest_deadline() -> None:
    assert Settings.from_env({}).key_ttl_s >= 3600
    long = Settings.from_env({"ASYNC_TIMEOUT_S": "86400", "RESULT_TTL_S": "86400"})
    assert long.key_ttl_s > 86400 + 86400


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.from_env({}).port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("bind", "listen", "url"),
    [
        ("127.0.0.1", "127.0.0.1:5000", "http://localhost:5000"),
        ("0.0.0.0", "0.0.0.0:5000", "http://localhost:5000"),  # noqa: S104 - compared, not bound
        ("127.0.0.2", "127.0.0.2:5000", "http://127.0.0.2:5000"),
        ("::1", "[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_where_it_listens_and_where_it_is_found(bind: str, listen: str, url: str) -> None:
    settings = Settings.from_env({"BIND": bind})
    assert (settings.listen, settings.local_url) == (listen, url)


def test_a_model_s_own_code_finds_the_frameworks_variables_and_no_setting_or_secret() -> None:
    of_ours = Settings(redis_url="redis://:secret@host/0").environment()
    secrets = {"TF_VAR_password": "x", "NVIDIA_API_KEY": "x", "AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "x"}
    needed = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "OMP_NUM_THREADS": "2",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    found = for_own_code(of_ours | secrets | needed)
    assert found.items() >= needed.items()
    assert "secret" not in str(found)
    names = {field.name.upper() for field in dataclasses.fields(Settings)}
    assert set(found) & (names | set(secrets)) == {"KERAS_BACKEND"}


def test_the_page_of_the_settings_is_made_from_the_fields() -> None:
    assert settings_page.PAGE.read_text("utf-8") == settings_page.page(), settings_page.REMEDY


def test_each_field_has_a_row_with_its_default_its_bound_and_a_meaning() -> None:
    of_fields = settings_page.page().split("\n## Weights of other models\n")[0]
    rows = [line.split(" | ") for line in of_fields.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"| `{field.name.upper()}`" for field in dataclasses.fields(Settings)]
    assert all(len(row) == 4 and all(row) for row in rows)
    assert (
        " | ".join(rows[1]) == "| `PORT` | `5000` | a whole number from 1 to 65535 | The port to listen on. |"
    )
