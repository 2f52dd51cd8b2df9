"""A local cluster starts whole or not at all, and leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness.waiting import until

from lengthwise_local import LocalCluster, LocalClusterError, Process, named_models

MakeCluster = Callable[..., LocalCluster]


def config_of(cluster: LocalCluster, process: Process) -> dict[str, object]:
    config: dict[str, object] = json.loads((cluster.folder / f"{process.name}.yaml").read_text())
    return config


def test_every_process_of_every_role_becomes_ready(make_cluster: MakeCluster) -> None:
    with make_cluster(prefill=1, decode=2, routers=2) as cluster:
        names = [process.name for process in cluster.processes]
        assert names == ["prefill-0", "decode-0", "decode-1", "router-0", "router-1"]
        assert len({process.worker_id for process in cluster.processes}) == 5
        assert cluster.endpoints == [router.address for router in cluster.routers]
        assert all(psutil.pid_exists(process.pid) for process in cluster.processes)


def test_every_model_has_workers_of_its_own(make_cluster: MakeCluster, model: Path) -> None:
    models = {"a": model, "owner/b": "owner/b"}
    with make_cluster(model=None, models=models, prefill=1, decode=2) as cluster:
        names = [(process.name, process.model) for process in cluster.processes]
        assert names == [
            ("prefill-0", "a"), ("prefill-1", "owner/b"), ("decode-0", "a"), ("decode-1", "a"),
            ("decode-2", "owner/b"), ("decode-3", "owner/b"), ("router-0", ""),
        ]  # fmt: skip
        configs = [config_of(cluster, process) for process in cluster.processes]
        served = [
            {"model": str(model), "served_name": "a"},
            {"model": "owner/b", "served_name": "owner/b"},
        ]
        assert configs[-1]["models"] == served
        assert [config["served_name"] for config in configs[:-1]] == [
            process.model for process in cluster.workers
        ]
        assert {str(config["memory_share"]) for config in configs[:-1]} == {str(0.9 / 6)}


def test_models_are_named_by_their_last_part_or_as_one_says(model: Path, tmp_path: Path) -> None:
    odd = tmp_path / "x=y"
    odd.mkdir()
    (odd / "config.json").write_text("{}")
    named = named_models([str(model), f"b={model}", "owner/c@v1", str(odd)])
    assert named == {
        "model": str(model), "b": str(model), "c@v1": "owner/c@v1", "x=y": str(odd)
    }  # fmt: skip
    with pytest.raises(LocalClusterError, match="got two models named 'model'; name one otherwise"):
        named_models([str(model), str(model)])
    with pytest.raises(LocalClusterError, match="no model in /nowhere"):
        named_models(["b=/nowhere"])
    with pytest.raises(LocalClusterError, match="model 'x' and models, expected one"):
        LocalCluster(model="x", models={"a": model})


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("a", "got 'a', expected NAME=FOLDER"),
        ("=/somewhere", "got '=/somewhere', expected NAME=FOLDER"),
        ("a=/nowhere", "a: no adapter in /nowhere, which does not exist; expected a folder"),
        ("a=.", "a: adapter_config.json: not found"),
    ],
)
def test_an_adapter_that_no_worker_could_load_is_refused_at_once(
    model: Path, tmp_path: Path, adapter: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LocalClusterError, match=f"--adapter:? {said}"):
        LocalCluster(model=model, adapters=[adapter])


def test_a_clean_exit_ends_every_process_and_removes_the_folder(make_cluster: MakeCluster) -> None:
    with make_cluster() as cluster:
        folder, processes = cluster.folder, cluster.processes
    assert [process.exit_code for process in processes] == [0, 0, 0]
    assert not folder.exists()


def test_a_failing_block_keeps_the_logs_and_says_where(make_cluster: MakeCluster) -> None:
    with pytest.raises(ZeroDivisionError) as caught, make_cluster() as cluster:
        raise ZeroDivisionError
    assert str(cluster.folder) in caught.value.__notes__[0]
    assert (cluster.folder / "decode-0.log").exists()


def test_a_process_that_ends_while_starting_is_an_error_with_its_last_words(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(configs={"decode": {"behaviour": "crash"}})
    with pytest.raises(
        LocalClusterError, match=r"decode-0 ended with exit code 1[\s\S]*cannot alloc"
    ):
        cluster.__enter__()
    assert not any(process.running for process in cluster.processes)


@pytest.mark.slow
def test_a_process_that_never_becomes_ready_is_named_after_the_deadline(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(configs={"prefill": {"behaviour": "mute"}}, start_seconds=1.0)
    with pytest.raises(LocalClusterError, match=r"not ready within 1 s: prefill-0"):
        cluster.__enter__()
    assert not any(process.running for process in cluster.processes)


@pytest.mark.slow
def test_waiting_reports_what_is_missing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(configs={"prefill": {"behaviour": "mute"}}, start_seconds=1.0)
    seen: list[set[str]] = []
    try:
        cluster.launch()
        with pytest.raises(LocalClusterError, match="prefill-0"):
            cluster.wait_ready(lambda missing: seen.append({process.name for process in missing}))
    finally:
        cluster.stop()
    assert seen
    assert all("prefill-0" in each for each in seen)


def test_a_killed_worker_comes_back_under_a_new_name(make_cluster: MakeCluster) -> None:
    with make_cluster() as cluster:
        worker = cluster.decode[0]
        before = worker.worker_id
        worker.kill()
        assert worker.wait(5.0) == -signal.SIGKILL
        assert worker.announcement is not None, "a killed process leaves its announcement"
        worker.restart()
        assert worker.worker_id != before
        assert not (cluster.folder / "announced" / f"{before}.json").exists()


def test_a_restarted_router_keeps_its_address(make_cluster: MakeCluster) -> None:
    with make_cluster() as cluster:
        before = cluster.endpoint
        cluster.routers[0].restart()
        assert config_of(cluster, cluster.routers[0])["listen"] == before
        assert cluster.endpoint == before


def test_a_frozen_process_is_drained_all_the_same(make_cluster: MakeCluster) -> None:
    with make_cluster() as cluster:
        frozen = cluster.decode[0]
        frozen.kill(signal.SIGSTOP)
        started = time.monotonic()
    assert frozen.exit_code == 0
    assert time.monotonic() - started < 5.0


@pytest.mark.slow
def test_a_process_that_ignores_the_drain_is_killed_and_its_log_kept(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(configs={"prefill": {"behaviour": "stubborn"}})
    cluster.launch()
    cluster.wait_ready()
    assert [process.name for process in cluster.stop(drain_seconds=0.3)] == ["prefill-0"]
    assert cluster.prefill[0].exit_code == -signal.SIGKILL
    assert cluster.folder.exists()


def test_what_a_killed_process_started_is_killed_with_it(make_cluster: MakeCluster) -> None:
    with make_cluster(configs={"decode": {"behaviour": "parent"}}) as cluster:
        grandchild = int((cluster.folder / "grandchild").read_text())
        cluster.decode[0].kill()
        cluster.decode[0].wait(5.0)
        until(
            lambda: (
                not psutil.pid_exists(grandchild)
                or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
            )
        )


def test_processes_die_with_a_starter_that_was_killed(tmp_path: Path) -> None:
    # The module stands for a router: something that would run for ever.
    (tmp_path / "endless.py").write_text("import signal\nprint('up', flush=True)\nsignal.pause()\n")
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "command = [sys.executable, '-m', 'lengthwise_local.child', 'endless']\n"
            "child = subprocess.Popen(command,\n"
            "    stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)\n"
            "child.stdout.readline()\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(600)\n",
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    with starter:
        assert starter.stdout is not None
        child = psutil.Process(int(starter.stdout.readline()))
        assert child.is_running()
        starter.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_configurations_join_the_defaults(make_cluster: MakeCluster, model: Path) -> None:
    with make_cluster(configs={"decode": {"num_blocks": 64, "threads": 7}}) as cluster:
        decode = config_of(cluster, cluster.decode[0])
        assert decode["num_blocks"] == 64
        assert decode["threads"] == 7
        assert decode["model"] == str(model)
        assert "num_blocks" not in config_of(cluster, cluster.prefill[0])


def test_a_port_in_use_is_one_line_before_anything_starts(make_cluster: MakeCluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalClusterError, match=rf"port {port} cannot be used") as caught:
            make_cluster(port=port)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param("/nowhere/at/all", "which does not exist", id="missing"),
        pytest.param(__file__, "not a GGUF file", id="file"),
        pytest.param("/nowhere/model.gguf", "does not exist; expected a folder with", id="gguf"),
        pytest.param("/", "holds no config.json", id="no-checkpoint"),
        pytest.param("llama", "expected a folder with config.json", id="neither"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(
    make_cluster: MakeCluster, model: str, message: str
) -> None:
    with pytest.raises(LocalClusterError, match=message) as caught:
        make_cluster(model=model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"port": 99_999}, r"--port: got 99999 .* ports up to 65535", id="port"),
        pytest.param({"port": -1}, "--port: got -1", id="below 0"),
        pytest.param({"port": 65_535, "routers": 2}, "--port: got 65535 for 2", id="the second"),
        pytest.param({"metrics_port": 70_000}, "--metrics-port: got 70000", id="metrics"),
        pytest.param({"port": 4_000, "metrics_port": 4_000}, "overlap", id="overlap"),
        pytest.param({"port": 4_000, "http_port": 4_000}, "--http-port 4000 overlap", id="http"),
        pytest.param({"host": "no.such.host.invalid"}, "--host: got 'no.such.host", id="host"),
        pytest.param({"host": "192.0.2.1"}, "choose another with --host", id="foreign host"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line_with_its_option(
    make_cluster: MakeCluster, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(LocalClusterError, match=message) as caught:
        make_cluster(**arguments)
    assert "\n" not in str(caught.value)


def test_a_taken_metrics_port_names_its_own_option(make_cluster: MakeCluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalClusterError, match="choose another with --metrics-port"):
            make_cluster(metrics_port=port)


def test_settings_reach_the_roles_that_have_them(make_cluster: MakeCluster) -> None:
    settings = ["num_blocks=64", "router.max_queued=3", "objectives.tpot_seconds=0.2"]
    with make_cluster(settings=settings) as cluster:
        lines = {
            process.role: psutil.Process(process.pid).cmdline() for process in cluster.processes
        }
    assert "num_blocks=64" in lines["prefill"]
    assert "num_blocks=64" in lines["decode"]
    assert "num_blocks=64" not in lines["router"]
    assert "max_queued=3" in lines["router"]
    assert all("objectives.tpot_seconds=0.2" in line for line in lines.values())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param("num_blocks", "expected KEY=VALUE", id="no value"),
        pytest.param("blocks=1", "no process has key blocks", id="no such key"),
        pytest.param("router.num_blocks=1", "router processes have no key num_blocks", id="role"),
        pytest.param("num_blocks=many", "num_blocks: Input should be a valid integer", id="type"),
        pytest.param("dtype=int4", "dtype: Input should be 'auto'", id="choice"),
        pytest.param("kv_memory_bytes=0", "kv_memory_bytes must be above 0", id="range"),
        pytest.param("listen=0.0.0.0:1", "use --host and --port", id="our own"),
        pytest.param("announce_folder=/tmp", "set by `lengthwise up` itself", id="no option"),
    ],
)
def test_a_setting_that_no_process_takes_is_one_line(
    make_cluster: MakeCluster, setting: str, message: str
) -> None:
    with pytest.raises(LocalClusterError, match=message) as caught:
        make_cluster(settings=[setting])
    assert "\n" not in str(caught.value)


def test_what_an_operator_should_mend_is_told_without_the_log(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(configs={"decode": {"behaviour": "refuse"}})
    with pytest.raises(LocalClusterError) as caught, cluster:
        pass
    assert str(caught.value) == "decode-0: device: got cuda, but torch finds no GPU"


def test_a_role_without_processes_is_refused(make_cluster: MakeCluster) -> None:
    with pytest.raises(LocalClusterError, match="decode: got 0, expected at least 1"):
        make_cluster(decode=0)
    with pytest.raises(LocalClusterError, match="prefill: got -1, expected at least 0"):
        make_cluster(prefill=-1)


def test_prefill_workers_may_be_left_out_where_decode_workers_compute_prompts(
    make_cluster: MakeCluster,
) -> None:
    with make_cluster(prefill=0) as cluster:
        assert [process.name for process in cluster.processes] == ["decode-0", "router-0"]
        assert config_of(cluster, cluster.decode[0])["memory_share"] == 0.9
    for settings, configs in (
        (["local_prefill=no"], {}),
        (["router.local_prefill=false"], {}),
        ([], {"router": {"local_prefill": False}}),
    ):
        with pytest.raises(LocalClusterError, match="prefill: got 0 with local_prefill false"):
            make_cluster(prefill=0, settings=settings, configs=configs)
