"""What the user of `paddle-sft launch` says about several machines, checked before anything starts."""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from typing import Dict, Optional, Tuple, Union

from paddle_sft.core.errors import ArgumentError, PaddleSFTError

try:
    import fcntl
except ImportError:  # not on Windows, where gloo keeps its own choice
    fcntl = None

ETCD = "etcd://"
SIOCGIFADDR = 0x8915
"""Linux's request for the address of an interface, netdevice(7)."""


@dataclass(frozen=True)
class Nodes:
    """A fixed number of machines, of which this is number `rank`; machine 0 listens at host:port."""

    count: int
    rank: int
    host: str
    port: int

    @property
    def master(self) -> str:
        return f"{self.host}:{self.port}"

    def options(self, address: str) -> Tuple[str, ...]:
        """For Paddle's launcher. `address`: what the host's name means, so that nothing is looked up twice."""
        return "--nnodes", str(self.count), "--master", f"{address}:{self.port}", "--rank", str(self.rank)


@dataclass(frozen=True)
class Elastic:
    """From `least` to `most` machines that find each other through an etcd server; their numbers are Paddle's."""

    least: int
    most: int
    host: str
    port: int
    job_id: str
    max_restart: int
    timeout: int

    @property
    def master(self) -> str:
        return f"{self.host}:{self.port}"

    def options(self) -> Tuple[str, ...]:
        """For Paddle's launcher. Its default elastic_level is never to start again. A machine that joins clears all
        entries that begin with the name of its job, so the name gets an end that no other has in its middle."""
        nnodes = f"{self.least}:{self.most}" if self.least != self.most else str(self.most)
        return (
            *("--nnodes", nnodes, "--master", f"{ETCD}{self.master}", "--job_id", f"{self.job_id}."),
            *("--elastic_level", "1", "--max_restart", str(self.max_restart), "--elastic_timeout", str(self.timeout)),
        )


def read_machines(options: Dict[str, Optional[str]]) -> Union[Nodes, Elastic, None]:
    """From the values of nnodes, master, rank, job_id, max_restart, elastic_timeout; None for one machine alone.

    Raises:
        ArgumentError: something is missing, or two of them contradict each other.
    """
    if (options["master"] or "").startswith(ETCD):
        return _read_elastic(options)
    for name in ("max_restart", "elastic_timeout"):
        if options[name] is not None:
            raise ArgumentError(f"--{name} is for elastic runs, whose --master is {ETCD}HOST:PORT; leave it out")
    return _read_nodes(options["nnodes"], options["master"], options["rank"])


def _read_nodes(nnodes: Optional[str], master: Optional[str], rank: Optional[str]) -> Optional[Nodes]:
    if nnodes is None:
        given = " and ".join(f"--{name}" for name, value in (("master", master), ("rank", rank)) if value is not None)
        if given:
            raise ArgumentError(f"{given} is for several machines; add --nnodes, the number of machines")
        return None
    if ":" in nnodes:
        raise ArgumentError(f"--nnodes {nnodes} is a range, which needs --master {ETCD}HOST:PORT; else give one number")
    count = _number("nnodes", nnodes, least=1)
    if count == 1:
        if rank not in (None, "0"):
            raise ArgumentError(f"--nnodes 1 has machine 0 only, and --rank says {rank}; is --nnodes right?")
        return None
    if master is None:
        raise ArgumentError(
            f"--nnodes {count} needs --master HOST:PORT: the address of machine 0, and a free port there; "
            "the same on every machine"
        )
    if rank is None:
        raise ArgumentError(
            f"--rank is missing: --nnodes {count} needs the number of this machine, 0 to {count - 1}; "
            f"machine 0 is {master.split(':')[0]}"
        )
    host, port = _host_port(master, master)
    number = _number("rank", rank, least=0)
    if number >= count:
        raise ArgumentError(f"--rank must be from 0 to {count - 1}, because --nnodes is {count}; got {number}")
    return Nodes(count, number, host, port)


def _read_elastic(options: Dict[str, Optional[str]]) -> Elastic:
    master = options["master"]
    host, port = _host_port(master[len(ETCD) :], master)
    if options["rank"] is not None:
        raise ArgumentError("--rank does not go with etcd: machines come and go, and are numbered anew; leave it out")
    if options["job_id"] is None:
        raise ArgumentError(f"--job_id is missing: machines of one job find each other by it at {master}")
    if not re.fullmatch(r"[\w-]+", options["job_id"]):
        raise ArgumentError(f"--job_id may have letters, digits, _ and - only, got {options['job_id']!r}")
    least, _, most = (options["nnodes"] or "").partition(":")
    if not least:
        raise ArgumentError("--nnodes is missing: give the smallest and the largest number of machines, such as 1:2")
    low = _number("nnodes", least, least=1)
    high = _number("nnodes", most or least, least=1)
    if high < low:
        raise ArgumentError(f"--nnodes {least}:{most} runs backwards; write {most}:{least}")
    restarts = _number("max_restart", options["max_restart"] or "3", least=0)
    timeout = _number("elastic_timeout", options["elastic_timeout"] or "30", least=2)
    return Elastic(low, high, host, port, options["job_id"], restarts, timeout)


def _number(name: str, text: str, least: int) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise ArgumentError(f"--{name} must be a number from {least} on, got {text!r}")
    return int(text)


def _host_port(text: str, given: str) -> Tuple[str, int]:
    match = re.fullmatch(r"([^:/\s]+):(\d{1,5})", text)
    if match is None or not 0 < int(match.group(2)) < 65536:
        raise ArgumentError(f"--master must be HOST:PORT, such as 10.0.0.1:8090, got {given!r}")
    return match.group(1), int(match.group(2))


def address_of(host: str) -> str:
    """What a name means here (IPv4).

    Raises:
        OSError: nobody knows the name.
    """
    return socket.gethostbyname(host)


def own_address(towards: str, port: int) -> str:
    """The address of this machine that others reach it by: where its packets to the master come from.

    The name of a machine often means 127.0.1.1 on the machine itself, which is what Paddle's launcher would publish.

    Raises:
        OSError: no way leads there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((towards, port))
        return probe.getsockname()[0]


def require_here(nodes: Nodes, address: str) -> None:
    """Raise unless the master's address is one of this machine, which is machine 0."""
    with socket.socket() as tried:
        try:
            tried.bind((address, 0))
        except OSError as error:
            raise ArgumentError(
                f"--rank 0 is the machine of --master, and {nodes.host} ({address}) is no address of this machine; "
                f"is --rank right? Machines other than {nodes.host} have --rank 1 to {nodes.count - 1}"
            ) from error


def interface_of(address: str) -> Optional[str]:
    """The name of the interface with this address; None if it can't be told."""
    if fcntl is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


class Unreachable(PaddleSFTError):
    """Machines of a job did not find each other in time."""
