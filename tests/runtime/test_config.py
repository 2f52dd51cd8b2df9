"""Configuration files either become values or say exactly what is wrong."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ConfigDict

from lengthwise_runtime.config import STRICT, Address, ConfigError, load_config


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inner:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    limit: int = 3

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    inner: _Inner = field(default_factory=_Inner)


def _write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_a_frozen_value(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, "name: a\ninner: {limit: 7}\n"), _Config)
    assert config == _Config(name="a", inner=_Inner(limit=7))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("name: a\nnmae: b\n", ["nmae"], id="unknown key"),
        pytest.param("inner: {limit: 1}\n", ["name", "required"], id="missing key"),
        pytest.param("name: a\ninner: {limit: many}\n", ["inner.limit", "'many'"], id="wrong type"),
        pytest.param("name: a\ninner: {limit: 0}\n", ["inner", "at least 1"], id="refused value"),
        pytest.param("name: [", ["not YAML"], id="not YAML"),
        pytest.param("", ["name"], id="empty file"),
    ],
)
def test_a_wrong_file_names_the_field_and_what_it_got(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, text), _Config)
    for word in [*words, "config.yaml"]:
        assert word in str(caught.value)


def test_overrides_are_validated_like_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "name: a\ninner: {limit: 7}\n")
    config = load_config(path, _Config, ["name=2001:db8:1:2:3:4:5:6", "inner.limit=9"])
    assert config == _Config(name="2001:db8:1:2:3:4:5:6", inner=_Inner(limit=9))
    assert load_config(path, _Config, ["name=b=c", "name=d=e"]).name == "d=e"


def test_overrides_can_begin_a_section_and_an_empty_file(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, ""), _Config, ["name=a", "inner.limit=9"])
    assert config == _Config(name="a", inner=_Inner(limit=9))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        pytest.param("name", ["--set", "'name'", "KEY=VALUE"], id="no value"),
        pytest.param("=b", ["--set", "KEY=VALUE"], id="no key"),
        pytest.param("inner..limit=1", ["--set", "KEY=VALUE"], id="empty section"),
        pytest.param("name.first=b", ["--set name.first=b", "'a'"], id="no section"),
        pytest.param("nmae=b", ["nmae"], id="unknown key"),
        pytest.param("inner.limit=many", ["inner.limit", "'many'"], id="wrong type"),
        pytest.param("inner.limit=0", ["inner", "at least 1"], id="refused value"),
    ],
)
def test_a_wrong_override_says_what_it_got(tmp_path: Path, override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, "name: a\n"), _Config, [override])
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read configuration"):
        load_config(tmp_path / "none.yaml", _Config)


@pytest.mark.parametrize("text", ["127.0.0.1", ":80", "host:http", "host:99999", ""])
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:50051"])
def test_addresses_read_back_as_written(text: str) -> None:
    assert str(Address.parse(text)) == text
