// Where a thread stands in its launch: which team, group, tiles, units and part of K are its own.
#pragma once

#include "cuda/launch_args.h"

namespace jp::cuda {

struct ThreadCoords {
  int lane, row, t;  // lane = 4 row + t, see sums.h
  int warp, warp_m, warp_k;
  int rank;  // of the block in its team
  int team;  // in this launch
  int group;
  int first_tile, tiles;  // of the batch
  int unit_block;
  int first_chunk, chunks;  // of this warp's K

  JP_DEVICE ThreadCoords(const Geometry& pass, const Shape& shape)
      : lane(arch::Lane()), row(lane / 4), t(lane % 4), warp(arch::Warp()) {
    warp_m = warp / pass.warps_k;
    warp_k = warp % pass.warps_k;
    team = arch::BlockIndex() / pass.blocks_per_team;
    rank = arch::BlockIndex() % pass.blocks_per_team;
    const int work = pass.first_team + team;
    group = work / pass.teams_per_group;
    const int all_tiles = (shape.batch + kTileRows - 1) / kTileRows;
    first_tile = work % pass.teams_per_group * pass.tiles_per_team;
    tiles = Clamp(all_tiles - first_tile, pass.tiles_per_team);
    unit_block = rank * pass.warps_m + warp_m;
    first_chunk = warp_k * pass.warp_chunks;
    chunks = Clamp(pass.chunks - first_chunk, pass.warp_chunks);
  }

  JP_DEVICE static int Clamp(int left, int most) {
    return left < 0 ? 0 : left < most ? left : most;
  }
};

// Where things are in the arrays of one group, in elements.
struct Layout {
  const Shape& shape;
  int group;

  JP_DEVICE int64_t sequence(int b, int time, int features) const {
    const int64_t row = shape.time_major ? (int64_t{group} * shape.steps + time) * shape.batch + b
                                         : (int64_t{group} * shape.batch + b) * shape.steps + time;
    return row * features;
  }
  JP_DEVICE int64_t state(int b) const { return (int64_t{group} * shape.batch + b) * shape.hidden; }
};

}  // namespace jp::cuda
