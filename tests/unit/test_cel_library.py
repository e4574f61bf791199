"""Kubernetes' libraries: what their functions give.

Source of the examples: the documentation of each library in apiserver pkg/cel/library, cel-go ext.
"""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api.cel import DYN, Environment, EvaluationError
from kaa.api.cel.authorizer import Check, Verdict
from kaa.api.cel.library import MUTATING, authorization
from kaa.api.cel.structs import to_json, view
from kaa.api.types import core_v1, meta_v1
from kaa.api.values import Quantity

ENVIRONMENT = Environment({"authorizer": authorization.AUTHORIZER, "object": DYN}, MUTATING)


@pytest.mark.parametrize(
    "expression",
    [
        "'tacocat'.charAt(3) == 'o' && 'abc'.charAt(3) == ''",
        "'hello mellow'.indexOf('ello') == 1 && 'hello mellow'.lastIndexOf('ello', 6) == 1",
        "['hello', 'mellow'].join(' ') == 'hello mellow' && [].join() == ''",
        "'TacoCÆt'.lowerAscii() == 'tacocÆt' && 'TacoCÆt Xii'.upperAscii() == 'TACOCÆT XII'",
        "'hello hello'.replace('he', 'we', 1) == 'wello hello' && 'ab'.replace('', '_') == '_a_b_'",
        "'hello hello'.split(' ', 2) == ['hello', 'hello'] && 'ab'.split('') == ['a', 'b']",
        "'tacocat'.substring(0, 4) == 'taco' && ' \\u00a0x\\n'.trim() == 'x'",
        "'%s has %d of %.1f%%'.format(['a', 3, 1.25]) == 'a has 3 of 1.2%'",
        "'%s'.format([[1, 2]]) == '[1, 2]' && '%x %b %e'.format([255, 5, 1234.5]) == 'ff 101 1.234500e+03'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'abc 123'.find('[0-9]+') == '123' && '1a2b3'.findAll('[0-9]', 2) == ['1', '2'] && ''.find('x') == ''",
        "[1, 2, 3].isSorted() && ['b', 'a'].max() == 'b' && [1.5, 0.5].sum() == 2.0 && [2, 1].min() == 1",
        "['a', 'b', 'b'].indexOf('b') == 1 && ['a', 'b', 'b'].lastIndexOf('b') == 2 && [1].indexOf(2) == -1",
        "[].sum() == 0 && [duration('1s'), duration('2s')].sum() == duration('3s')",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 1], [1]) && !sets.intersects([1], [2])",
        "url('https://user@example.com:80/a%20b?k=1&k=2#f').getHost() == 'example.com:80'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://[::1]:80/').getPort() == '80'",
        "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
        "url('https://example.com/path?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}",
        "url('/path').getScheme() == '' && isURL('/absolute') && !isURL('../relative') && !isURL('')",
        "isIP('127.0.0.1') && !isIP('127.0.0.1000') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0')",
        "ip('::1').family() == 6 && ip('127.0.0.1').isLoopback() && ip('0.0.0.0').isUnspecified()",
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast()",
        "ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "cidr('192.168.0.0/16').containsIP('192.168.0.1') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && !cidr('10.0.0.0/24').containsCIDR('10.0.0.0/23')",
        "cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24') && cidr('::1/128').prefixLength() == 128",
        "string(cidr('10.0.0.1/8').ip()) == '10.0.0.1' && isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0/33')",
        "type(ip('::1')) == net.IP",
        "quantity('1.5G') == quantity('1500M') && quantity('50M').isLessThan(quantity('50Mi'))",
        "quantity('50k').add(20).sub(quantity('100k')).asInteger() == -49980 && sign(quantity('-1')) == -1",
        "isQuantity('1.3Gi') && !isQuantity('1,3G') && !isQuantity('10 Mo')",
        "quantity('200k').isInteger() && !quantity('200m').isInteger() && !quantity('1.5Ki').isInteger()",
        "quantity('0.5').asApproximateFloat() == 0.5 && quantity('200M').compareTo(quantity('0.2G')) == 0",
        "semver('1.2.3-rc.1+b').isLessThan(semver('1.2.3')) && semver('v1.2', true).minor() == 2",
        "semver('1.0.0-alpha.2').compareTo(semver('1.0.0-alpha.10')) == -1 && !isSemver('1.2') && isSemver('01.2', true)",
        "!format.dns1123Label().validate('my-name').hasValue() && format.dns1123Label().validate('My').hasValue()",
        "format.named('uuid').value().validate('x').value() == ['does not match the UUID format']",
        "!format.named('nope').hasValue() && !format.dns1123LabelPrefix().validate('name-').hasValue()",
        "!format.datetime().validate('2024-01-01T00:00:00Z').hasValue() && format.date().validate('24-1-1').hasValue()",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ],
)  # fmt: skip
def test_it_holds(expression: str) -> None:
    assert ENVIRONMENT.compile(expression).evaluate({}).value is True


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("'abc'.charAt(4)", "index out of range: 4"),
        ("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1"),
        ("[dyn(1)].filter(x, false).max()", "max called on empty list"),
        ("url('nope')", 'URL parse error during conversion from string: parse "nope": invalid URI for request'),
        (
            "ip('1.2.3')",
            'IP Address "1.2.3" parse error during conversion from string: ParseAddr("1.2.3"): IPv4 address too short',
        ),
        ("ip('::ffff:1.2.3.4')", 'IPv4-mapped IPv6 address "::ffff:1.2.3.4" is not allowed'),
        ("quantity('100m').asInteger()", "cannot convert value to integer"),
        ("semver('1')", "No Major.Minor.Patch elements found"),
        ("[1].slice(0, 2)", "cannot slice(0, 2), list is length 1"),
        ("authorizer.path(' ')", "path must not be empty"),
        ("authorizer.serviceAccount('default', '_')", "Invalid service account name"),
        ("{'a': 1, 'b': 2}.transformMapEntry(k, v, {'x': v})", 'insert failed: key "x" already exists'),
    ],
)
def test_it_fails(expression: str, fault: str) -> None:
    values = {"authorizer": authorization.AuthorizerValue(lambda check: Verdict(True))}
    with pytest.raises(EvaluationError) as failed:
        ENVIRONMENT.compile(expression).evaluate(values)
    assert str(failed.value) == fault


def test_the_authorizer_is_asked_what_the_expression_asks() -> None:
    asked: list[Check] = []

    def answer(check: Check) -> Verdict:
        asked.append(check)
        return Verdict(check.verb == "get", "by rule", None if check.verb == "get" else "broken")

    values = {"authorizer": authorization.AuthorizerValue(answer)}
    expression = (
        "authorizer.serviceAccount('ns', 'sa').group('apps').resource('deployments').subresource('status')"
        ".namespace('default').name('web').labelSelector('a=b').fieldSelector('c=d').check('get').reason() == 'by rule'"
        " && authorizer.path('/healthz').check('post').error() == 'broken'"
        " && !authorizer.path('/healthz').check('post').allowed()"
    )
    assert ENVIRONMENT.compile(expression).evaluate(values).value is True
    assert asked[0] == Check(
        "get",
        group="apps",
        resource="deployments",
        subresource="status",
        namespace="default",
        name="web",
        field_selector="c=d",
        label_selector="a=b",
        service_account=("ns", "sa"),
    )
    assert asked[1] == Check("post", path="/healthz")


def pod() -> core_v1.Pod:
    container = core_v1.Container(
        name="app",
        image="web:1",
        resources=core_v1.ResourceRequirements(requests={"cpu": Quantity("500m")}),
        env=(core_v1.EnvVar(name="A", value="b"),),
    )
    return core_v1.Pod(
        metadata=meta_v1.ObjectMeta(name="web-0", labels={"app": "web"}),
        spec=core_v1.PodSpec(containers=(container,), host_network=True),
    )


@pytest.mark.parametrize(
    "expression",
    [
        "object.kind == 'Pod' && object.apiVersion == 'v1'",
        "object.metadata.name == 'web-0' && object.metadata.labels.app == 'web'",
        "object.spec.hostNetwork && !has(object.spec.hostPID) && !has(object.spec.nodeName)",
        "object.spec.containers.all(c, c.image.endsWith(':1') && has(c.env) && !has(c.command))",
        "quantity(object.spec.containers[0].resources.requests.cpu).isLessThan(quantity('1'))",
        "type(object.spec.containers[0].resources.requests.cpu) == string",
        "object.spec.containers[0].env[0] == {'name': 'A', 'value': 'b'}",
        "object.spec.?nodeName.orValue('none') == 'none'",
        "size(object.spec) == 2 && 'containers' in object.spec",
    ],
)
def test_structs_are_read_under_their_wire_names(expression: str) -> None:
    assert ENVIRONMENT.compile(expression).evaluate({"object": view(pod())}).value is True


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("[timestamp('2024-01-01T00:00:00Z')]", ["2024-01-01T00:00:00Z"]),
        ("{'d': duration('90s')}", {"d": "90s"}),
        ("b'AB'", "QUI="),
        ("object.metadata", {"labels": {"app": "web"}, "name": "web-0"}),
        ("optional.of(1u)", 1),
    ],
)
def test_values_go_back_to_json(expression: str, value: Any) -> None:
    found = ENVIRONMENT.compile(expression).evaluate({"object": view(pod())}).value
    assert to_json(found) == value
