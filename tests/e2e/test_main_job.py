"""The main job: a Deployment, a Service, a ConfigMap and a Secret, applied with kubectl and served by containers."""

from __future__ import annotations

import re

import pytest
from cluster_lab import ADDRESS, BOX, E2E, Kubectl, pod, serve, until

pytestmark = E2E

HELLO = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: hello-config}}
data: {{GREETING: Hello, COLOR: blue}}
---
apiVersion: v1
kind: Secret
metadata: {{name: hello-secret}}
stringData: {{TOKEN: s3cr3t}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: hello, labels: {{app: hello}}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: hello}}}}
  strategy: {{type: RollingUpdate, rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: hello}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {BOX}
        command:
        - sh
        - -c
        - |
          mkdir -p /www
          echo "$GREETING from $HOSTNAME, $SUFFIX $TOKEN" > /www/index.html
          httpd -p 8080 -h /www
          trap 'exit 0' TERM; sleep 3600 & wait
        env:
        - {{name: SUFFIX, value: v1}}
        - name: TOKEN
          valueFrom: {{secretKeyRef: {{name: hello-secret, key: TOKEN}}}}
        envFrom:
        - configMapRef: {{name: hello-config}}
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: hello}}
spec:
  type: NodePort
  selector: {{app: hello}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"""


@pytest.fixture
def hello(kube: Kubectl) -> Kubectl:
    said = kube.apply(HELLO)
    assert said.count("created") == 4, said
    assert "successfully rolled out" in kube("rollout status deploy/hello --timeout=30s")
    return kube


def pages(kube: Kubectl, ask: str, times: int = 12) -> set[str]:
    """What a client pod reads from an address, asked for several times."""
    script = f"for i in $(seq {times}); do timeout 5 wget -q -O - {ask}; done"
    return set(kube.sh("client", script).splitlines())


def answer(kube: Kubectl, address: str) -> str:
    """The page, or nothing while the rules still name a pod that has ended."""
    try:
        return kube.lab.fetch(address, 80)
    except OSError:
        return ""


def test_deployment_service_config_and_secret(hello: Kubectl) -> None:
    names = {item["metadata"]["name"] for item in hello.items("pods")}
    assert len(names) == 2
    wanted = {f"Hello from {name}, v1 s3cr3t" for name in names}
    service = hello.read("services/hello")["spec"]
    ports = hello.read("endpointslices")["items"][0]
    assert {target["targetRef"]["name"] for target in ports["endpoints"]} == names
    hello.apply(pod("client"))
    hello.ready("client")

    assert pages(hello, f"http://{service['clusterIP']}") == wanted  # ClusterIP, both endpoints in turn
    assert pages(hello, "http://hello") == wanted  # by the DNS name of the pod's own namespace
    assert pages(hello, f"http://hello.{hello.namespace}.svc.cluster.local", 4) <= wanted
    environment = hello.sh("client", "env")
    assert f"HELLO_SERVICE_HOST={service['clusterIP']}" in environment
    assert "HELLO_PORT_80_TCP_PORT=80" in environment

    port = service["ports"][0]["nodePort"]
    assert 30000 <= port < 32768
    assert {hello.lab.fetch(ADDRESS, port).strip() for _ in range(12)} == wanted  # NodePort from the node
    assert pages(hello, f"http://{ADDRESS}:{port}") == wanted  # NodePort from a pod
    assert hello.lab.fetch(service["clusterIP"], 80).strip() in wanted  # ClusterIP from the node


def test_names_are_resolved_as_kubernetes_does(hello: Kubectl) -> None:
    hello.apply(
        [
            pod("client", dnsConfig={"options": [{"name": "timeout", "value": "2"}]}),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "headless"},
                "spec": {"clusterIP": "None", "selector": {"app": "hello"}, "ports": [{"name": "http", "port": 8080}]},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "outside"},
                "spec": {"type": "ExternalName", "externalName": "hello.default.svc.cluster.local"},
            },
        ]
    )
    hello.ready("client")
    conf = hello.sh("client", "cat /etc/resolv.conf")
    assert f"search {hello.namespace}.svc.cluster.local svc.cluster.local cluster.local" in conf
    assert "options ndots:5" in conf
    addresses = {item["status"]["podIP"] for item in hello.items("pods", "?labelSelector=app%3Dhello")}
    domain = f"{hello.namespace}.svc.cluster.local"

    def lookup(name: str, kind: str = "a") -> str:
        done = hello.run("exec client --", "nslookup", f"-type={kind}", name)
        return done.out

    headless = until(lambda: lookup(f"headless.{domain}") if "Address" in lookup(f"headless.{domain}") else "", "DNS")
    assert addresses <= set(re.findall(r"[\d.]+", headless))
    assert f"_http._tcp.headless.{domain}" in lookup(f"_http._tcp.headless.{domain}", "srv")
    assert "8080" in lookup(f"_http._tcp.headless.{domain}", "srv")
    assert "canonical name = hello.default.svc.cluster.local" in lookup(f"outside.{domain}", "cname")
    cluster_ip = hello.read("services/hello")["spec"]["clusterIP"]
    reverse = ".".join(reversed(cluster_ip.split("."))) + ".in-addr.arpa"
    assert f"hello.{domain}" in lookup(reverse, "ptr")
    assert "NXDOMAIN" in hello.run("exec client --", "nslookup", f"nobody.{domain}").out
    assert (
        "kubernetes.default.svc.cluster.local"
        in hello.run("exec client --", "nslookup", "kubernetes.default.svc.cluster.local").out
    )


def test_scale_update_undo_delete(hello: Kubectl) -> None:
    hello("scale deploy/hello --replicas=4")
    hello("rollout status deploy/hello --timeout=30s")
    assert hello.read("deployments/hello")["status"]["readyReplicas"] == 4
    hello("scale deploy/hello --replicas=1")
    until(lambda: len(hello.items("pods")) == 1, "one pod is left")

    hello("set env deploy/hello SUFFIX=v2")
    hello("rollout status deploy/hello --timeout=30s")
    address = hello.read("services/hello")["spec"]["clusterIP"]
    until(lambda: "v2" in answer(hello, address), "the new version answers")
    assert [line.split()[0] for line in hello("rollout history deploy/hello").splitlines()[2:4]] == ["1", "2"]

    assert "rolled back" in hello("rollout undo deploy/hello")
    hello("rollout status deploy/hello --timeout=30s")
    until(lambda: "v1" in answer(hello, address), "the old version answers again")
    replicas = sorted(item["spec"]["replicas"] for item in hello.items("replicasets"))
    assert replicas == [0, 1]

    hello("delete deploy/hello service/hello configmap/hello-config secret/hello-secret")
    until(lambda: hello.items("pods") == [], "the pods are gone")
    until(lambda: hello.items("replicasets") == [], "the replica sets are gone")
    until(lambda: hello.items("endpointslices") == [], "the endpoint slices are gone")


def test_an_update_is_never_noticed(hello: Kubectl) -> None:
    """With a readiness probe and maxUnavailable 0, a client that asks all the time is always answered."""
    address = hello.read("services/hello")["spec"]["clusterIP"]
    with_hook = '{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":3,"containers":[{"name":"main","lifecycle":{"preStop":{"exec":{"command":["sleep","1"]}}}}]}}}}'
    hello("patch deploy hello -p", with_hook)
    hello("rollout status deploy/hello --timeout=30s")
    hello("set env deploy/hello SUFFIX=v2")
    seen = set()

    def answered() -> bool:
        seen.add(hello.lab.fetch(address, 80, timeout_s=3).split(", ")[1].split()[0])
        status = hello.read("deployments/hello")["status"]
        pods = hello.items("pods")
        return status.get("updatedReplicas") == 2 and len(pods) == 2 and status["observedGeneration"] >= 3

    until(answered, "the update is done", every_s=0.02)
    assert hello.lab.fetch(address, 80).split(", ")[1].split()[0] == "v2"
    assert seen <= {"v1", "v2"}


def test_a_pod_reaches_itself_through_its_service(kube: Kubectl) -> None:
    kube.apply(pod("web", serve("myself")))
    kube("expose pod web --port=80")
    kube.ready("web")
    address = until(lambda: kube.read("services/web"), "the service")["spec"]["clusterIP"]
    until(lambda: kube.read("endpointslices")["items"][0].get("endpoints"), "its endpoint")
    assert kube.sh("web", f"timeout 5 wget -q -O - http://{address}").strip() == "myself"


def test_apply_again_changes_only_what_changed(hello: Kubectl) -> None:
    again = hello.apply(HELLO)
    assert again.count("unchanged") == 3, again  # a Secret with stringData is configured anew: upstream too
    scaled = hello.apply(HELLO.replace("replicas: 2", "replicas: 3"))
    assert "deployment.apps/hello configured" in scaled
    assert hello.run("diff -f -", stdin=HELLO.replace("replicas: 2", "replicas: 3")).code in (0, 1)
