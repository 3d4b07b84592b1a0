"""Fuzz the targets with atheris, coverage-guided, and print a table: python tests/fuzz/run.py --seconds 3600

Atheris is not among the project's packages; docs/fuzzing.md says how to have it. Ends at the first crash of a target, whose
input is then in the folder given with --work.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of the whole time; YAML is read at some hundred files a second, so that more time for it finds little.
_SHARES = {"packet": 0.2, "decision": 0.3, "capture": 0.2, "policy": 0.15, "feed": 0.15}
# Of CPU, for libFuzzer's own limit is by the clock, and on a busy machine finds innocent inputs.
_LONGEST_S = 5.0


def main() -> None:
    options = _options()
    if options.target:
        _fuzz(options.target, options.work / options.target, options.seconds)
        return
    rows = []
    for target, share in _SHARES.items():
        work = options.work / target
        work.mkdir(parents=True, exist_ok=True)
        seconds = round(options.seconds * share)
        argv = [sys.executable, __file__, "--target", target, "--seconds", str(seconds), "--work", str(options.work)]  # fmt: skip
        with (work / "log").open("wb") as log:
            started = time.monotonic()
            code = subprocess.run(argv, stdout=log, stderr=subprocess.STDOUT).returncode
        rows.append(_row(target, work, time.monotonic() - started, code))
        print(rows[-1], flush=True)
    print("\n" + _table(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600, help="of all targets together, on one core")
    parser.add_argument(
        "--work", type=Path, default=Path("fuzzing"), help="corpora, logs and crashing inputs"
    )
    parser.add_argument("--target", choices=_SHARES, help="only this one, without the table")
    return parser.parse_args()


def _fuzz(target: str, work: Path, seconds: int) -> None:
    import atheris

    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["enforcer"]):
        from tests.fuzz.seeds import seeds, words
        from tests.fuzz.targets import TARGETS

    corpus = work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(data)
    dictionary = work / "words"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in words(target)))
    run, slowest_s = TARGETS[target], 0.0

    def once(data: bytes) -> None:
        nonlocal slowest_s
        started = time.thread_time()
        run(data)
        took_s = time.thread_time() - started
        if took_s > _LONGEST_S:
            raise RuntimeError(f"{took_s:.1f} s of CPU for {len(data)} bytes")
        if took_s > slowest_s:  # written at once: libFuzzer ends the process without a word to Python
            slowest_s = took_s
            (work / "slowest").write_bytes(data)
            (work / "slowest.json").write_text(json.dumps({"ms": took_s * 1000, "bytes": len(data)}))

    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=120",
        "-rss_limit_mb=2048",
    ]
    arguments += [f"-dict={dictionary}", f"-artifact_prefix={work}/"]
    atheris.Setup([*arguments, "-print_final_stats=1", str(corpus)], once)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _row(target: str, work: Path, took_s: float, code: int) -> dict[str, object]:
    log = (work / "log").read_text("utf-8", "replace")
    log = log[max(0, log.find("INITED")) :]
    coverage = [int(each) for each in re.findall(r"\bcov: (\d+)", log)]
    inputs = [int(each) for each in re.findall(r"\bcorp: (\d+)", log)]
    executed = re.findall(r"stat::number_of_executed_units:\s+(\d+)", log) or re.findall(
        r"^#(\d+)", log, re.M
    )
    slowest = json.loads((work / "slowest.json").read_text()) if (work / "slowest.json").exists() else {}
    crashes = [each.name for each in work.iterdir() if each.name.startswith(("crash-", "timeout-", "oom-"))]
    return {
        "target": target,
        "seconds": round(took_s),
        "executions": int(executed[-1]) if executed else 0,
        "coverage": (coverage[0], coverage[-1]) if coverage else (0, 0),
        "inputs": (inputs[0], inputs[-1]) if inputs else (0, 0),
        "slowest_ms": round(slowest.get("ms", 0), 1),
        "crashes": crashes,
        "code": code,
    }


def _table(rows: list[dict]) -> str:
    lines = [
        "| target | time | executions | a second | edges, seeds → end | inputs kept | slowest input | crashes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        (first, last), rate = row["coverage"], round(row["executions"] / max(1, row["seconds"]))
        lines.append(
            f"| {row['target']} | {row['seconds']} s | {row['executions']:,} | {rate:,} | {first} → {last} "
            f"| {row['inputs'][-1]:,} | {row['slowest_ms']} ms | {len(row['crashes'])} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
