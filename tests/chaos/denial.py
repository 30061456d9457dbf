"""Take the disk's word away from a process: from now on `fsync` and `fdatasync` fail in it with EIO.

    python -m tests.chaos.denial USER COMMAND ...      # as another user, where USER is not empty; `fdatasync` only

A seccomp filter, which Linux lets any process put on itself and its children. It can't be taken off: what is to go on
afterwards is started anew.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import pwd
import struct
import sys

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_ALL_THREADS = 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_CALLS = {  # machine: the numbers of seccomp, fsync, fdatasync
    "x86_64": (317, 74, 75),
    "aarch64": (277, 82, 83),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _instruction(code: int, on_true: int, on_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, on_true, on_false, value)


def _filter(*denied: int) -> bytes:
    tests = [_instruction(_JUMP_IF_EQUAL, len(denied) - place, 0, number) for place, number in enumerate(denied)]
    ends = [_instruction(_RETURN, 0, 0, _ALLOW), _instruction(_RETURN, 0, 0, _ERRNO | errno.EIO)]
    return b"".join([_instruction(_LOAD_NUMBER, 0, 0, 0), *tests, *ends])


class Denial:
    """What `begin` puts on the process.

    `fsync` False: only `fdatasync` fails, by which PostgreSQL writes its log; its other files are synced by `fsync`.
    Raises `NotImplementedError` where the calls' numbers are not known.
    """

    def __init__(self, *, fsync: bool = True) -> None:
        if sys.platform != "linux" or platform.machine() not in _CALLS:
            raise NotImplementedError(f"no system call can be made to fail on {sys.platform} {platform.machine()}")
        self._seccomp, full, of_data = _CALLS[platform.machine()]
        self._code = _filter(full, of_data) if fsync else _filter(of_data)
        self._program = _Program(len(self._code) // 8, self._code)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def begin(self) -> None:
        """From now on, in all threads and in every child to come. Raises `OSError` where the kernel has no filters."""
        self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if self._libc.syscall(self._seccomp, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(self._program)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(user: str, *command: str) -> None:
    """Become a command that can't sync its log."""
    Denial(fsync=False).begin()
    if user:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
