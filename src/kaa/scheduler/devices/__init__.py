"""Structured allocation: which devices a pod's ResourceClaims get on a node. No I/O, and nothing of pods.

    inventory.put(slice)                                    # the ResourceSlices there are
    pools = inventory.pools_on(node)                        # what of them a node can use
    found = allocate(claims, pools, classes, taken, rank)   # one AllocationResult a claim; None: not here

A search, as upstream's: claim by claim, request by request, device by device in the order of pools, slices and devices; the
first whole solution is taken, and where there is one it is found. What makes it quick: a selector is asked about a device
once (the ``Offer`` remembers), devices of one request are tried in one order only, and a search that takes too many steps
gives up.

| module | holds |
|---|---|
| `offers` | a device as a slice offers it: its name, and what selectors say of it |
| `pools` | slices by pool: generations, completeness, nodes, counters |
| `taken` | what claims have been given |
| `capacity` | how much of a shared device a request gets |
| `constraints` | what devices of several requests must have in common, or not |
| `wishes` | requests and their alternatives, looked up |
| `search` | the search |
| `allocation` | its outcome as the API has it |

Source: k8s.io/dynamic-resource-allocation/structured (allocator, pools, consumable capacity), cel; Kubernetes 1.36 with its
default features: prioritized lists, admin access, partitionable devices, device taints, consumable capacity, binding
conditions.
"""

from .allocation import allocate, rank_of
from .offers import DeviceId, Fault, PoolId
from .pools import Inventory, Pool
from .taken import Taken

__all__ = ["DeviceId", "Fault", "Inventory", "Pool", "PoolId", "Taken", "allocate", "rank_of"]
