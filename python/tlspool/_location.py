"""Where the pool's socket is."""

from __future__ import annotations

import os
from typing import Optional

DEFAULT_SOCKET = "/var/run/tlspool.sock"
DEFAULT_CONFIG = "/etc/tlspool.conf"


def config_variable(name: str, file: Optional[str] = None) -> Optional[str]:
    """The value of NAME in an old-style configuration file, or None. Without FILE, it is the one
    that TLSPOOL_CONFIG_FILE names, or /etc/tlspool.conf."""
    file = file or os.environ.get("TLSPOOL_CONFIG_FILE") or DEFAULT_CONFIG
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.split(None, 1)
                if len(words) == 2 and words[0] == name and not name.startswith("#"):
                    return words[1].strip()
    except OSError:
        pass
    return None


def socket_path(explicit: Optional[str] = None) -> str:
    """The explicit path, the configured one, the user's own pool's, or the default."""
    if explicit:
        return explicit
    configured = config_variable("socket_name")
    if configured:
        return configured
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.geteuid() != 0:
        own = os.path.join(runtime, "tlspool", "tlspool.sock")
        if os.path.exists(own):
            return own
    return DEFAULT_SOCKET
