"""What an operator may set on the API server, under the names of kube-apiserver's flags.

They stand in the cluster's ``config.json`` under ``api_server``; ``kaa server`` takes them as flags too.
"""

from __future__ import annotations

import msgspec

from kaa.api.durations import parse_seconds


class OptionError(ValueError):
    """An option, or the file that it names, cannot be used; the message says what is wrong with it."""


class ApiServerOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Empty paths leave a feature off."""

    audit_policy_file: str = ""
    audit_log_path: str = ""  #: ``-`` is standard output
    audit_log_maxage: int = 0  #: days
    audit_log_maxbackup: int = 0
    audit_log_maxsize: int = 100  #: megabytes; 0 never turns the file over
    audit_webhook_config_file: str = ""
    enable_priority_and_fairness: bool = True
    max_requests_inflight: int = 400
    max_mutating_requests_inflight: int = 200
    request_timeout: str = "1m0s"
    encryption_provider_config: str = ""

    @property
    def request_timeout_s(self) -> float:
        """Raises OptionError."""
        try:
            return parse_seconds(self.request_timeout)
        except ValueError as err:
            raise OptionError(f"--request-timeout: {err}") from err
