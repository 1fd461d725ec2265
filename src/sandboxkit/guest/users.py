"""Users of their own, for agents that share a sandbox: made, and removed with all they left.

The guest is root, but maybe a root that can only change its user and kill (Docker): it can
give nothing away, and read nothing of others. So a user's place belongs to root, and to a
group that this user alone is in; what is in it, the user has made.
"""

from __future__ import annotations

import grp
import os
import pwd
import signal
import time
from typing import Any, Callable, Dict, List, Optional, Set

from . import places, spawn
from .channels import Channel, Client, failure
from .loop import Loop

KEY = "sandboxkit."  # before the name, where a request names one: no user of an image's

_FIRST_ID, _IDS = 20_000, 40_000  # below 65,536: more are not there in a user namespace
_UMASK = 0o007  # private, but for the group: the user's own, or that of a shared folder
_PATIENCE_S = 2.0  # for a child that kills, which its victims may stop
_AGAIN_S = 0.05
_LOOK_S = 0.005
_TRIES = 100
_NOT_APART = 77  # the exit code of a child


class Users:
    """Who there is. A user's number is given once while the guest lives."""

    def __init__(self) -> None:
        self._names: Set[str] = set()
        self._settings: Dict[str, Dict[str, Any]] = {}
        self._spent: Set[int] = set()

    def settings(self, key: Optional[str]) -> Optional[Dict[str, Any]]:
        """What is to be filled in where a request names this user; None for all others."""
        return self._settings.get(key or "")

    def make(self, request: Dict[str, Any]) -> spawn.User:
        """Make the user, or take over what a guest before this one has left of it.

        Raises:
            StartError: `bad_user`, `in_use` or `unsafe_folder`, or the place cannot be made.
        """
        if os.getuid() != 0:
            raise spawn.StartError("not_root", "the guest is not root here: it can make no users")
        name = str(request["name"])
        if name in self._names:
            raise spawn.StartError("in_use", "another session is the user %s" % name)
        path = places.path_of(name)
        left = places.owner_of(path)
        if left is not None and left != request.get("uid"):
            raise spawn.StartError("in_use", "%s is there already" % path)
        if left is None and _is_known(name):
            raise spawn.StartError("in_use", "the image has a user or a group %s" % name)
        groups = [places.share(folder, self._free) for folder in request.get("shared") or ()]
        self._spent.update(groups)
        number = self._free() if left is None else left
        user = spawn.User(
            number,
            number,
            [number, *groups],
            name,
            path + "/home",
            _UMASK,
            int(request["processes"]),
        )
        self._spent.add(number)
        try:
            places.make(path, user)
        except OSError:
            places.remove(user)
            raise
        places.enter(user)
        self._names.add(name)
        return user

    def admit(self, user: spawn.User) -> Dict[str, Any]:
        """From now on, requests can name this user; what is filled in where they do."""
        path = os.path.dirname(user.home)
        settings = {
            "home": user.home,
            "workdir": path + "/work",
            "env": {
                "HOME": user.home,
                "USER": user.name,
                "LOGNAME": user.name,
                "TMPDIR": path + "/tmp",
            },
        }
        self._settings[KEY + user.name] = settings
        spawn.OWN[KEY + user.name] = user
        return settings

    def forget(self, user: spawn.User) -> None:
        """Nothing is started as this user from now on."""
        self._settings.pop(KEY + user.name, None)
        spawn.OWN.pop(KEY + user.name, None)

    def release(self, user: spawn.User) -> None:
        """The name can be given again."""
        self._names.discard(user.name)

    def _free(self) -> int:
        """A number that nobody has, by chance.

        The kernel counts processes by it, and containers beside this one may have users of
        ours, too.
        """
        taken = self._spent | places.numbers()
        for _ in range(10 * _IDS):
            number = _FIRST_ID + int.from_bytes(os.urandom(4), "big") % _IDS
            if number not in taken and not _has_name(number):
                self._spent.add(number)
                return number
        raise spawn.StartError("no_resources", "there is no user id left")


def _has_name(number: int) -> bool:
    for look_up in (pwd.getpwuid, grp.getgrgid):
        try:
            look_up(number)
        except KeyError:
            continue
        return True
    return False


def _is_known(name: str) -> bool:
    """Whether the name means something in the image, which `sudo`, say, may go by."""
    if any(name == entry.pw_name for entry in pwd.getpwall()):
        return True
    return any(name == entry.gr_name or name in entry.gr_mem for entry in grp.getgrall())


class OwnUser(Channel):
    """One user, who is there for as long as the channel is."""

    passive = True

    def __init__(
        self, client: Client, number: int, loop: Loop, users: Users, request: Dict[str, Any]
    ) -> None:
        super().__init__(client, number, loop)
        self._users = users
        self._user = users.make(request)
        self._child = 0
        self._ending = self._asked = False
        # What a guest before this one has left running as the user is not the session's.
        guest = os.getpid()
        self._do(lambda: _begin(self._user.uid, guest), self._ready, _PATIENCE_S)

    def _ready(self) -> None:
        if not self._ending:
            settings = self._users.admit(self._user)
            paths = {name: settings[name] for name in ("home", "workdir")}
            self.say_reply({"uid": self._user.uid, **paths})

    def _refuse(self) -> None:
        message = "the kernel of this sandbox shows the processes of a user to all others"
        self.say_done(failure("not_apart", message))
        self._end()

    def call(self, value: Dict[str, Any]) -> None:
        if "end" not in value:
            super().call(value)
            return
        self._asked = True
        self._end()

    def abort(self, reset: bool = False) -> None:
        self._end()

    def _end(self) -> None:
        """Kill all that runs as the user, however it hides, and remove what it has."""
        if not self._ending:
            self._ending = True
            self._users.forget(self._user)
            self._kill(self._wipe)

    def _kill(self, then: Callable[[], None]) -> None:
        self._do(lambda: _kill_all(self._user.uid), then, _PATIENCE_S)

    def _wipe(self) -> None:
        self._do(lambda: places.wipe(self._user), self._remove)

    def _do(
        self,
        body: Callable[[], None],
        then: Callable[[], None],
        patience_s: float = 0.0,
        tries: int = _TRIES,
    ) -> None:
        """Do something in a child as the user, as often as it takes; and `then` go on.

        With patience, the child may be killed or stopped by what it is to kill.
        """

        def ended(code: int) -> None:
            self._child = 0
            if code == _NOT_APART:
                self._refuse()
            elif code == 0 or tries <= 1:
                then()
            else:
                self.loop.later(_AGAIN_S, lambda: self._do(body, then, patience_s, tries - 1))

        null = -1
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            child = self._child = spawn.fork(self._user, null, body)
        except (OSError, spawn.StartError):
            sweep(self._user.uid)  # they may have used up what a fork needs
            ended(-1)
            return
        finally:
            if null != -1:
                os.close(null)
        self.loop.on_child(child, ended)
        if patience_s:
            self.loop.later(patience_s, lambda: self._lose_patience(child))

    def _lose_patience(self, child: int) -> None:
        if self._child == child:
            os.kill(child, signal.SIGKILL)

    def _remove(self) -> None:
        places.remove(self._user)
        self._users.release(self._user)
        if self._asked:
            self.say_return({})


def _begin(uid: int, guest: int) -> None:
    """As the user: have nothing running, and see whether what others run can be looked into."""
    _kill_all(uid)
    for name in ("environ", "maps", "fd"):
        path = "/proc/%d/%s" % (guest, name)
        try:
            if name == "fd":
                os.listdir(path)
            else:
                with open(path, "rb") as file:
                    file.read(1)
        except OSError:
            continue
        os._exit(_NOT_APART)


def _kill_all(uid: int) -> None:
    """As the user: one signal to all that it may reach, which no fork can run away from."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        if not _running(uid):
            return
        time.sleep(_LOOK_S)


def sweep(uid: int) -> None:
    """Kill what runs as a user, one after another, where there is no room for a fork."""
    for pid in _running(uid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _running(uid: int) -> List[int]:
    """The user's processes, save this one and those that have ended."""
    found: List[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open("/proc/%s/status" % name, "rb") as status:
                fields = dict(line.split(b":", 1) for line in status if b":" in line)
        except OSError:
            continue
        ended = fields.get(b"State", b"").split()[:1] in ([b"Z"], [b"X"])
        if fields.get(b"Uid", b"").split()[:1] == [b"%d" % uid] and not ended:
            found.append(int(name))
    return found
