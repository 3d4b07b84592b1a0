"""An agent's metrics in Prometheus' text format. Names by its conventions: a unit at the end, _total for what only grows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from enforcer.conditions import CONDITIONS
from enforcer.decide import REASONS
from enforcer.follow import WHYS

_STOPPING = ("unregistered", "revoked", "fail-closed")


def render(status: dict[str, Any]) -> bytes:
    """The metrics that follow from a status (enforcer.status.status)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(status))
    return generate_latest(registry)


async def serve(address: tuple[str, int], status: Callable[[], dict[str, Any]]) -> asyncio.Server:
    """Answer GET /metrics at the address until the server is closed. Raises OSError when it is not to be had."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.LimitOverrunError, ValueError, TimeoutError):
            async with asyncio.timeout(5):
                words = (await reader.readline()).split()
                while (await reader.readline()).strip():
                    pass
                is_asked = words[:1] == [b"GET"] and words[1:2] and words[1].split(b"?")[0] == b"/metrics"
                body = render(status()) if is_asked else b"ask for /metrics\n"
                head = f"HTTP/1.1 {'200 OK' if is_asked else '404 Not Found'}\r\nContent-Type: "
                head += CONTENT_TYPE_LATEST if is_asked else "text/plain"
                writer.write(
                    f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
                )
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, *address, limit=1 << 14)


class _Once(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        info = GaugeMetricFamily(
            "allowlist_enforcer_info", "What runs here.", labels=["policy", "mode", "dataplane"]
        )
        info.add_metric([status["policy"], status["mode"], status["dataplane"]], 1)
        yield info
        for name, text, value in (
            ("uptime_seconds", "Since the agent was started.", status["uptime_s"]),
            ("serial", "Serial of the allowlist in force.", status["serial"]),
            ("serial_age_seconds", "Since the newest signed message was issued.", status["issued_age_s"]),
            ("registry_answer_age_seconds", "Since the registry answered.", status["answered_age_s"]),
            ("entries", "Entries of the allowlist in force.", status["entries"]),
            ("entries_valid", "Entries that are valid now.", status["loaded"]),
            ("last_load_seconds", "How long the last change of the dataplane took.", status["last_load_s"]),
            ("trusted_keys", "Public keys the feed was ever signed by.", status["keys"]),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"allowlist_{name}", text, value=value)
        if status["conntrack"]:
            used, most = status["conntrack"]["used"], status["conntrack"]["most"]
            yield GaugeMetricFamily(
                "allowlist_connections", "Connections the kernel tracks here.", value=used
            )
            yield GaugeMetricFamily("allowlist_connections_limit", "How many it can.", value=most)
        lasting = GaugeMetricFamily(
            "allowlist_condition", "1 while it lasts.", labels=["condition", "behaviour"]
        )
        times = CounterMetricFamily(
            "allowlist_conditions", "How often a condition has begun.", labels=["condition"]
        )
        for condition in CONDITIONS:
            behaviour = status["failures"].get(condition)
            lasting.add_metric([condition, behaviour or ""], 1 if behaviour else 0)
            times.add_metric([condition], status["failure_counts"].get(condition, 0))
        yield lasting
        yield times
        fallback = GaugeMetricFamily(
            "allowlist_fallback", "What all failures that last come to.", labels=["fallback"]
        )
        for word in ("keep", "allow", "block"):
            fallback.add_metric([word], int(status["fallback"] == word))
        yield fallback
        for unit, counts in (("packets", status["counters"]), ("bytes", status["counter_bytes"])):
            family = CounterMetricFamily(
                f"allowlist_{unit}", f"Forwarded {unit} judged.", labels=["verdict", "reason", "protocol"]
            )
            for name, count in counts.items():
                reason, _, protocol = name.partition(".")
                family.add_metric([_verdict(reason), reason, protocol], count)
            yield family
        refused = CounterMetricFamily(
            "allowlist_refused_updates", "Messages of the feed that changed nothing.", labels=["word"]
        )
        for word, count in sorted(status["refused"].items()):
            refused.add_metric([word], count)
        yield refused
        unanswered = CounterMetricFamily(
            "allowlist_unanswered_questions", "Questions the registry did not answer.", labels=["why"]
        )
        for why in WHYS:
            unanswered.add_metric([why], status["unanswered"].get(why, 0))
        yield unanswered
        for name, text, key in (
            ("reports", "Stopped packets the kernel reported.", "reports"),
            ("reports_lost", "Reports that nobody read in time.", "reports_lost"),
            ("audit_lines_lost", "Lines the disk had no room for.", "audit_lines_lost"),
            ("queue_dropped", "Packets that found no room in the queue (nfqueue).", "queue_drops"),
            ("connections_dropped", "Packets dropped for a full connection table.", "conntrack_drops"),
        ):
            yield CounterMetricFamily(f"allowlist_{name}", text, value=status[key])


def _verdict(reason: str) -> str:
    return "stopped" if reason in _STOPPING or reason not in REASONS else "passed"
