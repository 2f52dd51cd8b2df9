"""The chat template that transformers would render a conversation with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lengthwise_checkpoint.config_json import ConfigJson, is_there, read_text

_DEFAULT: Final = "default"


def read_chat_template(folder: Path, config: ConfigJson) -> str | None:
    """The default of those in files of their own, else of those in tokenizer_config.json.

    None where there is none, or several and none of them is the default. Raises `CheckpointError`.
    """
    return dict([*_of_files(folder)] or _of_config(config)).get(_DEFAULT)


def _of_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and source. A file of the folder «additional» replaces one of the same name."""
    path = folder / "chat_template.jinja"
    if is_there(path):
        yield _DEFAULT, read_text(path)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        yield path.stem, read_text(path)


def _of_config(config: ConfigJson) -> Iterator[tuple[str, str]]:
    """One template, a list of objects with name and template, or an object of templates by name."""
    match config.value("chat_template"):
        case None:
            return
        case list():
            listed = config.listed("chat_template")
            for place in listed:
                template = listed.object(place)
                yield template.text("name"), template.text("template")
        case dict() as templates:
            for name in templates:
                yield name, config.object("chat_template").text(name)
        case str() as template:
            yield _DEFAULT, template
        case other:
            got = type(other).__name__
            raise config.error("chat_template", f"expected a string, got {got}")
