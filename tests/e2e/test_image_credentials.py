"""Private images: secrets of pods and service accounts, programs that know credentials, and images that are there already."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cluster_lab import E2E, Kubectl, Lab, inside, pod, until
from registry_lab import Registry

from kaa.runtime.oci.build import busybox_archive

pytestmark = E2E

BASIC = f"Basic {base64.b64encode(b'me:pw').decode()}"


@pytest.fixture
def registry(shared: Lab, tmp_path: Path) -> Iterator[Registry]:
    """A registry in the lab's network namespace, for those who say ``me:pw``."""
    made, ready, stop = Registry(basic=BASIC), threading.Event(), asyncio.Event()
    secret = {"private": (b"of its own", 0o644)}  # an image that others have as well would be private for them, too
    made.load(busybox_archive(tmp_path / "box.tar", ["x.io/a:1"], files=secret))
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.port = runner.addresses[0][1]
        loops.append(asyncio.get_running_loop())
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: inside(shared.netns, lambda: asyncio.run(serve())), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield made
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(10)


def private(name: str, registry: Registry, policy: str = "IfNotPresent", **spec: Any) -> Any:
    image = f"127.0.0.1:{registry.port}/a/b:1"
    return pod(name, container={"image": image, "imagePullPolicy": policy}, **spec)


def secret(registry: Registry, password: str = "pw") -> Any:
    auths = {"auths": {f"127.0.0.1:{registry.port}": {"username": "me", "password": password}}}
    data = {".dockerconfigjson": base64.b64encode(json.dumps(auths).encode()).decode()}
    meta = {"name": f"cred-{password}"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": meta,
        "data": data,
    }


def test_a_private_image_is_for_those_who_may_have_it(kube: Kubectl, registry: Registry) -> None:
    image = f"127.0.0.1:{registry.port}/a/b:1"
    kube.apply(private("none", registry))
    waiting = kube.waiting("none", "ErrImagePull")
    assert waiting["message"] == (
        f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": pull access denied, repository '
        "does not exist or may require authorization: authorization failed: no basic auth credentials"
    )
    kube.apply([secret(registry), secret(registry, "bad")])
    both = [{"name": "cred-bad"}, {"name": "cred-pw"}]
    kube.apply(private("both", registry, imagePullSecrets=both))
    kube.ready("both")
    kube.apply(private("never", registry, "Never"))
    assert kube.waiting("never", "ErrImageNeverPull")["message"] == (
        f'Container image "{image}" is present with pull policy of Never but does not have the proper credentials to '
        "access the image"
    )
    kube.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"}, "imagePullSecrets": both[1:]}
    )
    asked = len(registry.requests)
    kube.apply(private("account", registry, serviceAccountName="puller"))
    kube.ready("account")
    assert len(registry.requests) == asked
    text = f'Container image "{image}" already present on machine and can be accessed by the pod'
    until(lambda: ("Pulled", text) in kube.events("account"), "a Pulled event")


def test_a_program_gives_credentials_for_a_service_account(lab: Lab, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    script = """#!/bin/sh
cat > "$OUT.part"; mv "$OUT.part" "$OUT"
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry",'
echo '"cacheDuration":"1h","auth":{"127.0.0.1:'$PORT'":{"username":"me","password":"pw"}}}'
"""
    (programs / "acme").write_text(script)
    os.chmod(programs / "acme", 0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            os.chmod(folder, folder.stat().st_mode | 0o011)
    config = tmp_path / "config.json"
    port = 5099
    provider = {
        "name": "acme",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "matchImages": [f"127.0.0.1:{port}"],
        "defaultCacheDuration": "1h",
        "env": [{"name": "OUT", "value": str(tmp_path / "asked")}, {"name": "PORT", "value": str(port)}],
        "tokenAttributes": {
            "serviceAccountTokenAudience": "acme",
            "cacheType": "ServiceAccount",
            "requireServiceAccount": True,
        },
    }
    document = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [provider]}
    config.write_text(json.dumps(document))
    flags = ("--image-credential-provider-config", str(config), "--image-credential-provider-bin-dir", str(programs))
    refused = lab.try_kaa("up", *flags[:2])
    assert "must be set together" in refused.err
    lab.kaa("up", *flags)
    kube = lab.kube()
    kube.apply(pod("p", container={"image": f"127.0.0.1:{port}/a/b:1"}))
    asked = until(lambda: (tmp_path / "asked").exists() and json.loads((tmp_path / "asked").read_text()), "a question")
    assert (asked["kind"], asked["image"]) == ("CredentialProviderRequest", f"127.0.0.1:{port}/a/b")
    claims = json.loads(base64.urlsafe_b64decode(asked["serviceAccountToken"].split(".")[1] + "=="))
    assert claims["aud"] == ["acme"]
    assert claims["kubernetes.io"]["pod"]["name"] == "p"
