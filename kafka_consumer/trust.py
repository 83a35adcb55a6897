"""Who else could have written a file, or could put another in its place: asked before a file's words are run as code.

A group is trusted; every user of the machine isn't, nor is a single other one, root excepted.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

OPTIONS_THAT_RUN_CODE = frozenset({"plugin.library.paths", "ssl.engine.location", "ssl.providers", "sasl.kerberos.kinit.cmd"})
"""Options of librdkafka that name a library to load or a command to run."""


def file_problem(path: str) -> str | None:
    """Return how another user could have written the file, and what to do, or None. Errors: ``OSError``."""
    found = os.stat(path)
    for each in (os.lstat(path), found):  # whoever made a link chose what it leads to
        if not _trusted(each.st_uid):
            return f"it belongs to another user (uid {each.st_uid}): make a copy of your own"
    if found.st_mode & stat.S_IWOTH:
        return f"every user can write it (mode {stat.S_IMODE(found.st_mode):04o}): chmod o-w"
    if not stat.S_ISREG(found.st_mode):
        return None  # a pipe: it lies in no folder
    # A link and what it leads to lie in two folders; either may be the one where something is exchanged.
    for start in {Path(os.path.abspath(path)).parent, Path(os.path.realpath(path)).parent}:
        problem = folder_problem(str(start))
        if problem is not None:
            return problem
    return None


def folder_problem(folder: str) -> str | None:
    """Return how another user could put a file of his own in the place of one in the folder, or None. Errors: ``OSError``."""
    owner = os.stat(folder).st_uid
    if not _trusted(owner):
        return f"its folder {folder} belongs to another user (uid {owner})"
    for each in (Path(folder), *Path(os.path.realpath(folder)).parents):
        if everyone_writes(str(each)) and not os.stat(each).st_mode & stat.S_ISVTX:
            return f"every user can replace what is in {each}: chmod o-w"
    return None


def everyone_writes(path: str) -> bool:
    """Whether every user can write the file, or put files into the folder. Errors: ``OSError``."""
    return bool(os.stat(path).st_mode & stat.S_IWOTH)


def _trusted(uid: int) -> bool:
    return uid in (0, os.geteuid())
