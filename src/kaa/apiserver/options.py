"""What an operator may set on the API server, under the names of kube-apiserver's flags.

They stand in the cluster's ``config.json`` under ``api_server``; ``kaa server`` takes them as flags too.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kaa.api.durations import parse_seconds


class OptionError(ValueError):
    """An option, or the file that it names, cannot be used; the message says what is wrong with it."""


def _says(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class ApiServerOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Empty paths leave a feature off. Each description is the flag's help."""

    audit_policy_file: Annotated[str, _says("The audit policy; audit is on with it.")] = ""
    audit_log_path: Annotated[str, _says("Where audit events are written; - is standard output.")] = ""
    audit_log_maxage: Annotated[int, _says("Days to keep old audit logs; 0 keeps them.")] = 0
    audit_log_maxbackup: Annotated[int, _says("How many old audit logs to keep; 0 keeps all.")] = 0
    audit_log_maxsize: Annotated[int, _says("Megabytes after which the audit log is turned over; 0: never.")] = 100
    audit_webhook_config_file: Annotated[str, _says("A kubeconfig that names where audit events are sent.")] = ""
    enable_priority_and_fairness: Annotated[bool, _says("Queue requests by FlowSchemas.")] = True
    max_requests_inflight: Annotated[int, _says("Seats for requests; both kinds share their sum.")] = 400
    max_mutating_requests_inflight: Annotated[int, _says("Seats for requests that change something.")] = 200
    request_timeout: Annotated[str, _says("The longest that a request may take.")] = "1m0s"
    runtime_config: Annotated[
        str,
        _says(
            "APIs to serve or not: api/all, api/ga, api/beta, api/alpha, group/version, group/version/resource; =true|false, by commas."
        ),
    ] = ""
    encryption_provider_config: Annotated[str, _says("The EncryptionConfiguration; values are encrypted by it.")] = ""

    @property
    def request_timeout_s(self) -> float:
        """Raises OptionError."""
        try:
            return parse_seconds(self.request_timeout)
        except ValueError as err:
            raise OptionError(f"--request-timeout: {err}") from err
