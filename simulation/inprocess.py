"""Flower's ServerApp and ClientApps in one process, without Ray.

Beside ``deployment/superexec.py`` this is the only file that touches Flower's internals: the identity of the running
task, without which no message can be made, and the id of a message, which a SuperLink would give. A test fails clearly
when Flower moves them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN_ID = 1
_SERVER_NODE = 1
_FIRST_CLIENT_NODE = 2


class InProcessGrid(Grid):
    """A grid whose nodes are calls of one ClientApp in a pool of threads.

    Torch releases Python's lock while it computes, so threads use the cores side by side; each sets its own number of
    torch threads. Clients keep their Flower context for the length of the run, as on a SuperNode.

    Args:
        client_app: Played by every node.
        clients: Number of nodes; partition ids are 0 to clients - 1.
        run_config: Of the run.
        parallel: Clients that train at the same time.
    """

    def __init__(self, client_app: ClientApp, clients: int, run_config: Mapping[str, Any], parallel: int) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, _SERVER_NODE
        self._client_app = client_app
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="client")
        self._run = Run.create_empty(_RUN_ID)
        self._replies: dict[str, Future[Message]] = {}
        self._busy = defaultdict[int, Lock](Lock)
        self._contexts = {
            _FIRST_CLIENT_NODE + partition: Context(
                run_id=_RUN_ID,
                node_id=_FIRST_CLIENT_NODE + partition,
                node_config={"partition-id": partition, "num-partitions": clients},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for partition in range(clients)
        }

    def set_run(self, run: Run) -> None:
        """Set the run that ``run`` tells."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a node, as the constructor of Message does."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; they are always connected."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand each message to the pool and return the messages' ids."""
        ids = []
        for message in messages:
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self._replies[message_id] = self._pool.submit(self._answer, message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return, once, the replies that are there."""
        done = [message_id for message_id in message_ids if self._replies[message_id].done()]
        return [self._replies.pop(message_id).result() for message_id in done]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push the messages, wait for all replies up to ``timeout`` seconds, and return those that came.

        A message that no node has begun with by then is withdrawn.
        """
        ids = list(self.push_messages(messages))
        wait([self._replies[message_id] for message_id in ids], timeout)
        came = list(self.pull_messages(ids))
        for late in self._replies.keys() & ids:
            self._replies.pop(late).cancel()
        return came

    def close(self) -> None:
        """Forget what has not begun, and wait for the rest."""
        self._pool.shutdown(cancel_futures=True)

    def _answer(self, message: Message) -> Message:
        """Run the ClientApp; what it raises becomes an error reply, as on a SuperNode."""
        node = message.metadata.dst_node_id
        try:
            with self._busy[node]:  # a node that is late with an earlier message ends that one first
                return self._client_app(message, self._contexts[node])
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def run_in_process(
    server_app: ServerApp, client_app: ClientApp, clients: int, run_config: Mapping[str, Any], parallel: int
) -> None:
    """Run a whole federation in this process; what the ServerApp raises is raised here."""
    grid = InProcessGrid(client_app, clients, run_config, parallel)
    context = Context(
        run_id=_RUN_ID, node_id=_SERVER_NODE, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    try:
        server_app(grid, context)
    finally:
        grid.close()
