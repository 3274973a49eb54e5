"""A run's raw figures as text."""

from collections import Counter
from typing import Any

from loadtest.chaos.plan import KINDS


def render(raw: dict[str, Any]) -> str:
    """The verdict, the rules, the outcomes and the faults."""
    passed = "PASSED" if raw["passed"] else "FAILED"
    memory, open_ = raw["memory"], raw["files_tasks"]
    size = f"{raw['requests']:,} requests, {len(raw['faults'])} faults, {raw['gateways']} gateways"
    lines = [
        "",
        f"{passed}: {size}, {raw['seconds']:,.0f} s, seed {raw['seed']}, {raw['source']}",
        "",
        *(
            f"  {'ok  ' if not count else 'FAIL'} {rule}{f': {count}' if count else ''}"
            for rule, count in raw["rules"].items()
        ),
        "",
        "What clients saw:",
        *(f"  {count:>9,}  {name}" for name, count in raw["outcomes"].items()),
        "",
        "The last gateway's own count: " + ", ".join(f"{k} {v:,.0f}" for k, v in raw["last_gateway"].items()),
    ]
    if memory["growth"] is not None:
        judged = "" if memory["judged"] else ", too short a run to judge by"
        lines.append(
            f"Resident memory: {memory['second_tenth'] / 2**20:.1f} MiB in the second tenth, "
            f"{memory['last_tenth'] / 2**20:.1f} MiB in the last ({memory['growth']:+.1%}{judged})"
        )
    lines.append(f"Files and tasks: {open_['start']} at the start, {open_['end']} at the end")
    if raw["garbled_log_lines"]:
        lines.append(f"Log lines cut by a full disk or a kill: {raw['garbled_log_lines']}")
    lines += ["", "Faults, how often, and how long until the gateway was over the longest:"]
    times: Counter[str] = Counter()
    longest: dict[str, float] = {}
    for fault in raw["faults"]:
        times[fault["kind"]] += 1
        longest[fault["kind"]] = max(longest.get(fault["kind"], 0.0), fault["took_s"])
    lines += [f"  {times[kind]:>4} {kind:<22} {longest[kind]:5.1f} s  {KINDS[kind]}" for kind in KINDS if times[kind]]
    if raw["violations"]:
        lines += ["", "What did not hold:", *(f"  {v['rule']}: {v['what'][:400]}" for v in raw["violations"])]
    return "\n".join(lines)
