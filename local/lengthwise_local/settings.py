"""Settings of a local cluster's processes, as they are given on a command line: which role each is
for, and whether the role takes it. Checked before anything is started."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from lengthwise_local.errors import LocalClusterError
from lengthwise_local.process import Role

ROLES: tuple[Role, ...] = get_args(Role)

OWN_KEYS = {
    "model": "--model",
    "models": "--model",
    "served_name": "--model NAME=MODEL",
    "listen": "--host and --port",
    "metrics_listen": "--metrics-port",
    "http": "--http-port",
    "advertise_host": "--host",
    "announce_folder": "",
    "discovery": "",
    "tls": "",
}
"""What a local cluster sets itself, and the options that say otherwise."""


def settings_by_role(settings: Sequence[str]) -> dict[Role, tuple[str, ...]]:
    """ "KEY=VALUE" for every role that has KEY, "ROLE.KEY=VALUE" for one; dots in KEY lead into
    sections. Each role gets its own without the role's name.

    Errors: LocalClusterError for what no role takes.
    """
    classes = _config_classes()
    found: dict[Role, list[str]] = {role: [] for role in ROLES}
    for setting in settings:
        roles, text = _read(setting, classes)
        for role in roles:
            found[role].append(text)
    for role, texts in found.items():
        _configure(role, classes[role], texts)
    return {role: tuple(texts) for role, texts in found.items()}


def require_local_prefill(config: Mapping[str, object], settings: Sequence[str]) -> None:
    """Of routers that have no prefill workers; both are theirs. Errors: LocalClusterError."""
    key = "local_prefill"
    given = {key: config[key]} if key in config else {}
    texts = [text for text in settings if text.partition("=")[0] == key]
    if not (given or texts):
        return  # as it is by default
    router = _configure("router", _config_classes()["router"], texts, given)
    if not router.local_prefill:
        raise LocalClusterError(
            "prefill: got 0 with local_prefill false, expected at least 1: decode workers compute"
            " no prompts then"
        )


def _read(setting: str, classes: dict[Role, type[Any]]) -> tuple[list[Role], str]:
    name, separator, _ = setting.partition("=")
    if not separator or not name:
        raise LocalClusterError(f"--set: got {setting!r}, expected KEY=VALUE")
    text = setting
    named = [role for role in ROLES if name.startswith(f"{role}.")]
    if named:
        text = setting.removeprefix(f"{named[0]}.")
    key = text.partition("=")[0].partition(".")[0]
    if key in OWN_KEYS:
        remedy = f"; use {OWN_KEYS[key]}" if OWN_KEYS[key] else ""
        raise LocalClusterError(f"--set {setting}: {key} is set by `lengthwise up` itself{remedy}")
    takers = [
        role for role in named or ROLES if key in {field.name for field in fields(classes[role])}
    ]
    if not takers:
        where = f"{named[0]} processes have" if named else "no process has"
        no = " no" if named else ""
        raise LocalClusterError(
            f"--set {setting}: {where}{no} key {key}; docs/configuration.md lists the keys"
        )
    return takers, text


def _configure(
    role: Role,
    config_class: type[Any],
    settings: Sequence[str],
    given: Mapping[str, object] | None = None,
) -> Any:
    """The configuration that the settings make. Errors: LocalClusterError."""
    from lengthwise_runtime.config import ConfigError, make_config

    required: dict[str, object] = {"model": "any", **(given or {})}
    if role == "router":
        required["discovery"] = {"folder": "any"}
    try:
        return make_config(required, config_class, settings, f"{role} setting")
    except ConfigError as error:
        raise LocalClusterError(" ".join(str(error).split())) from error


def _config_classes() -> dict[Role, type[Any]]:
    """They come with the extras, which a user of stand-ins need not have."""
    from lengthwise_decode_worker.config import DecodeWorkerConfig
    from lengthwise_prefill_worker.config import PrefillWorkerConfig
    from lengthwise_router.config import RouterConfig

    return {"prefill": PrefillWorkerConfig, "decode": DecodeWorkerConfig, "router": RouterConfig}
