"""How claimed devices are, as their drivers stream it; Unknown of those that no driver has spoken of for a while.

Source: pkg/kubelet/cm/dra/healthinfo.go; k8s.io/kubelet/pkg/apis/dra-health/v1alpha1/api.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from kaa.api.clock import Clock

from .messages import DeviceHealth

Device = tuple[str, str, str]  #: (driver, pool, device)
UNKNOWN = "Unknown"
_WORDS = (UNKNOWN, "Healthy", "Unhealthy")
_DEFAULT_S = 30.0
_MESSAGE_MAX = 1024


class Health(msgspec.Struct, frozen=True):
    """``until``: when it is no longer to be relied on."""

    status: str = UNKNOWN
    message: str = ""
    until: float = 0.0


class HealthBook:
    """``changed`` is called with the devices that are another way than they were."""

    def __init__(self, clock: Clock, changed: Callable[[Collection[Device]], None]) -> None:
        self._clock, self.changed = clock, changed
        self._known: dict[Device, Health] = {}

    def of(self, device: Device) -> Health:
        found = self._known.get(device, Health())
        return found if found.until >= self._clock.now() else Health()

    def told(self, driver: str, devices: Sequence[DeviceHealth]) -> None:
        """A driver has said how its devices are."""
        now, different, soonest = self._clock.now(), set[Device](), _DEFAULT_S
        for one in devices:
            seconds = float(one.timeout_s) if one.timeout_s > 0 else _DEFAULT_S
            word = _WORDS[one.health] if 0 <= one.health < len(_WORDS) else UNKNOWN
            text = one.message if len(one.message) <= _MESSAGE_MAX else f"{one.message[: _MESSAGE_MAX - 3]}..."
            key = driver, one.device.pool, one.device.device
            fresh, before = Health(word, text, now + seconds), self.of(key)
            if (before.status, before.message) != (word, text):
                different.add(key)
            self._known[key], soonest = fresh, min(soonest, seconds)
        self._tell(different)
        if devices:
            self._clock.call_later(soonest + 1.0, self._drop_stale)

    def forget(self, driver: str) -> None:
        """Nobody speaks for a driver's devices any more."""
        self._drop({key for key in self._known if key[0] == driver})

    def _drop_stale(self) -> None:
        now = self._clock.now()
        self._drop({key for key, health in self._known.items() if health.until < now})

    def _drop(self, keys: Collection[Device]) -> None:
        dropped = {key for key in keys if self._known.pop(key).status != UNKNOWN}
        self._tell(dropped)

    def _tell(self, devices: Collection[Device]) -> None:
        if devices:
            self.changed(devices)
