"""Another image: all pods are replaced, under load."""

from harness.cluster_events import UnderLoad
from harness.kubectl import Release, image_values


def test_an_upgrade_to_another_image(
    release: Release, values: list[str], under_load: UnderLoad, next_image: str
) -> None:
    before = set(release.all_pods())
    with under_load():
        release.upgrade([*values, *image_values(next_image)])
        release.wait_until_gone(before)
        release.wait_until_ready()
    images = {
        container["image"]
        for pod in release.namespace.objects("pods", release.selector())
        for container in pod["spec"]["containers"]
    }
    assert images == {next_image}
