"""Run alone, with module names: imports each anew and prints what that did besides defining things."""

import importlib
import json
import logging
import os
import signal
import sys
import threading

deeds: list[str] = []
current = ""


def watch(event: str, args: tuple[object, ...]) -> None:
    """See files opened for writing, connections and child processes."""
    writes = event == "open" and isinstance(args[1], str) and bool(set(args[1]) & set("wax+"))
    if writes or event in {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.mkdir"}:
        deeds.append(f"{current}: {event} {args[0]}")


def state() -> dict[str, object]:
    """What an import should leave as it was."""
    return {
        "the logging": list(logging.getLogger().handlers),
        "the signal handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "the environment": dict(os.environ),
        "the threads": threading.active_count(),
    }


def main(names: list[str]) -> None:
    """Import everything once, for what libraries do is theirs; then our modules again, watched."""
    global current
    for name in names:
        importlib.import_module(name)
    for name in [
        name for name in sys.modules if name.partition(".")[0] in {n.partition(".")[0] for n in names}
    ]:
        del sys.modules[name]
    logging.getLogger().handlers.clear()
    sys.dont_write_bytecode = True
    sys.addaudithook(watch)
    for name in names:
        current, before = name, state()
        importlib.import_module(name)
        deeds.extend(f"{name}: changed {what}" for what, value in state().items() if value != before[what])
    print(json.dumps(deeds))


if __name__ == "__main__":
    main(sys.argv[1:])
