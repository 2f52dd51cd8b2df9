"""The end."""

from cluster.cluster_load import Load, assert_none_failed, assert_tokens_are_right
from cluster.kubectl import Release, run
from harness.reference import DEMO_MODEL, Reference
from harness.waiting import wait_for


def test_no_request_failed_and_no_token_was_wrong_in_all_that_time(load: Load) -> None:
    answers = load.stop()
    assert_none_failed(answers)
    assert_tokens_are_right(answers, Reference(DEMO_MODEL))


def test_what_is_uninstalled_leaves_nothing(release: Release) -> None:
    assert left_of(release)
    release.uninstall()
    wait_for("nothing left", lambda: not left_of(release), 60)


def left_of(release: Release) -> list[str]:
    """All objects of whatever kind that are its own, in the cluster."""
    found = run(
        *("kubectl", "get", ",".join(all_kinds()), "--all-namespaces"),
        *("--selector", release.selector(), "--output=name"),
    )
    return found.split()


def all_kinds() -> list[str]:
    kinds = run("kubectl", "api-resources", "--verbs=list,get", "--output=name").split()
    return [kind for kind in kinds if not kind.startswith(("componentstatuses", "events"))]
