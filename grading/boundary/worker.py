"""The submission's process: python -I -B -c "…" <project> <submission> <topic> <framework> <channel>.

Stdout and stderr are the submission's own; messages go through the channel, an inherited socket.
"""

import faulthandler
import os
import socket
import sys
from pathlib import Path

from grading.boundary import frameworks, loading
from grading.boundary.codec import Vocabulary
from grading.boundary.failures import ChannelClosed
from grading.boundary.frames import Channel
from grading.boundary.links import WorkersLink
from grading.boundary.peer import Peer
from grading.boundary.service import Service
from grading.boundary.watch import Watch
from grading.contract import contract

# Given to `python -c`. -I leaves the project off the path, so it is put there first.
START = "import sys; sys.path.insert(0, sys.argv[1]); from grading.boundary.worker import main; main()"


def main() -> None:
    _, folder, topic, framework, channel = sys.argv[1:]
    del sys.argv[1:]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what was printed is shown
    # An editable install would lead to the reference where the file system is shared.
    for finder in list(sys.meta_path):
        if getattr(finder, "__module__", "").startswith("__editable__"):
            sys.meta_path.remove(finder)
    sys.breakpointhook = _nobody_there
    faulthandler.enable(all_threads=False)  # of a crash its last words tell where it was
    frameworks.start(framework)
    wanted = contract(topic)
    service = Service(wanted, framework, lambda: loading.load(Path(folder), topic))
    arrays = frameworks.arrays_of(framework)
    peer = Peer(
        Vocabulary.of(wanted),
        arrays,
        functions=service.functions,
        classes=service.classes,
        watch=Watch(wanted, arrays),
    )
    link = WorkersLink(peer, Channel(socket.socket(fileno=int(channel))))
    try:
        link.run(ended=lambda: os._exit(0))
    except ChannelClosed:
        os._exit(0)


def _nobody_there(*_: object, **__: object) -> None:
    raise RuntimeError("breakpoint() needs --in-process: nobody can type here")
