"""The processes of a run: one, or those that torchrun started. Nothing else here knows torch.distributed.

    torchrun --nproc-per-node 4 -m onestage train ...

Every process reads its share of each batch. Gradients are added up over all of them (accelerate wraps the network in
DDP), small facts go through gloo, gradients on GPUs through NCCL.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from onestage.errors import ToldByAnotherProcessError, UserError
from onestage.training.heartbeat import Heartbeat
from onestage.training.optimizer import trained_batch_norms

# One process may do long work alone (look through the data, write a report) while the others wait. That a process is
# dead, the launcher notices at once; that it hangs, the heartbeat.
PATIENCE = timedelta(days=1)
STARTED = "onestage/started"  # in the launcher's store, which outlives the processes: see `World.restarted`

T = TypeVar("T")


class World:
    """This process among those of the run; here alone, which needs no messages.

    Attributes:
        rank: the number of this process, from 0; process 0 prints and writes.
        size: how many there are.
        processes_here: how many of them run on this machine.
        device: of this process, where the launcher's processes each have their own.
    """

    rank, size, processes_here = 0, 1, 1
    device: str | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def may_restart(self) -> bool:
        """The launcher starts the processes again after one died."""
        return _from_launcher("TORCHELASTIC_MAX_RESTARTS", 0) > 0

    @property
    def restarted(self) -> bool:
        """It has done so, and the processes before had begun the run: its folder is theirs."""
        return False

    def begin_run(self) -> None:
        """The run folder is this run's from now on, also after a restart."""

    def connect(self, network: nn.Module) -> nn.Module:
        """The network as it is to be called in training: with process 0's weights, and the gradients of all processes.

        From here on, a process that hangs ends the others.
        """
        return network

    def without_exchange(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Inside, backward passes keep their gradients to this process; the next one outside adds them all up."""
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes; the same in each."""
        return values

    def from_main(self, value: T) -> T:
        """What process 0 says."""
        return value

    def gather(self, value: T) -> list[T]:
        """What each process says, by rank; in every process."""
        return [value]

    def on_main(self, work: Callable[[], T]) -> T:
        """What the work in process 0 gives, in every process.

        Raises:
            UserError: the work raised it; in every process.
        """
        return work()

    def agree(self, error: UserError | None = None, stop: bool = False) -> bool:
        """Whether any process was told to stop.

        Raises:
            UserError: a process has one; the first, in every process.
        """
        if error is not None:
            raise error
        return stop

    def warn(self, line: str, say: Callable[[str], None]) -> None:
        """Tell what only this process knows: process 0 by `say`, another by itself, since the others wait for it."""
        if self.is_main:
            say(f"warning: {line}")
        else:
            print(f"onestage: warning: process {self.rank} of the run: {line}", file=sys.stderr, flush=True)


ALONE = World()


class _Launched(World):
    """A process that torchrun started, and starts again; where it is the only one, it talks to nobody.

    Attributes:
        _store: the launcher's.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def restarted(self) -> bool:
        return self._store.check([STARTED])

    def begin_run(self) -> None:
        if self.is_main:
            self._store.set(STARTED, "")


class _ManyProcesses(_Launched):
    def __init__(self, store: Store, on_cpu: bool) -> None:
        """`store`: the launcher's. The processes have been put in touch already."""
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        super().__init__(store)
        # Unused parameters are looked for so that DDP leaves the order of its messages as it is: reordered after the
        # first step, sums over three or more processes differ in their last bits on resume.
        how = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[how])
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.processes_here = _from_launcher("LOCAL_WORLD_SIZE", self.size)
        self.device = "cpu" if on_cpu else str(self._accelerator.device)
        self._own_keys = f"onestage/{self.from_main(uuid.uuid4().hex)}"
        self._heartbeat: Heartbeat | None = None

    def connect(self, network: nn.Module) -> nn.Module:
        synchronise_batch_norms(network)
        connected = self._accelerator.prepare_model(_WithUnused(network), device_placement=False)
        assert isinstance(connected, DistributedDataParallel)
        connected.forward_sync_buffers = False  # they are the same in all processes now, and stay so
        if self._heartbeat is None:
            keys = PrefixStore(f"{self._own_keys}/heartbeat", self._store.clone())
            self._heartbeat = Heartbeat(keys, self.rank, self.size, launcher_has_store=_launcher_has_store())
        return connected

    def without_exchange(self, network: nn.Module) -> AbstractContextManager[Any]:
        return self._accelerator.no_sync(network)

    def sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    def from_main(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def gather(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        return gather_object([value])

    def on_main(self, work: Callable[[], T]) -> T:
        result: T | None = None
        error: UserError | None = None
        if self.is_main:
            try:
                result = work()
            except UserError as raised:
                error = raised
        result, message = self.from_main((result, None if error is None else str(error)))
        if message is not None:
            raise error or ToldByAnotherProcessError(message)
        return result  # pyright: ignore[reportReturnType]

    def agree(self, error: UserError | None = None, stop: bool = False) -> bool:
        troubled, stopped = self.sum(torch.tensor([error is not None, stop], dtype=torch.int64)).tolist()
        if troubled:
            messages = self.gather(None if error is None else str(error))
            kind = UserError if self.is_main else ToldByAnotherProcessError
            raise kind(next(message for message in messages if message is not None))
        return stopped > 0

    def tells(self, error: UserError) -> bool:
        """Whether it is this process that tells of an error: the first that has it."""
        try:
            return self._store.add(f"{self._own_keys}/told/{error}", 1) == 1
        except RuntimeError:  # the store is gone
            return self.is_main

    def leave(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()


@contextmanager
def joined_processes(device: str | None) -> Generator[World, None, None]:
    """Inside of `with`, this process is one of those that the launcher started; or alone, where it started no others.

    Of an error that all processes have, one tells; of a connection that broke, process 0.

    Raises:
        UserError: a device that many processes can't share.
    """
    size = _from_launcher("WORLD_SIZE", 1)
    if size == 1:
        yield _Launched(_launchers_store(0)) if _launcher_has_store() else ALONE
        return
    if device not in (None, "cpu", "cuda"):
        kind = UserError if _from_launcher("RANK", 0) == 0 else ToldByAnotherProcessError
        raise kind(f"device {device!r}: torchrun gives each process its own; use cuda or cpu, or leave it out")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    with _process_group("gloo" if on_cpu else "cpu:gloo,cuda:nccl", int(os.environ["RANK"]), size) as store:
        world = _ManyProcesses(store, on_cpu)
        try:
            yield world
        except ToldByAnotherProcessError:
            raise
        except UserError as error:
            if world.tells(error):
                raise
            raise ToldByAnotherProcessError(str(error)) from error
        except KeyboardInterrupt:
            if world.is_main:
                raise
            raise ToldByAnotherProcessError("stopped") from None
        except RuntimeError as error:
            if not _connection_broke(error):
                raise
            line = "the connection to another process of the run broke; what became of that one, torchrun says"
            raise UserError(line) if world.is_main else ToldByAnotherProcessError(line) from error
        finally:
            world.leave()


@contextmanager
def _process_group(backend: str, rank: int, size: int) -> Iterator[Store]:
    """Inside of `with`, the processes can talk to each other; gives the launcher's store.

    Once more in the same processes, too: then old keys in the store must not be found.
    """
    from accelerate.state import AcceleratorState

    store = _launchers_store(rank)
    keys = f"onestage/{_from_launcher('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_JOINED)}"
    dist.init_process_group(backend, store=PrefixStore(keys, store), rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield store
    finally:
        dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


_JOINED = itertools.count()


@functools.cache
def _launchers_store(rank: int) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serve = rank == 0 and not _launcher_has_store()
    return TCPStore(address, port, is_master=serve, wait_for_workers=False, timeout=PATIENCE)


def _launcher_has_store() -> bool:
    """Else process 0 has it, and it ends with that."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _from_launcher(variable: str, otherwise: int) -> int:
    return int(os.environ.get(variable, otherwise))


def _connection_broke(error: RuntimeError) -> bool:
    """gloo's errors are plain RuntimeErrors that name the file they come from."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


class _WithUnused(nn.Module):
    """A network and a parameter that it does not use: DDP complains at length where it looks for such and finds none.

    Nothing else knows of the parameter, so it is neither trained nor saved.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.unused = nn.Parameter(torch.zeros((), device=next(network.parameters()).device))

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


# --- batch norms


def synchronise_batch_norms(network: nn.Module) -> None:
    """Let batch norms that train see the images of all processes: N processes then compute what one would.

    torch.nn.SyncBatchNorm is for GPUs only, and timm's batch norms have an activation that it would lose.
    """
    for norm in trained_batch_norms(network):
        if not isinstance(norm, _OverAllProcesses):
            norm.__class__ = _over_all_processes(type(norm))


@functools.cache
def _over_all_processes(cls: type) -> type:
    return type(cls.__name__, (_OverAllProcesses, cls), {})


class _OverAllProcesses:
    """Put before a batch norm's class."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)  # pyright: ignore[reportAttributeAccessIssue]
        mean, variance, count = moments_of_all(x)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                weight = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
                self.running_mean.lerp_(mean, weight)
                self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), weight)
        scale = (variance + self.eps).rsqrt() * (1 if self.weight is None else self.weight)  # (C,)
        shift = (0 if self.bias is None else self.bias) - mean * scale
        by_channel = (-1, *[1] * (x.ndim - 2))
        normalised = (x * scale.view(by_channel) + shift.view(by_channel)).to(x.dtype)
        return self.act(self.drop(normalised)) if hasattr(self, "act") else normalised


def moments_of_all(
    x: Float[Tensor, "B C ..."],
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"], Float[Tensor, 1]]:
    """Mean and (biased) variance of each channel over all processes, and how many values a channel has in all.

    The variance is put together from each process's own (Chan et al. 1979, "Updating formulae and a pairwise algorithm
    for computing sample variances"): sums of squares would lose what float32 has.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    own_variance, own_mean = torch.var_mean(x, dim=[d for d in range(x.ndim) if d != 1], correction=0)
    own_count = own_mean.new_full((1,), x.numel() / x.shape[1])
    sums: Tensor = _SumOverAll.apply(torch.cat([own_mean * own_count, own_count]))  # pyright: ignore
    count = sums[-1:].detach()
    mean = sums[:-1] / count
    variance: Tensor = _SumOverAll.apply((own_variance + (own_mean - mean).square()) * own_count)  # pyright: ignore
    return mean, variance / count, count


class _SumOverAll(torch.autograd.Function):
    """A sum over all processes, and of its gradients likewise."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
