"""Audit: which rule decides, what the lines say, when the file turns over."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from kaa.api.clock import VirtualClock, parse_time
from kaa.api.errors import NotFound, ServiceUnavailable
from kaa.api.types.core_v1 import ConfigMap
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.apiserver.audit.log import LogFile
from kaa.apiserver.audit.policy import Attributes, Level, PolicyError, policy_of, read_policy, verdict
from kaa.apiserver.audit.webhook import Webhook
from kaa.apiserver.options import ApiServerOptions, OptionError
from kaa.client.pipeline import User
from tests import api_lab
from tests.api_lab import Lab

HEAD = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}
JANE = User("jane", groups=("devs", "system:authenticated"))


def policy(*rules: dict[str, Any], **more: Any) -> Any:
    return policy_of({**HEAD, "rules": list(rules), **more})


def asked(verb: str = "get", resource: str = "pods", **more: str) -> Attributes:
    return Attributes(JANE, verb, version="v1", resource=resource, namespace=more.pop("namespace", "ns"), **more)


@pytest.mark.parametrize(
    ("rule", "request_", "matched"),
    [
        pytest.param({}, asked(), True, id="empty matches all"),
        pytest.param({"users": ["joe"]}, asked(), False, id="another user"),
        pytest.param({"userGroups": ["ops", "devs"]}, asked(), True, id="one of the groups"),
        pytest.param({"verbs": ["list"]}, asked(), False, id="another verb"),
        pytest.param({"namespaces": ["ns"]}, asked(), True, id="namespace"),
        pytest.param({"namespaces": [""]}, asked(resource="nodes", namespace=""), True, id="cluster scope is empty"),
        pytest.param({"namespaces": ["ns"]}, Attributes(JANE, "get", path="/healthz"), False, id="path has none"),
        pytest.param({"resources": [{"group": ""}]}, asked(), True, id="whole group"),
        pytest.param({"resources": [{"group": "apps"}]}, asked(), False, id="another group"),
        pytest.param({"resources": [{"resources": ["pods"]}]}, asked(subresource="log"), False, id="not its parts"),
        pytest.param({"resources": [{"resources": ["pods/log"]}]}, asked(subresource="log"), True, id="a part"),
        pytest.param({"resources": [{"resources": ["pods/*"]}]}, asked(subresource="log"), True, id="all parts"),
        pytest.param({"resources": [{"resources": ["*/log"]}]}, asked(subresource="log"), True, id="a part of all"),
        pytest.param({"resources": [{"resources": ["*"]}]}, asked(subresource="log"), True, id="everything"),
        pytest.param(
            {"resources": [{"resources": ["pods"], "resourceNames": ["a"]}]}, asked(name="b"), False, id="another name"
        ),
        pytest.param({"nonResourceURLs": ["/health*"]}, Attributes(JANE, "get", path="/healthz"), True, id="prefix"),
        pytest.param({"nonResourceURLs": ["/health*"]}, asked(), False, id="a resource is no path"),
    ],
)
def test_matching(rule: dict[str, Any], request_: Attributes, matched: bool) -> None:
    found = verdict(policy({"level": "Metadata", **rule}), request_)
    assert (found.level is Level.METADATA) == matched


def test_the_first_rule_that_matches_decides() -> None:
    found = policy(
        {"level": "None", "resources": [{"resources": ["events"]}]},
        {"level": "RequestResponse", "omitStages": ["RequestReceived"], "omitManagedFields": False},
        {"level": "Metadata"},
        omitStages=["Panic"],
        omitManagedFields=True,
    )
    assert verdict(found, asked(resource="events")).level is Level.NONE
    other = verdict(found, asked())
    assert (other.level, other.omit_stages) == (Level.REQUEST_RESPONSE, {"Panic", "RequestReceived"})
    assert not other.omit_managed_fields


@pytest.mark.parametrize(
    ("document", "words"),
    [
        pytest.param({**HEAD, "rules": []}, "0 rules", id="empty"),
        pytest.param({"kind": "Policy", "rules": [{"level": "None"}]}, 'version ""', id="no version"),
        pytest.param({**HEAD, "rules": [{"level": "All"}]}, 'Unsupported value: "All"', id="level"),
        pytest.param({**HEAD, "rules": [{"level": "None", "omitStages": ["x"]}]}, "allowed stages", id="stage"),
        pytest.param(
            {**HEAD, "rules": [{"level": "None", "namespaces": ["a"], "nonResourceURLs": ["/x"]}]},
            "cannot apply to both",
            id="both",
        ),
    ],
)
def test_policies_that_cannot_be(document: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        policy_of(document)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param({}, "a place to write to", id="nowhere to write"),
        pytest.param({"audit_log_path": "/proc/none/audit.log"}, "--audit-log-path", id="no such place"),
        pytest.param({"audit_webhook_config_file": "/none"}, "no context is chosen", id="no kubeconfig"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, more: dict[str, str], words: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")

    async def test(lab: Lab) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(OptionError, match=words):
        api_lab.run(test, options=ApiServerOptions(audit_policy_file=str(path), **more))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="failed to read"):
        read_policy(tmp_path / "none")


# -------------------------------------------------------------------------------------------------------- trails


def run(tmp_path: Path, text: str, test: Any) -> list[dict[str, Any]]:
    """Run a test against a server that audits by a policy; returns what it wrote."""
    path, log = tmp_path / "policy.yaml", tmp_path / "audit.log"
    path.write_text(f"apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}")
    options = ApiServerOptions(audit_policy_file=str(path), audit_log_path=str(log))
    api_lab.run(test, http=True, options=options)
    return [json.loads(line) for line in log.read_text().splitlines()]


MAPS = "/api/v1/namespaces/default/configmaps"
BODY = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}


def test_a_create_at_the_fullest_level(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        answer = await lab.ask("POST", MAPS, BODY, User_Agent="me/1", Audit_ID="abc", X_Forwarded_For="192.0.2.7")
        assert (answer.status, answer.headers["audit-id"]) == (201, "abc")

    rules = "rules:\n- {level: RequestResponse, omitManagedFields: true, resources: [{resources: [configmaps]}]}\n"
    received, complete = run(tmp_path, rules, test)
    assert (received["stage"], complete["stage"]) == ("RequestReceived", "ResponseComplete")
    assert "responseStatus" not in received
    assert list(complete)[:6] == ["kind", "apiVersion", "level", "auditID", "stage", "requestURI"]
    assert complete["requestURI"] == MAPS
    assert (complete["verb"], complete["userAgent"], complete["auditID"]) == ("create", "me/1", "abc")
    assert complete["user"]["username"] == "kubernetes-super-admin"
    assert complete["sourceIPs"] == ["192.0.2.7", "127.0.0.1"]
    assert complete["objectRef"] == {
        "resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1",
    }  # fmt: skip
    assert complete["responseStatus"] == {"metadata": {}, "code": 201}
    assert complete["requestObject"] == BODY
    assert complete["responseObject"]["metadata"]["uid"]
    assert "managedFields" not in complete["responseObject"]["metadata"]
    assert complete["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert parse_time(complete["stageTimestamp"]) >= parse_time(complete["requestReceivedTimestamp"])


def test_metadata_shows_no_content(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.ask("POST", MAPS, BODY)
        await lab.ask("GET", MAPS + "/nope")

    events = run(tmp_path, "omitStages: [RequestReceived]\nrules: [{level: Metadata, verbs: [create, get]}]\n", test)
    made = next(event for event in events if event["objectRef"]["resource"] == "configmaps")
    assert not {"requestObject", "responseObject"} & made.keys()
    refused = events[-1]
    assert refused["responseStatus"]["reason"] == "NotFound"
    assert refused["responseStatus"]["message"] == 'configmaps "nope" not found'


def test_refusals_and_impersonation(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.ask("GET", MAPS, Impersonate_User="jane")
        await lab.ask("GET", MAPS, Authorization="Bearer nonsense", admin=False)

    events = run(tmp_path, "omitStages: [RequestReceived]\nrules: [{level: Metadata, verbs: [list, get]}]\n", test)
    forbidden = next(event for event in events if event.get("impersonatedUser"))
    assert forbidden["impersonatedUser"]["username"] == "jane"
    assert forbidden["user"]["username"] == "kubernetes-super-admin"
    assert (forbidden["responseStatus"]["code"], forbidden["annotations"]["authorization.k8s.io/decision"]) == (
        403,
        "forbid",
    )
    assert events[-1]["responseStatus"]["message"] == "Authentication failed, attempted: bearer"


def test_a_watch_has_a_beginning_and_an_end(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        reader, writer = await lab.connect()
        writer.write(f"GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        async with asyncio.timeout(10):
            while "ResponseComplete" not in (tmp_path / "audit.log").read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    events = run(tmp_path, "rules: [{level: RequestResponse, verbs: [watch]}]\n", test)
    assert [event["stage"] for event in events] == ["RequestReceived", "ResponseStarted", "ResponseComplete"]
    assert len({event["auditID"] for event in events}) == 1


def test_components_of_this_process_leave_a_trail_too(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        client = lab.plane.client(User("system:kube-controller-manager", groups=("system:masters",)), "manager")
        await client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"k": "v"}))
        with pytest.raises(NotFound):
            await client.get(ConfigMap, "none", "default")

    rules = "omitStages: [RequestReceived]\nrules: [{level: Request, users: ['system:kube-controller-manager']}]\n"
    made, missing = run(tmp_path, rules, test)
    assert (made["requestObject"]["data"], made["userAgent"]) == ({"k": "v"}, "manager")
    assert (missing["requestURI"], missing["responseStatus"]["code"]) == (MAPS + "/none", 404)
    assert made["annotations"]["authorization.k8s.io/decision"] == "allow"


def test_yaml_and_protobuf_are_shown_as_json(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.ask("POST", MAPS, b"{apiVersion: v1, kind: ConfigMap, metadata: {name: named}}",
                      content_type="application/yaml", Accept="application/vnd.kubernetes.protobuf")  # fmt: skip

    rules = "omitStages: [RequestReceived]\nrules: [{level: RequestResponse, resources: [{resources: [configmaps]}]}]\n"
    (event,) = run(tmp_path, rules, test)
    assert event["requestObject"]["metadata"] == {"name": "named"}
    assert event["responseObject"]["metadata"]["namespace"] == "default"


def test_text_that_is_no_utf8_is_shown_as_go_reads_it(tmp_path: Path) -> None:
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[]},"data":{"k":"\xff"}}'

    async def test(lab: Lab) -> None:
        assert (await lab.ask("POST", MAPS, body)).status == 201

    rules = "omitManagedFields: true\nrules: [{level: RequestResponse, resources: [{resources: [configmaps]}]}]\n"
    *_, complete = run(tmp_path, rules, test)
    assert complete["requestObject"]["data"] == complete["responseObject"]["data"] == {"k": "\ufffd"}
    assert complete["objectRef"]["name"] == "a"


# -------------------------------------------------------------------------------------------------------- the file


def test_the_file_turns_over_and_forgets(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    log = LogFile(str(tmp_path / "audit.log"), lambda: now[0], max_size_mb=1, max_backups=2, max_age_days=1)
    for _ in range(4):
        now[0] += 1
        log.write(b"x" * 700_000)
    backups = sorted(path.name for path in tmp_path.glob("audit-*.log"))
    assert backups == ["audit-2027-01-15T08-00-03.000.log", "audit-2027-01-15T08-00-04.000.log"]
    now[0] += 3 * 24 * 3600
    log.write(b"y" * 700_000)
    assert len(list(tmp_path.glob("audit-*.log"))) == 1
    log.close()
    assert (tmp_path / "audit.log").read_bytes() == b"y" * 700_000 + b"\n"


# -------------------------------------------------------------------------------------------------------- the webhook


class Receiver:
    """A client that takes batches in memory, or refuses them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.refusals = 0

    async def raw(self, method: str, path: str, body: bytes = b"", **more: Any) -> bytes:
        if self.refusals:
            self.refusals -= 1
            raise ServiceUnavailable("not now")
        self.batches.append(json.loads(body)["items"])
        return b""

    async def close(self) -> None:
        """Nothing is held."""


def test_events_are_sent_in_batches_again_after_a_refusal_and_at_the_end() -> None:
    async def main() -> None:
        clock, receiver = VirtualClock(), Receiver()
        webhook = Webhook(receiver, clock)  # type: ignore[arg-type]  # as much of a client as it uses
        sending = asyncio.create_task(webhook.run(), name="audit")
        for n in range(401):
            webhook.write(b"%d" % n)
        await clock.settle()
        assert [len(batch) for batch in receiver.batches] == [400, 1]
        receiver.refusals = 2
        webhook.write(b"500")
        await clock.advance(31)
        assert len(receiver.batches) == 2
        await clock.advance(30)
        assert receiver.batches[2] == [500]
        webhook.write(b"501")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert receiver.batches[3] == [501]

    asyncio.run(main())


def test_a_full_buffer_loses_and_counts() -> None:
    webhook = Webhook(Receiver(), VirtualClock())  # type: ignore[arg-type]  # it is never asked
    for _ in range(10_005):
        webhook.write(b"0")
    assert webhook.lost == 5


def test_the_webhooks_file(tmp_path: Path) -> None:
    ca = base64.b64encode(api_lab.keys()[1].ca.read_bytes()).decode()
    path = tmp_path / "webhook.kubeconfig"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        f"clusters: [{{name: x, cluster: {{server: 'https://127.0.0.1:1/audit', certificate-authority-data: {ca}}}}}]\n"
        "users: [{name: x, user: {token: secret}}]\ncontexts: [{name: x, context: {cluster: x, user: x}}]\n"
    )

    async def main() -> None:
        webhook = Webhook.of_file(path, VirtualClock())
        assert not await webhook._post(b"{}")  # nobody listens there

    asyncio.run(main())
