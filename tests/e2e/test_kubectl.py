"""kubectl's verbs against a whole cluster: what people type, and the words that they and their scripts look for.

Each test has a namespace of its own. What differs between kubectl's versions is asked of the oldest and the newest.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from cluster_lab import BOX, E2E, KUBECTLS, STAY, Kubectl, kubectl_minors, pod, until

pytestmark = E2E

OLD_AND_NEW = kubectl_minors("1.27", "1.33")


def config_map(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **more}, "data": {"key": name}}


def deployment(kube: Kubectl, name: str = "web") -> None:
    """Two pods that stay."""
    kube(f"create deployment {name} --image={BOX} --replicas=2 --", "sh", "-c", STAY)


def read(kube: Kubectl, what: str, path: str) -> str:
    """One field of an object, as kubectl prints it."""
    return kube(f"get {what} -o", f"jsonpath={{{path}}}")


# ------------------------------------------------------------------------------------------------- create, read, delete


@OLD_AND_NEW
def test_generators_make_what_they_say(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    commands = {
        "configmap one --from-literal=a=b": "configmap/one created",
        "secret generic two --from-literal=a=b --type=my/type": "secret/two created",
        "serviceaccount three": "serviceaccount/three created",
        "quota four --hard=pods=7": "resourcequota/four created",
        "pdb five --selector=app=web --min-available=50%": "poddisruptionbudget.policy/five created",
        "role six --verb=get,list --resource=pods,rs.apps": "role.rbac.authorization.k8s.io/six created",
        "rolebinding seven --role=six --user=bob": "rolebinding.rbac.authorization.k8s.io/seven created",
        "ingress eight --rule=a.example/x=web:80": "ingress.networking.k8s.io/eight created",
        "service externalname ten --external-name=a.example": "service/ten created",
    }
    for command, answer in commands.items():
        assert kube(f"create {command}") == f"{answer}\n"
    assert read(kube, "secret two", ".type") == "my/type"
    assert read(kube, "pdb five", ".spec.minAvailable") == "50%"
    assert "cannot list" in kube.fails("get services --as=bob")
    assert kube("auth can-i list pods --as=bob") == "yes\n"
    assert kube.run("auth can-i delete pods --as=bob").out == "no\n"


@OLD_AND_NEW
def test_dry_run_leaves_no_trace(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    assert kube("create configmap one --dry-run=server") == "configmap/one created (server dry run)\n"
    assert kube.read("configmaps/one") is None
    kube("create configmap one --from-literal=a=b")
    before = kube.read("configmaps/one")
    assert kube("label configmap one x=y --dry-run=server") == "configmap/one labeled (server dry run)\n"
    assert kube.read("configmaps/one") == before
    assert kube("delete configmap one --dry-run=server").startswith('configmap "one" deleted')
    assert kube.read("configmaps/one") == before


def test_create_refuses_what_is_there_and_what_is_wrong(kube: Kubectl) -> None:
    kube("create configmap one")
    assert 'configmaps "one" already exists' in kube.fails("create configmap one")
    assert "metadata.name: Invalid value" in kube.fails(f"create service clusterip {'x' * 70} --tcp=80")
    assert "unsupported scope" in kube.fails("create quota bad --scopes=Foo --hard=pods=1")
    assert "may not specify a duration less than 10 minutes" in kube.fails("create token default --duration=3s")
    assert 'pods "nope" not found' in kube.fails(
        "create token default --bound-object-kind=Pod --bound-object-name=nope"
    )


@OLD_AND_NEW
def test_get_in_its_forms(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    for name in ("b", "a", "c"):
        kube.apply(config_map(name, labels={"which": name}), "create")
    assert kube("get configmaps -o name -l", "which in (a,c)") == "configmap/a\nconfigmap/c\n"
    assert kube("get cm --no-headers --chunk-size=1 -o custom-columns=N:.metadata.name -l which") == "a\nb\nc\n"
    assert kube("get cm/a", "-o", "go-template={{.data.key}}") == "a"
    assert kube("get cm a -L which").splitlines()[0].split() == ["NAME", "DATA", "AGE", "WHICH"]
    assert kube("get cm --field-selector=metadata.name=b -o name") == "configmap/b\n"
    assert 'configmaps "nope" not found' in kube.fails("get cm nope")
    assert kube("get cm nope --ignore-not-found") == ""
    assert "field label not supported: bad" in kube.fails("get pods --field-selector=bad=x")
    assert "doesn't have a resource type" in kube.fails("get nonsense")
    path = f"/api/v1/namespaces/{kube.namespace}/configmaps/a"
    assert json.loads(kube("get --raw", path))["data"] == {"key": "a"}


def test_delete_by_label_and_all(kube: Kubectl) -> None:
    for name in ("a", "b"):
        kube.apply(config_map(name, labels={"which": name}), "create")
    assert kube.run("delete configmaps").code != 0, "no name, no selector"
    assert kube("delete cm -l which=a").startswith('configmap "a" deleted')
    assert kube("get cm -l which -o name") == "configmap/b\n"
    kube("delete cm --all")
    assert kube("get cm -l which -o name") == ""


# ------------------------------------------------------------------------------------------------------ change in place


@OLD_AND_NEW
def test_labels_and_annotations(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    kube("create configmap one")
    assert kube("label cm one a=b") == "configmap/one labeled\n"
    assert "already has a value (b), and --overwrite is false" in kube.fails("label cm one a=c")
    assert kube("label cm one a=b --overwrite") == "configmap/one not labeled\n"
    assert kube("label cm one a-") == "configmap/one unlabeled\n"
    kube("annotate cm one x=y")  # 1.27 says "annotate"
    assert read(kube, "cm one", ".metadata.annotations.x") == "y"


@OLD_AND_NEW
def test_patches_of_all_kinds(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    deployment(kube)
    kube("patch deploy web -p", '{"spec":{"template":{"spec":{"containers":[{"name":"box","env":[{"name":"A"}]}]}}}}')
    assert read(kube, "deploy web", "..containers[0].image") == BOX, "a strategic patch merges by name"
    assert kube("patch deploy web --type=merge -p", '{"spec":{"replicas":1}}') == "deployment.apps/web patched\n"

    def idle() -> bool:  # a status that comes at the same moment is a change, too
        said = kube("patch deploy web --type=merge -p", '{"spec":{"replicas":1}}')
        return said == "deployment.apps/web patched (no change)\n"

    until(idle, "a patch that changes nothing says so", 10)
    kube("patch deploy web --type=json -p", '[{"op":"remove","path":"/spec/template/spec/containers/0/env"}]')
    assert read(kube, "deploy web", "..containers[0].env") == ""
    kube("patch deploy web --subresource=scale --type=merge -p", '{"spec":{"replicas":0}}')
    assert read(kube, "deploy web", ".spec.replicas") == "0"
    stale = kube.fails("patch deploy web -p", '{"metadata":{"resourceVersion":"1"}}')
    assert "Error from server (Conflict): Operation cannot be fulfilled" in stale


def test_edit_and_replace(kube: Kubectl) -> None:
    kube.apply(config_map("one"), "create")
    program = f"env KUBE_EDITOR='sed -i s/key:/other:/' {kube.program} -n {kube.namespace} edit cm one"
    done = kube.lab.run("sh", "-c", program)
    assert (done.code, done.out) == (0, "configmap/one edited\n"), str(done)
    assert kube.read("configmaps/one")["data"] == {"other": "one"}
    old = kube.read("configmaps/one")["metadata"]["uid"]
    assert kube.apply(config_map("one"), "replace") == "configmap/one replaced\n"
    assert kube.read("configmaps/one")["metadata"]["uid"] == old
    kube.apply(config_map("one"), "replace --force")
    assert kube.read("configmaps/one")["metadata"]["uid"] != old


@OLD_AND_NEW
def test_apply_prunes_diffs_and_remembers(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    both = [config_map("a", labels={"set": "x"}), config_map("b", labels={"set": "x"})]
    assert kube.apply(both) == "configmap/a created\nconfigmap/b created\n"
    assert kube.apply(both) == "configmap/a unchanged\nconfigmap/b unchanged\n"
    changed = {**both[0], "data": {"key": "new"}}
    done = kube.run("diff -f -", stdin=json.dumps(changed))
    assert done.code == 1
    assert "-  key: a\n+  key: new\n" in done.out
    allowed = "apply --prune -l set=x --prune-allowlist=core/v1/ConfigMap"
    assert kube.apply(changed, allowed).startswith("configmap/a configured\nconfigmap/b pruned\n")
    assert kube.run("diff -f -", stdin=json.dumps(changed)).code == 0
    assert '"new"' in kube("apply view-last-applied cm a -o json")


def test_server_side_apply_names_who_owns_a_field(kube: Kubectl) -> None:
    kube.apply(config_map("a"), "apply --server-side --field-manager=one")
    rival = {**config_map("a"), "data": {"key": "mine"}}
    done = kube.run("apply --server-side --field-manager=two -f -", stdin=json.dumps(rival))
    assert done.code != 0
    assert 'conflict with "one": .data.key' in done.err
    assert kube.apply(rival, "apply --server-side --field-manager=two --force-conflicts").endswith(
        "serverside-applied\n"
    )


# ------------------------------------------------------------------------------------------------------------ workloads


@OLD_AND_NEW
def test_a_deployment_rolls_out_back_and_pauses(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    deployment(kube)
    assert "successfully rolled out" in kube("rollout status deploy web --timeout=30s")
    assert kube("set env deploy web A=B") == "deployment.apps/web env updated\n"
    kube("rollout status deploy web --timeout=30s")
    assert [row.split()[0] for row in kube("rollout history deploy web").splitlines()[2:] if row] == ["1", "2"]
    assert "unable to find specified revision 9" in kube.fails("rollout undo deploy web --to-revision=9")
    assert kube("rollout undo deploy web") == "deployment.apps/web rolled back\n"
    assert read(kube, "deploy web", "..containers[0].env") == ""
    kube("rollout pause deploy web")
    assert "cannot rollback a paused deployment" in kube.fails("rollout undo deploy web")
    kube("rollout resume deploy web")
    assert kube("rollout restart deploy web") == "deployment.apps/web restarted\n"
    assert "kubectl.kubernetes.io/restartedAt" in read(kube, "deploy web", ".spec.template.metadata.annotations")


@OLD_AND_NEW
def test_scale_autoscale_expose_and_set(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    deployment(kube)
    assert "Expected replicas to be 9, was 2" in kube.fails("scale deploy web --replicas=1 --current-replicas=9")
    assert kube("scale deploy web --replicas=1 --current-replicas=2") == "deployment.apps/web scaled\n"
    assert kube("autoscale deploy web --min=1 --max=3").endswith("autoscaled\n")
    assert kube("expose deploy web --port=80 --target-port=8080") == "service/web exposed\n"
    assert read(kube, "svc web", ".spec.ports[0].targetPort") == "8080"
    assert kube("set selector service web role=other") == "service/web selector updated\n"
    kube("set resources deploy web --limits=cpu=1 --requests=cpu=100m")
    assert read(kube, "deploy web", "..resources.requests.cpu") == "100m"
    kube("set image deploy web *=other:2")
    assert read(kube, "deploy web", "..containers[0].image") == "other:2"


def test_run_wait_describe_and_events(kube: Kubectl) -> None:
    assert kube(f"run one --image={BOX} --labels=app=one --", "sh", "-c", STAY) == "pod/one created\n"
    assert kube("wait pod one --for=condition=Ready --timeout=30s") == "pod/one condition met\n"
    assert "timed out waiting" in kube.fails("wait pod one --for=condition=Odd --timeout=1s")
    told = kube("describe pod one")
    for word in ("Service Account:  default", "Image:         " + BOX, "QoS Class:", "Successfully assigned"):
        assert word in told
    assert "Successfully assigned" in kube("events --for=pod/one")
    kube("delete pod one --now")
    assert kube("wait pod one --for=delete --timeout=5s") == ""


def test_cascade_orphans_what_it_is_told_to(kube: Kubectl) -> None:
    deployment(kube)
    until(lambda: kube.items("replicasets"), "its replica set")
    kube("delete deploy web --cascade=orphan")
    assert not kube.items("replicasets")[0]["metadata"].get("ownerReferences")
    kube("delete rs --all")
    until(lambda: all("deletionTimestamp" in one["metadata"] for one in kube.items("pods")), "no pod stays")


# ------------------------------------------------------------------------------------------------- the cluster and its API


def test_a_taint_that_is_there_is_not_put_twice(kube: Kubectl) -> None:
    node = kube("get nodes -o name").strip().removeprefix("node/")
    assert kube(f"taint node {node} t=x:PreferNoSchedule") == f"node/{node} tainted\n"
    try:
        assert "taint(s) with same effect(s) and --overwrite is false" in kube.fails(
            f"taint node {node} t=y:PreferNoSchedule"
        )
    finally:
        assert kube(f"taint node {node} t-") == f"node/{node} untainted\n"


def test_cordon_and_drain_without_effect(kube: Kubectl) -> None:
    node = kube("get nodes -o name").strip().removeprefix("node/")
    kube.apply(pod("alone", STAY))
    kube.ready("alone")
    assert kube(f"cordon {node} --dry-run=server") == f"node/{node} cordoned (server dry run)\n"
    complaint = kube.fails(f"drain {node} --dry-run=server --ignore-daemonsets")
    assert f"{kube.namespace}/alone" in complaint
    assert not json.loads(kube(f"get node {node} -o json"))["spec"].get("unschedulable")


@OLD_AND_NEW
def test_explain_and_discovery(kube: Kubectl, minor: str) -> None:
    kube.program = KUBECTLS[minor]
    assert "FIELD: name <string>" in kube("explain pods.spec.containers.name")
    assert "GROUP:      apps" in kube("explain deploy --api-version=apps/v1")
    rows = kube("api-resources --api-group=apps --no-headers").splitlines()
    assert [row.split()[0] for row in rows] == [
        "controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets",
    ]  # fmt: skip
    assert "batch/v1\n" in kube("api-versions")
    assert "https://" in kube("cluster-info")
    if minor != "1.27":  # that one asks for the review's alpha and beta only
        assert "kubernetes-admin" in kube("auth whoami")
    assert "Metrics API not available" in kube.fails("top nodes")


@pytest.mark.parametrize("verb", ["logs", "exec", "attach", "port-forward"])
def test_a_pod_that_is_not_there(kube: Kubectl, verb: str) -> None:
    rest = {"exec": " -- date", "port-forward": " 1:1"}.get(verb, "")
    assert 'pods "nope" not found' in kube.fails(f"{verb} nope{rest}")
