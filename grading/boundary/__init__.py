"""Between the tests, which are trusted, and a submission, which is not.

session.py     what tests use: InProcess, Isolated, their namespace, recordings
proxies.py     the functions and classes in the namespace
peer.py        one side: calls, callbacks, errors, deadlines
links.py       how a peer reaches the other: directly, or over a socket
codec.py       values as a tagged tree and raw bytes
references.py  objects, callables and streams, which stay where they are
frames.py      bytes on the socket
trace.py       recorded calls, read back
worker.py      the submission's process; service.py what it serves; loading.py, frameworks.py its parts
failures.py    what can go wrong
"""
