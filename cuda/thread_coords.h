// SPDX-License-Identifier: Apache-2.0
// Where a thread stands in its launch: which team, group, tiles, units and part of K are its own.
#pragma once

#include "cuda/arch.h"
#include "cuda/launch_args.h"

namespace jp::cuda {

struct ThreadCoords {
  int lane, row, t;  // lane = 4 row + t, see warp_gemm.h
  int warp, warp_m, warp_k;
  int rank;  // of the block in its team
  int part;  // of a K that is cut: the block's rank in its cluster
  int team;  // in this launch
  int group;
  int first_tile, tiles;  // of the batch
  int unit_block;
  int first_chunk, chunks;  // of this warp's K

  JP_DEVICE ThreadCoords(const Geometry& g, int batch)
      : lane(arch::Lane()), row(lane / 4), t(lane % 4), warp(arch::Warp()) {
    warp_m = warp / g.warps_k;
    warp_k = warp % g.warps_k;
    team = arch::BlockIndex() / g.blocks_per_team;
    rank = arch::BlockIndex() % g.blocks_per_team;
    const int work = g.first_team + team;
    group = work / g.teams_per_group;
    const int all_tiles = (batch + kTileRows - 1) / kTileRows;
    first_tile = work % g.teams_per_group * g.tiles_per_team;
    tiles = Clamp(all_tiles - first_tile, g.tiles_per_team);
    part = rank % g.cut;
    unit_block = rank / g.cut * g.warps_m + warp_m;
    const int in_block = warp_k * g.warp_chunks;
    first_chunk = part * g.block_chunks + in_block;
    chunks = Clamp(Clamp(g.chunks, (part + 1) * g.block_chunks) - first_chunk,
                   Clamp(g.block_chunks - in_block, g.warp_chunks));
  }

  JP_DEVICE static int Clamp(int left, int most) {
    return left < 0 ? 0 : left < most ? left : most;
  }
};

}  // namespace jp::cuda
