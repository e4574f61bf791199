"""Acting as another over HTTP: headers that come more than once, and names with commas."""

from __future__ import annotations

import json

from api_lab import Lab, read_answer, run

WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def test_each_header_is_one_name() -> None:
    async def use(lab: Lab) -> None:
        body = b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'
        names = [
            "User: a,b",
            "Group: group2",
            "Group: group1",
            "Group: ,,,chameleon",
            "Extra-Foo: bar",
            "Extra-Foo: b,z",
        ]
        headers = "".join(f"Impersonate-{name}\r\n" for name in names)
        head = f"POST {WHO} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}"
        reader, writer = await lab.connect()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        found = json.loads((await read_answer(reader)).body)["status"]["userInfo"]
        writer.close()
        assert found["username"] == "a,b"
        assert found["groups"] == ["group2", "group1", ",,,chameleon", "system:authenticated"]
        assert found["extra"] == {"foo": ["bar", "b,z"]}

    run(use, http=True, bootstrapped=True)
