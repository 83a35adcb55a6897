"""What ``kc-tui --web`` starts for each browser: the attached console, drawn for textual-serve instead of a terminal."""

from __future__ import annotations

import argparse

from tui.app import THEMES
from tui.several import make_app
from tui.socket_feed import SocketFeed


def main() -> int:
    """Run one browser's console until the browser leaves."""
    parser = argparse.ArgumentParser(prog="python -m tui.web")
    parser.add_argument("--attach", required=True, action="append", metavar="SOCKET")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--theme", choices=THEMES)
    options = parser.parse_args()
    feeds = [SocketFeed(path, read_only=options.read_only, who="browser") for path in options.attach]
    for feed in feeds:
        feed.start()
    try:
        # textual-serve names its own driver in the environment: none is given here.
        app = make_app(feeds, theme=options.theme)
        app.run()
    finally:
        for feed in feeds:
            feed.close()
    return app.return_code or 0


if __name__ == "__main__":
    raise SystemExit(main())
