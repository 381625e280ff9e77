"""No test reaches another machine: connecting or looking up a name that is not this machine's raises at once.

A subprocess is not guarded: launch one with ``environment()``, where every proxy points at a closed local port.
"""

import contextlib
import os
import socket

LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None)


class NetworkUsed(OSError):
    """A test tried to reach another machine."""


def is_local(host):
    """Whether ``host`` (a name, an address or None) is this machine."""
    host = host.decode() if isinstance(host, bytes) else host
    return host in LOCAL or str(host).startswith("127.") or host == socket.gethostname()


def install(monkeypatch):
    """Replaces what opens connections; returns the list to which every refused host is added."""
    tried = []

    def guard(host):
        if not is_local(host):
            tried.append(str(host))
            raise NetworkUsed(f"a test tried to reach {host!r}")

    def guarded(method):
        def connect(self, address, *args):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                guard(address[0])
            return method(self, address, *args)

        return connect

    def guarded_lookup(lookup):
        def getaddrinfo(host, *args, **kwargs):
            guard(host)
            return lookup(host, *args, **kwargs)

        return getaddrinfo

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup(socket.getaddrinfo))
    return tried


@contextlib.contextmanager
def held_port():
    """A port of this machine that nobody else is given while it is held.  A server of gRPC, which shares ports, may listen there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("localhost", 0))
        yield holder.getsockname()[1]


def environment(**extra):
    """``os.environ`` for a subprocess whose HTTP clients find no way out, with ``extra`` added."""
    closed = "http://127.0.0.1:9"
    proxies = {f"{kind}_proxy": closed for kind in ("http", "https", "all")}
    return {**os.environ, **proxies, **{k.upper(): v for k, v in proxies.items()}, "NO_PROXY": "localhost,127.0.0.1", **extra}
