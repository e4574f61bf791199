"""The messages that the kubelet and a DRA driver exchange, as gRPC carries them; v1 and v1beta1 have the same.

Source: k8s.io/kubelet/pkg/apis/dra/v1/api.proto, dra-health/v1alpha1/api.proto (field numbers).
"""

from __future__ import annotations

from typing import Annotated

from kaa.api.protobuf_structs import Message

#: {what a driver calls it: the gRPC service's full name}, best first.
SERVICES = {
    "v1.DRAPlugin": "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin",
    "v1beta1.DRAPlugin": "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin",
}

#: The service by which a driver tells how its devices are: named among its versions, and the gRPC service's full name.
HEALTH = "v1alpha1.DRAResourceHealth"


class Claim(Message, frozen=True):
    namespace: Annotated[str, 1] = ""
    uid: Annotated[str, 2] = ""
    name: Annotated[str, 3] = ""


class Claims(Message, frozen=True):
    """What to prepare, or to take back."""

    claims: Annotated[tuple[Claim, ...], 1] = ()


class Device(Message, frozen=True):
    """A device of a claim. Without requests it is for all of the claim's."""

    requests: Annotated[tuple[str, ...], 1] = ()
    pool: Annotated[str, 2] = ""
    device: Annotated[str, 3] = ""
    cdi_devices: Annotated[tuple[str, ...], 4] = ()
    share_id: Annotated[str, 5] = ""


class PrepareResult(Message, frozen=True):
    devices: Annotated[tuple[Device, ...], 1] = ()
    error: Annotated[str, 2] = ""


class Prepared(Message, frozen=True):
    """An entry of the answer's map."""

    uid: Annotated[str, 1] = ""
    result: Annotated[PrepareResult, 2] = PrepareResult()


class PrepareResponse(Message, frozen=True):
    claims: Annotated[tuple[Prepared, ...], 1] = ()


class UnprepareResult(Message, frozen=True):
    error: Annotated[str, 1] = ""


class Unprepared(Message, frozen=True):
    uid: Annotated[str, 1] = ""
    result: Annotated[UnprepareResult, 2] = UnprepareResult()


class UnprepareResponse(Message, frozen=True):
    claims: Annotated[tuple[Unprepared, ...], 1] = ()


class DeviceIdentifier(Message, frozen=True):
    pool: Annotated[str, 1] = ""
    device: Annotated[str, 2] = ""


class DeviceHealth(Message, frozen=True):
    """``health``: 0 unknown, 1 healthy, 2 unhealthy."""

    device: Annotated[DeviceIdentifier, 1] = DeviceIdentifier()
    health: Annotated[int, 2] = 0
    last_updated: Annotated[int, 3] = 0
    timeout_s: Annotated[int, 4] = 0
    message: Annotated[str, 5] = ""


class WatchResponse(Message, frozen=True):
    """All devices of a driver."""

    devices: Annotated[tuple[DeviceHealth, ...], 1] = ()
