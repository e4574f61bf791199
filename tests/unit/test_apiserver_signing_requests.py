"""A CertificateSigningRequest over HTTP: who asks is what the server knows, whatever the asker says."""

from __future__ import annotations

import base64
import json
from typing import Any

from api_lab import Lab, run
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def request(**spec: Any) -> dict[str, Any]:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "someone")])
    signed = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
    )
    text = base64.b64encode(signed.public_bytes(Encoding.PEM)).decode()
    signer = "kubernetes.io/kube-apiserver-client"
    return {
        "metadata": {"name": "foo"},
        "spec": {"request": text, "signerName": signer, "usages": ["client auth"], **spec},
    }


def test_who_asks() -> None:
    async def use(lab: Lab) -> None:
        who = {"Impersonate_User": "user1", "Impersonate_Uid": "abc123", "Impersonate_Group": "system:masters"}
        who["Impersonate_Extra_Foo"] = "bar"
        made = await lab.ask("POST", REQUESTS, request(username="system:node:n1", groups=["system:nodes"]), **who)
        spec = json.loads(made.body)["spec"]
        assert (spec["username"], spec["uid"]) == ("user1", "abc123")
        assert spec["groups"] == ["system:masters", "system:authenticated"]
        assert spec["extra"] == {"foo": ["bar"]}
        spec["username"] = "other"
        changed = {"metadata": {"name": "foo"}, "spec": spec}
        assert json.loads((await lab.ask("PUT", f"{REQUESTS}/foo", changed)).body)["spec"]["username"] == "user1"

    run(use, http=True)
