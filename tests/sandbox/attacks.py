"""What an agent tries against its neighbours. Each script prints what it has gained, in words."""

from __future__ import annotations

_TRIED = """
import ctypes, os, signal, subprocess, sys

def tried(name, attack):
    try:
        attack()
    except (OSError, ValueError, subprocess.SubprocessError):
        return
    print(name)

def sure(condition):
    if not condition:
        raise OSError("refused")
"""

FILES = (
    _TRIED
    + """
name, mine = sys.argv[1], os.environ["TMPDIR"]
for directory in sys.argv[2:]:
    secret = directory + "/" + name
    tried("list", lambda: os.listdir(directory))
    tried("walk", lambda: sure(list(os.walk(directory))))
    tried("enter", lambda: os.chdir(directory))
    tried("stat", lambda: os.stat(secret))
    tried("read", lambda: open(secret).read())
    tried("write", lambda: open(secret, "a").write("x"))
    tried("create", lambda: open(directory + "/planted", "w").close())
    tried("make", lambda: os.mkdir(directory + "/planted-directory"))
    tried("link", lambda: os.link(secret, mine + "/link"))
    tried("open up", lambda: os.chmod(directory, 0o777))
    tried("rename", lambda: (os.rename(secret, secret + "-"), os.rename(secret + "-", secret)))
    tried("move", lambda: (os.rename(directory, mine + "/d"), os.rename(mine + "/d", directory)))
    tried("remove", lambda: os.unlink(secret))
"""
)
ALL_OF_FILES = {
    *("list", "walk", "enter", "stat", "read", "write", "create", "make", "link"),
    *("open up", "rename", "move", "remove"),
}

PROCESS = (
    _TRIED
    + """
import resource
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
here = ctypes.create_string_buffer(8)

class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

def copied():
    start = int(open("/proc/%d/maps" % pid).readline().split("-")[0], 16)
    to, of = Piece(ctypes.addressof(here), 8), Piece(start, 8)
    sure(libc.process_vm_readv(pid, ctypes.byref(to), 1, ctypes.byref(of), 1, 0) == 8)

def memory():
    with open("/proc/%d/mem" % pid, "rb") as file:
        file.seek(0x400000)

def descriptor():
    sure(libc.syscall(438, os.pidfd_open(pid), 0, 0) >= 0)

tried("environ", lambda: open("/proc/%d/environ" % pid, "rb").read())
tried("mem", memory)
tried("maps", lambda: open("/proc/%d/maps" % pid).read())
tried("auxv", lambda: open("/proc/%d/auxv" % pid, "rb").read())
tried("io", lambda: open("/proc/%d/io" % pid).read())
tried("fd", lambda: os.listdir("/proc/%d/fd" % pid))
tried("take fd", descriptor)
tried("cwd", lambda: os.listdir("/proc/%d/cwd/" % pid))
tried("root", lambda: os.listdir("/proc/%d/root/" % pid))
tried("exe", lambda: os.readlink("/proc/%d/exe" % pid))
tried("copy", copied)
tried("ptrace", lambda: sure(libc.ptrace(16, pid, 0, 0) == 0))
tried("nice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
tried("limit", lambda: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)))
tried("oom", lambda: open("/proc/%d/oom_score_adj" % pid, "w").write("1000"))
tried("ask", lambda: os.kill(pid, 0))
tried("group", lambda: (sure(pid != 1), os.killpg(pid, signal.SIGCONT)))  # -1 would be all
tried("kill", lambda: os.kill(pid, signal.SIGKILL))
"""
)
INSIDES = {"environ", "mem", "maps", "auxv", "io", "fd", "take fd", "cwd", "copy", "ptrace"}
"""Of those, what shows the memory of a process, or what it has open."""

IDENTITY = (
    _TRIED
    + """
uid, name = int(sys.argv[1]), sys.argv[2]
quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 20}

def ran(*argv):
    done = subprocess.run(argv, check=True, **quiet)
    sure(str(uid).encode() in done.stdout or b"uid=0" in done.stdout)

for number in (0, uid):
    tried("setuid %d" % number, lambda: os.setuid(number))
    tried("seteuid %d" % number, lambda: os.seteuid(number))
    tried("setresuid %d" % number, lambda: os.setresuid(-1, -1, number))
    tried("setgid %d" % number, lambda: os.setgid(number))
    tried("setgroups %d" % number, lambda: os.setgroups([number]))
tried("chown", lambda: (open("mine", "w").close(), os.chown("mine", uid, uid)))
for other in (name, "root"):
    tried("su", lambda: ran("su", other, "-c", "id"))
    tried("sudo", lambda: ran("sudo", "-n", "-u", other, "id"))
    tried("runuser", lambda: ran("runuser", "-u", other, "id"))
    tried("setpriv", lambda: ran("setpriv", "--reuid", str(uid), "id"))
tried("newgrp", lambda: ran("sg", name, "-c", "id"))
tried("chroot", lambda: os.chroot("/tmp"))
for path in ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/ld.so.preload", "/etc/crontab"):
    tried("write " + path, lambda: open(path, "a").close())
for path in ("/etc", "/etc/cron.d", "/var/spool/cron/crontabs", "/var/spool/cron", "/etc/profile.d",
             "/usr/local/bin", "/run", "/home", "/home/sandboxkit", "/opt"):
    if os.path.isdir(path):
        tried("create in " + path, lambda: open(path + "/planted", "w").close())
tried("read /etc/shadow", lambda: open("/etc/shadow").read())
tried("crontab", lambda: ran("crontab", "-u", name, "-l"))
tried("at", lambda: subprocess.run(["at", "now"], input=b"id", check=True, timeout=20))
"""
)

GUEST = (
    _TRIED
    + """
import glob, socket
for directory in ("/run/sandboxkit-0", "/tmp/sandboxkit-0", "/root"):
    tried("list " + directory, lambda: os.listdir(directory))
def connect():
    socket.socket(socket.AF_UNIX).connect("/run/sandboxkit-0/guest")
tried("connect", connect)
tried("list the places", lambda: os.listdir("/home/sandboxkit"))
"""
)

FORKS = """
import os, sys, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(3600)
            os._exit(0)
        count += 1
except BlockingIOError:
    print(count, flush=True)
time.sleep(3600)
"""
"""All processes that it can have; the number is printed, and then they stay."""
