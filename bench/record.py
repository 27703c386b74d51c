"""Records how real clients encode header blocks: `python -m bench.record [NAME …]`.

Each client sends requests over four connections, one of the bench's keys on each, to a server that
answers and keeps the blocks (`bench.recorder`). What comes of it is written to `bench/encoders`,
from where `bench.load --encoder NAME` sends it again. Needs Go, Node with npm, and Maven with a JDK
for the clients in these languages.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import yaml

from bench import bodies, collector, heads, keys
from bench.heads import Recording
from bench.process import Program, ProgramError, free_port
from bench.recorder import Recorder

_CONNECTIONS = 4
_REQUESTS = 64
_CLIENTS = Path(__file__).with_name("clients")
_BUILT = Path(__file__).parents[1] / ".cache" / "peers"
_METHOD = heads.PATH.removeprefix("/")

Send = Callable[[Path, int], str]
"""Sends to a port, with files in a folder; returns the client's name and version."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client to record, and whether it is told to use no table."""

    send: Send
    is_told: bool = True


def _run(command: list[str | Path], cwd: Path) -> str:
    """Return what a command prints. Raises ProgramError."""
    program = shutil.which(command[0])
    if program is None:
        message = f"{command[0]} is not installed"
        raise ProgramError(message)
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        message = f"{command[0]} fails: {done.stdout[-1000:]}{done.stderr[-2000:]}"
        raise ProgramError(message)
    return done.stdout


def _arguments(folder: Path, port: int, number: int) -> list[str | Path]:
    """Return what the clients in other languages take."""
    message = folder / "message"
    message.write_bytes(bodies.body("small").message)
    return [str(port), _METHOD, keys.authorizations()[number], str(_REQUESTS), message]


def grpc_go(folder: Path, port: int) -> str:
    """A Collector with an exporter for each key; each export has what is left of 5 s."""
    path = collector.program()
    receivers = [free_port() for _ in range(_CONNECTIONS)]
    names = [str(number) for number in range(_CONNECTIONS)]
    configuration = {
        "receivers": {
            f"otlp/{name}": {"protocols": {"http": {"endpoint": f"127.0.0.1:{receiver}"}}}
            for name, receiver in zip(names, receivers, strict=True)
        },
        "exporters": {
            f"otlp/{name}": {
                "endpoint": f"127.0.0.1:{port}",
                "compression": "none",
                "tls": {"insecure": True},
                "headers": {"authorization": authorization},
                "sending_queue": {"enabled": False},
                "retry_on_failure": {"enabled": False},
            }
            for name, authorization in zip(names, keys.authorizations(), strict=False)
        },
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {
                f"traces/{name}": {"receivers": [f"otlp/{name}"], "exporters": [f"otlp/{name}"]}
                for name in names
            },
        },
    }
    file = folder / "collector.yaml"
    file.write_text(yaml.safe_dump(configuration))
    program = Program.start("otelcol", [str(path), "--config", str(file)], folder=folder, core=None)
    try:
        for receiver in receivers:
            program.wait_for_port(receiver)
            for _ in range(_REQUESTS):
                _post(receiver)
    finally:
        program.stop()
    return f"grpc-go in the {collector.build_of(path).title}"


def _post(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/x-protobuf"}
    connection.request("POST", "/v1/traces", bodies.body("small").message, headers)
    answer = connection.getresponse()
    if answer.status != http.HTTPStatus.OK:
        message = f"the Collector answers {answer.status}: {answer.read()!r}"
        raise ProgramError(message)
    connection.close()


def c_core(_: Path, port: int) -> str:
    """Python's grpcio, which is gRPC's C core."""
    for authorization in keys.authorizations(_CONNECTIONS):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(heads.PATH)
            for _request in range(_REQUESTS):
                metadata = (("authorization", authorization),)
                call(bodies.body("small").message, timeout=10, metadata=metadata)
    return f"gRPC's C core in grpcio {grpc.__version__}"


def nghttp2(folder: Path, port: int) -> str:
    """Node's @grpc/grpc-js, which sends with Node's http2 module, which is nghttp2."""
    built = _BUILT / "grpc-js"
    shutil.copytree(_CLIENTS / "grpc-js", built, dirs_exist_ok=True)
    _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], built)
    for number in range(_CONNECTIONS):
        _run(["node", built / "sender.mjs", *_arguments(folder, port, number)], folder)
    versions = json.loads(_run(["node", "-p", "JSON.stringify(process.versions)"], folder))
    package = json.loads((built / "package.json").read_text())["dependencies"]["@grpc/grpc-js"]
    return f"nghttp2 {versions['nghttp2']} in Node {versions['node']}, grpc-js {package}"


def netty(folder: Path, port: int) -> str:
    """Java's grpc-netty."""
    built = _BUILT / "netty"
    shutil.copytree(_CLIENTS / "netty", built, dirs_exist_ok=True)
    goal = "dependency:copy-dependencies"
    maven = ["mvn", "--quiet", "--batch-mode", "-DincludeScope=runtime", "-DoutputDirectory=jars"]
    _run([*maven, goal], built)
    _run(["javac", "-d", "classes", "-cp", "jars/*", "Sender.java"], built)
    path = f"{built / 'classes'}:{built / 'jars'}/*"
    for number in range(_CONNECTIONS):
        _run(["java", "-cp", path, "Sender", *_arguments(folder, port, number)], folder)
    (jar,) = (built / "jars").glob("netty-codec-http2-*.jar")
    (of_grpc,) = (built / "jars").glob("grpc-netty-*.jar")
    return f"Netty {jar.stem.removeprefix('netty-codec-http2-')} in {of_grpc.stem}"


CLIENTS = {
    heads.REFERENCE: Client(grpc_go),
    "grpc-go-table": Client(grpc_go, is_told=False),
    "c-core": Client(c_core),
    "nghttp2": Client(nghttp2),
    "netty": Client(netty),
}


def record(name: str) -> Recording:
    """Record a client.

    Raises:
        ProgramError: it cannot be built or run, or sent other than what was asked.
    """
    client = CLIENTS[name]
    with (
        Recorder(is_told=client.is_told) as recorder,
        tempfile.TemporaryDirectory(prefix="record-") as folder,
    ):
        title = client.send(Path(folder), recorder.port)
        connections = [blocks for blocks in recorder.connections if blocks]
    if [len(blocks) for blocks in connections] != [_REQUESTS] * _CONNECTIONS:
        message = f"{name}: {[len(blocks) for blocks in connections]} requests were recorded"
        raise ProgramError(message)
    return Recording(name, title, client.is_told, connections)


def main(names: list[str]) -> int:
    """Record the named clients, or all."""
    if unknown := set(names) - set(CLIENTS):
        print(f"no {', '.join(sorted(unknown))}: choose from {', '.join(CLIENTS)}", file=sys.stderr)
        return 2
    code = 0
    for name in names or CLIENTS:
        try:
            record(name).save()
            print(f"{name}: recorded")
        except (ProgramError, OSError, grpc.RpcError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
