// SPDX-License-Identifier: Apache-2.0
// Runs a stage's instructions, in one instruction set; see forward.h for how it is included.
//
// An instruction works on a block: up to kBlockVectors vectors, some units of some rows. A register
// has the block's vectors one row after the other; one that is alike in all units has a vector for
// each row. So an instruction is looked at once for hundreds of values.
#pragma once

#include "native/cpu/gemm.h"
#include "native/cpu/program_links.h"
#include "native/cpu/program_math.h"

namespace jp::cpu::JP_ISA {

class ProgramBlocks : protected ProgramLinks {
 protected:
  using ProgramLinks::ProgramLinks;

  // Asks for what a block reads of xs and writes of ys: no cache has it.
  void PrefetchBlock(const LoopPlan& plan, const Block& block) const {
    const Stream* const streams = Streams(plan);
    for (int64_t i = 0; i < plan.stream_count; ++i) {
      const Stream& stream = streams[i];
      const char* const at = At(stream.address, block.clocks[int(Clock::kTime)], block);
      const int64_t bytes = block.units * stream.vector_bytes;
      for (int64_t r = 0; r < block.rows; ++r) {
        const char* const row = at + r * stream.address.of_row;
        stream.is_written ? Prefetch<true>(row, bytes) : Prefetch<false>(row, bytes);
      }
    }
  }

  void RunBlock(const ProgramLoop& loop, const LoopPlan& plan, const Block& block) const {
    const Link* const links = Links(plan);
    const View* const views = Views();
    View* const results = Results(plan);
    const size_t count = loop.code.size();
    for (size_t n = 0; n < count; ++n) {
      const Link& link = links[n];
      switch (link.op) {
        case Operation::kLoadOperand:
          if (link.is_view && block.is_whole) {
            results[n].at = ValuesAt(link, block);
          } else {
            LoadOperand(loop, loop.code[n], link, block);
            results[n].at = link.to;
          }
          break;
        case Operation::kLoadBuffer:
        case Operation::kLoadProduct:
          if (link.is_view) {
            results[n].at = ValuesAt(link, block);
          } else if (link.of_rows) {
            BroadcastRows(link, block);
          } else {
            LoadHeads(loop, loop.code[n], plan, link, block);
          }
          break;
        case Operation::kReduce: Reduce(loop.code[n], link, block); break;
        case Operation::kStoreY:
          StoreValuesOf(loop, program_.ys[loop.code[n].numbers[0]], views[link.from[0]], link,
                        block);
          break;
        case Operation::kStoreBuffer:
          StoreValuesOf(loop, kFloats, views[link.from[0]], link, block);
          break;
#define JP_MOVE(name, registers, numbers)
#define JP_UNARY(name, expression)                                            \
  case Operation::k##name:                                                    \
    Each(block, link, [](Vec a) { return expression; }, views[link.from[0]]); \
    break;
#define JP_BINARY(name, expression)                                                \
  case Operation::k##name:                                                         \
    Each(                                                                          \
        block, link, [](Vec a, Vec b) { return expression; }, views[link.from[0]], \
        views[link.from[1]]);                                                      \
    break;
#define JP_TERNARY(name, expression)                                                      \
  case Operation::k##name:                                                                \
    Each(                                                                                 \
        block, link, [](Vec a, Vec b, Vec c) { return expression; }, views[link.from[0]], \
        views[link.from[1]], views[link.from[2]]);                                        \
    break;
#include "native/programs/operations.def"
#undef JP_MOVE
#undef JP_UNARY
#undef JP_BINARY
#undef JP_TERNARY
      }
    }
  }

 private:
  static constexpr ProgramArray kFloats{1, ValueType::kFloat32};

  // Vectors that are read along with others: from one to the next.
  struct Run {
    const float* at;
    int64_t step;
    Vec Next(int64_t i) const { return Load(at + i * step); }
  };

  // The result of f(operands), vector by vector: row by row or, where all have each row right after
  // the one before, in one run.
  template <class F, class... Views>
  [[gnu::always_inline]] static void Each(const Block& block, const Link& to, const F& f,
                                          const Views&... of) {
    const auto run = [&](int64_t first, int64_t count, const auto&... from) {
      float* const at = to.to + first * kLanes;
#pragma GCC unroll 4
      for (int64_t i = 0; i < count; ++i) Store(at + i * kLanes, f(from.Next(i)...));
    };
    if (to.of_rows) return run(0, block.rows, Run{of.at, of.row}...);
    if (to.in_one_run) return run(0, block.rows * block.units, Run{of.at, of.unit}...);
    for (int64_t r = 0; r < block.rows; ++r) {
      run(r * block.units, block.units, Run{of.at + r * of.row, of.unit}...);
    }
  }

  static char* AddressOf(const Link& link, const Block& block) {
    return At(link.address, block.clocks[int(link.clock)], block);
  }
  static const float* ValuesAt(const Link& link, const Block& block) {
    return reinterpret_cast<const float*>(AddressOf(link, block));
  }

  static void BroadcastRows(const Link& link, const Block& block) {
    const char* const from = AddressOf(link, block);
    for (int64_t r = 0; r < block.rows; ++r) {
      const auto* const value = reinterpret_cast<const float*>(from + r * link.address.of_row);
      Store(link.to + r * kLanes, Broadcast(*value));
    }
  }

  void LoadOperand(const ProgramLoop& loop, const Instruction& instruction, const Link& link,
                   const Block& block) const {
    const ProgramArray& array = program_.operands[instruction.numbers[0]];
    const char* const from = AddressOf(link, block);
    for (int64_t r = 0; r < block.rows; ++r) {
      const char* const row = from + r * link.address.of_row;
      if (link.of_rows) {
        Store(link.to + r * kLanes, Broadcast(LoadValues(array, row, 0, 1)[0]));
        continue;
      }
      for (int64_t u = 0; u < block.units; ++u) {
        const int lanes = Lanes(loop.width, (block.unit + u) * kLanes);
        Store(link.to + (r * block.units + u) * kLanes, LoadValues(array, row, u * kLanes, lanes));
      }
    }
  }

  // Products of several heads, each with so many of the loop's units.
  void LoadHeads(const ProgramLoop& loop, const Instruction& instruction, const LoopPlan& plan,
                 const Link& link, const Block& block) const {
    const int64_t heads = loop.slices[instruction.numbers[0]].heads, units = loop.width / heads;
    const GemmPlan& gemm = plan.slices[instruction.numbers[0]].gemm;
    const int64_t width = gemm.panels * gemm.panel_vectors * kLanes;
    const auto* const products = reinterpret_cast<const float*>(link.address.origin);
    const auto place = [&](int64_t head, int64_t b, int64_t unit) {
      return products + (head * batch_ + b) * width + unit / kLanes * gemm.gates * kLanes +
             unit % kLanes;
    };
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t b = block.row + r;
      int64_t head = block.unit * kLanes / units, unit = block.unit * kLanes - head * units;
      const auto advance = [&](int64_t by) {
        unit += by;
        if (unit == units) unit = 0, ++head;
      };
      for (int64_t u = 0; u < block.units; ++u) {
        float* const to = link.to + (r * block.units + u) * kLanes;
        if (units % kLanes == 0) {
          Store(to, Load(place(head, b, unit)));
          advance(kLanes);
          continue;
        }
        float lanes[kLanes] = {};
        for (int i = 0; i < kLanes && head < heads; ++i) {
          lanes[i] = *place(head, b, unit);
          advance(1);
        }
        Store(to, Load(lanes));
      }
    }
  }

  // Every worker reduces by itself: the result does not depend on their number.
  static void Reduce(const Instruction& instruction, const Link& link, const Block& block) {
    const char* const at = AddressOf(link, block);
    const int64_t count = instruction.numbers[2];
    for (int64_t r = 0; r < block.rows; ++r) {
      const auto* const from = reinterpret_cast<const float*>(at + r * link.address.of_row);
      const auto reduced = [&](float neutral, const auto& join) {
        Store(link.to + r * kLanes, Broadcast(ReduceRow(from, count, neutral, join)));
      };
      switch (static_cast<Reduction>(instruction.numbers[3])) {
        case Reduction::kSum: reduced(0.0f, [](Vec a, Vec b) { return a + b; }); break;
        case Reduction::kMax: reduced(*from, Larger); break;
        case Reduction::kMin: reduced(*from, Smaller); break;
      }
    }
  }

  // Joins values to one, given one that changes nothing.
  template <class Join>
  static float ReduceRow(const float* from, int64_t count, float neutral, const Join& join) {
    constexpr int kChains = 4;  // an addition waits for the one before it
    Vec joined[kChains];
    for (Vec& each : joined) each = Broadcast(neutral);
    int64_t k = 0;
    for (; k + kChains * kLanes <= count; k += kChains * kLanes) {
      JP_UNROLL
      for (int c = 0; c < kChains; ++c) {
        joined[c] = join(joined[c], Load(from + k + c * kLanes));
      }
    }
    float lanes[kLanes];
    for (; k < count; k += kLanes) {
      const int n = Lanes(count, k);
      Store(lanes, Broadcast(neutral));
      std::memcpy(lanes, from + k, n * sizeof(float));
      joined[0] = join(joined[0], Load(lanes));
    }
    Store(lanes, join(join(joined[0], joined[1]), join(joined[2], joined[3])));
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) {
        lanes[i] = join(Broadcast(lanes[i]), Broadcast(lanes[i + half]))[0];
      }
    }
    return lanes[0];
  }

  // Stores a block's values of a type.
  void StoreValuesOf(const ProgramLoop& loop, const ProgramArray& array, const View& from,
                     const Link& link, const Block& block) const {
    char* const to = AddressOf(link, block);
    const int64_t units = link.of_rows ? 1 : block.units;
    for (int64_t r = 0; r < block.rows; ++r) {
      char* const row = to + r * link.address.of_row;
      const float* const values = from.at + r * from.row;
      if (array.type == ValueType::kFloat32 && block.is_whole && !link.of_rows) {
        auto* const floats = reinterpret_cast<float*>(row);
#pragma GCC unroll 4
        for (int64_t u = 0; u < units; ++u)
          Store(floats + u * kLanes, Load(values + u * from.unit));
        continue;
      }
      for (int64_t u = 0; u < units; ++u) {
        const int lanes = link.of_rows ? 1 : Lanes(loop.width, (block.unit + u) * kLanes);
        StoreValues(array, row, u * kLanes, Load(values + u * from.unit), lanes);
      }
    }
  }
};

}  // namespace jp::cpu::JP_ISA
