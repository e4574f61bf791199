"""Audit as the options ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..options import ApiServerOptions
from ..pipeline import ApiServer
from .auditor import Auditor, Backend, Recorder
from .log import LogFile
from .policy import PolicyError, read_policy
from .requests import AuditedPipeline, FrontAuditor


@dataclass(frozen=True, slots=True)
class Audit:
    """Where a server's two ways in leave their trail."""

    front: FrontAuditor
    pipeline: AuditedPipeline
    auditor: Auditor

    def close(self) -> None:
        self.auditor.close()


def build_audit(options: ApiServerOptions, api: ApiServer) -> Audit:
    """Put audit together, and between the server and its authorizer. Raises PolicyError, OSError."""
    policy = read_policy(Path(options.audit_policy_file))
    if not options.audit_log_path:
        raise PolicyError("an audit policy needs a place to write to: give --audit-log-path too")
    recorder = Recorder(api.authorizer)
    api.authorizer = recorder
    auditor = Auditor(policy, _backends(options, api), api.clock, recorder)
    return Audit(FrontAuditor(auditor), AuditedPipeline(api, auditor), auditor)


def _backends(options: ApiServerOptions, api: ApiServer) -> tuple[Backend, ...]:
    file = LogFile(
        options.audit_log_path,
        api.clock.now,
        max_age_days=options.audit_log_maxage,
        max_backups=options.audit_log_maxbackup,
        max_size_mb=options.audit_log_maxsize,
    )
    return (file,)
