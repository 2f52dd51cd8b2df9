"""A release of several models: routers serve all, each pool one."""

import json
from pathlib import Path
from typing import Any

import pytest
from chart.helm import Rendered, template
from chart.test_rendering import loaded

from lengthwise_policy.objectives import Objectives

VALUES = Path(__file__).with_name("several_models.yaml")
ODD = 'odd "name" / ü'
MODELS = [{"name": name, "source": "demo"} for name in ("a", "b")]


def pool(name: str, model: str | None, **more: Any) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    return {"name": name, "role": "decode", "replicas": 1, **named, **more}


def given(models: list[dict[str, Any]], *pools: dict[str, Any]) -> list[str]:
    return [f"--set-json=models={json.dumps(models)}", f"--set-json=pools={json.dumps(pools)}"]


@pytest.fixture(scope="module")
def rendered(helm: str) -> Rendered:
    return Rendered(helm, f"--values={VALUES}")


def test_routers_serve_all_models_and_workers_one(rendered: Rendered, tmp_path: Path) -> None:
    configs = loaded(rendered, tmp_path)
    assert {served.name: served.model for served in configs["router"].served} == {
        "demo": "/opt/lengthwise/demo_model",
        ODD: "/opt/lengthwise/demo_model",
        "claimed": "/checkpoints/2/a/b",
        "one": "owner/one@v1",
        "two": "owner/two",
        "archive": "/checkpoints/5",
    }
    workers = {
        name: (config.served_name, config.model)
        for name, config in configs.items()
        if name not in ("router", "autoscaler")
    }
    assert workers == {
        "demo-prefill": ("demo", "/opt/lengthwise/demo_model"),
        "demo-decode": ("demo", "/opt/lengthwise/demo_model"),
        "odd": (ODD, "/opt/lengthwise/demo_model"),
        "claimed": ("claimed", "/models/a/b"),
        "one": ("one", "owner/one@v1"),
        "one-gpu": ("one", "owner/one-quantised@v1"),
        "two": ("two", "owner/two"),
        "archive": ("archive", "/models"),
    }


def test_a_models_objectives_are_those_of_all_its_processes(
    rendered: Rendered, tmp_path: Path
) -> None:
    configs = loaded(rendered, tmp_path)
    own = Objectives(tpot_seconds=0.02)
    router, autoscaler = configs["router"], configs["autoscaler"]
    by_name = {served.name: router.of(served).objectives for served in router.served}
    assert by_name == {**dict.fromkeys(by_name, Objectives()), ODD: own}
    assert autoscaler.model_objectives[ODD] == configs["odd"].objectives == own
    assert autoscaler.model_objectives["one"] == configs["one"].objectives == Objectives()


def test_the_autoscaler_knows_whose_pools_are_whose(rendered: Rendered, tmp_path: Path) -> None:
    config = loaded(rendered, tmp_path)["autoscaler"]
    assert {each.name: each.model for each in config.pools} == {
        "demo-prefill": "demo", "demo-decode": "demo", "odd": ODD, "claimed": "claimed",
        "one": "one", "one-gpu": "one", "two": "two", "archive": "archive",
    }  # fmt: skip


def test_a_router_has_the_files_of_every_model(rendered: Rendered) -> None:
    spec = rendered.one("Deployment", "router")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert {name: place for name, place in mounts.items() if name.startswith("models")} == {
        "models": "/models", "models-2": "/checkpoints/2", "models-5": "/checkpoints/5"
    }  # fmt: skip
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert len(volumes) == len(spec["volumes"])
    assert volumes["models-2"]["persistentVolumeClaim"]["claimName"] == "weights"
    assert volumes["models"]["emptyDir"] == volumes["models-5"]["emptyDir"] == {"sizeLimit": "3Gi"}
    (download,) = spec["initContainers"]
    assert {each["name"]: each["mountPath"] for each in download["volumeMounts"]} == {
        "models-5": "/models"
    }
    names = [variable["name"] for variable in container["env"]]
    assert sorted(names) == ["HF_HOME", "HF_TOKEN"]


def test_metrics_of_workers_are_labelled_with_their_model(rendered: Rendered) -> None:
    annotations = {
        name: rendered.one("Deployment", name)["spec"]["template"]["metadata"]["annotations"]
        for name in ("odd", "router", "autoscaler")
    }
    assert annotations["odd"]["lengthwise/model"] == ODD
    assert not any("lengthwise/model" in annotations[name] for name in ("router", "autoscaler"))


def test_the_test_of_a_release_asks_every_model(rendered: Rendered) -> None:
    pods = {pod["metadata"]["name"]: pod["spec"]["containers"] for pod in rendered.of("Pod")}
    asked = {container["command"][-1] for (container,) in pods.values()}
    assert f"--model={ODD}" in asked
    assert len(asked) == len(pods) == 6


def test_one_model_in_the_list_is_as_the_only_model(helm: str, tmp_path: Path) -> None:
    arguments = given([{"name": "a", "source": "demo"}], pool("decode", None))
    configs = loaded(Rendered(helm, *arguments), tmp_path)
    assert (configs["router"].served_name, configs["router"].models) == ("a", ())
    assert configs["decode"].served_name == "a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            given(MODELS, pool("x", "a"), pool("y", None)),
            'pool y: model: got "", expected one of a, b',
            id="a pool of no model",
        ),
        pytest.param(
            given(MODELS, pool("x", "a"), pool("y", "B")),
            'pool y: model: got "B", expected one of a, b',
            id="a pool of an unknown model",
        ),
        pytest.param(
            [f"--set-json=pools={json.dumps([pool('x', 'other')])}"],
            'pool x: model: got "other", expected one of demo',
            id="another than the only one",
        ),
        pytest.param(
            given([MODELS[0], MODELS[0]], pool("x", "a")),
            "models: got two models named a, expected different names",
            id="one name twice",
        ),
        pytest.param(
            given(MODELS, pool("x", "a"), pool("y", "b", role="prefill")),
            "pools: got no replica of role decode for model b",
            id="a model without decode workers",
        ),
        pytest.param(
            given([{"source": "demo"}], pool("x", "a")),
            "at '/models/0': missing property 'name'",
            id="no name",
        ),
        pytest.param(
            given([{"name": "a", "source": "claim"}], pool("x", "a")),
            "model a: claim.name: got none",
            id="no claim",
        ),
        pytest.param(
            given(
                [
                    {"name": name, "source": "hub", "hub": {"id": "o/n", "endpoint": endpoint}}
                    for name, endpoint in (("a", "https://one"), ("b", "https://two"))
                ],
                pool("x", "a"),
                pool("y", "b"),
            ),
            'model b: hub: got endpoint "https://two"',
            id="two hubs",
        ),
        pytest.param(
            ['--set-json=models=[{"name": "a", "port": 1}]'],
            "at '/models/0': additional properties 'port' not allowed",
            id="an unknown key",
        ),
    ],
)
def test_what_contradicts_itself_is_told_in_one_line(
    helm: str, arguments: list[str], message: str
) -> None:
    done = template(helm, *arguments)
    assert done.returncode != 0
    assert message in done.stderr
