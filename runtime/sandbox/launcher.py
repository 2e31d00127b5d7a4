"""Confines this process, then becomes the command.

Runs as text inside the sandbox (python -I -S -B -c), where this file does not exist: standard library only.
Arguments: what to do, as JSON (see `start.py`), then the command. All of it happens in this process and not
between fork and exec of the grader, which has threads."""

import ctypes
import json
import os
import platform
import resource
import stat
import struct
import sys
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 8, 22, 38, 47
CAP_DAC_READ_SEARCH = 2


def check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    check(libc.prctl(option, *padded), f"prctl({option})")


def limit_resources(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        which = getattr(resource, name)
        _, hard = resource.getrlimit(which)
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (allowed, allowed))


# ---- Another user. ----


def become_user(uid: int, read_everything: bool) -> None:
    """Gives up root. Reading may stay: Python often lies below a folder that only root can enter."""
    if sys.platform != "linux":
        raise OSError("only Linux does this")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    if read_everything:
        prctl(PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    if read_everything:
        only_reading = 1 << CAP_DAC_READ_SEARCH
        version_3_for_this_process = struct.pack("=Ii", 0x20080522, 0)
        effective_permitted_inheritable = struct.pack("=6I", *[only_reading] * 3, 0, 0, 0)
        check(libc.capset(version_3_for_this_process, effective_permitted_inheritable), "capset")
        prctl(PR_CAP_AMBIENT, 2, CAP_DAC_READ_SEARCH)  # 2 is PR_CAP_AMBIENT_RAISE


# ---- Landlock: which files. ----

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1, 2, 4, 8, 1 << 14
READ = EXECUTE | READ_FILE | READ_DIR
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE


def restrict_files(readable: list[str], devices: list[str], writable: list[str]) -> None:
    """From here on only these paths: to read, to read and write, and folders to do anything in."""
    if sys.platform != "linux":
        raise OSError("only Linux does this")
    version = check(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1), "Landlock")
    rights = 13 + (version >= 2) + (version >= 3) + (version >= 5)  # how many the kernel knows
    everything = (1 << rights) - 1
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals stay inside too
    size = 24 if version >= 6 else 8
    attributes = struct.pack("=QQQ", everything, 0, scoped)
    ruleset = check(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0), "Landlock")
    for paths, allowed in ((readable, READ), (devices, READ | WRITE_FILE), (writable, everything)):
        for path in paths:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            is_folder = stat.S_ISDIR(os.fstat(beneath).st_mode)
            of_this = (allowed if is_folder else allowed & OF_A_FILE) & everything
            rule = struct.pack("=Qi", of_this, beneath)
            check(libc.syscall(ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule({path})")
            os.close(beneath)
    check(libc.syscall(RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")


# ---- seccomp: which system calls. ----

EPERM, EACCES, ENOSYS = 1, 13, 38
NEW_NAMESPACE = 0x7E020000  # every CLONE_NEW flag

# name: (x86-64, aarch64). The old calls of x86-64 that aarch64 never had are None.
CALLS: dict[str, tuple[int, int | None]] = {
    "clone": (56, 220), "clone3": (435, 435), "unshare": (272, 97), "setns": (308, 268),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "prlimit64": (302, 261), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "fcntl": (72, 25), "ioctl": (16, 29), "setsid": (112, 157), "setpgid": (109, 154), "socket": (41, 198),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
}  # fmt: skip

# What no computation needs and what leads out: other processes' memory, namespaces, the kernel's odd corners.
NEVER = [
    "unshare", "setns", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd",
    "pidfd_send_signal", "open_by_handle_at", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup",
    "add_key", "request_key", "keyctl",
]  # fmt: skip

# What reaches the grader where the child shares its process ids, its network and its user: leaving the
# process group (so that killing it kills all), signals, the modes of files that Landlock does not guard.
NEVER_WHEN_SHARED = [
    "setsid", "setpgid", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "chmod", "fchmod", "fchmodat",
    "fchmodat2", "chown", "fchown", "lchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat",
]  # fmt: skip
ON_ITSELF_ONLY = {
    "kill": 0, "tgkill": 0, "prlimit64": 0, "setpriority": 1,
    "sched_setscheduler": 0, "sched_setparam": 0, "sched_setattr": 0,
    "sched_setaffinity": 0,
}  # fmt: skip
# F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP, TIOCSTI: a signal or a keystroke sent on its behalf.
NEVER_WITH = {"fcntl": (8, 10, 15), "ioctl": (0x8901, 0x8902, 0x5412)}

LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def refuse_calls(shared: bool) -> None:
    program = filter_program(platform.machine(), shared, os.getpid())
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(header))


def filter_program(machine: str, shared: bool, pid: int) -> list[Instruction]:
    """Berkeley packet filter code over struct seccomp_data: the call's number at 0, the architecture at 4,
    the low half of argument i at 16 + 8 i."""
    column = ("x86_64", "aarch64").index(machine)
    architecture = (0xC000003E, 0xC00000B7)[column]
    program: list[Instruction] = [
        (LOAD, 0, 0, 4), (IF_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0), (IF_AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE | ENOSYS),
    ]  # fmt: skip  # at 0x40000000 begin the same calls of x86-64 under other numbers

    def at(name: str, *then: Instruction) -> None:
        number = CALLS[name][column]
        if number is not None:
            program.extend([(IF_EQUAL, 0, len(then), number), *then])

    def argument(index: int) -> Instruction:
        return (LOAD, 0, 0, 16 + 8 * index)

    allow, refuse = (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE | EPERM)
    at("clone", argument(0), (IF_ANY_BIT, 0, 1, NEW_NAMESPACE), refuse, allow)
    at("clone3", (RETURN, 0, 0, REFUSE | ENOSYS))  # its flags lie in memory; libraries then use clone
    for name in NEVER:
        at(name, refuse)
    if shared:
        at("socket", (RETURN, 0, 0, REFUSE | EACCES))
        for name in NEVER_WHEN_SHARED:
            at(name, refuse)
        for name, index in ON_ITSELF_ONLY.items():
            at(name, argument(index), (IF_EQUAL, 1, 0, 0), (IF_EQUAL, 0, 1, pid), allow, refuse)
        for name, values in NEVER_WITH.items():
            tests = [(IF_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
            at(name, argument(1), *tests, allow, refuse)
    return [*program, allow]


def main() -> None:
    todo: dict[str, Any] = json.loads(sys.argv[1])
    command = sys.argv[2:]
    limit_resources(todo["limits"])
    if todo["first_to_die"]:
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
    if todo["uid"] is not None:
        become_user(todo["uid"], todo["read_everything"])
    if todo["dies_with"] is not None:  # after the change of user, which clears it
        prctl(PR_SET_PDEATHSIG, 9)
        if os.getppid() != todo["dies_with"]:
            sys.exit("the parent is gone")
    if todo["files"] is not None or todo["calls"] is not None:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    if todo["files"] is not None:
        restrict_files(**todo["files"])
    if todo["calls"] is not None:
        refuse_calls(shared=todo["calls"] == "shared")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
