"""AppArmor profiles: which one confines a container, and the one of our own for those who ask for the runtime's default.

A container that says nothing gets the default, too, where the machine has AppArmor; a privileged one gets none unless it names
one. Profiles of an administrator must be loaded already: they are looked up, never guessed.
Source: containerd (internal/cri/server, contrib/apparmor); kernel ``securityfs/apparmor/profiles``.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from kaa.runtime.base import RuntimeFailure, Security

NAME = "kaa-default"
ENABLED = Path("/sys/module/apparmor/parameters/enabled")
LOADED = Path("/sys/kernel/security/apparmor/profiles")
PARSER, RULES = Path("/sbin/apparmor_parser"), Path("/etc/apparmor.d")
_TIMEOUT_S = 30
_FAILED = "failed to get container spec opts: failed to generate apparmor spec opts: "

#: What a container may not do though its capabilities would let it: write to the kernel's own files, mount, look into others.
_PROFILE = """\
profile {name} flags=(attach_disconnected,mediate_deleted) {{
{base}
  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send, receive) peer={name},
  ptrace (trace, read, tracedby, readby) peer={name},

  deny mount,
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/{{mem,kmem,kcore}} rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


class AppArmor:
    """What a machine has of it; its places are parameters, so that machines can be made up. All of it blocks."""

    def __init__(
        self, *, enabled: Path = ENABLED, loaded: Path = LOADED, parser: Path = PARSER, rules: Path = RULES
    ) -> None:
        self._loaded, self._parser, self._rules = loaded, parser, rules
        self.enabled = enabled.exists() and enabled.read_text().startswith("Y") and parser.exists()

    def profile(self, security: Security) -> str:
        """The name of the profile that confines a container; empty: none. Raises RuntimeFailure."""
        asked = security.apparmor
        if asked == "unconfined":
            return ""
        if not self.enabled:
            if asked:
                raise RuntimeFailure(f"{_FAILED}apparmor is not supported")
            return ""
        if asked.startswith("localhost/"):
            name = asked.removeprefix("localhost/")
            if name not in self.names():
                raise RuntimeFailure(f"{_FAILED}apparmor profile not found {name}")
            return name
        if security.privileged:
            return ""
        if NAME not in self.names():
            self._load(self.text())
        return NAME

    def names(self) -> set[str]:
        """The profiles that the kernel has: a line each, ``NAME (enforce)``. Raises RuntimeFailure."""
        try:
            return {line.rpartition(" ")[0] for line in self._loaded.read_text().splitlines()}
        except OSError as err:
            raise RuntimeFailure(f"{_FAILED}{err}") from err

    def text(self) -> str:
        """Our profile, with what the distribution has of tunables and abstractions."""
        tunables = "#include <tunables/global>" if (self._rules / "tunables/global").exists() else "@{PROC}=/proc/"
        base = "  #include <abstractions/base>" if (self._rules / "abstractions/base").exists() else ""
        return f"{tunables}\n\n{_PROFILE.format(name=NAME, base=base)}"

    def _load(self, text: str) -> None:
        """Give the kernel a profile, in place of one of its name; nothing is left on disk."""
        with tempfile.NamedTemporaryFile("w", prefix="kaa-apparmor-", suffix=".profile") as file:
            file.write(text)
            file.flush()
            try:
                done = subprocess.run(
                    [str(self._parser), "-Kr", file.name],
                    capture_output=True,
                    text=True,
                    timeout=_TIMEOUT_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as err:
                raise RuntimeFailure(f"{_FAILED}load the default profile: {err}") from err
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise RuntimeFailure(f"{_FAILED}load the default profile: {said or f'exit status {done.returncode}'}")
