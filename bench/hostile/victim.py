"""The gateway under attack: started as an operator starts it, with one worker."""

from __future__ import annotations

import datetime as dt
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench import management
from bench.hostile.attack import Target
from bench.hostile.bystanders import ATTACKERS_KEY, KEY
from bench.process import Program, ProgramError, free_port
from bench.proxies import command_path, wait_until_ready
from bench.running import Kind, Running, serving
from gateway.demo.certificates import ensure_certificates

BUFFER_MEMORY_MB: Final = 64
"""`limits.buffer_memory` under attack. Less than the default, so that what is not charged shows."""
_SCRAPE_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Victim:
    """A gateway that serves, with what is asked of it from outside."""

    program: Program
    target: Target
    ca_file: Path

    @classmethod
    def start(
        cls, folder: Path, backend_port: int, core: int | None, command: str | None = None
    ) -> Victim:
        """Start it with its files in `folder`, and return once it serves.

        Raises:
            ProgramError: it does not start.
        """
        certificates = ensure_certificates(folder / "tls", dt.datetime.now(dt.UTC))
        ports = [free_port() for _ in range(4)]
        target = Target(ports[0], ports[1], ports[2], ports[3], ATTACKERS_KEY)
        configuration = folder / "gateway.yaml"
        backend = {"urls": [f"http://127.0.0.1:{backend_port}"]}
        settings: dict[str, object] = {
            "listen": [
                {"address": f"127.0.0.1:{target.plain}"},
                {
                    "address": f"127.0.0.1:{target.tls}",
                    "tls": {
                        "cert_file": str(certificates.cert_file),
                        "key_file": str(certificates.key_file),
                    },
                },
            ],
            "backends": {"otlp_grpc": backend, "otlp_http": backend},
            "keys": {"stores": [f"sqlite://{folder}/keys.db"]},
            "admin": {
                "address": f"127.0.0.1:{target.admin}",
                "metrics_address": f"127.0.0.1:{target.metrics}",
                "tokens": [management.TOKEN],
            },
            "limits": {"drain_delay": "0s", "buffer_memory": f"{BUFFER_MEMORY_MB}MiB"},
            "workers": 1,
            "state_dir": str(folder / "state"),
        }
        configuration.write_text(yaml.safe_dump(settings), encoding="utf-8")
        serve = [command or command_path("gateway"), "serve", "--config", str(configuration)]
        program = Program.start("gateway", serve, folder=folder, core=core)
        try:
            wait_until_ready(program, target.admin)
            management.adopt(target.admin, [KEY, ATTACKERS_KEY])
        except ProgramError:
            program.stop()
            raise
        listening: dict[Kind, int] = {"http": target.plain}
        serving(Running(program, listening))
        return cls(program, target, certificates.ca_file)

    def worker(self) -> psutil.Process:
        """Return the worker's process.

        Raises:
            ProgramError: there is none.
        """
        workers = self.program.tree()[1:]
        if not workers:
            message = f"the gateway has no worker:\n{self.program.output()[-2000:]}"
            raise ProgramError(message)
        return workers[0]

    def series(self) -> dict[str, float]:
        """Return every series of its metrics, as the page writes its name and labels.

        Raises:
            OSError: the metrics do not answer.
        """
        url = f"http://127.0.0.1:{self.target.admin}/metrics"
        with urllib.request.urlopen(url, timeout=_SCRAPE_TIMEOUT_S) as answer:
            return parse_series(answer.read().decode())

    def series_when_it_answers(self, within_s: float) -> dict[str, float]:
        """Like `series`, tried for a while.

        Raises:
            ProgramError: it does not answer within that time.
        """
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                return self.series()
            except OSError as error:
                if time.monotonic() > deadline_s:
                    message = f"/metrics does not answer after the attack: {error}"
                    raise ProgramError(message) from error
            time.sleep(0.2)


def parse_series(page: str) -> dict[str, float]:
    """Return the samples of a page of metrics by `name{label="value",…}`, without histograms."""
    series: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        if family.type == "histogram":
            continue
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            series[f"{sample.name}{{{labels}}}"] = sample.value
    return series
