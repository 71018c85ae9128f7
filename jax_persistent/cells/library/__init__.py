# SPDX-License-Identifier: Apache-2.0
"""Library cells, each a step function in JAX: equations, nothing else. `jp.scan` runs them."""

from jax_persistent.cells.library.base import StepCell
from jax_persistent.cells.library.block_gru import BlockGRU
from jax_persistent.cells.library.coupled_lstm import CoupledLSTM
from jax_persistent.cells.library.dropout_lstm import DropoutLSTM
from jax_persistent.cells.library.indrnn import IndRNN
from jax_persistent.cells.library.layer_norm_gru import LayerNormGRU
from jax_persistent.cells.library.layer_norm_lstm import LayerNormLSTM
from jax_persistent.cells.library.minimal_gated_unit import MinimalGatedUnit
from jax_persistent.cells.library.multiplicative_lstm import MultiplicativeLSTM
from jax_persistent.cells.library.peephole_lstm import PeepholeLSTM
from jax_persistent.cells.library.projected_lstm import ProjectedLSTM
from jax_persistent.cells.library.rate_network import RateNetwork
from jax_persistent.cells.library.recurrent_highway import RecurrentHighway
from jax_persistent.cells.library.reset_before_gru import ResetBeforeGRU
from jax_persistent.cells.library.slstm import SLSTM
from jax_persistent.cells.library.stacked import Stacked
from jax_persistent.cells.library.zoneout_lstm import ZoneoutLSTM

__all__ = [
    "SLSTM",
    "BlockGRU",
    "CoupledLSTM",
    "DropoutLSTM",
    "IndRNN",
    "LayerNormGRU",
    "LayerNormLSTM",
    "MinimalGatedUnit",
    "MultiplicativeLSTM",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "RateNetwork",
    "RecurrentHighway",
    "ResetBeforeGRU",
    "Stacked",
    "StepCell",
    "ZoneoutLSTM",
]
