"""What a command says and returns when it fails: the exit codes, the one line, the traceback in a private log."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import os
import select
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

import popclust
from popclust import storage
from popclust.errors import InputError, SurroundingsError
from popclust.study import Study

log = logging.getLogger(__name__)

DONE, QUARANTINED, BAD_INPUT, STOPPED, FAULT = range(5)
"""Exit codes: all done; done, with volumes in quarantine; bad input or settings; stopped by the surroundings (run again
to go on); a fault of popclust's own."""

_UNREACHABLE = {"ConnectionError", "TimeoutError", "HTTPClientError", "ClientConnectionError", "NoCredentialsError"}
"""Names of the exceptions, builtin and of the clients of object stores, that say: nobody answers there."""


class RemoteTraceback(Exception):
    """The traceback of another process, hung as the cause on what that process raised.

    Parameters
    ----------
    text : str
        The traceback, as Python prints it. It may quote private text.
    place : str
        :func:`place_of` the exception where it was raised.
    """

    def __init__(self, text: str, place: str) -> None:
        super().__init__(text, place)
        self.text = text
        self.place = place

    def __str__(self) -> str:
        return f"\n{self.text}"


def exit_code(
    action: Callable[[], int], console: Console, *, as_json: bool = False, log_folder: Callable[[], Path | None]
) -> int:
    """Run a command and turn what it raises into one line and an exit code.

    Parameters
    ----------
    action : callable
        The command; returns its exit code.
    console : rich.console.Console
        Where the line goes: standard error.
    as_json : bool
        Also print ``{"error": {"code", "kind", "message"}}`` to standard output.
    log_folder : callable
        Asked where the traceback of a fault belongs: the folder `log` beside the key; None: the user's own.

    Returns
    -------
    int
        One of :data:`DONE` ... :data:`FAULT`.
    """
    try:
        with _signals_as_interrupts():
            code = int(action())
    except BaseException as error:
        if _is_broken_pipe(error):
            _mute_stdout()
            return STOPPED
        if isinstance(error, SystemExit | GeneratorExit):
            raise
        code, kind, message = _verdict(error, log_folder)
        log.info("the exception behind the line", exc_info=error)
        _say(console, {STOPPED: "stopped", FAULT: "fault"}.get(code, "error"), message)
        if as_json:
            print_json({"error": {"code": code, "kind": kind, "message": message}})
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _mute_stdout()
    return code


def plain_console(*, stderr: bool = True) -> Console:
    """A console that prints text as it is: a path or an error may hold what rich would take for markup."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a command's answer as the one JSON document on standard output."""
    try:
        sys.stdout.write(f"{to_json(value)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _mute_stdout()


def to_json(value: Any) -> str:
    """Strict JSON with sorted keys; what is missing or not a number becomes null.

    Parameters
    ----------
    value
        Mappings, sequences, sets, arrays, tables (a list of rows), dataclasses, scalars of Python, numpy and pandas,
        dates and paths, one in the other.

    Raises
    ------
    TypeError
        Something else.
    """
    return json.dumps(_plain(value), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is at the bottom of an exception."""
    return any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in _chain(error))


def disk_trouble(error: BaseException | None) -> str:
    """What keeps a disk that was written to from being written to; empty where something else is at the bottom."""
    if is_disk_full(error):
        return "the disk is full"
    is_read_only = any(isinstance(e, OSError) and e.errno == errno.EROFS for e in _chain(error))
    return "the disk has turned read-only" if is_read_only else ""


def place_of(error: BaseException) -> str:
    """Where it happened: the innermost line that is no library's.

    The exception's own words stay out: this goes into the study, and they may quote a path or a header.
    """
    if isinstance(error.__cause__, RemoteTraceback):
        return error.__cause__.place
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return type(error).__name__
    code, line = ([f for f in frames if not _is_library(f[0].co_filename)] or frames)[-1]
    return f"{type(error).__name__} in {code.co_name} ({Path(code.co_filename).name}:{line})"


def write_log(error: BaseException, folder: Path | None) -> Path | None:
    """Write an exception's traceback where only its owner reads it.

    Parameters
    ----------
    error : BaseException
        The exception; its traceback may quote private text.
    folder : Path or None
        Where to; the user's own ``~/.local/state/popclust/log`` where there is none or it cannot be written.

    Returns
    -------
    Path or None
        The file; None where neither folder can be written.
    """
    now = datetime.now(UTC)
    text = "".join(traceback.format_exception(error))
    head = f"{now:%Y-%m-%d %H:%M:%S} UTC, popclust {popclust.__version__}, Python {sys.version.split()[0]}\n"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "popclust" / "log"
    for place in (folder, state):
        if place is None:
            continue
        file = place / f"{now:%Y%m%dT%H%M%S.%f}Z.log"
        try:
            storage.make_private(place)
            with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:  # noqa: PTH123
                out.write(head + text)
        except OSError:
            continue
        return file
    return None


def log_folder_of(study: str) -> Path | None:
    """The folder of a study's logs, beside its key; None where no study is named."""
    return Path(Study.open(study).secret_path("log")) if study else None


_PACKAGE = Path(popclust.__file__).parent
_LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def _is_library(file: str) -> bool:
    path = Path(file)
    return not path.is_relative_to(_PACKAGE) and (file.startswith("<") or any(map(path.is_relative_to, _LIBRARIES)))


def _verdict(error: BaseException, log_folder: Callable[[], Path | None]) -> tuple[int, str, str]:
    """Exit code, kind and line."""
    if isinstance(error, InputError):
        return BAD_INPUT, "input", str(error)
    if isinstance(error, SurroundingsError):
        return STOPPED, "surroundings", f"{error}; run again to go on"
    if isinstance(error, KeyboardInterrupt):
        return STOPPED, "interrupted", "interrupted; run again to go on"
    if is_disk_full(error):
        return STOPPED, "surroundings", "the disk is full; make room and run again to go on, nothing is lost"
    if isinstance(error, MemoryError):
        return STOPPED, "surroundings", "there is not enough memory; free some and run again to go on"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        where = error.filename or place_of(error)
        return BAD_INPUT, "input", f"{where}: not allowed ({error.strerror or error}); run as a user who may"
    if any(_UNREACHABLE & {c.__name__ for c in type(e).__mro__} for e in _chain(error)):
        return STOPPED, "surroundings", f"a store or machine does not answer ({place_of(error)}); run again to go on"
    try:
        folder = log_folder()
    except Exception:  # noqa: BLE001  (whatever is wrong with the study as well, this traceback is kept)
        folder = None
    file = write_log(error, folder)
    return FAULT, "fault", f"{place_of(error)}; the traceback is {f'in {file}' if file else 'lost: no log to write to'}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """A batch system asks to stop before it kills, a closed terminal hangs up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {n: signal.signal(n, _interrupt) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _is_broken_pipe(error: BaseException) -> bool:
    """Whether nobody reads standard output any more; rich ends the process over it, with the code for quarantine."""
    if isinstance(error, SystemExit):
        return isinstance(error.__context__, BrokenPipeError)
    if not isinstance(error, BrokenPipeError):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _mute_stdout() -> None:
    """What is still in the buffer of a broken pipe goes nowhere, also when Python flushes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(console: Console, label: str, message: str) -> None:
    try:
        console.print(Text.assemble((f"{label}: ", "bold red"), _in_one_line(message)), soft_wrap=True)
    except SystemExit:  # rich's answer to a broken pipe
        log.info("nobody reads the console")


def _in_one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())


def _plain(value: Any) -> Any:
    """The same in what JSON has."""
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.ndim == 0 and value.dtype.kind not in "mM" else value
    if isinstance(value, np.ndarray | pd.Series | pd.Index):
        return [_plain(v) for v in value]
    if value is None or value is pd.NA or value is pd.NaT or isinstance(value, bool | str | int):
        return value if isinstance(value, bool | str | int) else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return [_plain(v) for v in sorted(value)]
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")
