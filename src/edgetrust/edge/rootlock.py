"""One gateway below each root: two would take each other's messages and keys.

Who runs holds a lock on a file and has written down there who it is, so that others can have it read its configuration
again.
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path
from typing import IO

from edgetrust.edge.files import Layout
from edgetrust.errors import ConfigError


def lock_root(layout: Layout) -> IO[str]:
    """The file, locked until it is closed. Raises ConfigError when another gateway runs there."""
    lock = layout.lock.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        lock.close()
        message = f"another gateway runs below {layout.root}"
        raise ConfigError(message, reason="root-in-use", fix="give each gateway its own --root") from problem
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def tell_to_reread(root: Path) -> bool:
    """Tell the gateway that runs below `root`, if there is one, to read its configuration again. Whether there was."""
    try:
        with Layout(root).lock.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(int(lock.read()), signal.SIGHUP)
                return True
    except (OSError, ValueError):
        pass
    return False
