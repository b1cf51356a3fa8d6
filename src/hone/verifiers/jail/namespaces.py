"""Linux namespaces by system calls: a root with nothing in it but Python's library, and no other process in sight.

``build_root`` is an allow-list. What is not mounted is not hidden but absent: homes, data, run folders, programs,
``/proc``, ``/sys``, sockets.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import sys

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_CAPABILITIES_V3 = 0x20080522
_SIGKILL = 9
NOBODY = 65534
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    """A function of libc.

    Raises:
        OSError: It failed, with its name.
    """
    result = getattr(_libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def leave_host(proc: int) -> None:
    """Move into fresh namespaces: mount, network, IPC, host name, for children process ids; and users, unless root.

    Args:
        proc: A descriptor of ``/proc``.
    """
    flags = _NEWNS | _NEWNET | _NEWIPC | _NEWUTS | _NEWPID
    if os.geteuid() == 0:
        _call("unshare", flags)
        os.setgroups([])
    else:
        _unshare_users(flags, proc)
    _write(proc, "sys/kernel/shmall", "0", optional=True)  # shared memory of System V would outlive who took it
    _write(proc, "self/oom_score_adj", "1000", optional=True)  # should memory run out, this goes first


def leave_supervisor(proc: int, tmp_bytes: int, visible: list[str]) -> None:
    """Move on into the candidate's: users (so that its processes are counted apart), mounts, process ids for children.

    ``/tmp`` becomes one of its own, empty but for ``visible`` folders that lie in it.
    """
    _unshare_users(_NEWNS | _NEWPID, proc)
    _write(proc, "sys/user/max_user_namespaces", "0", optional=True)  # no new ones, where one has capabilities again
    covered = {path: os.open(path, os.O_PATH) for path in visible if path.startswith("/tmp/")}
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={tmp_bytes},nr_inodes=4096,mode=1777")
    for path, fd in covered.items():
        os.makedirs(path)
        os.fchdir(fd)  # there is no /proc here by which a descriptor could be named
        _mount(".", path, None, _MS_BIND | _MS_REC)
        os.close(fd)


def _unshare_users(flags: int, proc: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", flags | _NEWUSER)
    _write(proc, "self/setgroups", "deny")
    _write(proc, "self/uid_map", f"{uid} {uid} 1")
    _write(proc, "self/gid_map", f"{gid} {gid} 1")


def _write(proc: int, path: str, text: str, optional: bool = False) -> None:
    try:
        fd = os.open(path, os.O_WRONLY, dir_fd=proc)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        if not optional:
            raise OSError(error.errno, f"/proc/{path}: {error.strerror}") from None


def build_root(visible: list[str]) -> None:
    """Make a root of the ``visible`` folders, some devices and an empty ``/tmp``, all read-only, and enter it."""
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    inside = tuple(f"{os.path.realpath(path)}/" for path in visible if not os.path.islink(path))
    links = {path: os.readlink(path) for path in visible if os.path.islink(path)}
    links = {path: to for path, to in links.items() if f"{os.path.realpath(path)}/".startswith(inside)}
    opened = {path: os.open(path, os.O_PATH) for path in visible if path not in links}
    opened |= {f"/dev/{name}": os.open(f"/dev/{name}", os.O_PATH) for name in DEVICES}
    root = "/tmp"
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    for folder in ("tmp", "dev", "proc"):
        os.mkdir(f"{root}/{folder}")
    for path, fd in opened.items():
        _bind(fd, root + path)
    for path, target in links.items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    os.symlink("/tmp", f"{root}/dev/shm")
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    _read_only("/", 0)


def _bind(fd: int, target: str) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT, 0o666))
    _mount(f"/proc/self/fd/{fd}", target, None, _MS_BIND | _MS_REC)
    os.close(fd)
    if not stat.S_ISCHR(mode):
        _read_only(target, _AT_RECURSIVE)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    given = [None if text is None else text.encode() for text in (source, target, kind, options)]
    try:
        _call("mount", given[0], given[1], given[2], ctypes.c_ulong(flags), given[3])
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({target})") from None


def _read_only(path: str, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(_ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    numbers = map(ctypes.c_long, (_SYS_MOUNT_SETATTR, _AT_FDCWD))
    _call("syscall", *numbers, path.encode(), ctypes.c_long(flags), ctypes.byref(attributes), ctypes.c_long(size))


def drop_root() -> None:
    """Become nobody, if root; its own files in ``/proc`` stay its own."""
    if os.geteuid() == 0:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every capability, in this namespace and for good."""
    no_new_privileges()
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def no_new_privileges() -> None:
    """Whatever is executed from here on gains nothing by it. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Be killed when the parent ends. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def hide_memory() -> None:
    """No process of the same user may look into this one."""
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def limit(memory: int, seconds: int, file: int, files: int, processes: int | None) -> None:
    """Set limits for this process and its children: bytes, seconds of processor time, bytes, counts.

    What is lower already stays so.
    """
    wanted = {"AS": memory, "CPU": seconds, "FSIZE": file, "NOFILE": files, "CORE": 0, "MSGQUEUE": 0, "MEMLOCK": 0}
    if processes is not None:
        wanted["NPROC"] = processes
    for name, most in wanted.items():
        which = getattr(resource, f"RLIMIT_{name}", None)
        if which is not None:
            _, hard = resource.getrlimit(which)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (most, most))
