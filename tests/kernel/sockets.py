# SPDX-License-Identifier: Apache-2.0
"""Small servers and clients for test guests, hosts and the outside.

sockets.py serve NAME tcp|udp|dns PORT [ADDRESS]     answers NAME (dns: an A record) until killed
sockets.py serve NAME udp-shared PORT [ADDRESS]      likewise, on a port that others may bind, too
sockets.py ask tcp|udp ADDRESS PORT                  prints the NAME that answers, or nothing
sockets.py ask dns|dns-tcp SERVER 53                 prints the address of outside.test
sockets.py sniff LINK WORDS                          prints what has passed when it gets TERM: see `sniff`
sockets.py forge PORT ADDRESS PORT HEX               sends a datagram under a port that somebody else has
sockets.py tap FD [NAME]                             makes a TAP, eth0, and sends its descriptor to socket FD
sockets.py witnesses FD LINK...                      sends descriptors of sockets that get what reaches this namespace
sockets.py speaker FD                                sends the descriptor of a socket for datagrams
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable

_QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07outside\x04test\x00\x00\x01\x00\x01"
_A_RECORD = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + bytes((198, 51, 100, 1))
TIMEOUT_S = 1.5
_ETH_P_ALL = 3
_LINK_LOCAL_TYPES = (0x88CC, 0x888E, 0x8809)  # LLDP, EAPOL, slow protocols
_IP_PROTOCOLS = (1, 2, 4, 6, 17, 47, 132)  # ICMP, IGMP, IP in IP, TCP, UDP, GRE, SCTP


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def answer_query(query: bytes) -> bytes:
    return query[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + query[12:] + _A_RECORD


def serve(name: str, kind: str, port: str, address: str = "0.0.0.0") -> None:
    family = family_of(address)
    dns = kind == "dns"
    if not kind.startswith("udp"):
        listener = socket.create_server((address, int(port)), family=family)
        threading.Thread(target=serve_tcp, args=(listener, name, dns), daemon=True).start()
    if kind != "tcp":
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == "udp-shared")
        server.bind((address, int(port)))
        threading.Thread(target=serve_udp, args=(server, name, dns), daemon=True).start()
    print("up", flush=True)
    signal.pause()


def serve_tcp(listener: socket.socket, name: str, dns: bool) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            if dns:
                answer = answer_query(connection.recv(600)[2:])
                connection.sendall(struct.pack("!H", len(answer)) + answer)
            else:
                connection.sendall(name.encode())


def serve_udp(server: socket.socket, name: str, dns: bool) -> None:
    while True:
        data, sender = server.recvfrom(65535)
        server.sendto(answer_query(data) if dns else name.encode(), sender)


def ask(kind: str, address: str, port: str) -> None:
    stream = kind in ("tcp", "dns-tcp")
    family = family_of(address)
    with socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as asking:
        asking.settimeout(TIMEOUT_S)
        try:
            asking.connect(socket.getaddrinfo(address, int(port), family)[0][4])
            if kind == "dns-tcp":
                asking.sendall(struct.pack("!H", len(_QUERY)) + _QUERY)
            else:
                asking.sendall(_QUERY if kind == "dns" else b"who?")
            data = asking.recv(2000)
        except OSError:
            return
        print(socket.inet_ntoa(data[-4:]) if kind.startswith("dns") else data.decode())


def sniff(link: str, words: str) -> None:
    """Say, as JSON, how many IP packets passed, how large they were, how many were fragments, and had the words."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as tap:
        tap.bind((link, 0))
        tap.settimeout(0.1)
        told_to_end = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
        print("up", flush=True)
        seen = {"packets": 0, "largest": 0, "fragments": 0, "readable": 0}
        while True:
            try:
                frame = tap.recv(70000)
            except TimeoutError:
                if told_to_end.is_set():
                    break
                continue
            if frame[12:14] == b"\x08\x00":
                seen["packets"] += 1
                seen["largest"] = max(seen["largest"], int.from_bytes(frame[16:18], "big"))
                seen["fragments"] += bool(int.from_bytes(frame[20:22], "big") & 0x3FFF)
                seen["readable"] += words.encode() in frame
    print(json.dumps(seen), flush=True)


def forge(source_port: str, address: str, port: str, data: str) -> None:
    payload = bytes.fromhex(data)
    header = struct.pack("!HHHH", int(source_port), int(port), 8 + len(payload), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.sendto(header + payload, (address, 0))


def tap(fd: str, name: str = "eth0") -> None:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000 | 0x4000))
    with socket.socket(fileno=int(fd)) as parent:
        socket.send_fds(parent, [b"x"], [device])


def witnesses(fd: str, *names: str) -> None:
    """A socket of each link, one for each protocol that ends at a port, and IP's behind all filters."""
    links = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) for _ in names]
    for link, name in zip(links, names, strict=True):
        link.bind((name, _ETH_P_ALL))
    ports = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind)) for kind in _LINK_LOCAL_TYPES]
    stack = [socket.socket(socket.AF_INET, socket.SOCK_RAW, number) for number in _IP_PROTOCOLS]
    with socket.socket(fileno=int(fd)) as parent:
        socket.send_fds(parent, [b"x"], [end.fileno() for end in (*links, *ports, *stack)])


def speaker(fd: str) -> None:
    """It is whoever's has opened it."""
    with socket.socket(fileno=int(fd)) as parent, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        socket.send_fds(parent, [b"x"], [end.fileno()])


if __name__ == "__main__":
    what: dict[str, Callable[..., None]] = {
        "serve": serve,
        "ask": ask,
        "sniff": sniff,
        "forge": forge,
        "tap": tap,
        "witnesses": witnesses,
        "speaker": speaker,
    }
    what[sys.argv[1]](*sys.argv[2:])
