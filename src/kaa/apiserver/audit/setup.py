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
from .webhook import Webhook


@dataclass(frozen=True, slots=True)
class Audit:
    """Where a server's two ways in leave their trail."""

    front: FrontAuditor
    pipeline: AuditedPipeline
    auditor: Auditor
    webhook: Webhook | None = None

    async def run(self) -> None:
        """Send what is gathered, until cancelled."""
        if self.webhook is not None:
            await self.webhook.run()

    def close(self) -> None:
        self.auditor.close()


def build_audit(options: ApiServerOptions, api: ApiServer) -> Audit:
    """Put audit together, and between the server and its authorizer. Raises OptionError."""
    policy = read_policy(Path(options.audit_policy_file))
    backends: list[Backend] = []
    webhook = None
    if options.audit_log_path:
        try:
            backends.append(_log(options, api))
        except OSError as err:
            raise PolicyError(f"--audit-log-path: {err}") from err
    if options.audit_webhook_config_file:
        webhook = Webhook.of_file(Path(options.audit_webhook_config_file), api.clock)
        backends.append(webhook)
    if not backends:
        raise PolicyError("an audit policy needs a place to write to: give --audit-log-path too")
    recorder = Recorder(api.authorizer)
    api.authorizer = recorder
    auditor = Auditor(policy, tuple(backends), api.clock, recorder)
    return Audit(FrontAuditor(auditor), AuditedPipeline(api, auditor), auditor, webhook)


def _log(options: ApiServerOptions, api: ApiServer) -> LogFile:
    return LogFile(
        options.audit_log_path,
        api.clock.now,
        max_age_days=options.audit_log_maxage,
        max_backups=options.audit_log_maxbackup,
        max_size_mb=options.audit_log_maxsize,
    )
