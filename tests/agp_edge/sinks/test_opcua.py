"""The OPC UA sink with a real client."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from agp_edge.clock import utc
from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.sinks import opcua
from agp_edge.sinks.opcua import OpcUaSink
from tests.agp_edge.sinks.streams import SOURCE, WALL_S, PlainControl, make_judgement, make_source

asyncua = pytest.importorskip("asyncua")
ua = pytest.importorskip("asyncua.ua")


@pytest.fixture(scope="module")
def shared() -> Iterator[OpcUaSink]:
    """A server for those tests that leave it as it was: to make one takes a second."""
    made = OpcUaSink("opc.tcp://:0/agp-edge")
    made.attach(PlainControl(make_source(), make_source(roi="left", captured=11)))
    yield made
    made.close()
    made.close()
    assert not [t for t in threading.enumerate() if t.name == "opcua"]


@contextlib.asynccontextmanager
async def connected(url: str, prepare: Callable[[Any], Any] = lambda client: None) -> AsyncIterator[Any]:
    client = asyncua.Client(url, timeout=30)
    prepared = prepare(client)
    if asyncio.iscoroutine(prepared):
        await prepared
    async with client:
        yield client


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 120))


async def read(client: Any, name: str) -> Any:
    index = await client.get_namespace_index(opcua.NAMESPACE)
    return await client.get_node(ua.NodeId(name, index)).read_data_value(raise_on_bad_status=False)


async def read_all(url: str, *names: str) -> list[Any]:
    async with connected(url) as client:
        return [await read(client, name) for name in names]


def test_a_verdict_and_the_counts_are_read(shared: OpcUaSink) -> None:
    shared.write(make_judgement(41, "NG", roi="left", score=0.75, part="P-7"))
    of = f"{SOURCE}/left"
    names = [*opcua.VERDICT_VARIABLES, *opcua.COUNT_VARIABLES]
    read = run(read_all(shared.served_at, *(f"{of}.{name}" for name in names)))
    values = {name: data.Value.Value for name, data in zip(names, read, strict=True)}
    at = values.pop("Time")
    assert values == {
        "Verdict": "NG", "Score": 0.75, "Threshold": 0.5, "PValue": 0.01, "Part": "P-7", "LatencyMs": 1.5, "FrameNumber": 41,
        "Connected": True, "Captured": 11, "Judged": 8, "Ok": 6, "Ng": 2, "Dropped": 1, "Failed": 1, "Reconnects": 3,
    }  # fmt: skip
    for moment in (at, read[0].SourceTimestamp):
        assert moment.replace(tzinfo=datetime.timezone.utc) == utc(WALL_S + 41)
    kinds = {name: data.Value.VariantType.name for name, data in zip(names, read, strict=True)}
    assert kinds == {**opcua.VERDICT_VARIABLES, **opcua.COUNT_VARIABLES}


def test_before_the_first_verdict_there_is_none(shared: OpcUaSink) -> None:
    verdict, score, event, healthy = run(
        read_all(
            shared.served_at, f"{SOURCE}.Verdict", f"{SOURCE}.Score", "AGP-Edge.EventText", "AGP-Edge.Healthy"
        )
    )
    for data in (verdict, score, event):
        assert (
            data.StatusCode_.value
            if hasattr(data, "StatusCode_")
            else data.StatusCode.value == (ua.StatusCodes.BadWaitingForInitialData)
        )
    assert healthy.Value.Value is True


def test_it_can_be_browsed(shared: OpcUaSink) -> None:
    async def browse() -> dict[str, list[str]]:
        async with connected(shared.served_at) as client:
            index = await client.get_namespace_index(opcua.NAMESPACE)
            root = await client.nodes.objects.get_child([f"{index}:AGP-Edge"])
            found = {}
            for node in await root.get_children(nodeclassmask=ua.NodeClass.Object):
                names = [(await child.read_browse_name()).Name for child in await node.get_children()]
                found[(await node.read_browse_name()).Name] = names
            return found

    variables = [*opcua.VERDICT_VARIABLES, *opcua.COUNT_VARIABLES]
    assert run(browse()) == {SOURCE: variables, f"{SOURCE}/left": variables}


class Heard:
    """A subscription: what was told, in order."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        self.values.append(value)


def test_who_subscribes_is_told_of_every_frame(shared: OpcUaSink) -> None:
    async def listen() -> list[Any]:
        heard = Heard()
        async with connected(shared.served_at) as client:
            index = await client.get_namespace_index(opcua.NAMESPACE)
            node = client.get_node(ua.NodeId(f"{SOURCE}/left.FrameNumber", index))
            subscription = await client.create_subscription(20, heard)
            await subscription.subscribe_data_change(node, queuesize=100)
            for frame in range(100, 120):
                await asyncio.to_thread(shared.write, make_judgement(frame, roi="left"))
            until = time.monotonic() + 60
            while 119 not in heard.values and time.monotonic() < until:
                await asyncio.sleep(0.02)
            await subscription.delete()
        return heard.values

    assert run(listen())[-20:] == list(range(100, 120))


def test_an_event_is_the_last_one(shared: OpcUaSink) -> None:
    names = [f"AGP-Edge.Event{name}" for name in ("Number", "Kind", "Source", "Text")]
    shared.event(Event("frozen", "the picture stands", source="cam"))
    shared.event(Event("stopping", "told to stop"))
    assert [data.Value.Value for data in run(read_all(shared.served_at, *names))] == [
        2,
        "stopping",
        "",
        "told to stop",
    ]


@pytest.mark.parametrize("user", [None, "admin"])
def test_nobody_writes_whatever_he_calls_himself(shared: OpcUaSink, user: str | None) -> None:
    async def attack() -> None:
        async with connected(shared.served_at) as client:
            index = await client.get_namespace_index(opcua.NAMESPACE)
            for name, value in (("AGP-Edge.Healthy", False), (f"{SOURCE}.Captured", ua.UInt64(99))):
                with pytest.raises(ua.UaStatusCodeError):
                    await client.get_node(ua.NodeId(name, index)).write_value(value)
            with pytest.raises((ua.UaStatusCodeError, ConnectionError)):
                await client.nodes.objects.add_object(index, "mine")

    async def enter() -> None:
        async with connected(shared.served_at, lambda client: client.set_user(user)):
            raise AssertionError("a name without a meaning was let in")

    if user is None:
        run(attack())
    else:
        with pytest.raises(ua.UaError):
            run(enter())
    assert run(read_all(shared.served_at, "AGP-Edge.Healthy"))[0].Value.Value is True


def credentials(user: str, password: str) -> Callable[[Any], None]:
    def prepare(client: Any) -> None:
        client.set_user(user)
        client.set_password(password)

    return prepare


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate as OPC UA wants it, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(True, True, True, True, False, True, False, False, False)
    alternative = [x509.UniformResourceIdentifier(f"urn:{socket.gethostname()}:{name}")]
    alternative.append(x509.DNSName(socket.gethostname()))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = (folder / f"{name}.pem", folder / f"{name}-key.pem")
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def test_with_a_password_nobody_reads_without_it_and_with_a_certificate_nobody_reads_along(
    tmp_path: Path,
) -> None:
    cert, key = make_certificate(tmp_path, "agp-edge")
    own_cert, own_key = make_certificate(tmp_path, "client")
    sink = OpcUaSink(f"opc.tcp://admin:p@ss/w@:0/x?cert={cert}&key={key}")
    assert "p@ss" not in sink.describe() + sink.served_at + repr(sink.__dict__.get("name"))

    async def enter(user: str | None, password: str) -> Any:
        async def prepare(client: Any) -> None:
            client.application_uri = f"urn:{socket.gethostname()}:client"
            await client.set_security(
                pytest.importorskip("asyncua.crypto.security_policies").SecurityPolicyBasic256Sha256,
                certificate=str(own_cert),
                private_key=str(own_key),
                server_certificate=str(cert),
            )
            if user is not None:
                credentials(user, password)(client)

        async with connected(sink.served_at, prepare) as client:
            index = await client.get_namespace_index(opcua.NAMESPACE)
            # His name gives him no rights.
            with pytest.raises(ua.UaStatusCodeError):
                await client.get_node(ua.NodeId("AGP-Edge.Healthy", index)).write_value(False)
            return await client.nodes.server_state.read_value()

    async def enter_in_the_clear() -> None:
        async with connected(sink.served_at, credentials("admin", "p@ss/w")):
            raise AssertionError("the password went over the network as it is")

    try:
        assert run(enter("admin", "p@ss/w")) == 0
        for user, password in ((None, ""), ("admin", "wrong"), ("line", "p@ss/w")):
            with pytest.raises(ua.UaError):
                run(enter(user, password))
        with pytest.raises((ua.UaError, ConnectionError, asyncio.TimeoutError)):
            run(enter_in_the_clear())
    finally:
        sink.close()


def test_a_score_that_is_no_number_is_one_here(shared: OpcUaSink) -> None:
    shared.write(make_judgement(200, "NG", roi="left", score=math.nan))
    assert math.isnan(run(read_all(shared.served_at, f"{SOURCE}/left.Score"))[0].Value.Value)


def test_the_port_is_free_again_though_a_client_is_connected_and_is_refused_while_it_is_not() -> None:
    sink = OpcUaSink("opc.tcp://:0/x")
    port = int(sink.served_at.rpartition(":")[2].partition("/")[0])
    with pytest.raises(InputError, match=f"--opcua opc.tcp://:{port}/x cannot be listened at"):
        OpcUaSink(f"opc.tcp://:{port}/x")

    async def hold() -> None:
        client = asyncua.Client(sink.served_at, timeout=30)
        await client.connect()
        try:
            began = time.monotonic()
            await asyncio.to_thread(sink.close)
            assert time.monotonic() - began < 5
        finally:
            with contextlib.suppress(Exception):
                await client.disconnect()

    run(hold())
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("opc.tcp://host:x/", "no address"),
        ("http://me:s3cret@host/", "no address"),
        ("opc.tcp://me@host/", "without a password"),
        ("opc.tcp://me:s3cret@host/?cert=x.pem", "no address"),
        ("opc.tcp://me:s3cret@host/?policy=none", "no 'policy'"),
        ("opc.tcp://me:s3cret@:0/?cert=/nowhere.pem&key=/nowhere.key", "certificate cannot be used"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    before = threading.active_count()
    with pytest.raises(InputError, match="--opcua") as caught:
        OpcUaSink(url)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert threading.active_count() == before
