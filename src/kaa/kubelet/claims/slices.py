"""The ResourceSlices of a node, which say what its DRA drivers offer, taken away.

Source: pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go.
"""

from __future__ import annotations

import structlog

from kaa.api.clock import Clock
from kaa.api.errors import ApiError, NotFound
from kaa.client.client import Client

log = structlog.get_logger(__name__)
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 300.0


async def wipe_slices(client: Client, clock: Clock, node_name: str, driver: str = "") -> None:
    """Delete the ResourceSlices of a node (of one of its drivers); tried until it succeeds."""
    wait, fields = _RETRY_FIRST_S, f"spec.nodeName%3D{node_name}"
    if driver:
        fields = f"spec.driver%3D{driver}%2C{fields}"
    while True:
        try:
            await client.raw("DELETE", f"/apis/resource.k8s.io/v1/resourceslices?fieldSelector={fields}")
            return
        except NotFound:  # an API server without them
            return
        except (ApiError, OSError, TimeoutError) as err:
            log.info("ResourceSlices not deleted yet", driver=driver, error=str(err))
        await clock.sleep(wait)
        wait = min(wait * 2, _RETRY_MAX_S)
