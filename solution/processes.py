"""A collective over the processes of `mx.distributed`."""

import mlx.core as mx

from spec.collective import Collective

# In the ring back end a send ends when the other side has taken the data. Two ranks that send to each other
# and then receive would wait for ever on one stream, so sends have a stream, and so a thread, of their own.
SENDS = mx.new_thread_local_stream(mx.cpu)


def mlx_collective(group: mx.distributed.Group) -> Collective:
    """What the contracts call a collective, over this group.

    The ring back end joins neighbours only: with it, a group has at most three ranks.
    """
    under_way: list[mx.array] = []

    def all_gather(array: mx.array) -> mx.array:
        mx.eval(under_way)  # both use the same sockets
        under_way.clear()
        gathered = mx.distributed.all_gather(array, group=group, stream=mx.cpu)
        mx.eval(gathered)
        return gathered.reshape(group.size(), *array.shape)

    def send(array: mx.array, to: int) -> None:
        mx.eval(array)
        sent = mx.distributed.send(array, to, group=group, stream=SENDS)
        mx.async_eval(sent)
        under_way.append(sent)

    def recv(shape: tuple[int, ...], dtype: str, source: int) -> mx.array:
        received = mx.distributed.recv(shape, getattr(mx, dtype), source, group=group, stream=mx.cpu)
        mx.eval(received)
        return received

    return Collective(group.rank(), group.size(), all_gather, send, recv)
