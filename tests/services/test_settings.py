"""The settings file: its defaults, and what it says of each mistake."""

import json
import tomllib
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.settings import Settings, SettingsError, default_toml, load_settings

SHIPPED = Path(__file__).parents[2] / "config" / "unshrug.toml"
EVERY_KEY = tomllib.loads(default_toml())


def loaded(path: Path, text: str) -> Settings:
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def refusal(folder: Path, text: str) -> str:
    """Return what is said of a file that is refused."""
    with pytest.raises(SettingsError) as caught:
        loaded(folder / "mine.toml", text)
    return str(caught.value)


def test_the_shipped_file_states_every_default() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == default_toml()
    assert load_settings(SHIPPED) == Settings()


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path / "empty.toml", "") == Settings()


def test_what_a_file_says_is_taken_and_the_rest_stays(tmp_path: Path) -> None:
    text = '[wearer]\nid = "anna-2"\n[cue]\nper_hour = 3\ngrace_s = 4\n[calibration]\nrest_uv = 2\n'
    mine = loaded(tmp_path / "mine.toml", text)
    assert (mine.wearer.id, mine.cue.per_hour, mine.cue.grace_s) == ("anna-2", 3, 4.0)
    assert mine.calibration.rest_uv == (2.0,)
    assert mine.cue.refractory_s == Settings().cue.refractory_s
    assert mine.digest() != Settings().digest()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[haptic]\npin = 3", ["haptic", "unknown section", "motor"]),
        ("[motr]\npin = 3", ["motr", "unknown section", "did you mean motor?"]),
        ("cue = 3", ["cue", "expected a section [cue]", "3"]),
        ("pin = 3", ["pin", "unknown section"]),
        ("[cue.more]\npin = 3", ["cue.more", "unknown key"]),
        ("[shrug]\nheld = 4", ["shrug.held", "unknown key", "did you mean held_s (in seconds)?"]),
        ("[shrug]\nheld_ms = 4000", ["shrug.held_ms", "unknown key", "did you mean held_s (in seconds)?"]),
        ("[shrug]\ndrop_ms = 250", ["shrug.drop_ms", "did you mean drop_s (in seconds)?"]),
        ("[calibration]\nrest_ms = 9000", ["calibration.rest_ms", "did you mean rest_s (in seconds)?"]),
        ("[filter]\nhigh_pass_khz = 1", ["filter.high_pass_khz", "did you mean high_pass_hz (in hertz)?"]),
        ("[motor]\ndirve_pct = 50", ["motor.dirve_pct", "did you mean drive_pct (in per cent)?"]),
        ("[motor]\nzzz = 1", ["motor.zzz", "expected one of kind, pin, drive_pct, pwm_hz"]),
        ('[shrug]\nheld_s = "5"', ["shrug.held_s", "expected a number of seconds", "'5'"]),
        ("[shrug]\nheld_s = true", ["shrug.held_s", "expected a number of seconds", "True"]),
        ("[cue]\nper_hour = true", ["cue.per_hour", "expected a whole number of cues", "True"]),
        ("[cue]\nper_hour = 2.5", ["cue.per_hour", "expected a whole number of cues", "2.5"]),
        ("[cue]\nenabled = 1", ["cue.enabled", "expected true or false", "1"]),
        ('[cue]\nenabled = "yes"', ["cue.enabled", "expected true or false", "'yes'"]),
        ("[wearer]\nid = 7", ["wearer.id", "expected a text in quotes", "7"]),
        ("[shrug]\nheld_s = 500", ["shrug.held_s", "expected 1 to 120 s", "500"]),
        ("[motor]\npin = -1", ["motor.pin", "expected 0 to 27", "-1"]),
        ("[mqtt]\nport = 70000", ["mqtt.port", "expected 1 to 65535", "70000"]),
        ("[shrug]\nheld_s = nan", ["shrug.held_s", "expected 1 to 120 s", "nan"]),
        ("[shrug]\nheld_s = inf", ["shrug.held_s", "expected 1 to 120 s", "inf"]),
        ("[calibration]\nrest_uv = [2.5, 0]", ["calibration.rest_uv", "expected 0.01 to 1000 µV", "0"]),
        ('[calibration]\nrest_uv = [2.5, "x"]', ["calibration.rest_uv", "expected a number of µV", "'x'"]),
        ("[calibration]\nrest_uv = [[2.5]]", ["calibration.rest_uv", "expected a number of µV", "[2.5]"]),
        ("[board]\nchannels = [1]", ["board.channels", "expected a text in quotes", "1"]),
        ('[motor]\nkind = "Vibration"', ["motor.kind", 'expected "vibration" or "buzzer"', "'Vibration'"]),
        ('[mqtt]\ntls = "yes"', ["mqtt.tls", 'expected "auto" or "on" or "off"', "'yes'"]),
        ('[filter]\nmains = "55"', ["filter.mains", '"auto" or "off" or "50" or "60"', "'55'"]),
        ('[wearer]\nid = "Anna"', ["wearer.id", "a-z", "'Anna'"]),
        ('[wearer]\nid = "a/b"', ["wearer.id", "a-z", "'a/b'"]),
        ('[wearer]\nid = ""', ["wearer.id", "1 to 32", "''"]),
        (f'[wearer]\nid = "{"a" * 33}"', ["wearer.id", "1 to 32"]),
        ("[shrug]\nmerge_piece_s = 4", ["shrug.merge_piece_s", "expected no more than shrug.min_s"]),
        ("[shrug]\nheld_s = 2", ["shrug.held_s", "expected no less than shrug.min_s"]),
        ("[calibration]\nreference_uv = 80", ["calibration.reference_uv", "expected rest_uv beside it"]),
        ("[shrug]\ncap_s = 10", ["shrug.cap_s", "more than shrug.held_s + cue.grace_s"]),
        ("[shrug]\noff_rest_ratio = 2.3", ["shrug.off_rest_ratio", "expected less than shrug.on_rest_ratio"]),
        ("[cue]\nblank_s = 2", ["cue.blank_s", "would hide the EMG for 3.35 s", "shrug.unseen_s"]),
        ("[calibration]\nrest_uv = [2, 9]\nreference_uv = 8", ["calibration.reference_uv", "more than rest_uv"]),
        ("[calibration]\nrest_uv = 2\nnoise_uv = [1, 3]", ["calibration.noise_uv", "no more than rest_uv"]),
        (
            '[board]\nchannels = ["a", "b"]\n[calibration]\nrest_uv = [2, 2, 2]',
            ["calibration.rest_uv", "3 levels for 2 channels; expected 1 or 2"],
        ),
        ('[mqtt]\nbroker = "my..host"', ["mqtt.broker", "expected a host name", "'my..host'"]),
        ("[shrug\nheld_s = 5", ["not TOML", "line 1"]),
        ("[cue]\ngrace_s = 5 s", ["not TOML", "line 2"]),
        ("[cue]\ngrace_s = 1\ngrace_s = 2\n", ["not TOML"]),
    ],
)
def test_a_mistake_is_named_by_file_key_and_what_was_expected(tmp_path: Path, text: str, words: list[str]) -> None:
    said = refusal(tmp_path, text)
    assert [word for word in ["mine.toml", *words] if word not in said] == [], said
    assert "\n" not in said


@pytest.mark.parametrize("key", ["cue.per_hour", "mqtt.port", "shrug.held_s"])
def test_a_number_too_large_for_a_computer_is_out_of_range(tmp_path: Path, key: str) -> None:
    section, _, name = key.partition(".")
    said = refusal(tmp_path, f"[{section}]\n{name} = 1{'0' * 400}")
    assert said.startswith(f"mine.toml: {key}: expected ")


def test_a_number_too_long_to_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, f"[mqtt]\nport = {'9' * 5000}").startswith(f"{tmp_path / 'mine.toml'}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: No such file"):
        load_settings(tmp_path / "none.toml")


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Is a directory"):
        load_settings(tmp_path)


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('[wearer]\nid = "é"\n'.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"latin\.toml: not UTF-8 text .* at byte 15"):
        load_settings(path)


def as_toml(value: object) -> str:
    """Write any value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{as_toml(k)} = {as_toml(v)}' for k, v in value.items())}}}"
        case datetime() | date() | time():
            return value.isoformat()
    return repr(value)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
plain = (
    st.booleans() | st.integers() | st.floats() | texts | st.dates()
    | st.times().map(lambda at: at.replace(fold=0)) | st.datetimes().map(lambda at: at.replace(fold=0))
    | st.sampled_from(["vibration", "buzzer", "auto", "on", 50, 60.0, 0, 1, 5.0, 2.5, 10, 10**400, -(10**400)])
)  # fmt: skip
values = st.recursive(plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=2), max_leaves=5)
sections = {
    name: st.dictionaries(st.sampled_from(sorted(keys)) | texts, values, max_size=4) for name, keys in EVERY_KEY.items()
}
documents = st.fixed_dictionaries({}, optional=sections) | st.dictionaries(
    st.sampled_from(sorted(EVERY_KEY)) | texts, values, max_size=3
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(document=documents)
def test_no_file_ends_in_anything_but_settings_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    text = "".join(f"{as_toml(key)} = {as_toml(value)}\n" for key, value in document.items())
    assert str(tomllib.loads(text)) == str(document)
    said = ""
    try:
        loaded(path, text)
    except SettingsError as error:
        said = str(error)
    assert said == "" or said.startswith("any.toml: ")
