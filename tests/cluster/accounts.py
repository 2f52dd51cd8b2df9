"""The API server, asked as a ServiceAccount: kubectl asks for more than its arguments say."""

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from cluster.kubectl import Namespace, run


def patch_pod(namespace: Namespace, account: str, pod: str, body: Mapping[str, Any]) -> str:
    """Empty, or why it was refused."""
    kubeconfig = json.loads(
        run("kubectl", "config", "view", "--raw", "--minify", "--flatten", "-ojson")
    )
    cluster = kubeconfig["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    token = namespace.kubectl("create", "token", account)
    request = urllib.request.Request(
        f"{cluster['server']}/api/v1/namespaces/{namespace.name}/pods/{pod}",
        data=json.dumps(body).encode(),
        method="PATCH",
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/strategic-merge-patch+json",
        },
    )
    trust = ssl.create_default_context(cadata=authority)
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust):
            return ""
    except urllib.error.HTTPError as error:
        return str(json.load(error)["message"])
