"""Import what the user names: the processor and the exception classes; what goes wrong there is told in one line."""

from __future__ import annotations

import builtins
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kafka_consumer.errors import ConfigError
from kafka_consumer.option_checks import resolve_processor
from kafka_consumer.trust import everyone_writes


def use_folder(folder: str) -> None:
    """Put the folder first on ``sys.path``, so that the user's modules are found before others of the same name."""
    path = str(Path(folder).resolve())
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)


def folder_warning(folder: Any, label: str) -> list[str]:
    """Return a line when every user can put modules into the folder: whatever is imported later may be one of them."""
    try:
        risky = isinstance(folder, str) and everyone_writes(folder)
    except (OSError, ValueError):
        return []  # reported as a problem
    return [f"{label}: every user can put modules into {folder!r}, and they would run here: chmod o-w"] if risky else []


def load_processor(spec: str, folder: str) -> Callable[..., Any]:
    """Import ``module:callable`` with ``folder`` first on the path. Errors: ``ConfigError`` with one line."""
    use_folder(folder)
    target = _resolve(spec, folder)
    try:
        inspect.signature(target).bind(b"")
    except TypeError:
        raise ConfigError("expected a callable that takes one argument, the value as bytes; this one doesn't") from None
    except ValueError:
        pass  # a builtin without a signature: only the call can tell
    return target


def load_exception(spec: str, folder: str) -> type[Exception]:
    """Return the exception class: a builtin's name (``ValueError``) or ``module:Class``. Errors: ``ConfigError``."""
    use_folder(folder)
    target = _resolve(spec, folder) if ":" in spec else getattr(builtins, spec, None)
    if not (isinstance(target, type) and issubclass(target, Exception)):
        raise ConfigError("expected a builtin exception's name or 'module:Class' of an exception class")
    return target


def _resolve(spec: str, folder: str) -> Callable[..., Any]:
    module = spec.partition(":")[0]
    if module.startswith("."):
        raise ConfigError("expected a module's full name, without a dot before it")
    if module.endswith(".py") or "/" in module or os.sep in module:
        raise ConfigError("expected a module's name, not a file's: 'app:handle' for handle() in app.py of the --app-dir")
    try:
        return resolve_processor(spec)
    except ConfigError as error:
        raise ConfigError(f"{error}{_where(error.__cause__ or error.__context__, folder)}") from None
    except SystemExit as error:
        raise ConfigError(
            f"module {module!r} exits when it is imported{_where(error, folder)}; put what it runs under "
            "if __name__ == '__main__'"
        ) from None


def _where(error: BaseException | None, folder: str) -> str:
    """Return `` (file:line)`` of the user's own code where the import failed, or nothing when no module was found at all."""
    if error is None:
        return ""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    root, own = Path(folder).resolve(), Path(__file__).resolve().parent
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]  # "<frozen os>"
    places = [(Path(frame.filename).resolve(), frame.lineno) for frame in frames]
    # What is left of the import system and of this package, which may itself lie below the folder, as in a checkout.
    outside = [place for place in places if not place[0].is_relative_to(own) and "importlib" not in str(place[0])]
    theirs = [place for place in outside if place[0].is_relative_to(root) and "site-packages" not in place[0].parts]
    best = theirs or outside
    return f" ({best[-1][0]}:{best[-1][1]})" if best else ""
