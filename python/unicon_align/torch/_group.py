"""The processes of torch.distributed as ranks of a fit."""

from __future__ import annotations

import datetime
import os
from typing import Any, Optional

import torch
import torch.distributed


class group:
    """The processes of a torch.distributed group (WORLD by default) for ``Context(group=...)``.

    Data of a group that has NCCL alone passes through the current CUDA device, of any other through the host.

    Parameters
    ----------
    group : optional
    timeout : float
        Seconds to wait for another process; by default UNICON_COMM_TIMEOUT, or half an hour.
    """

    def __init__(self, group: Any = None, timeout: Optional[float] = None) -> None:
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            raise RuntimeError("group: torch.distributed has not been initialised: call torch.distributed.init_process_group first")
        self._group: Any = distributed.group.WORLD if group is None else group
        self.rank, self.size = distributed.get_rank(self._group), distributed.get_world_size(self._group)
        if self.rank < 0:
            raise ValueError("group: this process is not in the group")
        seconds = float(os.environ.get("UNICON_COMM_TIMEOUT") or 1800) if timeout is None else timeout
        self._timeout = datetime.timedelta(seconds=seconds)
        nccl = distributed.get_backend(self._group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        self._world = [distributed.get_global_rank(self._group, k) for k in range(self.size)]

    def _sent(self, buffer: Any) -> torch.Tensor:
        return torch.frombuffer(buffer, dtype=torch.uint8).to(self._device)

    def allgather(self, sent: Any, received: Any) -> None:
        """Fills `received` with the `sent` of all ranks, in order."""
        if not len(sent):
            return
        host = torch.frombuffer(received, dtype=torch.uint8)
        out = host if self._device.type == "cpu" else torch.empty_like(host, device=self._device)
        parts = list(out.chunk(self.size))
        self._wait(torch.distributed.all_gather(parts, self._sent(sent), group=self._group, async_op=True))
        if out is not host:
            host.copy_(out)

    def send_recv(self, sent: Any, to: int, received: Any, source: int) -> None:
        """Sends `sent` to rank `to` while `received` comes from rank `source`; either may be empty."""
        works: list[Any] = []
        host: Any = None
        out: Any = None
        if len(received):
            host = torch.frombuffer(received, dtype=torch.uint8)
            out = host if self._device.type == "cpu" else torch.empty_like(host, device=self._device)
        if self._device.type == "cuda":
            # NCCL does what is asked for in one group at once.
            send, receive = torch.distributed.isend, torch.distributed.irecv
            asked = [torch.distributed.P2POp(send, self._sent(sent), self._world[to], self._group)] if len(sent) else []
            if out is not None:
                asked.append(torch.distributed.P2POp(receive, out, self._world[source], self._group))
            works = torch.distributed.batch_isend_irecv(asked) if asked else []
        else:
            # Both are under way before either is waited for.
            if out is not None:
                works.append(torch.distributed.irecv(out, self._world[source], self._group))
            if len(sent):
                works.append(torch.distributed.isend(self._sent(sent), self._world[to], self._group))
        for work in works:
            self._wait(work)
        if out is not host:
            host.copy_(out)

    def _wait(self, work: Any) -> None:
        if self._device.type == "cpu":
            work.wait(self._timeout)
        else:
            work.wait()
            torch.cuda.synchronize(self._device)
