"""Fifty questions at once to `minireason serve`, wave after wave: who is answered, and its memory.

    python tests/serve_load.py --run runs/quickstart --waves 10

Prints, per wave, how many were answered to the end and how many refused with 503, the longest wait,
and the memory that the server occupies (Linux). Exit code 1 if a question got neither answer nor a
polite refusal, or the server grew by more than 20 MB after the first two waves.
"""

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

PROBLEMS = ("((23+4)*3)-5", "2+3", "9*9-7", "((((5+6)*3)-8)/5)+7")


def ask(port: int, number: int, found: list[str]) -> None:
    """Ask one question; adds what came of it."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = json.dumps({"problem": PROBLEMS[number % len(PROBLEMS)], "number": number})
        connection.request("POST", "/answer", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        if response.status == 200:
            found.append("answered" if text.rstrip().endswith("event: end\ndata: {}") else "cut")
        else:
            polite = response.status == 503 and response.headers["Retry-After"]
            found.append("refused" if polite else f"status {response.status}")
        connection.close()
    except OSError as error:
        found.append(type(error).__name__)


def main() -> int:
    """The command of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/quickstart")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--waves", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=50)
    cfg = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-m", "minireason", "serve", "--run", cfg.run,
                               "--port", str(cfg.port), "--device", "cpu"],
                              stdout=subprocess.PIPE, text=True)
    print(server.stdout.readline().strip())
    total, sizes = Counter(), []
    for wave in range(cfg.waves):
        found: list[str] = []
        start = time.perf_counter()
        threads = [threading.Thread(target=ask, args=(cfg.port, wave * cfg.at_once + i, found))
                   for i in range(cfg.at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
        sizes.append(pages * 4096 / 1e6)
        total.update(found)
        print(f"wave {wave + 1}: {dict(Counter(found))}, {time.perf_counter() - start:.1f} s, "
              f"{sizes[-1]:.0f} MB", flush=True)
    server.terminate()
    server.wait(20)
    grown = sizes[-1] - sizes[min(1, len(sizes) - 1)]
    print(f"{dict(total)}; grown by {grown:.1f} MB since the second wave")
    return int(grown > 20 or not set(total) <= {"answered", "refused"})


if __name__ == "__main__":
    sys.exit(main())
