"""What a container left to say when it ended. Source: kuberuntime getTerminationMessage."""

from __future__ import annotations

from pathlib import Path

from kaa.runtime.base import Container

from .container_config import MESSAGE_POLICY, message_file

MAX_BYTES = 4096
LOG_BYTES, LOG_LINES = 2048, 80


def termination_message(container: Container, pod_dir: Path) -> str:
    """The termination log's text, or with FallbackToLogsOnError the end of a failed container's log."""
    text = _tail(message_file(pod_dir, container.name, container.attempt), MAX_BYTES)
    if text or container.annotations.get(MESSAGE_POLICY) != "FallbackToLogsOnError" or container.exit_code == 0:
        return text
    raw = _tail(Path(container.log_path), 2 * LOG_BYTES) if container.log_path else ""
    lines = [line.split(" ", 3)[2:] for line in raw.split("\n") if line.count(" ") >= 3]
    return "".join(text if tag == "P" else f"{text}\n" for tag, text in lines[-LOG_LINES:])[-LOG_BYTES:]


def _tail(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - size, 0))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
