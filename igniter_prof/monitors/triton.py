"""Triton's own account of a model: metadata, configuration, statistics (HTTP, off the load path).

Protocol: KServe v2 with Triton's statistics extension
(github.com/triton-inference-server/server, docs/protocol/extension_statistics.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from igniter_prof import probe
from igniter_prof.errors import OutsideFailure
from igniter_prof.records import Endpoint, ServerTimes
from igniter_prof.units import NS_PER_MS

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class TritonApi:
    """Reads what a server says of the model of one endpoint."""

    endpoint: Endpoint
    headers: tuple[tuple[str, str], ...] = ()
    ca_file: Path | None = None

    def metadata(self) -> dict[str, Any]:
        """Inputs, outputs and versions of the model. Raises OutsideFailure."""
        return self._get(self._path())

    def config(self) -> dict[str, Any]:
        """The model's configuration as the server completed it. Raises OutsideFailure."""
        return self._get(f"{self._path()}/config")

    def statistics(self) -> dict[str, Any]:
        """Cumulative statistics of the model (all versions summed). Raises OutsideFailure."""
        path = f"{self._path()}/stats"
        answer = self._get(path)
        try:
            return _summed(answer["model_stats"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OutsideFailure(
                "its statistics are not Triton's", where=f"{self.endpoint.http_address}{path}"
            ) from error

    def _path(self) -> str:
        return f"/v2/models/{quote(self.endpoint.model_name, safe='')}"

    def _get(self, path: str) -> dict[str, Any]:
        address = self.endpoint.http_address or ""
        where = f"http{'s' if self.endpoint.tls else ''}://{address}{path}"
        try:
            status, body = probe.get(
                address,
                path,
                tls=self.endpoint.tls,
                ca_file=self.ca_file,
                headers=self.headers,
                timeout_s=TIMEOUT_S,
            )
        except probe.Unreachable as error:
            raise OutsideFailure(f"does not answer: {error}", where=where) from error
        if status != 200:
            text = body[:300].decode(errors="replace")
            raise OutsideFailure(f"answered {status}: {text}", where=where)
        return probe.document(body)


def _summed(stats: list[dict[str, Any]]) -> dict[str, Any]:
    """The statistics of all versions of a model together."""

    def part_sum(part: str, what: str) -> int:
        return sum(
            int(entry.get("inference_stats", {}).get(part, {}).get(what, 0)) for entry in stats
        )

    return {
        "inferences": sum(int(entry.get("inference_count", 0)) for entry in stats),
        "executions": sum(int(entry.get("execution_count", 0)) for entry in stats),
        **{
            part: {what: part_sum(part, what) for what in ("count", "ns")}
            for part in ("queue", "compute_input", "compute_infer", "compute_output")
        },
    }


def server_times(before: dict[str, Any] | None, after: dict[str, Any] | None) -> ServerTimes | None:
    """What happened between two snapshots of ``statistics``; None if one lacks or nothing did."""
    if before is None or after is None:
        return None
    inferences = after["inferences"] - before["inferences"]
    executions = after["executions"] - before["executions"]
    if inferences <= 0 or executions <= 0:
        return None

    def mean_ms(part: str) -> float:
        count = after[part]["count"] - before[part]["count"]
        total_ns = after[part]["ns"] - before[part]["ns"]
        return float(total_ns / count / NS_PER_MS) if count > 0 else 0.0

    return ServerTimes(
        queue_ms=mean_ms("queue"),
        compute_input_ms=mean_ms("compute_input"),
        compute_infer_ms=mean_ms("compute_infer"),
        compute_output_ms=mean_ms("compute_output"),
        executed_batch=inferences / executions,
        inferences=inferences,
        executions=executions,
    )
