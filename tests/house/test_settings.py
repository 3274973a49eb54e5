"""Where a setting comes from, and the one line that a wrong one gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from headgate.cli import main
from headgate.settings import BARE, WIDESPREAD, Engine, Settings, SettingsError, load, unread


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with no headgate.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(flags: dict[str, object] | None = None, environ: dict[str, str] | None = None) -> str:
    """The line with which these are refused."""
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, environ or {})
    line = str(caught.value)
    assert "\n" not in line
    assert line.endswith((".", "`"))
    return line


def test_flag_beats_environment_beats_file_beats_default(folder: Path) -> None:
    assert load({}, {}).queue_max == 64
    (folder / "headgate.toml").write_text("queue_max = 1\nqueue_timeout_s = 1.5\n")
    assert load({}, {}).queue_max == 1
    assert load({}, {"HEADGATE_QUEUE_MAX": "2"}).queue_max == 2
    assert load({"queue_max": "3"}, {"HEADGATE_QUEUE_MAX": "2"}).queue_max == 3
    assert load({"queue_max": None}, {"HEADGATE_QUEUE_MAX": "2"}).queue_max == 2, "None is a flag that was not given"
    assert load({"queue_max": "3"}, {}).queue_timeout_s == 1.5, "each setting for itself"


def test_file_that_is_named_is_read_and_must_be_there(folder: Path) -> None:
    (folder / "other.toml").write_text('max_active = "auto"\nqueue_mode = "reject"\n')
    assert load({}, {}, folder / "other.toml").queue_mode == "reject"
    with pytest.raises(SettingsError, match=r"missing\.toml"):
        load({}, {}, folder / "missing.toml")


@pytest.mark.parametrize("content", ["queue_max =", "= 7", "\x00", "queue_max = 1\nqueue_max = 2"])
def test_file_that_is_no_toml_is_one_line(folder: Path, content: str) -> None:
    (folder / "headgate.toml").write_text(content)
    assert "headgate.toml" in refused()


@pytest.mark.parametrize("name", sorted(BARE))
def test_names_from_the_source_documents_are_read_bare(name: str) -> None:
    words = {"queue_mode": ("reject", "queue"), "otel_exporter_otlp_endpoint": ("http://a:4318", "https://b")}
    bare, prefixed = words.get(name, ("7", "9"))
    assert str(getattr(load({}, {name.upper(): bare}), name)) in (bare, f"{bare}.0")
    for environ in (
        {name.upper(): bare, f"HEADGATE_{name.upper()}": prefixed},
        {f"HEADGATE_{name.upper()}": prefixed, name.upper(): bare},
    ):
        seen = str(getattr(load({}, environ), name))
        assert seen in (prefixed, f"{prefixed}.0"), "the one with the prefix wins, in any order"


def test_other_bare_names_and_lower_case_ones_are_not_ours() -> None:
    settings = load({}, {"HOST": "0.0.0.0", "PORT": "9", "MODEL": "x", "API_KEY": "x", "max_active": "3"})
    assert (settings.host, settings.port, settings.model, settings.api_key) == ("127.0.0.1", 8080, None, None)
    assert settings.max_active is None


@pytest.mark.parametrize("name", ["API_KEY", "ADMIN_KEY", "OPS_AUTH", "API_KEYS_FILE", "ENGINE_URLS", "SLO_TTFT_S"])
def test_name_that_can_only_be_ours_is_told_of_where_it_lacks_the_prefix(name: str) -> None:
    assert unread({name: "x"}, ()) == [name]
    assert unread({name: ""}, ()) == [], "an empty one is not given"
    assert unread({name: "x", f"HEADGATE_{name}": "y"}, ()) == [], "the setting is made: the other is somebody else's"
    assert unread({name: "x"}, {name.lower()}) == []


def test_names_that_are_read_bare_or_that_other_programs_have_are_not_told_of() -> None:
    names = {"HOST", "PORT", "MODEL", "LOG_LEVEL", "REDIS_URL", "ENGINE", *(name.upper() for name in BARE)}
    assert unread(dict.fromkeys(names, "x"), ()) == []
    assert {name.lower() for name in names} | WIDESPREAD <= set(Settings.model_fields)


def test_what_kubernetes_makes_up_for_a_service_called_headgate_is_passed_over() -> None:
    made_up = {
        "HEADGATE_PORT": "tcp://10.0.0.1:8080",
        "HEADGATE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "HEADGATE_PORT_8080_TCP_ADDR": "10.0.0.1",
        "HEADGATE_SERVICE_HOST": "10.0.0.1",
        "HEADGATE_SERVICE_PORT": "8080",
        "HEADGATE_SERVICE_PORT_HTTP": "8080",
    }
    assert load({}, made_up) == load({}, {})
    assert load({}, {"HEADGATE_PORT": "9090"}).port == 9090


def test_empty_variable_is_as_good_as_none() -> None:
    assert load({}, {"HEADGATE_QUEUE_MAX": "", "MAX_ACTIVE": "", "HEADGATE_MODEL": ""}) == load({}, {})


def test_one_key_for_all_and_for_the_admin_is_refused() -> None:
    line = refused(environ={"HEADGATE_API_KEY": "the-same", "HEADGATE_ADMIN_KEY": "the-same"})
    assert line.startswith("ADMIN_KEY must be another than API_KEY")


@pytest.mark.parametrize("name", ["HEADGATE_API_KEY", "HEADGATE_ADMIN_KEY"])
def test_empty_key_is_refused_and_opens_no_door(name: str) -> None:
    assert name in refused(environ={name: ""})


@pytest.mark.parametrize(
    ("environ", "named", "value", "takes"),
    [
        ({"HEADGATE_MAX_ACTIVE": "0"}, "HEADGATE_MAX_ACTIVE", "'0'", "greater than or equal to 1"),
        ({"MAX_ACTIVE": "many"}, "MAX_ACTIVE", "'many'", "it must be a whole number, or `auto`. "),
        ({"HEADGATE_QUEUE_MODE": "drop"}, "HEADGATE_QUEUE_MODE", "'drop'", "'queue' or 'reject'"),
        (
            {"QUEUE_TIMEOUT_S": "30s"},
            "QUEUE_TIMEOUT_S",
            "'30s'",
            "it must be seconds, such as 30. Its meaning: Longest",
        ),
        ({"HEADGATE_SLO_ITL_MS": "x"}, "HEADGATE_SLO_ITL_MS", "'x'", "be milliseconds, such as 100, or `off`. "),
        ({"HEADGATE_SHED": "maybe"}, "HEADGATE_SHED", "'maybe'", "it must be true or false. "),
        ({"HEADGATE_REDIS_URL": "a"}, "HEADGATE_REDIS_URL", "(hidden)", "it must be a URL that begins with redis://, "),
        ({"HEADGATE_ENGINE_API_KEY": "a b"}, "HEADGATE_ENGINE_API_KEY", "(hidden)", "must be visible ASCII characters"),
        ({"HEADGATE_API_KEY": "a-secret\n"}, "HEADGATE_API_KEY", "(hidden)", "no line ends, and no space at its ends"),
        ({"HEADGATE_ADMIN_KEY": " a-secret"}, "HEADGATE_ADMIN_KEY", "(hidden)", "no space at its ends"),
        ({"QUEUE_TIMEOUT_S": "-1"}, "QUEUE_TIMEOUT_S", "'-1'", "greater than 0"),
        ({"QUEUE_TIMEOUT_S": "nan"}, "QUEUE_TIMEOUT_S", "'nan'", ""),
        ({"QUEUE_TIMEOUT_S": "inf"}, "QUEUE_TIMEOUT_S", "'inf'", ""),
        ({"HEADGATE_PORT": "70000"}, "HEADGATE_PORT", "'70000'", "65535"),
        ({"HEADGATE_MAX_BODY_BYTES": "many"}, "HEADGATE_MAX_BODY_BYTES", "'many'", "32MiB"),
        ({"HEADGATE_MAX_BODY_BYTES": "-5"}, "HEADGATE_MAX_BODY_BYTES", "'-5'", "32MiB"),
        ({"HEADGATE_MAX_BODY_BYTES": "0"}, "HEADGATE_MAX_BODY_BYTES", "'0'", "greater than or equal to 1"),
        ({"HEADGATE_LOG_LEVEL": "loud"}, "HEADGATE_LOG_LEVEL", "'loud'", "debug, info, warning, error"),
        ({"HEADGATE_FINAL_EVENT": "x"}, "HEADGATE_FINAL_EVENT", "'x'", "'auto', 'data', 'comment' or 'off'"),
        (
            {"HEADGATE_ENGINE": "gpt"},
            "HEADGATE_ENGINE",
            "'gpt'",
            "it must be 'auto', 'vllm', 'simulated' or 'remote'. Its",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "tempo:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT", "'tempo:4317'", "http://"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://"}, "OTEL_EXPORTER_OTLP_ENDPOINT", "'http://'", "a URL"),
    ],
)
def test_impossible_value_is_one_line_with_name_value_and_what_it_takes(
    environ: dict[str, str], named: str, value: str, takes: str
) -> None:
    line = refused(environ=environ)
    assert line.startswith(f"{named} = {value}: ")
    assert takes in line
    assert len(line.split(". ")) >= 2, "and what the setting is for"


def test_line_names_the_place_that_the_value_came_from(folder: Path) -> None:
    assert refused({"queue_max": "x"}, {"HEADGATE_QUEUE_MAX": "5"}).startswith("--queue-max = 'x'")
    (folder / "headgate.toml").write_text("queue_max = -1\n")
    assert refused().startswith("queue_max in headgate.toml = -1")


def test_list_in_the_file_is_read_as_strictly_as_one_with_commas(folder: Path) -> None:
    """`CORS_ORIGINS` took what no browser ever sends, and a wrong network was said to "be Input is not valid"."""
    (folder / "headgate.toml").write_text('cors_origins = ["https://Chat.example"]\ntrusted_proxies = ["10.0.0.1/8"]')
    settings = load({}, {})
    assert settings.cors_origins == ("https://chat.example",)
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8"]
    (folder / "headgate.toml").write_text('cors_origins = ["https://chat.example/path"]')
    assert "it must be origins, comma-separated" in refused()
    (folder / "headgate.toml").write_text('trusted_proxies = ["10.0.0.0/8", "x"]')
    assert "it must be addresses or networks, comma-separated" in refused()


@pytest.mark.parametrize(("line", "place"), [("max_active = true", "max_active"), ("drain_timeout_s = true", "drain_")])
def test_number_in_the_file_is_not_read_from_a_true(folder: Path, line: str, place: str) -> None:
    """`max_active = true` was one slot."""
    (folder / "headgate.toml").write_text(line)
    assert refused().startswith(place)
    (folder / "headgate.toml").write_text("shed = true")
    assert load({}, {}).shed is True


def test_home_stands_for_the_tilde_that_the_shell_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder called `~` was made where the gateway was started."""
    monkeypatch.setenv("HOME", str(folder))
    settings = load({"cache_dir": "~/cache"}, {"HEADGATE_API_KEYS_FILE": "~/keys.toml"})
    assert (settings.cache_dir, settings.api_keys_file) == (folder / "cache", folder / "keys.toml")
    assert CliRunner().invoke(main, ["keys", "add", "a", "--file=~/keys.toml"]).exit_code == 0
    assert (folder / "keys.toml").is_file()


@pytest.mark.parametrize("name", ["HEADGATE_MAXACTIVE", "HEADGATE_QUEUE_MAXIMUM", "HEADGATE_", "HEADGATE_EXTRA"])
def test_setting_that_there_is_not_is_refused(name: str) -> None:
    line = refused(environ={name: "5"})
    assert line.startswith(f"{name}: there is no such setting")


def test_unknown_key_in_the_file_is_refused(folder: Path) -> None:
    (folder / "headgate.toml").write_text("[gate]\nmax_active = 3\n")
    assert "gate" in refused()


@pytest.mark.parametrize("name", ["api_key", "admin_key", "engine_api_key"])
def test_secret_is_shown_nowhere(name: str) -> None:
    settings = load({}, {f"HEADGATE_{name.upper()}": "very-secret-words"})
    assert "very-secret-words" not in repr(settings)
    short = load({}, {"HEADGATE_API_KEY": "very-secret-words"})
    assert "very-secret-words" not in str(short)


def test_secret_that_is_wrong_is_not_said_again() -> None:
    line = refused(environ={"HEADGATE_ADMIN_KEY": "shorty"})
    assert "shorty" not in line
    assert "(hidden)" in line
    line = refused(environ={"HEADGATE_ENGINE_API_KEY": "two words\r\nx-injected: yes"})
    assert "injected" not in line


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("32MiB", 32 * 1024**2),
        ("32 mib", 32 * 1024**2),
        ("10kB", 10_000),
        ("1g", 1024**3),
        ("2GB", 2 * 10**9),
    ],
)
def test_bytes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert load({"max_body_bytes": text}, {}).max_body_bytes == size


@pytest.mark.parametrize("text", ["1.5M", "M", "", "5 kilo", "0x10", "\u00b2MiB", "1e6"])
def test_bytes_that_cannot_be_read_are_refused(text: str) -> None:
    assert "32MiB" in refused({"max_body_bytes": text})


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({}, Engine.SIMULATED),
        ({"model": "x/y"}, Engine.VLLM),
        ({"engine_urls": "http://a:1, http://b:2,"}, Engine.REMOTE),
    ],
)
def test_engine_follows_from_what_is_given(flags: dict[str, object], kind: Engine) -> None:
    assert load(flags, {}).engine_kind is kind


@pytest.mark.parametrize(
    ("flags", "mend"),
    [
        ({"engine": "remote"}, "needs ENGINE_URLS"),
        ({"engine": "vllm"}, "needs a MODEL"),
        ({"engine": "simulated", "model": "x"}, "takes no MODEL"),
        ({"engine": "simulated", "served_model_name": "gpt-5"}, "simulated"),
        ({"engine": "vllm", "model": "x", "engine_urls": "http://a"}, "ENGINE=remote"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_mend(flags: dict[str, object], mend: str) -> None:
    assert mend in refused(flags)


def test_simulated_engine_never_answers_under_a_real_models_name() -> None:
    assert load({"served_model_name": "my-simulated-one"}, {}).served_model_name == "my-simulated-one"
    with pytest.raises(SettingsError):
        load({"served_model_name": "Qwen/Qwen2.5-0.5B-Instruct"}, {})


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert re.search(r"[\w)`]\.$", field.description or ""), name


def test_command_ends_with_2_and_one_line_where_a_setting_is_wrong(folder: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "headgate", "serve", "--queue-max", "lots"],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
        env=environ,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("headgate: --queue-max = 'lots':")


@pytest.mark.parametrize(
    ("name", "default", "read"), [("slo_ttft_s", 1.0, 0.5), ("slo_itl_ms", 100.0, 50), ("slo_latency_s", None, 5)]
)
def test_objective_is_a_number_or_off(name: str, default: float | None, read: float) -> None:
    variable = f"HEADGATE_{name.upper()}"
    assert getattr(load({}, {}), name) == default
    assert getattr(load({}, {variable: str(read)}), name) == read
    assert getattr(load({}, {variable: "Off"}), name) is None
    for wrong in ("0", "-1", "nan", "never"):
        assert refused(environ={variable: wrong}).startswith(f"{variable} = '{wrong}': ")
