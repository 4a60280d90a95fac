"""A model's own code: its hooks.py in a process of its own, called with time limits, restarted when it dies.

Owns the process as the model server sees it, and what the log and a client get to know of its failures.
process.py is the far side. Of a failure a client reads only that the model's own code failed; the traceback
and what hooks.py prints are the operator's.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed, ModelUnavailable
from model_server.catalogue import folder_watch
from model_server.catalogue.folder_watch import Snapshot, digest_of
from model_server.catalogue.hooks_file import HookLimits
from model_server.catalogue.model_spec import ModelSpec
from model_server.hooks import HookOptions, kept_code, wire
from model_server.hooks.kept_code import Sources
from model_server.hooks.process import MOST_JSON
from model_server.hooks.wire import Message

_LOG = logging.getLogger(__name__)

_ROOT: Final = Path(__file__).resolve().parents[2]

FAILED: Final = "The model's own code failed on this picture."

_END_S: Final = 5.0
"""A killed process is gone at once, unless a driver holds it."""

_DYING_S: Final = 1.0
"""A process that closes its socket may need so long to end; its exit status says more than our signal's."""

_POLL_S: Final = 0.005

_PATIENT_DEATHS: Final = 2
"""The process is restarted at once so many times; one that dies at every call would only ever start."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_LONGEST_RETRY_S: Final = 30.0
"""Between attempts to start one that does not come up; calls fail meanwhile."""

_MOST_REPLY: Final = 2**29
"""Bytes of arrays: they are in this process' memory, which has no limit of its own."""

_LINES_PER_SECOND: Final = 50
_LINE_LETTERS: Final = 1000


class HookFailed(InferenceFailed):
    """A function of hooks.py raised, or returned what it must not. The log has the reason."""

    def __init__(self) -> None:
        super().__init__(FAILED)


class HookLost(HookFailed):
    """The process died in the call, or took too long and was killed: a further attempt costs a restart."""


class HookRestarting(ModelUnavailable):
    """The process does not come up. No picture is at fault, and calls work again once it does."""


class _Child:
    """A started process: its socket, the pipe whose end is its own, and the thread that logs its output."""

    def __init__(self, spec: ModelSpec, memory_mb: int, environment: Mapping[str, str]) -> None:
        self.socket, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        output, their_output = os.pipe()
        # -B: files that Python writes into the model's folder would make it another version.
        command = [sys.executable, "-B", "-u", "-X", "faulthandler", "-m", "model_server.hooks.process"]
        command += [str(spec.folder.resolve()), str(theirs.fileno()), str(lifeline), str(memory_mb)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - ours
                command,
                cwd=_ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=their_output,
                stderr=their_output,
                pass_fds=(theirs.fileno(), lifeline),
                process_group=0,  # a terminal's Ctrl-C is for the model server
            )
        except BaseException:
            self.socket.close()
            os.close(self._lifeline)
            os.close(output)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
            os.close(their_output)
        name = f"output-{spec.name}"
        self._logger = threading.Thread(target=_log, args=(spec.name, output), name=name, daemon=True)
        self._logger.start()

    @property
    def is_silent(self) -> bool:
        """Whether it lives and has sent nothing unasked."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def end(self, within_s: float = 0.0) -> str:
        """Kill it and what it has started; if it is dying, after so long. Returns how it ended, in words."""
        self.socket.close()
        has_ended = self._has_ended(within_s)
        if self._process.returncode is None:
            # Before it is reaped: until then nothing else can have its id, which is its group's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        was = self._process.returncode if has_ended else None
        os.close(self._lifeline)
        if self._logger is not threading.current_thread():  # the garbage collector runs in any thread
            self._logger.join(0.5)  # a process that left the group may hold its output open
        if was is None:
            return "it was killed"
        if was < 0:
            return f"signal {signal.Signals(-was).name}"
        return f"exit status {was}"

    def _has_ended(self, within_s: float) -> bool:
        """Whether it has ended by itself by then. It is not reaped."""
        if not hasattr(os, "waitid"):  # macOS, where the model server is only developed
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(within_s)
            return self._process.returncode is not None
        until = time.monotonic() + within_s
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            while os.waitid(os.P_PID, self._process.pid, how) is None:
                if time.monotonic() >= until:
                    return False
                time.sleep(_POLL_S)
        except ChildProcessError:  # somebody else has reaped it
            self._process.poll()
        return True


class OwnCode:
    """The process of a model's hooks.py, one call at a time."""

    def __init__(self, spec: ModelSpec, options: HookOptions) -> None:
        """Start it and import hooks.py. Raises ModelUnavailable with the reason."""
        self._spec = spec
        self._limits = HookLimits() if spec.hooks is None else spec.hooks.limits
        self._options = options
        self._lock = threading.Lock()
        self._deaths = 0
        """Since the last call that was answered."""
        self._may_start_at = 0.0
        self._waits_for = f"{spec.name}: the model's own code is being restarted."
        """The message of the calls that fail until then."""
        self._child: _Child | None = None
        self._finalizer = weakref.finalize(self, int)
        """Ends the process with this object."""
        self._warm_up: dict[tuple[str, tuple[int, ...]], NDArray[Any]] = {}
        """A call of each size: the first is slow in many frameworks, and must not count as hanging."""
        self.names: tuple[str, ...] = ()
        """What hooks.py defines."""
        if spec.hooks is None:
            raise ModelUnavailable(f'{spec.name}: kind = "python" needs a hooks.py in its folder.')
        if not options.are_on:
            raise ModelUnavailable(
                f"{spec.name}: it has a hooks.py, and {options.off_by}: no model's own code runs."
            )
        # What is loaded is what serves, in each process: the folder may have changed, or be refused, by then.
        self._sources = _sources(spec.folder)
        self._others = {
            path: (state, digest_of(spec.folder / path)) for path, state in _others(spec.folder).items()
        }
        """What else own code may read, as it was when it was loaded."""
        self._start()

    def preprocess(self, picture: NDArray[Any], *, warms_up: bool = False) -> NDArray[Any]:
        """What the network takes for a picture. Raises HookFailed.

        `warms_up`: it may take as long as loading, and each new process makes a call of this size as well.
        """
        _, (array,) = self._call("preprocess", [picture], ("",), warms_up=warms_up)
        return array

    def predict(
        self, batch: NDArray[Any], *, warms_up: bool = False
    ) -> tuple[tuple[str, ...], list[NDArray[np.float32]]]:
        """The outputs' names, and the outputs for a batch. Raises HookFailed. `warms_up`: see preprocess."""
        reply, outputs = self._call("predict", [batch], ("",), warms_up=warms_up)
        return tuple(header.name for header in reply.arrays), outputs

    def postprocess(self, outputs: Mapping[str, NDArray[Any]], context: dict[str, Any]) -> dict[str, Any]:
        """What hooks.py makes of a picture's outputs; it can be encoded as JSON. Raises HookFailed."""
        reply, _ = self._call("postprocess", list(outputs.values()), tuple(outputs), context)
        try:
            answer = msgspec.json.decode(reply.json)
            msgspec.json.encode(answer)  # as the result will be: msgspec has no integers above 64 bits
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            self.report("postprocess", f"what it returned is not JSON ({error})")
            raise HookFailed from None
        if not isinstance(answer, dict) or len(reply.json) > MOST_JSON:
            self.report("postprocess", "it returned too much, or no dict")
            raise HookFailed
        return answer

    def report(self, function: str, problem: str) -> None:
        """Log what a function did wrong."""
        _LOG.error("%s: %s in hooks.py failed: %s", self._spec.name, function, problem)

    def close(self) -> None:
        """End the process for good."""
        with self._lock:
            self._finalizer()
            self._child = None

    def _call(
        self,
        function: str,
        arrays: list[NDArray[Any]],
        names: tuple[str, ...],
        context: dict[str, Any] | None = None,
        *,
        warms_up: bool = False,
    ) -> tuple[Message, list[NDArray[Any]]]:
        limit_s = self._limits.load_timeout_s if warms_up else self._limits.timeout_s
        with self._lock:
            child = self._running()
            until = time.monotonic() + limit_s
            request = Message(kind=function, arrays=wire.headers(arrays, names), context=context or {})
            try:
                wire.send(child.socket, request, arrays, until=until)
                reply, results = wire.receive(child.socket, most_bytes=_MOST_REPLY, until=until)
            except TimeoutError:
                self._lose()
                self.report(function, f"it took over {limit_s:g} s; its process was killed")
                raise HookLost from None
            except wire.MalformedFrame as error:
                self._lose()
                self.report(function, f"{error}; its process was killed")
                raise HookLost from None
            except (EOFError, OSError):
                self.report(function, f"its process died ({self._lose(is_dying=True)})")
                raise HookLost from None
            self._deaths = 0
            if warms_up:
                self._warm_up[function, arrays[0].shape] = arrays[0]
        if reply.kind != "done":
            self.report(function, f"{reply.error}\n{reply.traceback}".rstrip())
            raise HookFailed
        return reply, results

    def _running(self) -> _Child:
        """The process, restarted if it has died. Raises HookRestarting while it does not come up."""
        if self._child is not None:
            if self._child.is_silent:
                return self._child
            ended = self._lose(is_dying=True)
            _LOG.error("%s: the process of hooks.py died between calls (%s)", self._spec.name, ended)
        left_s = self._may_start_at - time.monotonic()
        if left_s > _LONGEST_PAUSE_S:
            raise HookRestarting(self._waits_for)
        time.sleep(max(0.0, left_s))
        began = time.monotonic()
        self._waits_for = f"{self._spec.name}: the model's own code is being restarted."
        try:
            self._require_same_files()
            child = self._start()
        except ModelUnavailable as error:
            retry_s = min(_LONGEST_RETRY_S, _LONGEST_PAUSE_S + 2**self._deaths)
            self._may_start_at = time.monotonic() + retry_s
            _LOG.error("%s Calls fail, and the next attempt is in %g s.", error.message, retry_s)
            raise HookRestarting(self._waits_for) from None
        _LOG.info("%s: hooks.py runs again after %.1f s", self._spec.name, time.monotonic() - began)
        return child

    def _require_same_files(self) -> None:
        """Raise ModelUnavailable if a file that the code may read is another than when it was loaded."""
        folder, now = self._spec.folder, _others(self._spec.folder)
        for path in sorted(self._others | now):
            state, digest = self._others.get(path, ((), ""))
            # A copy of the same content, or a touch, is no change.
            if state != now.get(path) and (path not in now or digest != digest_of(folder / path)):
                self._waits_for = (
                    f"{self._spec.name}: its own code can't be restarted: {path!r} in its folder has "
                    "changed since this version was loaded."
                )
                raise ModelUnavailable(self._waits_for)

    def _start(self) -> _Child:
        """Start a process and wait until hooks.py is loaded. Raises ModelUnavailable."""
        spec, limits = self._spec, self._limits
        try:
            child = _Child(spec, limits.memory_mb, self._options.environment)
        except OSError as error:
            raise ModelUnavailable(
                f"{spec.name}: no process for hooks.py ({error.strerror or error})."
            ) from None
        self._child = child
        self._finalizer = weakref.finalize(self, child.end)
        until = time.monotonic() + limits.load_timeout_s
        try:
            reply = self._loaded(child.socket, until)
        except TimeoutError:
            self._lose()
            raise ModelUnavailable(
                f"{spec.name}: hooks.py took over {limits.load_timeout_s:g} s to load; load_timeout_s in "
                "[hooks] of model.toml is the limit."
            ) from None
        except (EOFError, OSError, wire.MalformedFrame):
            ended = self._lose(is_dying=True)
            raise ModelUnavailable(
                f"{spec.name}: the process of hooks.py ended while it was loaded ({ended})."
            ) from None
        if reply.kind == "failed":
            self._lose()
            _LOG.error("%s: hooks.py can't be loaded:\n%s", spec.name, reply.traceback.rstrip())
            raise ModelUnavailable(f"{spec.name}: hooks.py can't be loaded: {reply.error}.")
        return child

    def _loaded(self, peer: socket.socket, until: float) -> Message:
        """The last reply of a process that loads hooks.py and warms up. Raises as wire.receive does."""
        contents = [np.frombuffer(content, np.uint8) for content in self._sources.values()]
        headers = wire.headers(contents, list(self._sources))
        start = Message(kind="start", constants=_constants(self._spec), arrays=headers)
        wire.send(peer, start, contents, until=until)
        reply, _ = wire.receive(peer, most_bytes=0, until=until)
        self.names = reply.names
        for (function, _), array in self._warm_up.items():
            if reply.kind == "failed":
                break
            wire.send(peer, Message(kind=function, arrays=wire.headers([array])), [array], until=until)
            reply, _ = wire.receive(peer, most_bytes=_MOST_REPLY, until=until)
        return reply

    def _lose(self, *, is_dying: bool = False) -> str:
        """End the process; how it ended, in words. The next start waits the longer the more have died."""
        child, self._child = self._child, None
        self._deaths += 1
        pause_s = _FIRST_PAUSE_S * 2 ** (self._deaths - _PATIENT_DEATHS - 1)
        if self._deaths > _PATIENT_DEATHS:
            self._may_start_at = time.monotonic() + min(pause_s, _LONGEST_PAUSE_S)
        if child is None:
            return "it had none"
        self._finalizer.detach()
        return child.end(_DYING_S if is_dying else 0.0)


def _sources(folder: Path) -> Sources:
    """The Python files of a folder, which each of its processes runs as they are now."""
    sources = {}
    for path, file in folder_watch.files(folder):
        if kept_code.is_kept(path):
            with contextlib.suppress(OSError):  # gone since it was listed: its import will say so
                if file.is_file():  # of a pipe the reading would wait for a writer
                    sources[path] = file.read_bytes()
    return sources


def _others(folder: Path) -> Snapshot:
    """The states of all other files that own code may read. What model.toml says is this process' to know."""
    states = folder_watch.snapshot(folder)
    return {
        path: state for path, state in states.items() if not kept_code.is_kept(path) and path != "model.toml"
    }


def _constants(spec: ModelSpec) -> dict[str, Any]:
    """What every context of a model has."""
    return {
        "model": spec.name,
        "task": spec.task.name,
        "labels": [label.label for label in spec.labels],
        "class_ids": [label.class_id for label in spec.labels],
        "input_size": (spec.input.width, spec.input.height),
    }


def _log(model: str, descriptor: int) -> None:
    """Log what the process prints, line by line, with a limit on lines a second."""
    second, lines, left_out = 0, 0, 0
    with open(descriptor, encoding="utf-8", errors="replace") as output:
        while line := output.readline(_LINE_LETTERS):
            if int(time.monotonic()) != second:
                if left_out:
                    _LOG.warning("%s: hooks.py: %d lines of output were left out", model, left_out)
                second, lines, left_out = int(time.monotonic()), 0, 0
            lines += 1
            if lines > _LINES_PER_SECOND:
                left_out += 1
            elif line.strip():
                _LOG.info("%s: hooks.py: %s", model, line.rstrip())
    if left_out:
        _LOG.warning("%s: hooks.py: %d lines of output were left out", model, left_out)
