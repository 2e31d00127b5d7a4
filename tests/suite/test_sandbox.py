"""The sandbox holds what each tier promises, and what a tier lacks it names.

Each test tries the attack in every tier that this machine offers and compares the outcome with the tier's own
list: an attack that works is one that `lacks` names, and the other way round."""

import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from types import MappingProxyType

import pytest

from runtime.sandbox import (
    CannotStart,
    Child,
    Limits,
    Tier,
    Unavailable,
    demand,
    folders,
    start,
    tiers,
    why_not,
)
from runtime.sandbox.launcher import ALLOW, CALLS, filter_program
from runtime.sandbox.values import MIB, TIER_NAMES

CLONE = Path(__file__).parents[2]
NOTHING = MappingProxyType({})


@pytest.fixture(params=tiers(), ids=lambda tier: tier.name)
def tier(request) -> Tier:
    return request.param


def spawn(tier, code, *arguments, read_only=NOTHING, env=NOTHING, limits=None, channel=None) -> Child:
    python = [sys.executable, "-I", "-B", "-c", code, *map(str, arguments)]
    return start(python, tier=tier, read_only=read_only, env=env, limits=limits or Limits(), channel=channel)


def outcome(tier, code, *arguments, **options) -> str:
    """What the code prints; it must end well."""
    with spawn(tier, code, *arguments, **options) as child:
        status = child.exit_status(timeout=30)
        assert status == "exited with code 0", f"{status}: {child.output_tail()}"
        return child.output_tail()


def lacks(tier: Tier, words: str) -> bool:
    return any(words in lack for lack in tier.lacks)


def attempts(code: str) -> str:
    """The code, printing «worked» unless the system refuses."""
    lines = "\n".join(f"    {line}" for line in code.strip().splitlines())
    return f"import os, socket, sys\ntry:\n{lines}\n    print('worked')\nexcept OSError as no:\n    print(no)"


def eventually(holds) -> bool:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def running(token: str) -> list[int]:
    """Processes of this machine with the token among their arguments."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if token in line]


def oom_scores(token: str) -> list[int]:
    """How readily the kernel ends each of these processes when memory runs out: 1000 is first of all."""
    scores = (Path(f"/proc/{pid}/oom_score_adj") for pid in running(token))
    return [int(score.read_text()) for score in scores]


@pytest.fixture
def token():
    """A word that marks the processes of one test; those still there afterwards are ended."""
    mark = uuid.uuid4().hex
    yield mark
    for pid in running(mark):
        os.kill(pid, signal.SIGKILL)


# ---- Tiers. ----


def test_every_tier_is_offered_or_says_why_not():
    offered = {tier.name for tier in tiers()}
    assert "process" in offered
    for name in TIER_NAMES:
        assert (why_not(name) == "") == (name in offered)


def test_a_tier_that_was_demanded_is_never_weakened():
    for name in TIER_NAMES:
        if why_not(name):
            with pytest.raises(Unavailable, match=name):
                demand(name)
        else:
            assert demand(name).name == name
    with pytest.raises(Unavailable, match="namespaces, landlock, process"):
        demand("none")


def test_a_tier_without_the_packages_of_the_worker_is_not_offered(tier, monkeypatch):
    """Else each submission would be told that its process ended before it began."""
    module = sys.modules["runtime.sandbox.tiers"]  # beside it is a function of the same name
    monkeypatch.setattr(module, "NEEDED", ("numpy", "not_installed_anywhere"))
    said = module.why_not.__wrapped__(tier.name)
    assert "does not find not_installed_anywhere" in said
    assert ".venv/bin/pip install -e ." in said


# ---- What it reaches. ----


def test_the_network(tier):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        connect = "socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"
        connected = outcome(tier, attempts(connect), server.getsockname()[1]) == "worked\n"
        send = "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', int(sys.argv[1])))"
        outcome(tier, attempts(send), receiver.getsockname()[1])
        received = bool(select.select([receiver], [], [], 0.05)[0])
    assert connected == received == lacks(tier, "network:")


@pytest.mark.parametrize(
    "look",
    [
        "os.listdir(sys.argv[1])",
        "open(sys.argv[1] + '/pyproject.toml').read()",
        # An editable install is this: the clone on the path.
        "sys.path.append(sys.argv[1]); import reference, grading, solution",
    ],
)
def test_the_clone_cannot_be_read(tier, look):
    said = outcome(tier, attempts(look).replace("OSError", "(OSError, ImportError)"), CLONE)
    assert (said == "worked\n") == lacks(tier, "files: it reads")


def test_files_outside_its_temporary_folder_cannot_be_written(tier):
    folders = [CLONE, Path(tempfile.gettempdir()), Path.home(), Path(sys.prefix), Path("/")]
    targets = [folder / f"week3-escape-{uuid.uuid4().hex}" for folder in folders]
    code = """
import sys, tempfile
for target in sys.argv[1:]:
    try: open(target, "w").close()
    except OSError: pass
open(tempfile.gettempdir() + "/inside", "w").write("x")
"""
    outcome(tier, code, *targets)
    written = [target for target in targets if target.exists()]
    for target in written:
        target.unlink()
    assert bool(written) == lacks(tier, "files: it writes")


def test_the_grader_and_its_group_cannot_be_signalled(tier):
    # Signal 0 asks for permission only, so that a tier without this protection harms nobody.
    for attack in (f"os.kill({os.getpid()}, 0)", f"os.killpg({os.getpgrp()}, 0)"):
        assert (outcome(tier, attempts(attack)) == "worked\n") == lacks(tier, "signals:")


def test_the_environment_is_clean(tier, monkeypatch):
    monkeypatch.setenv("WEEK3_SECRET", "hunter2")
    said = outcome(tier, "import os; print(sorted(os.environ.items()))", env={"GIVEN": "1"})
    assert "WEEK3_SECRET" not in said
    assert "('GIVEN', '1')" in said


def test_given_files_are_read_and_never_written(tier):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        host = Path(folder) / "given"
        host.write_text("hello")
        inside = tier.path_inside(host, "/given/deep/file")
        assert (
            outcome(
                tier,
                "import sys; print(open(sys.argv[1]).read())",
                inside,
                read_only={host: "/given/deep/file"},
            )
            == "hello\n"
        )
        said = outcome(tier, attempts("open(sys.argv[1], 'w')"), inside, read_only={host: "/given/deep/file"})
        assert (said == "worked\n") == (lacks(tier, "files: it writes whatever"))


def test_a_folder_that_the_child_could_not_read_is_refused(tier):
    with tempfile.TemporaryDirectory() as folder:  # rwx for its owner only
        given = {Path(folder): "/given"}
        if os.getuid() == 0:
            with pytest.raises(CannotStart, match="chmod"):
                spawn(tier, "", read_only=given)
        else:
            listing = "import os, sys; os.listdir(sys.argv[1])"
            outcome(tier, listing, tier.path_inside(folder, "/given"), read_only=given)
    with pytest.raises(CannotStart, match="does not exist"):
        spawn(tier, "", read_only={CLONE / "nowhere": "/nowhere"})


# ---- What it uses up. ----


def test_memory_is_limited(tier):
    code = """
try: print(len(bytearray(2 << 30)))
except MemoryError: print("refused")
"""
    said = outcome(tier, code, limits=Limits(memory_bytes=1024 * MIB))
    assert (said == "refused\n") == (not lacks(tier, "memory: this system"))


def test_as_many_files_can_be_open_as_mlx_lm_asks_for_and_not_many_more(tier):
    """It raises the limit to 4,096 when it is imported, and fails where that is not allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 4096 if most == resource.RLIM_INFINITY else min(most, 4096)
    code = f"""
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))
try:
    for opened in range(5000): last = os.dup(1)
except OSError as error: print(last, error.strerror)
"""
    assert outcome(tier, code) == f"{most - 1} Too many open files\n"


def test_the_number_of_processes_is_limited(tier):
    code = """
import os, signal, time
try:
    for count in range(600):
        if os.fork() == 0: time.sleep(60)
except BlockingIOError as error:
    print("refused")
"""
    assert outcome(tier, code, limits=Limits(processes=32)) == "refused\n"


def test_a_fork_bomb_is_contained_and_gone_after_kill(tier, token):
    bomb = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
    with spawn(tier, bomb, token, limits=Limits(processes=32)) as child:
        assert eventually(lambda: len(running(token)) > 8)
        assert sys.platform != "linux" or all(score == 1000 for score in oom_scores(token))
        assert subprocess.run([sys.executable, "-I", "-S", "-c", ""], timeout=20).returncode == 0
        child.kill()
        assert eventually(lambda: not running(token))


def test_a_flood_of_output_neither_blocks_nor_grows(tier):
    flood = """
import os
for _ in range(1000): os.write(1, b"x" * 65536)
os.write(2, b"last words")
"""
    said = outcome(tier, flood, limits=Limits(output_bytes=5000))
    assert said.startswith(f"[{1000 * 65536 + len('last words') - 5000} bytes left out]")
    assert said.endswith("xlast words")
    assert len(said) < 5100


def test_the_temporary_folder_is_bounded(tier):
    code = """
import tempfile
try:
    for name in range(4):
        with open(f"{tempfile.gettempdir()}/{name}", "wb") as file: file.write(bytes(6 << 20))
    print("filled")
except OSError as error: print("refused")
"""
    said = outcome(tier, code, limits=Limits(temporary_bytes=8 * MIB))
    assert (said == "filled\n") == lacks(tier, "the size of the temporary folder")


# ---- How it ends. ----


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", "exited with code 0"),
        ("raise SystemExit(3)", "exited with code 3"),
        ("import ctypes; ctypes.string_at(0)", "killed by signal 11 (SIGSEGV): invalid memory access"),
        ("import os; os.abort()", "killed by signal 6 (SIGABRT)"),
    ],
)
def test_its_end_is_told_in_a_sentence(tier, code, status):
    with spawn(tier, code) as child:
        assert child.exit_status(timeout=10).startswith(status)
        assert not child.alive()


def test_the_channel_speaks_and_closes_with_the_child(tier):
    ours, theirs = socket.socketpair()
    code = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).sendall(b'ready')"
    with ours, spawn(tier, code, theirs.fileno(), channel=theirs):
        ours.settimeout(10)
        assert ours.recv(5) == b"ready"
        assert ours.recv(1) == b""


LEAVES_A_PROCESS_BEHIND = """
import os, time
if os.fork() == 0:
    try: os.setsid()
    except PermissionError: pass
    time.sleep(60)
"""


@pytest.mark.parametrize("ends", ["by itself", "by kill"])
def test_nothing_that_it_started_outlives_it(tier, token, ends):
    stays = "print('started', flush=True)\ntime.sleep(60)" if ends == "by kill" else ""
    with spawn(tier, LEAVES_A_PROCESS_BEHIND + stays, token) as child:
        if ends == "by kill":
            assert eventually(lambda: "started" in child.output_tail())
            child.kill()
        assert not child.exit_status(timeout=10).startswith("still running")
    left = 1 if lacks(tier, "leaves its process group") else 0
    assert eventually(lambda: len(running(token)) == left)


GRADER = f"""
import sys, time
from runtime.sandbox import Limits, demand, start
code, token = {LEAVES_A_PROCESS_BEHIND + "time.sleep(60)"!r}, sys.argv[2] + sys.argv[3]
python = [sys.executable, "-I", "-B", "-c", code, token]
child = start(python, tier=demand(sys.argv[1]), read_only={{}}, env={{}}, limits=Limits(), channel=None)
sys.stdin.read()
"""


@pytest.mark.parametrize("ends", ["by itself", "by interrupt", "by kill"])
def test_nothing_is_left_when_the_grader_ends(tier, token, ends):
    halves = (token[:16], token[16:])  # so that the grader's own arguments do not hold the token
    with tempfile.TemporaryDirectory() as folder:  # a killed grader cannot remove the child's private folder
        Path(folder).chmod(0o755)
        grader = subprocess.Popen(
            [sys.executable, "-B", "-c", GRADER, tier.name, *halves],
            env={**os.environ, "TMPDIR": folder},
            cwd=CLONE,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert grader.stdin is not None
        assert eventually(lambda: len(running(token)) >= 2)
        if ends == "by interrupt":
            grader.send_signal(signal.SIGINT)
        if ends == "by kill":
            grader.kill()
        grader.stdin.close()
        grader.wait(timeout=10)
        # The command itself always ends; what it started may not.
        left = 1 if ends == "by kill" and lacks(tier, "when the grader itself is killed") else 0
        assert eventually(lambda: len(running(token)) == left)


def test_a_child_outlives_the_thread_that_started_it(tier):
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(spawn(tier, "import time; time.sleep(60)")))
    thread.start()
    thread.join()
    with children[0] as child:
        assert child.exit_status(timeout=0.3) == "still running"


# ---- What must work inside. ----


def test_mlx_with_its_fast_blas_torch_and_numpy_work_inside(tier):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from runtime import blas
blas.preload()
import mlx.core as mx, numpy as np, torch
print(blas.in_use().split()[0])
print(mx.sum(mx.ones((64, 64)) @ mx.ones((64, 64))).item())
print(mx.compile(lambda x: mx.exp(x) * x + 1)(mx.zeros(2)).tolist())
print(torch.ones(64, 64).mm(torch.ones(64, 64)).sum().item())
print((np.ones((64, 64)) @ np.ones((64, 64))).sum())
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(CLONE / "runtime", Path(folder) / "runtime")
        given = {Path(folder): "/given"}
        said = outcome(tier, code, tier.path_inside(folder, "/given"), read_only=given).split("\n")
    assert said[0] == ("libtorch_cpu.so" if sys.platform == "linux" else "MLX's")
    assert said[1:5] == ["262144.0", "[1.0, 1.0]", "262144.0", "262144.0"]


# ---- What it is shown. ----


def test_a_clone_below_a_shown_folder_is_left_out(tmp_path, monkeypatch):
    for name in ("usr/lib", "usr/src/clone/.venv", "usr/src/other"):
        (tmp_path / name).mkdir(parents=True)
    clone = tmp_path / "usr/src/clone"
    monkeypatch.setattr(folders, "CLONE", clone)
    shown = folders.without_the_clone([tmp_path / "usr", clone / ".venv"])
    assert shown == [tmp_path / "usr/lib", tmp_path / "usr/src/other", clone / ".venv"]
    with pytest.raises(RuntimeError, match="pip install -e"):
        folders.without_the_clone([clone])


# ---- The filter of system calls, on the architecture that this machine is not. ----


def verdict(program, machine: str, call: str, arguments: tuple[int, ...]) -> int:
    """What the kernel would answer: an interpreter of the few instructions that the filter uses."""
    column = ("x86_64", "aarch64").index(machine)
    memory = {0: CALLS[call][column], 4: (0xC000003E, 0xC00000B7)[column]}
    memory.update({16 + 8 * i: argument & 0xFFFFFFFF for i, argument in enumerate(arguments)})
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, operand = program[at]
        at += 1
        if operation == 0x20:
            accumulator = memory[operand]
        elif operation == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: accumulator & operand}
            at += if_true if holds[operation] else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    ("call", "arguments", "own", "shared"),
    [
        ("ptrace", (), False, False),
        ("unshare", (0x10000000,), False, False),
        ("clone", (0x10000011,), False, False),
        ("clone", (0x3D0F00,), True, True),  # a thread
        ("socket", (2,), True, False),
        ("setsid", (), True, False),
        ("kill", (4321, 9), True, True),  # itself
        ("kill", (0, 9), True, True),  # its group
        ("kill", (1234, 9), True, False),
        ("kill", (-1, 9), True, False),
        ("fcntl", (0, 1), True, True),
        ("fcntl", (0, 8), True, False),
        ("ioctl", (0, 0x8901), True, False),
        ("setpriority", (0, 1234), True, False),
    ],
)
def test_the_filter_refuses_what_leads_out(machine, call, arguments, own, shared):
    for allowed, how in ((own, False), (shared, True)):
        program = filter_program(machine, shared=how, pid=4321)
        assert (verdict(program, machine, call, arguments) == ALLOW) == allowed


def test_the_filter_keeps_to_the_kernel_bound_on_jumps():
    for machine in ("x86_64", "aarch64"):
        for _, if_true, if_false, _ in filter_program(machine, shared=True, pid=1):
            assert max(if_true, if_false) < 256
