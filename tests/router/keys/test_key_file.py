"""What a file of keys may say, and the one line that tells what is wrong with it."""

import os
from pathlib import Path

import pytest
from router.keys.keys import entry, sha256, write

from lengthwise_router.keys.key_file import MAX_FILE_BYTES, MAX_KEYS, read_key_file
from lengthwise_runtime.config import ConfigError

SECRET = "lw-a-key-that-nobody-may-see"


def refused(path: Path) -> str:
    """The message, which is one line and no secret."""
    with pytest.raises(ConfigError) as caught:
        read_key_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert SECRET not in message
    return message


def test_an_entry_is_a_tenant_with_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(
        f"- name: alice\n  sha256: {sha256('a')}\n  priority: 5\n  models: [one, two]\n"
        "  requests_per_minute: 60\n  tokens_per_minute: 1_000\n  max_concurrent: 3\n"
        f"- name: bob 🐙\n  sha256: [{sha256('b').upper()}, {sha256('c')}]\n  admin: true\n"
    )
    alice, bob = read_key_file(path)
    assert (alice.name, alice.priority, alice.models, alice.admin) == (
        "alice",
        5,
        ("one", "two"),
        False,
    )
    assert (alice.limits.requests_per_minute, alice.limits.tokens_per_minute) == (60, 1000)
    assert bob.hashes == (sha256("b"), sha256("c")), "one key follows another"
    assert (bob.admin, bob.models, bob.limits.max_concurrent) == (True, None, None)
    assert sha256("a") not in repr(alice)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": ""}, "name: expected 1 to 128 printable"),
        ({"name": "a\nb"}, "name: expected 1 to 128 printable"),
        ({"name": "x" * 129}, "name: expected 1 to 128"),
        ({"name": 7}, "name: Input should be a valid string"),
        ({"sha256": SECRET}, "sha256: expected the 64 hexadecimal digits"),
        ({"sha256": sha256("a") + "\n"}, "sha256: expected"),
        ({"sha256": []}, "sha256: expected"),
        ({"sha256": [sha256(str(number)) for number in range(9)]}, "sha256: expected"),
        ({"sha256": {SECRET: SECRET}}, "sha256: "),
        ({SECRET: 1}, "got another field than name, sha256, priority"),
        ({"priority": 101}, "priority: got 101, expected -100 to 100"),
        ({"priority": "high"}, "priority: Input should be a valid integer"),
        ({"models": "one"}, "models: Input should be a valid tuple"),
        ({"admin": "perhaps"}, "admin: Input should be a valid boolean"),
        ({"requests_per_minute": 0}, "requests_per_minute: expected 1 to"),
        ({"tokens_per_minute": -1}, "tokens_per_minute: expected 1 to"),
        ({"max_concurrent": 10**400}, "max_concurrent: "),
        ({"max_concurrent": 1.5}, "max_concurrent: "),
    ],
)
def test_a_wrong_field_is_one_line_with_file_entry_and_field(
    tmp_path: Path, fields: dict[str, object], expected: str
) -> None:
    path = write(tmp_path / "keys.yaml", entry("good"), {**entry("bad"), **fields})
    message = refused(path)
    assert ": entry 2" in message
    assert expected in message


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    assert "entry 1 ('a'): sha256:" in refused(write(tmp_path / "keys.yaml", {"name": "a"}))
    assert "entry 1: name:" in refused(write(tmp_path / "keys.yaml", {"sha256": sha256("a")}))


def test_duplicates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    message = refused(write(path, entry("a"), entry("b"), entry("a", "other")))
    assert "entry 3 ('a'): name: entry 1 has it too" in message
    message = refused(write(path, entry("a", "same"), entry("b", "same")))
    assert "entry 2 ('b'): sha256: entry 1 has the same key" in message
    both = {**entry("a"), "sha256": [sha256("x"), sha256("x").upper()]}
    assert "sha256: entry 1 has the same key" in refused(write(path, both))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"alice: " + SECRET.encode(),
        SECRET.encode(),
        b"- " + SECRET.encode(),
        b"- [" + SECRET.encode(),
        b"- name: 'a\n  sha256: " + SECRET.encode(),
        b"- *" + SECRET.encode(),
        b"- !!python/object/apply:os.system [" + SECRET.encode() + b"]",
        b"\xff\xfe",
        b"- name: 2020-99-99\n",
        b"- !!bool " + SECRET.encode(),
        b"- !!timestamp x",
        b"- !!int ''",
        b"- {name: x, name: y, sha256: z}",
        b"--- []\n--- []",
        b"- &a [*a]",
        b"- " * 100_000,
        b"[" * 200_000,
        b"{a: " * 20_000,
        b"- null\n",
        b"\x00",
    ],
)
def test_what_is_no_list_of_entries_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(text)
    refused(path)


def test_an_empty_list_lets_nobody_in(tmp_path: Path) -> None:
    assert read_key_file(write(tmp_path / "keys.yaml")) == ()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "absent.yaml")
    assert "regular file" in refused(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "regular file" in refused(fifo)
    assert "regular file" in refused(Path("/dev/zero"))
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop")


@pytest.mark.slow
def test_size_and_number_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert "bytes" in refused(path)
    write(path, *(entry(f"{number}") for number in range(MAX_KEYS + 1)))
    assert f"expected at most {MAX_KEYS} entries" in refused(path)
