# SPDX-License-Identifier: Apache-2.0
"""flax.linen's scan and recurrent layers, persistent: change the import, keep the rest.

The cells of `jax_persistent.cells` are here too, as flax cells: `PeepholeLSTMCell` and so on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import axes_scan, lift
from flax.core.scope import in_filter
from flax.linen import module as linen_module
from flax.linen import recurrent, transforms
from jax import Array, random

from jax_persistent import notices
from jax_persistent.fallback import Loops, NoKernel, kernel_of, loops
from jax_persistent.flax_layers import arguments, calls
from jax_persistent.flax_layers.arguments import CallOptions
from jax_persistent.flax_layers.calls import KernelCall
from jax_persistent.flax_layers.cell_weights import CellWeights
from jax_persistent.flax_layers.linen_weights import GATHERERS
from jax_persistent.linen_cells import *  # noqa: F403
from jax_persistent.ops.validation import check_flags, read_lengths
from jax_persistent.rehosted import Rehosted, lax_with

# flax's method without the wrapper that flax puts around a Module's methods: ours has that wrapper
# already, and a call within a call would be captured, intercepted and tabulated twice.
_flax_rnn = inspect.unwrap(nn.RNN.__call__)
_flax_bidirectional = inspect.unwrap(nn.Bidirectional.__call__)


def _transforms_over(scan: Callable[..., Any]) -> Any:
    """flax.linen.transforms, whose `scan` ends in this one in place of `lax.scan`."""
    axes = Rehosted(axes_scan, lax=lax_with(scan))
    return Rehosted(transforms, lift=Rehosted(lift, axes_scan=axes))


def _lifted() -> tuple[Loops, Loops]:
    """flax's scan, and its RNN's method, over ours."""

    def scan(ours: Callable[..., Any]) -> Callable[..., Any]:
        return _transforms_over(ours).scan

    def rnn(ours: Callable[..., Any]) -> Callable[..., Any]:
        return Rehosted(recurrent, transforms=_transforms_over(ours)).copied(_flax_rnn)

    what, name = "jax_persistent.linen.{} runs flax's own code", "flax's scan"
    tell = partial(notices.inform, "jax_persistent.scan runs as a lax.scan")
    scans = loops(what.format("scan"), name, nn.scan, scan, tell)
    return scans, loops(what.format("RNN"), name, _flax_rnn, rnn)


_scans, _rnns = _lifted()


def scan(target: Any, *lifting: Any, backend: str | None = None, **options: Any) -> Any:
    """flax.linen.scan, run persistently where the step is a recurrence.

    Takes the arguments of `flax.linen.scan`, which mean what they mean there, on a module, on a
    function of a module, or as a decorator; variables, rngs and results are flax's. What the scan
    does is `jax_persistent.scan`: a kernel that keeps the matrices of the step in the cores'
    caches, or `jax.lax.scan` where the step is none that a kernel runs.

        >>> class ScannedGRU(nn.Module):
        ...     @functools.partial(
        ...         scan, variable_broadcast="params", split_rngs={"params": False}
        ...     )
        ...     @nn.compact
        ...     def __call__(self, carry, inputs):
        ...         x, done = inputs  # of one step: [B, I], [B]
        ...         carry = jnp.where(done[:, None], jnp.zeros_like(carry), carry)
        ...         return nn.GRUCell(carry.shape[-1])(carry, x)

    Args:
      target: a Module class, or a function whose first argument is a Module.
      *lifting, **options: those of `flax.linen.scan`.
      backend: None chooses; "native" is a kernel or an error saying why it can't be; "reference" is
        flax's own scan. flax has no such argument.

    Returns:
      What `flax.linen.scan` does: a class, or a function (module, carry, *xs) -> (carry, ys).

    Raises:
      ValueError: another `backend`.
      NotImplementedError: when what is returned runs: `backend="native"`, and the step has no
        program; names the equation and the line it comes from.
    """
    check_flags(backend)
    return _scans[backend](target, *lifting, **options)


class RNN(nn.RNN):
    """flax.linen.RNN with the whole sequence in one kernel call.

    Every argument of `flax.linen.RNN` and of its call means what it means there, and the parameters
    have flax's names, shapes and initial values, so checkpoints move both ways.

        >>> rnn = RNN(nn.OptimizedLSTMCell(64))
        >>> variables = rnn.init(jax.random.key(0), x)  # x [*batch, T, I]
        >>> y = rnn.apply(variables, x)  # [*batch, T, H]

    `OptimizedLSTMCell`, `LSTMCell`, `GRUCell` and `SimpleCell` have kernels of their own: those
    classes themselves with sigmoid gates and tanh (`SimpleCell`: tanh or relu, no residual), in
    float32, bfloat16, float16 or float64. Subclasses, other cells, a user's own, other functions,
    scanned or carried variables and intercepted methods run as `jax_persistent.scan` of the cell's
    own calls: on a CPU a kernel too, for cells made of matrix products and of operations on
    vectors, on a GPU for those with one product a step. Where there is none, as for convolutions,
    flax's own code runs; the logger "jax_persistent" warns then, once for each reason.

    With `seq_lengths` [*batch] the outputs past a row's length are flax's too: the cell goes on
    over the padding, and an LSTM that returns its carry as well runs twice for that.
    `mask_outputs=True` makes those outputs zero and always takes one run.

    Three things differ from flax, all for the better: a row of length 0 keeps its initial carry
    (flax returns the one after the last step), `seq_lengths` may be given with several batch axes,
    and lengths outside 0..T raise a ValueError (traced ones are clamped). With a `dtype` narrower
    than the carry's, flax rounds only what enters a product; here an initial and a final carry are
    rounded to `dtype` too.

    Attributes:
      mask_outputs: return zeros past each row's length. flax has no such argument.
      backend: None chooses; "native" is a kernel, of the cell or of `jax_persistent.scan`, or an
        error saying why it can't be; "reference" is a plain `lax.scan`. Nor has flax this one.
    """

    mask_outputs: bool = False
    backend: str | None = None

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: Array | None = None,
        seq_lengths: Array | None = None,
        resets: Array | None = None,
        reset_carry: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Applies the layer; arguments and results are those of `flax.linen.RNN.__call__`.

        `resets` and `reset_carry` are additions to flax's, and work with every cell.

        Args:
          inputs: [*batch, T, I], or [T, *batch, I] time-major.
          initial_carry: the cell's own, for example (c, h), each [*batch, H], for an LSTM.
          init_key: for a `carry_init` that draws; `jax.random.key(0)` if not given.
          seq_lengths: [*batch] integers in 0..T, an array or a list.
          resets: [*batch, T], or [T, *batch] time-major; bool. Where true, the carry before that
            step is `reset_carry`: the `done` flags of episodes, or the first steps of sequences
            that are packed end to end. A reversed layer meets them in the order in which it runs.
          reset_carry: with resets; of the carry's structure and shapes, zeros if not given.
          return_carry, time_major, reverse, keep_order: override the attributes.

        Returns:
          outputs [*batch, T, H] (time-major as the inputs are), or (carry, outputs).

        Raises:
          ValueError: resets, reset_carry, known lengths or `backend` are wrong, or flax's own
            reasons.
          NotImplementedError: `backend="native"`, and there is no kernel for this call.
        """
        arguments.check_cell(self.cell, "linen")
        seq_lengths = read_lengths("seq_lengths", seq_lengths)
        options = CallOptions.of(
            self,
            seq_lengths,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
            return_carry=return_carry,
        )
        resets = arguments.check_resets(resets, inputs, options)
        arguments.check_seq_lengths(seq_lengths, inputs, options)
        try:
            call = _kernel_call(self, inputs, initial_carry, init_key, seq_lengths, options)
        except NoKernel as error:
            if self.backend != "reference":
                notices.inform("jax_persistent.linen.RNN is a jax_persistent.scan", str(error))
        else:
            arguments.check_reset_carry(reset_carry, resets, call.carry)
            return calls.run_cell(call, inputs, seq_lengths, resets, reset_carry)
        scanned = partial(
            _rnns[None if self.is_initializing() and self.backend == "native" else self.backend],
            self,
            init_key=init_key,
            time_major=options.time_major,
            seq_lengths=seq_lengths,
            return_carry=options.return_carry,
            reverse=options.reverse,
            keep_order=options.keep_order,
        )
        if resets is None and reset_carry is None:
            result = scanned(inputs, initial_carry=initial_carry)
        else:
            carry = _initial_carry(self, inputs, initial_carry, init_key, options)
            arguments.check_reset_carry(reset_carry, resets, carry)
            assert resets is not None
            if reset_carry is None:
                reset_carry = jax.tree.map(jnp.zeros_like, carry)
            result = _with_resets(self.cell, scanned, inputs, carry, resets, reset_carry)
        return calls.mask_padding(result, seq_lengths, options)

    @nn.nowrap
    def pack(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The layer's variables with its kernels packed beside them, for calls of few steps.

            >>> packed = rnn.pack(variables)
            >>> carry, y = rnn.apply(packed, x, initial_carry=carry)  # x [*batch, 1, I]

        They are in the collection "packed", and read in place of the kernels in "params", of which
        the results are those bit for bit; see `jax_persistent.pack`. Parameters that change are
        packed again. The layers of a larger model pack themselves in a call that says "packed" is
        mutable:

            >>> _, packed = model.apply(variables, x, mutable=["packed"])
            >>> y = model.apply({**variables, **packed}, x)

        Raises:
          NotImplementedError: the cell has no kernel of its own.
          ValueError: its dtype has no kernel on a CPU.
        """
        _, packed = self.apply(variables, method="_pack", mutable=["packed"])
        return {**variables, **packed}

    def _pack(self) -> None:
        try:
            weights = kernel_of(self.cell, GATHERERS)(self.cell)
        except NoKernel as error:
            raise calls.unpackable(self.cell, error) from error
        self.put_variable("packed", "kernels", weights.pack())

    def _of_a_direction(self, *arguments: Any) -> KernelCall:
        """For Bidirectional; as it is a method, flax sets the cell up."""
        return _kernel_call(self, *arguments)


def _with_resets(
    cell: Any,
    scanned: Callable[..., Any],
    inputs: Array,
    carry: Any,
    resets: Array,
    reset_carry: Any,
) -> Any:
    """A scan of the cell's own calls with resets."""

    def take_flags(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.path != cell.path or context.method_name != "__call__":
            return call(*args, **kwargs)
        carry, step = args
        reset, step = calls.without_flags(step, resets.ndim - 1)
        return call(calls.replace_carry(reset, carry, reset_carry), step, **kwargs)

    with nn.intercept_methods(take_flags):
        return scanned(calls.with_flags(inputs, resets), initial_carry=carry)


class Bidirectional(nn.Bidirectional):
    """flax.linen.Bidirectional, for two `RNN` layers of this module.

    Arguments, parameters and results are those of flax's. What is said of `RNN` about lengths holds
    for each direction; under `jax.jit` a carry that nobody reads costs nothing.

    Two layers of one cell, width and dtype are one kernel call, which reads the inputs once; with
    `seq_lengths` they are if both have `mask_outputs`. All others are two calls, such as layers of
    which each has another `backend`.
    """

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: Array | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Applies the layer; arguments and results are those of flax's."""
        time_major = self.time_major if time_major is None else time_major
        return_carry = self.return_carry if return_carry is None else return_carry
        seq_lengths = read_lengths("seq_lengths", seq_lengths)
        carries = (None, None) if initial_carry is None else initial_carry
        keys = (None, None) if init_key is None else random.split(init_key)
        found = _both_ways(self, inputs, carries, keys, seq_lengths, time_major)
        if found is None:
            return _flax_bidirectional(
                self,
                inputs,
                initial_carry=initial_carry,
                init_key=init_key,
                seq_lengths=seq_lengths,
                return_carry=return_carry,
                time_major=time_major,
            )
        return found if return_carry else found[1]


def _both_ways(
    layer: Bidirectional,
    inputs: Any,
    carries: Any,
    keys: Any,
    seq_lengths: Any,
    time_major: bool,
) -> Any:
    """(both carries, outputs) of one kernel call, or None if flax makes two of it."""
    rnns: tuple[Any, Any] = (layer.forward_rnn, layer.backward_rnn)
    context = linen_module._context
    watched = context.call_info_stack or (context.capture_stack and context.capture_stack[-1])
    if watched or linen_module._global_interceptor_stack or rnns[0] is rnns[1]:
        return None  # the calls of both are to be seen; flax has a word to say
    if any(type(rnn) is not RNN for rnn in rnns):
        return None
    both = []
    for rnn, carry, key, reverse in zip(rnns, carries, keys, (False, True), strict=True):
        options = CallOptions.of(
            rnn,
            seq_lengths,
            time_major=time_major,
            reverse=reverse,
            keep_order=True,
            return_carry=True,
        )
        try:
            both.append(rnn._of_a_direction(inputs, carry, key, seq_lengths, options))
        except NoKernel:
            return None
    merge = None if layer.merge_fn is nn.Bidirectional.merge_fn else layer.merge_fn
    return calls.run_both(both, inputs, seq_lengths, merge)


def _initial_carry(
    rnn: RNN, inputs: Any, given: Any, init_key: Array | None, options: CallOptions
) -> Any:
    if given is not None:
        return given
    key = random.key(0) if init_key is None else init_key
    return rnn.cell.initialize_carry(key, options.step_shape(inputs))


def _kernel_call(
    rnn: RNN,
    inputs: Any,
    initial_carry: Any,
    init_key: Array | None,
    seq_lengths: Any,
    options: CallOptions,
) -> KernelCall:
    """A call of the layer on a kernel; raises NoKernel if flax has to run it."""
    weights = _weights(rnn, inputs, init_key, options)
    carry = _initial_carry(rnn, inputs, initial_carry, init_key, options)
    return KernelCall.of(weights, inputs, carry, seq_lengths, options)


def _weights(rnn: RNN, inputs: Any, init_key: Array | None, options: CallOptions) -> CellWeights:
    """The weights of the layer's cell; raises NoKernel if flax has to run it.

    Where the parameters are yet to be created, flax's own path creates them, running one step.
    """
    gather = kernel_of(rnn.cell, GATHERERS)
    arguments.check_sequence(inputs)
    if len(linen_module._global_interceptor_stack):
        raise NoKernel("methods are intercepted, and a kernel calls none of the cell's")
    if rnn.variable_axes or rnn.variable_carry or not in_filter(rnn.variable_broadcast, "params"):
        raise NoKernel("variable_axes and variable_carry ask for a scan, and so do own parameters")
    try:
        return _with_packed(rnn, gather(rnn.cell))
    except NoKernel:
        if not rnn.cell.is_mutable_collection("params"):
            raise
    step = inputs[:1] if options.time_major else inputs[..., :1, :]
    # Only its shape matters, and flax's scan takes no arrays whose types name mesh axes.
    zeros = jnp.zeros(step.shape, step.dtype)
    _flax_rnn(rnn, zeros, init_key=init_key, time_major=options.time_major)
    return gather(rnn.cell)


def _with_packed(rnn: RNN, weights: CellWeights) -> CellWeights:
    """A layer's weights with its packed kernels, if it has some or the caller asks for them."""
    assert rnn.scope is not None
    mutable = rnn.scope.mutable  # where all collections are, nobody has asked for this one
    named = (mutable,) if isinstance(mutable, str) else mutable
    if isinstance(named, Container) and "packed" in named:
        rnn.put_variable("packed", "kernels", weights.pack())
    if not rnn.has_variable("packed", "kernels"):
        return weights
    return replace(weights, packed=rnn.get_variable("packed", "kernels"))
