#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The guest's part in `chslurm net check`: as root, send what the head says, and say what was seen.

Orders come in /ch/meta/test/orders.json, a turn after the other; the answer to each goes to /ch/meta/sync. Nothing is
judged here: a guest could lie about that anyway.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ORDERS = "/ch/meta/test/orders.json"
REPORT = "/ch/meta/sync/check.{}.{}"
LINK = "eth0"
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC, PACKET_OUTGOING = 263, 1, 1, 4
ETH_P_ALL = 3
LEAST_FRAME = 60


class Witness(threading.Thread):
    """Sees every frame that comes out of the link, whoever it is for, and knows those with the cluster's mark."""

    def __init__(self, mark):
        super().__init__(daemon=True)
        self.mark, self.seen = mark + b"\xc5", set()
        self.link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self.link.bind((LINK, ETH_P_ALL))
        membership = struct.pack("iHH8s", socket.if_nametoindex(LINK), PACKET_MR_PROMISC, 0, b"")
        self.link.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)

    def run(self):
        while True:
            data, origin = self.link.recvfrom(65536)
            start = data.find(self.mark)
            if origin[2] != PACKET_OUTGOING and 0 <= start <= len(data) - 8:
                self.seen.add((data[start + 5], int.from_bytes(data[start + 6 : start + 8], "big")))


def send(frames):
    """Twice each: one may be lost on a busy machine."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((LINK, 0))
        for frame in frames:
            for _ in range(2):
                link.send(bytes.fromhex(frame).ljust(LEAST_FRAME, b"\0"))
                time.sleep(0.001)
    return len(frames)


def knock(door, patience_s):
    """Say whether something answers at a TCP port. One that is closed now may open: services still start."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with socket.socket() as knocking:
            knocking.settimeout(max(deadline - time.monotonic(), 0.1))
            try:
                knocking.connect((door[0], door[1]))
                return True
            except OSError:
                time.sleep(0.2)
    return False


def ping(address, patience_s):
    command = ["ping", "-n", "-c1", "-w", str(max(int(patience_s), 1)), address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def act(part):
    """Do one turn's part and return what answered. Frames come last: without filters their lies are believed."""
    patience_s = part.get("patience_s", 3.0)
    doors, pings = part.get("doors", []), part.get("pings", [])
    with ThreadPoolExecutor(40) as pool:
        opened = list(pool.map(lambda door: knock(door, patience_s), doors))
        answered = list(pool.map(lambda address: ping(address, patience_s), pings))
    numbers = [[place for place, answer in enumerate(answers) if answer] for answers in (opened, answered)]
    return {"sent": send(part.get("frames", [])), "doors": numbers[0], "pings": numbers[1]}


def read_neighbours():
    with open("/proc/net/arp") as table:
        rows = [line.split() for line in table][1:]
    return {row[0]: row[3] for row in rows[:64] if row[3] != "00:00:00:00:00:00"}


def read_orders(after):
    """Wait for the next turn."""
    while True:
        try:
            with open(ORDERS) as file:
                orders = json.load(file)
            if orders["turn"] > after:
                return orders
        except (OSError, ValueError):  # not there yet
            pass
        time.sleep(0.2)


def main():
    guest = os.environ["CH_GUEST_ID"]
    if os.getuid() != 0:
        os.execvp("sudo", ["sudo", f"CH_GUEST_ID={guest}", sys.executable, __file__])
    turn, witness = 0, None
    while True:
        orders = read_orders(turn)
        turn = orders["turn"]
        if orders["end"]:
            return
        if witness is None:
            witness = Witness(bytes.fromhex(orders["mark"]))
            witness.start()
        report = {"turn": turn, **act(orders["guests"].get(guest, {}))}
        report["seen"] = sorted(witness.seen.copy())
        report["neighbours"] = read_neighbours()
        path = REPORT.format(guest, turn)
        with open(path + ".new", "w") as file:
            json.dump(report, file)
        os.rename(path + ".new", path)


main()
