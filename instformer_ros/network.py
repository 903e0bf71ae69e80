"""The network as the engine runs it: at its precision and, on a GPU, from graphs captured once for every size."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from instformer_ros.devices import is_out_of_memory
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.packed import pack, unpack
from instformer_ros.model.precision import find_precision, lower
from instformer_ros.structures import Proposals

_GRAPHS = 8  # most sizes that graphs are kept for; further ones run without
_WARM_UP = 3  # passes before a capture, in which libraries choose their kernels and allocate their workspaces

Function = Callable[..., tuple[Tensor, ...]]


class Network:
    """Proposals and instance tokens, in fp32 whatever the precision within.

    On a GPU the results lie in memory that the next call with the same sizes overwrites.
    """

    def __init__(
        self,
        model: InstFormer,
        device: torch.device,
        precision: str = "auto",
        graphs: bool = True,
        packed: bool = True,
    ) -> None:
        """``graphs`` on a GPU; weights ``packed`` on a CPU, after which the model cannot be moved or copied."""
        self.dtype = find_precision(precision, device)
        self._device = device
        self._model = model.prepare().to(device)
        if self.dtype != torch.float32:
            lower(model.proposals, self.dtype)
            lower(model.instclip.visual, self.dtype)  # the text tower is run once a word: it keeps its precision
        if packed and device.type == "cpu":
            pack(model.proposals)
            model.instclip.pack()
        self._propose: Function = self._run_proposals
        self._name: Function = self._run_instclip
        if graphs and device.type == "cuda" and model.config.classifier == "instclip":
            stream = torch.cuda.Stream(device)  # one for all: cuBLAS keeps a workspace for each that it has met
            self._propose, self._name = Captured(self._run_proposals, stream), Captured(self._run_instclip, stream)

    def proposals(self, images: Tensor, lean: bool = False) -> Proposals:
        """As :meth:`ProposalNetwork.forward`; ``lean`` without a graph, which keeps its memory."""
        return Proposals(*(self._run_proposals if lean else self._propose)(images))

    def tokens(self, images: Tensor, mask_logits: Tensor, queries: Tensor | None = None, lean: bool = False) -> Tensor:
        """As :meth:`InstClip.forward`; ``lean`` as for :meth:`proposals`."""
        if lean or queries is not None:  # given masks, in any number: not worth a graph
            return self._run_instclip(images, mask_logits, queries)[0]
        return self._name(images, mask_logits)[0]

    def close(self) -> None:
        """Lets go of the weights, and of all else that takes memory. The network is of no use after that."""
        self._model.to("meta")
        self._model.instclip.unpack()
        unpack(self._model.proposals)
        self.release()

    def release(self) -> None:
        """Gives back memory that only saves time: graphs, which are captured anew, and what torch keeps for later."""
        for function in (self._propose, self._name):
            if isinstance(function, Captured):
                function.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            if hasattr(torch._C, "_host_emptyCache"):
                torch._C._host_emptyCache()  # pinned memory

    def _run_proposals(self, images: Tensor) -> tuple[Tensor, ...]:
        with autocast(self._device, self.dtype):
            seen = self._model.proposals(images)
        return seen.queries.float(), seen.objectness.float(), seen.mask_logits.float()

    def _run_instclip(self, images: Tensor, mask_logits: Tensor, queries: Tensor | None = None) -> tuple[Tensor, ...]:
        with autocast(self._device, self.dtype):
            tokens = self._model.instclip(images, mask_logits, queries)
        return (tokens.float(),)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which a network computes at ``dtype``; nothing for float32."""
    if dtype == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype)


class Captured:
    """A function of tensors on a GPU, replayed from a CUDA graph: the host starts a whole pass with one call.

    The first call with new shapes captures, which takes as long as some passes; where that fails, the function runs
    as it is from then on. The function may neither wait for the
    GPU nor depend on the values of its arguments.
    """

    def __init__(self, function: Function, stream: torch.cuda.Stream) -> None:
        """``stream``: of the device; used to capture."""
        self._function, self._stream = function, stream
        self._works = True
        self._graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]] = {}

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self._graphs:
            if len(self._graphs) == _GRAPHS or not self._works:
                return self._function(*arguments)
            try:
                self._graphs[shapes] = self._capture(arguments)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._works = False
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(f"no CUDA graph could be captured, so frames take longer: {reason}", stacklevel=2)
                return self._function(*arguments)  # if the device itself has failed, so will this
        graph, inputs, outputs = self._graphs[shapes]
        for own, argument in zip(inputs, arguments, strict=True):
            own.copy_(argument)
        graph.replay()
        return outputs

    def clear(self) -> None:
        """Forgets the graphs. Results that are still in use keep their memory."""
        self._graphs.clear()

    def _capture(self, arguments: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]:
        inputs = [argument.clone() for argument in arguments]
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._function(*inputs)
        torch.cuda.current_stream(stream.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: words may be encoded on the same GPU by another thread meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = self._function(*inputs)
        return graph, inputs, outputs
