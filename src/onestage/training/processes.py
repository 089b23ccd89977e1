"""The ranks of a run: this process alone, or those that torchrun started.

    torchrun --nproc-per-node 4 -m onestage train ...

Every rank reads its share of each batch. Gradients are added up over all of them (accelerate wraps the network in DDP);
small facts go through gloo, gradients on GPUs through NCCL. No other file knows torch.distributed.
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

from onestage.errors import ReportedByAnotherRankError, UserError
from onestage.training.heartbeat import Heartbeat
from onestage.training.optimizer import trained_batch_norms

# One rank may work alone for long (look through the data, write a report) while the others wait. The launcher notices
# a dead process at once; the heartbeat notices one that hangs.
PATIENCE = timedelta(days=1)
STARTED = "onestage/started"  # a key in the launcher's store, which outlives the processes: see `World.restarted`

T = TypeVar("T")


class World:
    """The run as one of its ranks sees it; this class, as the only rank sees it.

    Attributes:
        rank: this process's number, from 0; the main rank, 0, prints and writes.
        size: the number of ranks.
        processes_here: the number of ranks on this machine.
        device: this rank's device if the launcher gives each rank its own, else None.
    """

    rank, size, processes_here = 0, 1, 1
    device: str | None = None

    def __init__(self, store: Store | None = None) -> None:
        """`store`: the launcher's, which outlives this process; None if no launcher started it."""
        self._store = store

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def may_restart(self) -> bool:
        """True if the launcher starts the ranks again after one died."""
        return _from_launcher("TORCHELASTIC_MAX_RESTARTS", 0) > 0

    @property
    def restarted(self) -> bool:
        """True if the launcher did so after these ranks began the run: the run folder is theirs."""
        return self._store is not None and self._store.check([STARTED])

    def begin_run(self) -> None:
        """Remember, for after a restart, that the run folder is this run's."""
        if self._store is not None and self.is_main:
            self._store.set(STARTED, "")

    def connect(self, network: nn.Module) -> nn.Module:
        """The network to call in training: it gets the main rank's weights and adds up the gradients of all ranks.

        From here on, a rank that hangs ends the others.
        """
        return network

    def without_exchange(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Inside of `with`, backward passes keep their gradients to this rank; the next one outside adds them all."""
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in each of them."""
        return values

    def from_main(self, value: T) -> T:
        """The main rank's value, in every rank."""
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, in every rank."""
        return [value]

    def on_main(self, work: Callable[[], T]) -> T:
        """Do work in the main rank, and give its result to every rank.

        Raises:
            UserError: the work raised it; in every rank.
        """
        return work()

    def agree(self, error: UserError | None = None, stop: bool = False) -> bool:
        """True in every rank if any of them was told to stop.

        Raises:
            UserError: a rank has an error; the first one's, in every rank.
        """
        if error is not None:
            raise error
        return stop

    def warn(self, line: str, say: Callable[[str], None]) -> None:
        """Print a warning of this rank alone: the main rank by `say`, another to stderr, without waiting for others."""
        if self.is_main:
            say(f"warning: {line}")
        else:
            print(f"onestage: warning: rank {self.rank} of the run: {line}", file=sys.stderr, flush=True)


ALONE = World()


class _ManyRanks(World):
    def __init__(self, store: Store, on_cpu: bool) -> None:
        """`store`: the launcher's. The process group is there already."""
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        super().__init__(store)
        # Unused parameters are looked for so that DDP leaves the order of its messages as it is: reordered after the
        # first step, sums over three or more ranks differ in their last bits after a resume.
        kwargs = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[kwargs])
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.processes_here = _from_launcher("LOCAL_WORLD_SIZE", self.size)
        self.device = "cpu" if on_cpu else str(self._accelerator.device)
        self._launchers_store = store
        self._own_keys = f"onestage/{self.from_main(uuid.uuid4().hex)}"
        self._heartbeat: Heartbeat | None = None

    def connect(self, network: nn.Module) -> nn.Module:
        synchronise_batch_norms(network, on_gpus=self.device != "cpu")
        connected = self._accelerator.prepare_model(_WithUnused(network), device_placement=False)
        assert isinstance(connected, DistributedDataParallel)
        connected.forward_sync_buffers = False  # they are the same in all ranks now, and stay so
        if self._heartbeat is None:
            keys = PrefixStore(f"{self._own_keys}/heartbeat", self._launchers_store.clone())
            self._heartbeat = Heartbeat(keys, self.rank, self.size, launcher_has_store=_launcher_has_store())
        return connected

    def without_exchange(self, network: nn.Module) -> AbstractContextManager[Any]:
        return self._accelerator.no_sync(network)

    def sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    def from_main(self, value: T) -> T:
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        result: Any = None
        error: UserError | None = None
        if self.is_main:
            try:
                result = work()
            except UserError as raised:
                error = raised
        self.agree(error)
        return self.from_main(result)

    def agree(self, error: UserError | None = None, stop: bool = False) -> bool:
        errors, stops = self.sum(torch.tensor([error is not None, stop], dtype=torch.int64)).tolist()
        if errors:
            messages = self.gather(None if error is None else str(error))
            if self.is_main and error is not None:
                raise error
            kind = UserError if self.is_main else ReportedByAnotherRankError
            raise kind(next(message for message in messages if message is not None))
        return stops > 0

    def reports(self, error: UserError) -> bool:
        """True on the rank that reports an error which all ranks may have: the first to ask."""
        try:
            return self._launchers_store.add(f"{self._own_keys}/reported/{error}", 1) == 1
        except RuntimeError:  # the store is gone
            return self.is_main

    def leave(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()


@contextmanager
def joined_processes(device: str | None) -> Generator[World, None, None]:
    """Inside of `with`, this process is one of the launcher's ranks; or alone, if there are no others.

    An error that all ranks have is reported by one of them, a connection that broke by the main rank.

    Raises:
        UserError: a device that many ranks can't share.
    """
    size = _from_launcher("WORLD_SIZE", 1)
    if size == 1:
        yield World(_launchers_store(0)) if _launcher_has_store() else ALONE
        return
    if device not in (None, "cpu", "cuda"):
        kind = UserError if _from_launcher("RANK", 0) == 0 else ReportedByAnotherRankError
        raise kind(f"device {device!r}: torchrun gives each process its own; use cuda or cpu, or leave it out")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    with _process_group("gloo" if on_cpu else "cpu:gloo,cuda:nccl", int(os.environ["RANK"]), size) as store:
        world = _ManyRanks(store, on_cpu)
        try:
            yield world
        except ReportedByAnotherRankError:
            raise
        except UserError as error:
            if world.reports(error):
                raise
            raise ReportedByAnotherRankError(str(error)) from error
        except KeyboardInterrupt:
            if world.is_main:
                raise
            raise ReportedByAnotherRankError("stopped") from None
        except RuntimeError as error:
            if not _connection_broke(error):
                raise
            line = "the connection to another rank of the run broke; see torchrun's lines for what became of it"
            raise UserError(line) if world.is_main else ReportedByAnotherRankError(line) from error
        finally:
            world.leave()


@contextmanager
def _process_group(backend: str, rank: int, size: int) -> Iterator[Store]:
    """Inside of `with`, the ranks can send each other messages; gives the launcher's store.

    The same processes may do this again, so the keys are new each time.
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
    """True if the store is in the launcher's process; else it is in the main rank's and ends with that."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _from_launcher(variable: str, otherwise: int) -> int:
    return int(os.environ.get(variable, otherwise))


def _connection_broke(error: RuntimeError) -> bool:
    """True for an error of the process group; gloo's are plain RuntimeErrors that name the file they come from."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


class _WithUnused(nn.Module):
    """A network and a parameter that it does not use: looking for such and finding none, DDP complains at length.

    Nothing else knows of the parameter, so it is neither trained nor saved.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.unused = nn.Parameter(torch.zeros((), device=next(network.parameters()).device))

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


# --- batch norms


def synchronise_batch_norms(network: nn.Module, *, on_gpus: bool) -> None:
    """Let a network's batch norms see the images of all ranks while they train: many ranks then compute what one would.

    They are replaced: on GPUs by torch.nn.SyncBatchNorm, which gloo lacks. Tensors and their names stay, frozen norms
    too, and a second call changes nothing.
    """
    from timm.layers.norm_act import convert_sync_batchnorm  # keeps the activation that timm's norms have

    trained = trained_batch_norms(network)
    for name, norm in list(network.named_modules(remove_duplicate=False)):
        if norm in trained and not isinstance(norm, GlooBatchNorm | nn.SyncBatchNorm):
            network.set_submodule(name, convert_sync_batchnorm(norm) if on_gpus else GlooBatchNorm(norm))


class GlooBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm with the settings and tensors of another one. In training it normalises over all ranks, by gloo."""

    def __init__(self, norm: nn.Module) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(norm.__dict__)  # parameters, buffers, settings, and of timm's norms dropout and activation

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, x: Tensor) -> Tensor:
        y = self._normalised(x) if self.training else super().forward(x)
        for layer in self.children():  # timm's dropout and activation
            y = layer(y)
        return y

    def _normalised(self, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        mean, variance, count = moments_of_all_ranks(x)
        if self.track_running_stats:
            with torch.no_grad():
                batches = self.get_buffer("num_batches_tracked").add_(1)
                weight = self.momentum if self.momentum is not None else 1 / batches.item()
                self.get_buffer("running_mean").lerp_(mean, weight)
                self.get_buffer("running_var").lerp_(variance * count / (count - 1).clamp(min=1), weight)
        scale = (variance + self.eps).rsqrt() * (1 if self.weight is None else self.weight)  # (C,)
        shift = (0 if self.bias is None else self.bias) - mean * scale
        by_channel = (-1, *[1] * (x.ndim - 2))
        return (x * scale.view(by_channel) + shift.view(by_channel)).to(x.dtype)


def moments_of_all_ranks(
    x: Float[Tensor, "B C ..."],
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"], Float[Tensor, 1]]:
    """Mean and (biased) variance of each channel over all ranks, and the number of values that a channel has.

    The variance is put together from each rank's own (Chan et al. 1979, "Updating formulae and a pairwise algorithm for
    computing sample variances"): sums of squares would lose float32's last digits.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    own_variance, own_mean = torch.var_mean(x, dim=[d for d in range(x.ndim) if d != 1], correction=0)
    own_count = own_mean.new_full((1,), x.numel() / x.shape[1])
    sums: Tensor = _SumOverRanks.apply(torch.cat([own_mean * own_count, own_count]))  # pyright: ignore
    count = sums[-1:].detach()
    mean = sums[:-1] / count
    variance: Tensor = _SumOverRanks.apply((own_variance + (own_mean - mean).square()) * own_count)  # pyright: ignore
    return mean, variance / count, count


class _SumOverRanks(torch.autograd.Function):
    """A sum over all ranks; its gradient is the sum of theirs."""

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
