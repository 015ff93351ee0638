"""Injects faults over all commands, and counts what does not end as it should.

    python studies/faults.py --json studies/results/faults.json

Each case lays out a folder, runs a command of the installed program in it as a process of its own, and is held against rules that
hold for all: a documented exit status, and the right one; no traceback, no death by a signal, no hang; one paragraph that says what
is wrong; no file changed but the command's own output, nothing half left behind; no command or code out of a file run, no URL that
a file names called; memory within bounds; nothing on the terminal that controls it. The table is in fault_cases.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / part) for part in (".", "models", "train"))]

from fault_cases import all_cases  # noqa: E402
from fault_runner import Case, Outcome, run_cases  # noqa: E402
from fault_shop import Shop  # noqa: E402

from iresnet_models.cores import usable_cores  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", metavar="KIND", action="append", help="cases of this kind; may be repeated")
    parser.add_argument("--match", metavar="REGEX", help="cases whose name this is found in")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth case of them alone")
    parser.add_argument("--quick", action="store_true", help="those that are soon over, on an untrained network")
    parser.add_argument("--seconds", type=float, help="stop after so many")
    parser.add_argument("--jobs", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path, help="write the result here, and beside it a table (.md)")
    parser.add_argument("--folder", type=Path, help="work here, and keep the shop for the next time")
    parser.add_argument("--list", action="store_true", help="print the names alone")
    options = parser.parse_args()
    cases = [case for case in all_cases() if not options.only or case.kind in options.only]
    cases = [case for case in cases if (case.quick or not options.quick) and re.search(options.match or "", case.name)]
    cases = cases[:: options.every]
    if options.list:
        print("\n".join(f"{case.kind:12} {case.name}" for case in cases))
        print(f"{len(cases)} cases: {dict(Counter(case.kind for case in cases))}")
        return 0
    begun, violations, counts, spent = time.monotonic(), [], Counter[str](), Counter[str]()
    statuses: Counter[str] = Counter()
    commands: Counter[str] = Counter()

    def told(case: Case, wrong: list[str], outcome: Outcome) -> None:
        counts[case.kind] += 1
        spent[case.kind] += outcome.seconds
        statuses[str(outcome.status)] += 1
        commands[case.command[0]] += 1
        if wrong:
            violations.append({
                "case": case.name, "kind": case.kind, "command": " ".join(case.command)[:300], "status": outcome.status, "wrong": wrong, "stderr": outcome.err[-1500:],
            })  # fmt: skip
            print(f"{sum(counts.values())}/{len(cases)} {case.kind}: {case.name}\n    {'; '.join(wrong)[:400]}", flush=True)
            last = outcome.err.strip().splitlines()[-1:] or [""]
            print(f"    said: {last[0][:300]!r}", flush=True)

    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        shop = Shop(folder, trained=not options.quick)
        work = Path(tempfile.mkdtemp(prefix="cases-", dir=folder))
        work.chmod(0o755)
        run_cases(cases, work, shop, options.jobs, options.seconds, told)
        shop.close()
    result = document(counts, commands, statuses, violations, time.monotonic() - begun, spent)
    print(f"{sum(counts.values())} faults injected, {len(violations)} violations, {result['seconds']:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        options.json.with_suffix(".md").write_text(table(result))
    return 1 if violations else 0


def document(
    counts: Counter[str],
    commands: Counter[str],
    statuses: Counter[str],
    violations: list[dict[str, Any]],
    seconds: float,
    spent: Counter[str],
) -> dict[str, Any]:
    from iresnet_export.system.environment import commit, hardware, versions

    by_kind = Counter(violation["kind"] for violation in violations)
    return {
        "about": "faults injected over all commands; see studies/faults.py",
        "command": f"python studies/faults.py {' '.join(word for word in sys.argv[1:] if '/' not in word or word.startswith('studies'))}".strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "root": os.geteuid() == 0,
        "seconds": round(seconds, 1),
        "faults": sum(counts.values()),
        "violations": len(violations),
        "kinds": {
            kind: {"faults": counts[kind], "violations": by_kind[kind], "seconds": round(spent[kind], 1)} for kind in sorted(counts)
        },
        "commands": dict(sorted(commands.items())),
        "statuses": dict(sorted(statuses.items())),
        "violated": violations,
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['faults']} faults over all commands, {result['violations']} violations; {result['date'][:10]}, "
        f"{result['hardware'].get('cpu')}, `{result['command']}`.",
        "",
        "| kind | faults | violations |",
        "| --- | ---: | ---: |",
    ]
    lines += [f"| {kind} | {row['faults']} | {row['violations']} |" for kind, row in result["kinds"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
