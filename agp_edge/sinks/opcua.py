"""An OPC UA server with the latest verdict and the counts of each source, for whoever reads and nobody who writes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hmac
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from agp_edge.address import LOCALHOST, format_address
from agp_edge.clock import utc
from agp_edge.control import Control, SourceStatus
from agp_edge.errors import InputError, quote
from agp_edge.events import Event
from agp_edge.extras import import_extra
from agp_edge.sinks.base import Judgement, Sink
from agp_edge.sinks.loop_thread import LoopThread
from agp_edge.sources.uri import escape_userinfo, redact

NAMESPACE = "urn:agp-edge"
PORT = 4840
STATUS_INTERVAL_S = 1.0
OPEN_S = 120.0
"""asyncua builds the standard's whole address space: a second on a desktop, many on a small device."""
WRITE_S, STOP_S, CLOSE_S = 5.0, 0.3, 5.0
LARGEST_MESSAGE = 1 << 20

ROOT_VARIABLES = {
    "Healthy": "Boolean",
    "Reason": "String",
    "Engine": "String",
    "Threshold": "Double",
    "EventNumber": "UInt64",
    "EventKind": "String",
    "EventSource": "String",
    "EventText": "String",
}
VERDICT_VARIABLES = {
    "Verdict": "String",
    "Score": "Double",
    "Threshold": "Double",
    "PValue": "Double",
    "Part": "String",
    "Time": "DateTime",
    "LatencyMs": "Double",
    "FrameNumber": "UInt64",
}
"""Written in this order, so who is told that the frame's number changed finds the rest there."""
COUNT_VARIABLES = {
    "Connected": "Boolean",
    "Captured": "UInt64",
    "Judged": "UInt64",
    "Ok": "UInt64",
    "Ng": "UInt64",
    "Dropped": "UInt64",
    "Failed": "UInt64",
    "Reconnects": "UInt64",
}

_HINT = "write opc.tcp://:4840/agp-edge, or opc.tcp://user:${PASSWORD}@0.0.0.0:4840/agp-edge for others than this machine"


@dataclass(frozen=True)
class Endpoint:
    """What the URL says.

    Attributes:
        name: the URL without its password.
        host, port: where it listens.
        url: as clients are told, without user and password.
        user, password: None where anybody may read.
        cert, key: files; with them connections are signed and encrypted.
    """

    name: str
    host: str
    port: int
    url: str
    user: str | None
    password: str
    cert: str | None
    key: str | None


def parse_endpoint(url: str) -> Endpoint:
    """Read `opc.tcp://user:pw@HOST:PORT/PATH?cert=FILE&key=FILE`.

    Raises:
        InputError: it is none.
    """
    name = redact(url)
    wrong = f"--opcua {name} is no address of an OPC UA server"
    try:
        parts = urlsplit(escape_userinfo(url))
        port = PORT if parts.port is None else parts.port
    except ValueError:
        raise InputError(wrong, _HINT) from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    strange = sorted(set(options) - {"cert", "key"})
    if strange:
        raise InputError(f"--opcua {name} has no {strange[0]!r}", "it has cert and key")
    if parts.scheme != "opc.tcp" or ("cert" in options) != ("key" in options):
        raise InputError(wrong, _HINT)
    if (parts.username is None) != (parts.password is None):
        raise InputError(f"--opcua {name} has a user without a password", _HINT)
    host = parts.hostname or LOCALHOST
    return Endpoint(
        name=name,
        host=host,
        port=port,
        url=f"opc.tcp://{format_address(host, port)}{parts.path}",
        user=None if parts.username is None else unquote(parts.username),
        password=unquote(parts.password or ""),
        cert=options.get("cert"),
        key=options.get("key"),
    )


class _Readers:
    """Who may come in: with the one user and password, or anybody. Nobody is an administrator."""

    def __init__(self, endpoint: Endpoint, rules: Any) -> None:
        self._endpoint, self._rules = endpoint, rules

    def get_user(
        self,
        iserver: object,
        username: str | None = None,
        password: str | None = None,
        certificate: object = None,
    ) -> Any:
        """A reader; None is refused."""
        if self._endpoint.user is not None:
            right = hmac.compare_digest((username or "").encode(), self._endpoint.user.encode())
            # Both are compared, so that the time says nothing of which was wrong.
            right &= hmac.compare_digest((password or "").encode(), self._endpoint.password.encode())
            if not right:
                return None
        return self._rules.User(role=self._rules.UserRole.User)


class OpcUaSink(Sink):
    """Serves `opc.tcp://user:pw@HOST:PORT/PATH`; without a host this machine alone.

    Below `Objects/AGP-Edge` are the stream's health, threshold and last event, and an object for each source (and region of
    interest) with its last verdict and its counts. A node's id is a string: `ns=2;s=NAME.Verdict`. The time of capture is each value's
    source timestamp. Values of verdicts are `BadWaitingForInitialData` before the first one.

    Args:
        url: with its secrets put in.

    Raises:
        InputError: it is no such URL, or the address is taken.
        MissingExtraError: there is no asyncua.
    """

    name = "--opcua"

    def __init__(self, url: str) -> None:
        self._endpoint = parse_endpoint(url)
        self._control: Control | None = None
        self._ua = import_extra("asyncua.ua", "opcua", self.name)
        _quieten()
        self._served: dict[str, dict[str, Any]] = {}
        self._events = 0
        self._watch: asyncio.Task[None] | None = None
        self._server: Any = None
        self._closed = False
        self._loop = LoopThread("opcua")
        try:
            self._loop.run(self._open(), OPEN_S)
        except BaseException:
            self._loop.close()
            raise

    @property
    def served_at(self) -> str:
        """What a client connects to."""
        port = self._server.bserver.port if self._server is not None else self._endpoint.port
        return f"opc.tcp://{format_address(self._endpoint.host, port)}{urlsplit(self._endpoint.url).path}"

    def attach(self, control: Control) -> None:
        """Be given the stream: its sources get their objects."""
        self._control = control
        self._loop.run(self._begin(control), OPEN_S)

    def write(self, judgement: Judgement) -> None:
        """Show one verdict.

        Raises:
            WorkStoppedError: it takes too long.
        """
        self._loop.run(self._show_verdict(judgement), WRITE_S)

    def event(self, event: Event) -> None:
        """Show an event as the last one."""
        self._loop.run(self._show_event(event), WRITE_S)

    def close(self) -> None:
        """Close the port and all connections."""
        if self._closed:
            return
        self._closed = True
        try:
            self._loop.run(self._end(), CLOSE_S)
        finally:
            self._loop.close()

    def describe(self) -> str:
        """Where it was served."""
        return f"OPC UA served at {self.served_at}"

    async def _open(self) -> None:
        asyncua = import_extra("asyncua", "opcua", self.name)
        rules = import_extra("asyncua.crypto.permission_rules", "opcua", self.name)
        connection = import_extra("asyncua.common.connection", "opcua", self.name)
        ua, endpoint = self._ua, self._endpoint
        server = asyncua.Server(user_manager=_Readers(endpoint, rules))
        await server.init()
        server.set_server_name("AGP-Edge")
        await server.set_application_uri(f"urn:{socket.gethostname()}:agp-edge")
        server.set_endpoint(endpoint.url)
        # By default whoever calls himself admin may write.
        server.allow_remote_admin(False)
        server.set_identity_tokens(
            [ua.AnonymousIdentityToken if endpoint.user is None else ua.UserNameIdentityToken]
        )
        server.limits = connection.TransportLimits(
            max_recv_buffer=65535,
            max_send_buffer=65535,
            max_chunk_count=LARGEST_MESSAGE // 65535 + 1,
            max_message_size=LARGEST_MESSAGE,
        )
        policies = [ua.SecurityPolicyType.NoSecurity]
        if endpoint.cert is not None:
            policies = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
            try:
                await server.load_certificate(*_read(endpoint.cert))
                key, form = _read(endpoint.key or "")
                await server.load_private_key(key, format=form)
            except (OSError, ValueError, TypeError) as error:
                raise InputError(
                    f"--opcua {endpoint.name}: the certificate cannot be used: {quote(error)}",
                    "give a certificate and its unlocked key, in PEM or DER",
                ) from None
        server.set_security_policy(policies, permission_ruleset=rules.SimpleRoleRuleset())
        self._index = await server.register_namespace(NAMESPACE)
        self._server = server
        self._root = await server.nodes.objects.add_object(
            ua.NodeId("AGP-Edge", self._index), ua.QualifiedName("AGP-Edge", self._index)
        )
        self._variables = await self._add_variables(self._root, "AGP-Edge", ROOT_VARIABLES)
        try:
            await server.start()
        except OSError as error:
            raise InputError(
                f"--opcua {endpoint.name} cannot be listened at: {error.strerror or quote(error)}",
                "take a port that is free (ss -ltn shows those that are not) and an address of this machine",
            ) from None

    async def _begin(self, control: Control) -> None:
        await self._show_status(control)
        self._watch = asyncio.get_running_loop().create_task(self._show_status_for_ever(control))

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        # It closes the port and then waits until its clock has slept out its second; that is not needed.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._server.stop(), STOP_S)

    async def _add_variables(self, parent: Any, name: str, types: dict[str, str]) -> dict[str, Any]:
        """Variables of a node, each without a value; name -> (node's id, type)."""
        ua = self._ua
        waiting = ua.DataValue(ua.Variant(), ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData))
        made = {}
        for variable, kind in types.items():
            node_id = ua.NodeId(f"{name}.{variable}", self._index)
            node_type = getattr(ua.VariantType, kind)
            await parent.add_variable(
                node_id, ua.QualifiedName(variable, self._index), _ZEROS[kind], node_type
            )
            await self._server.write_attribute_value(node_id, waiting)
            made[variable] = (node_id, node_type)
        return made

    async def _variables_of(self, source: str, roi: str | None) -> dict[str, Any]:
        name = source if roi is None else f"{source}/{roi}"
        if name not in self._served:
            ua = self._ua
            node = await self._root.add_object(
                ua.NodeId(name, self._index), ua.QualifiedName(name, self._index)
            )
            self._served[name] = await self._add_variables(
                node, name, {**VERDICT_VARIABLES, **COUNT_VARIABLES}
            )
        return self._served[name]

    async def _show(
        self, variables: dict[str, Any], values: dict[str, Any], wall_s: float | None = None
    ) -> None:
        ua = self._ua
        now = datetime.datetime.now(datetime.timezone.utc)
        at = now if wall_s is None else utc(wall_s)
        for name, value in values.items():
            node_id, kind = variables[name]
            said = ua.DataValue(
                ua.Variant(value, kind),
                ua.StatusCode(ua.StatusCodes.Good),
                SourceTimestamp=at,
                ServerTimestamp=now,
            )
            await self._server.write_attribute_value(node_id, said)

    async def _show_verdict(self, judgement: Judgement) -> None:
        variables = await self._variables_of(judgement.source, judgement.roi[0] if judgement.roi else None)
        values = (
            judgement.verdict,
            judgement.score,
            judgement.threshold,
            judgement.p_value,
            judgement.part or "",
            utc(judgement.wall_s),
            judgement.latency_ms.get("total", float("nan")),
            judgement.frame,
        )
        await self._show(variables, dict(zip(VERDICT_VARIABLES, values, strict=True)), judgement.wall_s)

    async def _show_event(self, event: Event) -> None:
        self._events += 1
        values = {
            "EventKind": event.kind,
            "EventSource": event.source or "",
            "EventText": event.text,
            "EventNumber": self._events,
        }
        await self._show(self._variables, values, event.wall_s)

    async def _show_status_for_ever(self, control: Control) -> None:
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            await self._show_status(control)

    async def _show_status(self, control: Control) -> None:
        status = control.status()
        values = {
            "Healthy": status["healthy"],
            "Reason": status["reason"],
            "Engine": status["engine"],
            "Threshold": status["threshold"],
        }
        await self._show(self._variables, values)
        for source in status["sources"]:
            await self._show(await self._variables_of(source["source"], source["roi"]), _counts(source))


_ZEROS = {
    "Boolean": False,
    "String": "",
    "Double": 0.0,
    "UInt64": 0,
    "DateTime": datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc),
}


def _counts(source: SourceStatus) -> dict[str, Any]:
    return {name: source[name.lower()] for name in COUNT_VARIABLES}  # type: ignore[literal-required]


def _read(path: str) -> tuple[bytes, str]:
    """A certificate or key, and its format; asyncua goes by the file's name."""
    data = Path(path).read_bytes()
    return data, "PEM" if b"-----BEGIN" in data else "DER"


def _quieten() -> None:
    """Keep asyncua's log from stderr, unless somebody set it up: it tells each client that goes away, with a traceback."""
    logger = logging.getLogger("asyncua")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
