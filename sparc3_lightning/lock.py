"""A lock on a run's directory that cannot outlive its process."""

import errno
import fcntl
import json
import os
import socket
import warnings
from pathlib import Path
from typing import TextIO

LOCK_FILE = ".lock"


class Lock:
    """Keeps other processes out of a run's directory until it is released, or until this process ends, however it does.

    Args:
        directory: The run's directory; it is made.

    Raises:
        BlockingIOError: Another process has it; says which.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / LOCK_FILE
        while True:
            self._file: TextIO = self.path.open("a+")
            self._acquire()
            if self.path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                break
            self._file.close()  # the one who had it has removed it meanwhile
        # A forked process, such as a dataloader's worker, must not hold it longer than this one.
        os.register_at_fork(after_in_child=self._file.close)
        self._file.truncate(0)
        self._file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        self._file.flush()

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            owner = self._file.read() or "unknown"
            self._file.close()
            raise BlockingIOError(
                f"{self.path.parent} is in use by another run ({owner}). Wait for it, or set another `trainer.logger`"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            warnings.warn(
                f"{self.path.parent} is on a file system without locks: start no command twice at the same time.",
                stacklevel=4,
            )

    def release(self) -> None:
        """Let others in."""
        self.path.unlink(missing_ok=True)
        self._file.close()
