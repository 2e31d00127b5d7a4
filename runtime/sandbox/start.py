"""Starts a command in a tier."""

import contextlib
import json
import os
import platform
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from runtime.sandbox.child import Child
from runtime.sandbox.folders import python_folders, system_folders, without_the_clone
from runtime.sandbox.values import Limits, Tier

ON_LINUX = sys.platform == "linux"
DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
LAUNCHER = Path(__file__).with_name("launcher.py").read_text()

# Linux ends a child when the thread that started it ends. This one lives as long as the interpreter.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox")


class CannotStart(Exception):
    """The command was not started, and why."""


def start(
    argv: Sequence[str],
    *,
    tier: Tier,
    read_only: Mapping[Path, str],
    env: Mapping[str, str],
    limits: Limits,
    channel: socket.socket | None,
) -> Child:
    """Runs `argv` in `tier`. May be called from any thread.

    `argv[0]` is an absolute path, mostly `sys.executable`: the running interpreter, its packages and the
    system's libraries are readable inside without being named. Give Python `-I -B`.
    `read_only` maps a path here to an absolute path inside; the child finds it under
    `tier.path_inside(host, inside)`. Started by root, the child is another user: the files must be readable
    by everyone (a folder of `tempfile.mkdtemp` is not until `chmod 755`), and CannotStart says so if not.
    Python imports a package only from a folder that it can list, which Landlock allows of what is given and
    not of its parent: give the folder that holds the packages.
    `env` is the whole environment, with PATH, HOME, LANG, TMPDIR beside it where not given. The only place to
    write is TMPDIR, which is private, bounded and the working folder.
    `channel` is the child's end of a socket pair. It keeps its number inside, so `argv` may carry
    `str(channel.fileno())`; here it is closed, so that the other end sees when the child is gone."""
    for host in read_only:
        if not host.exists():
            raise CannotStart(f"read_only: {host} does not exist")
        if os.getuid() == 0:
            _check_readable_by_everyone(host)
    command = list(argv)
    try:
        if tier.name == "namespaces":
            return _start_in_namespaces(command, read_only, env, limits, channel)
        return _start_beside(command, tier, read_only, env, limits, channel)
    finally:
        if channel is not None:
            channel.close()


# ---- namespaces: a file system, process ids and a network of its own. ----


def _start_in_namespaces(
    command: list[str],
    read_only: Mapping[Path, str],
    env: Mapping[str, str],
    limits: Limits,
    channel: socket.socket | None,
) -> Child:
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise CannotStart("bubblewrap (bwrap) is not installed")
    as_root = os.getuid() == 0
    todo = {
        "limits": _resource_limits(limits, others=0 if as_root else _processes_of_this_user()),
        "first_to_die": False,
        "uid": _unused_uid() if as_root else None,
        "read_everything": False,
        "dies_with": None,
        "files": None,
        "calls": "own" if filters_calls() else None,
    }
    inside = [
        *([bubblewrap, *_namespaces(bubblewrap, as_root), *_file_system(read_only, limits)]),
        *(part for name, value in _environment(env, "/tmp").items() for part in ("--setenv", name, value)),
        *("--", *_launcher(todo), *command),
    ]
    # Inside there is no /proc/self, so the wish to be the first victim when memory runs out is said outside.
    first_to_die = ["/bin/sh", "-c", 'echo 1000 > /proc/self/oom_score_adj && exec "$@"', "sh"]
    return _spawn([*first_to_die, *inside], {}, "/", None, limits, channel)


def _namespaces(bubblewrap: str, as_root: bool) -> list[str]:
    options = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --die-with-parent"
    options += " --new-session --clearenv --hostname sandbox --cap-drop ALL"
    if as_root:
        # Root mounts what no ordinary user may enter (Python below /root); the launcher then drops to a user.
        options += " --cap-add CAP_SETUID --cap-add CAP_SETGID"
    else:
        options += " --unshare-user"
        manual = subprocess.run([bubblewrap, "--help"], capture_output=True, text=True).stdout
        options += " --disable-userns" if "--disable-userns" in manual else ""
    return options.split()


def _file_system(read_only: Mapping[Path, str], limits: Limits) -> list[str]:
    """Read-only Python, system and files, and a bounded /tmp. Of /proc the processor's description only."""
    mounts: list[str] = ["--perms", "1777", "--size", str(limits.temporary_bytes), "--tmpfs", "/tmp"]
    made = {Path("/"), Path("/tmp")}

    def bind(source: Path, destination: Path) -> None:
        for folder in reversed(destination.parents):  # made by bubblewrap, nobody but root could enter them
            if folder not in made:
                mounts.extend(["--perms", "0755", "--dir", str(folder)])
                made.add(folder)
        mounts.extend(["--ro-bind", str(source), str(destination)])
        made.add(destination)

    system = system_folders()
    shown = without_the_clone(path for path in system if not path.is_symlink())
    shown += [path for path in without_the_clone(python_folders()) if not {path, *path.parents} & set(shown)]
    for folder in shown:
        bind(folder, folder)
    for link in (path for path in system if path.is_symlink()):
        if link.is_dir():
            mounts += ["--symlink", str(link.readlink()), str(link)]
        else:
            bind(link, link)
    for host, destination in sorted(read_only.items(), key=lambda item: item[1]):
        bind(host.resolve(), Path(destination))
    shared_memory = ["--perms", "1777", "--size", str(limits.temporary_bytes), "--tmpfs", "/dev/shm"]
    devices = ["--dev", "/dev", *shared_memory]
    return [*mounts, *devices, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]


# ---- landlock and process: beside the grader, on the same file system. ----


def _start_beside(
    command: list[str],
    tier: Tier,
    read_only: Mapping[Path, str],
    env: Mapping[str, str],
    limits: Limits,
    channel: socket.socket | None,
) -> Child:
    uid = _unused_uid() if ON_LINUX and os.getuid() == 0 else None
    private = Path(tempfile.mkdtemp(prefix="week3-")).resolve()
    try:
        if uid is not None:
            os.chown(private, uid, uid)
        arguments = [*_launcher(_confinement(tier, uid, private, read_only, limits)), *command]
        return _spawn(arguments, _environment(env, str(private)), str(private), private, limits, channel)
    except BaseException:
        shutil.rmtree(private)
        raise


def _confinement(
    tier: Tier, uid: int | None, private: Path, read_only: Mapping[Path, str], limits: Limits
) -> dict[str, Any]:
    files = None
    if tier.name == "landlock":
        readable = [*without_the_clone(system_folders()), *without_the_clone(python_folders()), *read_only]
        files = {"readable": [str(path) for path in readable], "devices": DEVICES, "writable": [str(private)]}
    # This user's other processes count too, and there may soon be more of them.
    others = 0 if uid else _processes_of_this_user() + 7 * limits.processes
    return {
        "limits": _resource_limits(limits, others),
        "first_to_die": ON_LINUX,
        "uid": uid,
        "read_everything": uid is not None and _may_read_everything(),
        "dies_with": os.getpid() if ON_LINUX else None,
        "files": files,
        "calls": "shared" if filters_calls() else None,
    }


# ---- What both share. ----


@cache
def filters_calls() -> bool:
    """Whether the launcher can refuse system calls here, found by trying."""
    if not ON_LINUX or platform.machine() not in ("x86_64", "aarch64") or sys.maxsize < 1 << 32:
        return False
    nothing = {"limits": {}, "first_to_die": False, "uid": None, "dies_with": None, "files": None}
    todo = {**nothing, "calls": "shared"}
    return subprocess.run([*_launcher(todo), "/bin/true"], capture_output=True).returncode == 0


def _spawn(
    arguments: list[str],
    env: Mapping[str, str],
    folder: str,
    private: Path | None,
    limits: Limits,
    channel: socket.socket | None,
) -> Child:
    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=folder,
            pass_fds=() if channel is None else (channel.fileno(),),
            start_new_session=True,
        )

    return Child(_starter.submit(popen).result(), private, limits.output_bytes)


def _launcher(todo: Mapping[str, Any]) -> list[str]:
    return [sys.executable, "-I", "-S", "-B", "-c", LAUNCHER, json.dumps(todo)]


def _environment(env: Mapping[str, str], temporary: str) -> dict[str, str]:
    # One arena per core would reserve more address space than the limit on a machine of many cores.
    usual = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "USER": "sandbox", "MALLOC_ARENA_MAX": "2"}
    return {**usual, "HOME": temporary, "TMPDIR": temporary, **env}


def _resource_limits(limits: Limits, others: int) -> dict[str, int]:
    bounded = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": limits.temporary_bytes,
        "RLIMIT_NPROC": others + limits.processes,
        "RLIMIT_NOFILE": 4096,  # mlx_lm asks for as many when it is imported
    }
    if ON_LINUX:  # macOS accepts it and does nothing, or refuses
        bounded["RLIMIT_AS"] = limits.memory_bytes
    return bounded


def _processes_of_this_user() -> int:
    """Processes and threads, which Linux counts together."""
    if not ON_LINUX:
        ps = ["/bin/ps", "-U", str(os.getuid()), "-o", "pid="]
        return len(subprocess.run(ps, capture_output=True, check=True).stdout.splitlines())
    return sum(threads for uid, threads in _running() if uid == os.getuid())


def _unused_uid() -> int:
    """A user of its own for each child: it owns no file and no other process. systemd keeps this range for
    the same purpose, and a container that maps 65,536 ids has it."""
    taken = {uid for uid, _ in _running()}
    return secrets.choice([uid for uid in range(61184, 65520) if uid not in taken])


def _running() -> Iterator[tuple[int, int]]:
    """Owner and number of threads of every process of this machine."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            yield process.stat().st_uid, len(list((process / "task").iterdir()))


def _may_read_everything() -> bool:
    status = Path("/proc/self/status").read_text().splitlines()
    granted = next(line.split()[1] for line in status if line.startswith("CapPrm"))
    return bool(int(granted, 16) & 1 << 2)  # CAP_DAC_READ_SEARCH


def _check_readable_by_everyone(path: Path) -> None:
    mode = path.stat().st_mode
    needed = 0o005 if stat.S_ISDIR(mode) else 0o004
    if mode & needed != needed:
        raise CannotStart(
            f"read_only: {path} can be read by root only, and the child is another user: chmod -R a+rX {path}"
        )
