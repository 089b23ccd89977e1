"""The ranks of a run: this process alone, or those that torchrun started.

    torchrun --nproc-per-node 4 -m onestage train ...

Every rank reads its share of each batch. Gradients are added up over all of them (accelerate wraps the network in DDP);
small values go through gloo, gradients on GPUs through NCCL. No other file knows torch.distributed.
"""

import atexit
import functools
import itertools
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from onestage.errors import PassingError, ReportedByAnotherRankError, UserError
from onestage.texts import one_line
from onestage.training.heartbeat import Heartbeat
from onestage.training.optimizer import trained_batch_norms

# One rank may work alone for long (look through the data, write a report) while the others wait. The launcher notices
# a dead process at once; the heartbeat notices one that hangs.
TIMEOUT = timedelta(days=1)
STARTED = "onestage/started"  # a key in the launcher's store, which outlives the processes: see `World.restarted`
PRINT_S, END_S = 1.0, 60.0  # time for another rank to print an error; for torchrun to end this process
_JOINS = itertools.count()  # the same processes may join several times, with new keys in the store each time

T = TypeVar("T")


class World:
    """One rank's view of the run. This class is the view of a run with one rank, `_ManyRanks` that of several."""

    rank = 0  # this process's number; the main rank, 0, prints and writes
    size = 1  # number of ranks (torch's world_size)
    processes_here = 1  # number of ranks on this machine
    device: str | None = None  # this rank's device, if the launcher gives each rank its own
    may_pass = False  # True if the run ended by what may not come again: the launcher may start the ranks again

    def __init__(self, store: Store | None = None) -> None:
        self._store = store  # the launcher's, which outlives this process; None if no launcher started it

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def may_restart(self) -> bool:
        """True if the launcher starts the ranks again after one died."""
        return _launcher_int("TORCHELASTIC_MAX_RESTARTS", 0) > 0

    @property
    def restarted(self) -> bool:
        """True if the launcher has started the ranks again since this run began, so the run folder is its own."""
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
        """Inside of `with`, gradients are kept on this rank (no_sync); the next backward pass outside adds up all."""
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in each of them (all-reduce)."""
        return values

    def from_main(self, value: T) -> T:
        """The main rank's value, in every rank (broadcast)."""
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, in every rank (all-gather)."""
        return [value]

    def on_main(self, work: Callable[[], T]) -> T:
        """Do work in the main rank, and give its result, or the UserError that it raised, to every rank."""
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
        """True in every rank if any of them was told to stop. If any has an error, all raise the lowest rank's."""
        told = [error is not None, stop, isinstance(error, PassingError)]
        errors, stops, passing = self.sum(torch.tensor(told, dtype=torch.int64)).tolist()
        if errors:
            self.may_pass = passing > 0
            messages = self.gather(None if error is None else error.args)
            if self.is_main and error is not None:
                raise error
            kind = UserError if self.is_main else ReportedByAnotherRankError
            raise kind(*next(lines for lines in messages if lines is not None))
        return stops > 0

    def warn(self, line: str, say: Callable[[str], None]) -> None:
        """Print a warning of this rank alone: the main rank by `say`, another to stderr, without waiting for others."""
        if self.is_main:
            say(f"warning: {line}")
        else:
            print(f"onestage: warning: rank {self.rank} of the run: {one_line(line)}", file=sys.stderr, flush=True)


ALONE = World()


class _ManyRanks(World):
    def __init__(self, rank: int, size: int, on_cpu: bool) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        self._launchers_store = store = _launchers_store(rank)
        super().__init__(store)
        keys = f"onestage/{_launcher_int('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_JOINS)}"
        backend, keyed = "gloo" if on_cpu else "cpu:gloo,cuda:nccl", PrefixStore(keys, store)
        dist.init_process_group(backend, store=keyed, rank=rank, world_size=size, timeout=TIMEOUT)
        # DDP that looks for unused parameters doesn't reorder its buckets after the first step. If it did, sums over
        # three or more ranks would differ in their last bits after a resume.
        kwargs = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[kwargs])
        self.rank, self.size, self.processes_here = rank, size, _launcher_int("LOCAL_WORLD_SIZE", size)
        self.device = "cpu" if on_cpu else str(self._accelerator.device)
        self._own_keys = f"onestage/{self.from_main(uuid.uuid4().hex)}"
        self._heartbeat: Heartbeat | None = None

    def connect(self, network: nn.Module) -> nn.Module:
        synchronise_batch_norms(network, on_gpus=self.device != "cpu")
        connected = self._accelerator.prepare_model(_WithUnusedParameter(network), device_placement=False)
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

    def reports(self, error: UserError) -> bool:
        """True on the rank that reports an error which all ranks may have: the first to ask."""
        try:
            return self._launchers_store.add(f"{self._own_keys}/reported/{one_line(str(error))}", 1) == 1
        except RuntimeError:  # the store is gone
            return self.is_main

    def leave(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        dist.destroy_process_group()
        self._accelerator.state._reset_state(reset_partial_state=True)


@contextmanager
def joined_processes(device: str | None) -> Generator[World, None, None]:
    """Inside of `with`, this process is one of the launcher's ranks; or the only one, if there are no others.

    One rank reports an error that all ranks have, the main rank a connection that broke. A device that many ranks can't
    share is a UserError. Where torchrun would start the ranks again in vain, it is ended.
    """
    rank, size = _launcher_int("RANK", 0), _launcher_int("WORLD_SIZE", 1)
    if size == 1:
        try:
            yield World(_launchers_store(0)) if _launcher_has_store() else ALONE
        except UserError as error:
            if not isinstance(error, PassingError):
                _end_launcher_at_exit(0.0)
            raise
        return
    if device not in (None, "cpu", "cuda"):
        kind = UserError if rank == 0 else ReportedByAnotherRankError
        raise kind(f"device {device!r}: torchrun gives each process its own; use cuda or cpu, or leave it out")
    world = _ManyRanks(rank, size, on_cpu=device == "cpu" or not torch.cuda.is_available())
    try:
        yield world
    except UserError as error:
        reported = isinstance(error, ReportedByAnotherRankError) or not world.reports(error)
        if not (world.may_pass or isinstance(error, PassingError)):
            _end_launcher_at_exit(PRINT_S if reported else 0.0)
        if not reported or isinstance(error, ReportedByAnotherRankError):
            raise
        raise ReportedByAnotherRankError(str(error)) from error
    except KeyboardInterrupt:
        if world.is_main:
            raise
        raise ReportedByAnotherRankError("stopped") from None
    except RuntimeError as error:  # gloo's are plain ones that name the file they come from
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        line = "the connection to another rank of the run broke; see torchrun's lines for what became of it"
        raise PassingError(line) if world.is_main else ReportedByAnotherRankError(line) from error
    finally:
        world.leave()


def _end_launcher_at_exit(wait_s: float) -> None:
    """Have torchrun end, `wait_s` after this process did its work, if it has restarts left: the error would come again.

    It has no other way to be told so. It ends the ranks on its machine, which wait for that; one of them tells it.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ  # else the parent is something else
    left = _launcher_int("TORCHELASTIC_MAX_RESTARTS", 0) - _launcher_int("TORCHELASTIC_RESTART_COUNT", 0)
    if not by_torchrun or left <= 0:
        return

    def end_launcher() -> None:
        if _launcher_int("LOCAL_RANK", 0) == 0:
            time.sleep(wait_s)
            os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(END_S)

    atexit.register(end_launcher)


@functools.cache
def _launchers_store(rank: int) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serve = rank == 0 and not _launcher_has_store()
    return TCPStore(address, port, is_master=serve, wait_for_workers=False, timeout=TIMEOUT)


def _launcher_has_store() -> bool:
    """True if the store is in the launcher's process; else it is in the main rank's and ends with that."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _launcher_int(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))


class _WithUnusedParameter(nn.Module):
    """A network and an unused parameter, neither trained nor saved: DDP looks for them and warns if there is none."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.unused = nn.Parameter(torch.zeros((), device=next(network.parameters()).device))

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


# --- batch norms


def synchronise_batch_norms(network: nn.Module, *, on_gpus: bool) -> None:
    """Let a network's batch norms see the images of all ranks while they train: many ranks then compute what one would.

    They are replaced: on GPUs by torch.nn.SyncBatchNorm, on CPUs, which it does not run on, by `GlooBatchNorm`. Tensors
    and their names stay, and so do frozen norms; a second call changes nothing.
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
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        own_variance, own_mean = torch.var_mean(wide, dim=[d for d in range(x.ndim) if d != 1], correction=0)  # (C,)
        own_count = own_mean.new_full((1,), x.numel() / x.shape[1])  # number of values of a channel
        sums: Tensor = _SumOverRanks.apply(torch.cat([own_mean * own_count, own_count]))  # pyright: ignore
        count = sums[-1:].detach()
        mean = sums[:-1] / count
        # Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample variances": sums of squares
        # would lose float32's last digits.
        spread: Tensor = _SumOverRanks.apply((own_variance + (own_mean - mean).square()) * own_count)  # pyright: ignore
        variance = spread / count  # biased
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


class _SumOverRanks(torch.autograd.Function):
    """A sum over all ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, *gradients)
