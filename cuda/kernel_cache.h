// SPDX-License-Identifier: Apache-2.0
// Compiled kernels on disk, found by what they were made from.
//
// The folder is what the environment variable JAX_PERSISTENT_CACHE_DIR names, or jax_persistent in
// XDG_CACHE_HOME or in ~/.cache; an empty variable is none, and then nothing is kept. A cache is a
// help and no more: whatever goes wrong with it, kernels are compiled again.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace jp::cuda {

// What an entry was made from, as 128 bits, and a readable beginning for its file's name.
class CacheKey {
 public:
  explicit CacheKey(std::string label) : label_(std::move(label)) {}
  void Add(std::string_view part);
  std::string Digits() const;    // 32 of them
  std::string FileName() const;  // label-<digits>.kernel

 private:
  std::string label_;
  uint64_t low_ = 0, high_ = 0;
};

// The entry, or nothing: it is not there, is damaged, or cannot be read.
std::optional<std::string> ReadCached(const CacheKey& key);

// Keeps an entry, if that can be done. Another process may write the same one meanwhile: a reader
// sees a whole one or none.
void WriteCached(const CacheKey& key, const std::string& entry);

// The folder, or an empty text: none. And how much is in it.
std::string CacheFolder();
struct CacheSize {
  int64_t kernels = 0, bytes = 0;
};
CacheSize SizeOfCache();

}  // namespace jp::cuda
