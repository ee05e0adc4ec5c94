"""A real Kafka broker on loopback (one node, no ZooKeeper), its jars from Maven Central by `scripts/setup-kafka`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, unused_port

_JARS = Path(__file__).parents[2] / ".kafka" / "jars"
_CLUSTER = "ZW9jdGwtdGVzdHMtMDAwMA"
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SECURE://127.0.0.1:{secure}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={directory}/server.pem
listener.name.secure.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.secure.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_ada="secret";
listener.name.secure.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
controller.listener.names=CONTROLLER
log.dirs={data}
num.partitions=1
num.io.threads=2
num.network.threads=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.max.timeout.ms=3600000
transaction.abort.timed.out.transaction.cleanup.interval.ms=100
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.retention.ms=-1
"""
_CERTIFICATE = [
    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
    *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "server.pem", "-out", "server.pem"),
]


@dataclass
class Kafka:
    """A running broker; `restart` after `kill` is what follows a crash of it."""

    directory: Path
    port: int
    secure_port: int
    daemon: Daemon

    @property
    def secure(self) -> str:
        """The address of the listener with TLS and SASL: user `ada`, password `secret`."""
        return f"127.0.0.1:{self.secure_port}"

    @property
    def certificate(self) -> str:
        """Whom to trust there."""
        return str(self.directory / "server.pem")

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def restart(self) -> None:
        self.daemon = _start(self.directory)


@contextlib.contextmanager
def running_kafka() -> Iterator[Kafka]:
    """A new, empty broker, gone at the end. Skips where Java, the jars or the client are not there."""
    if shutil.which("java") is None:
        pytest.skip("no Java on PATH")
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH")
    if not _JARS.is_dir():
        pytest.skip("no Kafka: scripts/setup-kafka")
    if find_spec("confluent_kafka") is None:
        pytest.skip("confluent-kafka is not installed (pip install 'eoctl[test]')")
    directory = Path(tempfile.mkdtemp(prefix="eoctl-kafka-"))
    try:
        port, secure = unused_port(), unused_port()
        settings = _PROPERTIES.format(
            port=port,
            controller=unused_port(),
            secure=secure,
            data=directory / "data",
            directory=directory,
            login="org.apache.kafka.common.security",
        )
        subprocess.run(_CERTIFICATE, check=True, capture_output=True, cwd=directory)
        (directory / "server.properties").write_text(settings)
        subprocess.run(
            [
                *(*_java("128m"), "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", "server.properties"),
                *("--add-scram", "SCRAM-SHA-512=[name=ada,password=secret]"),
            ],
            check=True,
            capture_output=True,
            cwd=directory,
        )
        broker = Kafka(directory, port, secure, _start(directory))
        try:
            yield broker
        finally:
            broker.daemon.kill()  # its data goes with it
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _java(heap: str) -> list[str]:
    return [
        "java",
        f"-Xmx{heap}",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
        "-cp",
        os.fspath(_JARS / "*"),
    ]


def _start(directory: Path) -> Daemon:
    return Daemon([*_java("400m"), "kafka.Kafka", "server.properties"], ready="Kafka Server started", cwd=directory)
