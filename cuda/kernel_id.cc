// SPDX-License-Identifier: Apache-2.0
// Writes a kernel's source and has it compiled.
#include "cuda/kernel_id.h"

#include <cctype>
#include <vector>

#include "cuda/kernel_cache.h"
#include "cuda/kernel_sources.h"
#include "cuda/nvrtc.h"

namespace jp::cuda {
namespace {

// The struct of native/cells.
const char* StructOf(CellKind cell) {
  switch (cell) {
#define JP_CELL(name, Cell) \
  case CellKind::k##Cell: return #Cell;
#include "native/cells/cells.def"
#undef JP_CELL
  }
  return "";
}

std::string CellNameOf(CellKind kind) {
  for (const CellTraits& cell : kCells) {
    if (cell.kind == kind) return cell.name;
  }
  return {};
}

const std::vector<std::string>& Options() {
  static const std::vector<std::string> options = {"--std=c++20",
                                                   "--device-as-default-execution-space"};
  return options;
}

}  // namespace

const char* StructOf(Precision precision) {
  switch (precision) {
    case Precision::kBfloat16: return "Bfloat16";
    case Precision::kFloat16: return "Float16";
    case Precision::kTf32: return "Tf32";
    case Precision::kFloat32: return "Float32";
  }
  return "";
}

std::string NameOf(Precision precision) {
  std::string name = StructOf(precision);
  name[0] = static_cast<char>(std::tolower(name[0]));
  return name;
}

std::string NameOf(const KernelId& kernel) {
  return CellNameOf(kernel.cell) + "_" + NameOf(kernel.precision) +
         (kernel.pass == Pass::kForward ? "_forward" : "_backward") +
         (kernel.cluster ? "_cluster_" : "_grid_") + std::to_string(kernel.width);
}

KernelText TextOf(const KernelId& kernel) {
  const bool forward = kernel.pass == Pass::kForward;
  const std::string pass = forward ? "Forward" : "Backward";
  const std::string name = NameOf(kernel);
  const std::string source =
      std::string("#include \"cuda/") + (forward ? "forward.h" : "backward.h") +
      "\"\n#include \"native/cells/cells.h\"\n\nnamespace jp::cuda {\n\nextern \"C\" "
      "JP_KERNEL(kMostWarps* kLanes)\n" +
      name + "(JP_CONSTANT LaunchArgs<" + pass + "> args) {\n  " + pass + "Pass<" +
      StructOf(kernel.cell) + ", " + StructOf(kernel.precision) + ", " +
      (kernel.cluster ? "ClusterExchange" : "GridExchange") + ", " + std::to_string(kernel.width) +
      ">(args).Run();\n}\n\n}  // namespace jp::cuda\n";
  return {name, source, kernel.cluster};
}

std::string CompileKernel(const KernelText& kernel, int architecture) {
  const std::string target = CompilationTarget(architecture);
  const NvrtcVersion nvrtc = TheNvrtc();
  std::string version = "nvrtc " + std::to_string(nvrtc.major) + "." + std::to_string(nvrtc.minor);
  CacheKey key(kernel.name + "_" + target);
  key.Add(version);
  key.Add(target);
  for (const std::string& option : Options()) key.Add(option);
  key.Add(kernel.source);
  for (const SourceFile& header : KernelHeaders()) {
    key.Add(header.name);
    key.Add(header.text);
  }
  if (std::optional<std::string> image = ReadCached(key)) return *std::move(image);
  std::string image =
      CompileSource(kernel.name + ".cu", kernel.source, KernelHeaders(), Options(), target);
  WriteCached(key, image);
  return image;
}

}  // namespace jp::cuda
