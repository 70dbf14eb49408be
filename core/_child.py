"""Start a program that ends with its parent: run as a script, it becomes that program.

    python -I -S _child.py SIGNAL PARENT_PID UID GID -- PROGRAM ARGUMENT…

UID and GID are numbers, or `-` to stay who we are. The kernel sends SIGNAL when the *thread* that
started this process ends, so start children from a thread that lives as long as its process.

Nothing of ours is imported, and as little else as possible: this runs before every child, and as root
the interpreter's folder may be closed to the account that the program runs as.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    death_signal, parent, uid, gid = sys.argv[1:5]
    program = sys.argv[6:]
    os.umask(0o077)
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
        os.chdir("/")  # the account may not be allowed to be where root is
    # After setuid, which would have cleared it.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):  # it died before the line above could arrange anything
        sys.exit("the parent process is gone")
    try:
        os.execvp(program[0], program)  # noqa: S606 - a list of our own parent's making
    except OSError as error:
        sys.exit(f"cannot start {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
