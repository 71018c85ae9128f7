# SPDX-License-Identifier: Apache-2.0
"""flax.nnx's scan and recurrent layers, persistent: change the import, keep the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import filterlib, rnglib
from flax.nnx.nn import recurrent
from flax.nnx.transforms import iteration
from jax import Array

from jax_persistent import notices
from jax_persistent.fallback import Loops, NoKernel, kernel_of, loops
from jax_persistent.flax_layers import arguments, calls
from jax_persistent.flax_layers.arguments import CallOptions
from jax_persistent.flax_layers.calls import KernelCall
from jax_persistent.flax_layers.cell_weights import CellWeights
from jax_persistent.flax_layers.nnx_weights import GATHERERS
from jax_persistent.nnx_cells import *  # noqa: F403
from jax_persistent.ops.validation import check_flags, read_lengths
from jax_persistent.rehosted import Rehosted, lax_with


def _scan_over(scan: Callable[..., Any]) -> Any:
    """flax.nnx.scan that ends in this one in place of `lax.scan`."""
    return Rehosted(iteration, jax=Rehosted(jax, lax=lax_with(scan))).scan


def _lifted() -> tuple[Loops, Loops]:
    """flax's scan, and its RNN's method, over ours."""
    flax_rnn: Any = nnx.RNN.__call__

    def rnn(ours: Callable[..., Any]) -> Callable[..., Any]:
        of_layers = _scan_over(ours)
        names = {"scan": of_layers}
        if hasattr(nnx, "compat"):  # in newer releases the layer calls nnx.compat.scan
            legacy: Any = nnx.compat.scan
            names["compat"] = Rehosted(nnx.compat, scan=partial(of_layers, **legacy.keywords))
        return Rehosted(recurrent, nnx=Rehosted(nnx, **names)).copied(flax_rnn)

    what, name = "jax_persistent.nnx.{} runs flax's own code", "flax's scan"
    tell = partial(notices.inform, "jax_persistent.scan runs as a lax.scan")
    scans = loops(what.format("scan"), name, nnx.scan, _scan_over, tell)
    return scans, loops(what.format("RNN"), name, flax_rnn, rnn)


_scans, _rnns = _lifted()


def scan(*function: Any, backend: str | None = None, **options: Any) -> Any:
    """flax.nnx.scan, run persistently where the step is a recurrence.

    Takes the arguments of `flax.nnx.scan`, which mean what they mean there; modules, their state
    and results are flax's. What the scan does is `jax_persistent.scan`: a kernel that keeps the
    matrices of the step in the cores' caches, or `jax.lax.scan` where the step is none that a
    kernel runs.

        >>> @scan(in_axes=(None, nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        ... def outputs(cell, carry, x):  # x of one step: [B, I]
        ...     return cell(carry, x)
        >>> carry, y = outputs(cell, carry, xs)

    Args:
      *function: what to scan; none of it for a decorator.
      **options: those of `flax.nnx.scan`.
      backend: None chooses; "native" is a kernel or an error saying why it can't be; "reference" is
        flax's own scan. flax has no such argument.

    Returns:
      What `flax.nnx.scan` does: a function, or a decorator.

    Raises:
      ValueError: another `backend`.
      NotImplementedError: when what is returned runs: `backend="native"`, and the step has no
        program; names the equation and the line it comes from.
    """
    check_flags(backend)
    return _scans[backend](*function, **options)


class RNN(nnx.RNN):
    """flax.nnx.RNN with the whole sequence in one kernel call.

    Every argument of `flax.nnx.RNN` and of its call means what it means there, and the state is
    flax's own, so checkpoints move both ways.

        >>> cell = nnx.OptimizedLSTMCell(32, 64, rngs=nnx.Rngs(0))
        >>> rnn = RNN(cell)
        >>> y = rnn(x)  # from [*batch, T, I] to [*batch, T, H]

    `OptimizedLSTMCell`, `LSTMCell`, `GRUCell` and `SimpleCell` have kernels of their own: those
    classes themselves with sigmoid gates and tanh (`SimpleCell`: tanh or relu, no residual) over
    plain `nnx.Linear` layers, in float32, bfloat16, float16 or float64. Subclasses, other cells, a
    user's own, other functions, layers with their own `precision`, `dot_general` or
    `promote_dtype`, scanned state and broadcast rngs run as `jax_persistent.scan` of the cell's own
    calls: on a CPU a kernel too, for cells made of matrix products and of operations on vectors, on
    a GPU for those with one product a step. Where there is none, flax's own code runs; the logger
    "jax_persistent" warns then, once for each reason.

    With `seq_lengths` [*batch] the outputs past a row's length are flax's too: the cell goes on
    over the padding, and an LSTM that returns its carry as well runs twice for that.
    `mask_outputs=True` makes those outputs zero and always takes one run.

    Three things differ from flax, all for the better: a row of length 0 keeps its initial carry
    (flax returns the one after the last step), `seq_lengths` may be given with several batch axes,
    and lengths outside 0..T raise a ValueError (traced ones are clamped). With a `dtype` narrower
    than the carry's, flax rounds only what enters a product; here an initial and a final carry are
    rounded to `dtype` too.

    Args:
      mask_outputs: return zeros past each row's length. flax has no such argument.
      backend: None chooses; "native" is a kernel, of the cell or of `jax_persistent.scan`, or an
        error saying why it can't be; "reference" is a plain `lax.scan`. Nor has flax this one.
    """

    def __init__(
        self,
        cell: nnx.RNNCellBase,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        state_axes: Mapping[str, int | type[iteration.Carry] | None] | None = None,
        broadcast_rngs: filterlib.Filter = None,
        rngs: rnglib.Rngs | rnglib.RngStream | bool = True,
        mask_outputs: bool = False,
        backend: str | None = None,
    ):
        arguments.check_cell(cell, "nnx")
        super().__init__(
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            state_axes=state_axes,
            broadcast_rngs=broadcast_rngs,
            rngs=rngs,
        )
        self.mask_outputs = mask_outputs
        self.backend = backend

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Array | None = None,
        resets: Array | None = None,
        reset_carry: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: rnglib.Rngs | rnglib.RngStream | None = None,
    ) -> Any:
        """Applies the layer; arguments and results are those of `flax.nnx.RNN.__call__`.

        `resets` and `reset_carry` are additions to flax's, and work with every cell.

        Args:
          inputs: [*batch, T, I], or [T, *batch, I] time-major.
          initial_carry: the cell's own, for example (c, h), each [*batch, H], for an LSTM.
          seq_lengths: [*batch] integers in 0..T, an array or a list.
          resets: [*batch, T], or [T, *batch] time-major; bool. Where true, the carry before that
            step is `reset_carry`: the `done` flags of episodes, or the first steps of sequences
            that are packed end to end. A reversed layer meets them in the order in which it runs.
          reset_carry: with resets; of the carry's structure and shapes, zeros if not given.
          return_carry, time_major, reverse, keep_order: override the attributes.
          rngs: for a `carry_init` that draws.

        Returns:
          outputs [*batch, T, H] (time-major as the inputs are), or (carry, outputs).

        Raises:
          ValueError: resets, reset_carry, known lengths or `backend` are wrong, or flax's own
            reasons.
          NotImplementedError: `backend="native"`, and there is no kernel for this call.
        """
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
        carry = initial_carry
        try:
            weights = _weights(self, inputs)
            carry = _initial_carry(self, inputs, carry, rngs, options)
            call = KernelCall.of(weights, inputs, carry, seq_lengths, options)
        except NoKernel as error:
            if self.backend != "reference":
                notices.inform("jax_persistent.nnx.RNN is a jax_persistent.scan", str(error))
        else:
            arguments.check_reset_carry(reset_carry, resets, carry)
            return calls.run_cell(call, inputs, seq_lengths, resets, reset_carry)
        flags: dict[str, Any] = {
            "seq_lengths": seq_lengths,
            "return_carry": options.return_carry,
            "time_major": options.time_major,
            "reverse": options.reverse,
            "keep_order": options.keep_order,
        }
        if resets is None and reset_carry is None:
            run = _rnns[self.backend]
            result = run(self, inputs, initial_carry=carry, rngs=rngs, **flags)
        else:
            carry = _initial_carry(self, inputs, carry, rngs, options)
            arguments.check_reset_carry(reset_carry, resets, carry)
            assert resets is not None
            if reset_carry is None:
                reset_carry = jax.tree.map(jnp.zeros_like, carry)
            result = _with_resets(self, inputs, carry, resets, reset_carry, flags)
        return calls.mask_padding(result, seq_lengths, options)

    def pack(self) -> None:
        """Packs the layer's kernels, for calls of few steps.

            >>> rnn.pack()
            >>> carry, y = rnn(x, initial_carry=carry)  # x [*batch, 1, I]

        They are a variable of type `Packed`, and read in place of the cell's own kernels, of which
        the results are those bit for bit; see `jax_persistent.pack`. Parameters that change are
        packed again; `del rnn.packed` goes back to them.

        Raises:
          NotImplementedError: the cell has no kernel of its own.
          ValueError: its dtype has no kernel on a CPU.
        """
        try:
            weights = kernel_of(self.cell, GATHERERS)(self.cell)
        except NoKernel as error:
            raise calls.unpackable(self.cell, error) from error
        self.packed = Packed(weights.pack())


class Packed(nnx.Variable):
    """The kernels of a layer that `RNN.pack` has packed, by name."""


def _with_resets(
    rnn: RNN, inputs: Array, carry: Any, resets: Array, reset_carry: Any, flags: dict[str, Any]
) -> Any:
    """A scan of the cell's own calls with resets."""
    resetting = nnx.RNN(
        _ResettingCell(rnn.cell, resets.ndim - 1),
        unroll=rnn.unroll,
        state_axes=rnn.state_axes,
        broadcast_rngs=rnn.broadcast_rngs,
        rngs=False,  # the carry is given
    )
    both = carry, reset_carry
    run = _rnns[rnn.backend]
    result = run(resetting, calls.with_flags(inputs, resets), initial_carry=both, **flags)
    if not flags["return_carry"]:
        return result
    (carry, _), outputs = result
    return carry, outputs


class _ResettingCell(nnx.RNNCellBase):
    """A cell whose inputs have the reset flag as their last feature.

    Its carry is (the cell's carry, what a reset row starts from).
    """

    def __init__(self, cell: nnx.RNNCellBase, batch_axes: int):
        self.cell = cell
        self.batch_axes = batch_axes

    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        kept, reset_carry = carry
        reset, step = calls.without_flags(inputs, self.batch_axes)
        kept, outputs = self.cell(calls.replace_carry(reset, kept, reset_carry), step)
        return (kept, reset_carry), outputs

    @property
    def num_feature_axes(self) -> int:
        return self.cell.num_feature_axes


class Bidirectional(nnx.Bidirectional):
    """flax.nnx.Bidirectional, for two `RNN` layers of this module.

    Arguments, state and results are those of flax's. What is said of `RNN` about lengths holds for
    each direction; under `jax.jit` a carry that nobody reads costs nothing.

    Two layers of one cell, width and dtype are one kernel call, which reads the inputs once; with
    `seq_lengths` they are if both have `mask_outputs`. All others are two calls, such as layers of
    which each has another `backend`.
    """

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        rngs: rnglib.Rngs | rnglib.RngStream | None = None,
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
        rngs = self.rngs if rngs is None else rngs
        rngs = rngs.carry if isinstance(rngs, rnglib.Rngs) else rngs
        carries = (None, None) if initial_carry is None else initial_carry
        found, carries = _both_ways(self, inputs, carries, rngs, seq_lengths, time_major)
        if found is None:
            return super().__call__(
                inputs,
                initial_carry=carries,
                rngs=rngs,
                seq_lengths=seq_lengths,
                return_carry=return_carry,
                time_major=time_major,
            )
        return found if return_carry else found[1]


def _both_ways(
    layer: Bidirectional,
    inputs: Any,
    carries: Any,
    rngs: rnglib.RngStream | None,
    seq_lengths: Any,
    time_major: bool,
) -> tuple[Any, Any]:
    """(both carries, outputs) of one kernel call, or None if flax makes two of it.

    And the initial carries, which are drawn once, whatever starts from them.
    """
    rnns: tuple[Any, Any] = (layer.forward_rnn, layer.backward_rnn)
    captured = hasattr(RNN.__call__, "_does_capturing")  # by nnx.capture
    if captured or rnns[0] is rnns[1] or any(type(rnn) is not RNN for rnn in rnns):
        return None, carries  # the calls of both are to be seen; flax has a word to say
    options = [
        CallOptions.of(
            rnn,
            seq_lengths,
            time_major=time_major,
            reverse=reverse,
            keep_order=True,
            return_carry=True,
        )
        for rnn, reverse in zip(rnns, (False, True), strict=True)
    ]
    try:
        weights = [_weights(rnn, inputs) for rnn in rnns]
        carries = [
            _initial_carry(rnn, inputs, given, rngs, of_rnn)
            for rnn, given, of_rnn in zip(rnns, carries, options, strict=True)
        ]
        both = [
            KernelCall.of(w, inputs, carry, seq_lengths, of_rnn)
            for w, carry, of_rnn in zip(weights, carries, options, strict=True)
        ]
    except NoKernel:
        return None, carries
    merge = None if layer.merge_fn is nnx.Bidirectional.merge_fn else layer.merge_fn
    return calls.run_both(both, inputs, seq_lengths, merge), carries


def _initial_carry(
    rnn: RNN,
    inputs: Array,
    given: Any,
    rngs: rnglib.Rngs | rnglib.RngStream | None,
    options: CallOptions,
) -> Any:
    if given is not None:
        return given
    stream = rnn.rngs if rngs is None else rngs
    stream = stream.carry.fork() if isinstance(stream, rnglib.Rngs) else stream
    return rnn.cell.initialize_carry(options.step_shape(inputs), stream)


def _weights(rnn: RNN, inputs: Any) -> CellWeights:
    """The weights of the layer's cell; raises NoKernel if flax has to run it."""
    gather = kernel_of(rnn.cell, GATHERERS)
    arguments.check_sequence(inputs)
    if rnn.broadcast_rngs is not None:
        raise NoKernel("broadcast_rngs asks for a scan over the cell's own calls")
    if any(axis not in (None, iteration.Carry) for _, axis in rnn.state_axes.items()):
        raise NoKernel("state_axes asks for a scan over the cell's own calls")
    packed = getattr(rnn, "packed", None)
    return replace(gather(rnn.cell), packed=None if packed is None else packed.get_value())
