"""Runs one command and makes sure that it doesn't outlive the process that asked for it.

``python guard.py LOG COMMAND...``: starts the command with its output appended to LOG, writes its pid and a newline to
stdout, and ends with it. It kills the command when its own stdin closes or its parent changes, which the kernel
brings about however pytest dies. A separate process, because the alternatives don't hold: atexit doesn't run on SIGKILL,
and PR_SET_PDEATHSIG fires when the *thread* that started the child ends and needs a preexec_fn, unsafe beside threads.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

_PARENT_CHECK_SECONDS = 1.0


def main() -> int:
    """Run the command to its end or to the parent's, whichever comes first; return an exit code."""
    parent = os.getppid()
    # A child's end arrives as a byte on this socket, so that one select() waits for both events.
    stdin = 0
    ended, ended_write = socket.socketpair()
    ended_write.setblocking(False)
    signal.set_wakeup_fd(ended_write.fileno())
    signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
    with open(sys.argv[1], "ab") as log:
        child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    os.write(1, b"%d\n" % child.pid)
    while child.poll() is None:
        # The pipe's other end may have been inherited by a forked process that lives on; hence the check on the parent.
        readable, _, _ = select.select([stdin, ended.fileno()], [], [], _PARENT_CHECK_SECONDS)
        if stdin in readable or os.getppid() != parent:
            child.kill()
            child.wait()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main())
