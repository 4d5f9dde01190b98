"""Run as a program by `speed.measure_start`: one photo from stdin to its first token, in a fresh process."""

import json
import sys
import time

began = time.time()


def _began() -> float:
    """When the process itself began, which is before Python ran its first line."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
            import os

            return time.time() - float(uptime.read().split()[0]) + ticks / os.sysconf("SC_CLK_TCK")
    except OSError:
        return began


def peak_bytes() -> int:
    try:  # Linux counts a parent's peak into ru_maxrss, but not into this
        with open("/proc/self/status") as status:
            return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    start = _began()
    import bitmar

    model = bitmar.load(asked["model"], engine=asked["engine"])
    photo = sys.stdin.buffer.read() if asked["photo"] else None
    text = "" if photo else "The"
    next(iter(model.stream(text, photo, max_tokens=12)), None)
    first = time.time()
    print(json.dumps({"began": start, "first_token": first, "peak_rss_mb": peak_bytes() / 1e6}))
