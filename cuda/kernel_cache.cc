// SPDX-License-Identifier: Apache-2.0
// Files that are written beside and renamed, and checked when they are read.
#include "cuda/kernel_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

namespace jp::cuda {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'j', 'p', 'k', 'e', 'r', 'n', '0', '1'};
constexpr const char* kExtension = ".kernel";

// FNV-1a, with a start of its own for each of the two halves of a key: it guards against accidents,
// not against somebody who may write to the folder.
uint64_t Hash(uint64_t hash, std::string_view text) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

struct Header {
  char magic[sizeof(kMagic)];
  uint64_t bytes, checksum;
};

Header HeaderOf(std::string_view entry) {
  Header header;
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.bytes = entry.size();
  header.checksum = Hash(0xcbf29ce484222325u, entry);
  return header;
}

bool WriteAll(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace

void CacheKey::Add(std::string_view part) {
  // With its length, so that no two lists of parts run into the same text.
  const std::string length = std::to_string(part.size()) + ":";
  low_ = Hash(Hash(low_ ^ 0xcbf29ce484222325u, length), part);
  high_ = Hash(Hash(high_ ^ 0x9e3779b97f4a7c15u, part), length);
}

std::string CacheKey::Digits() const {
  char digits[33];
  std::snprintf(digits, sizeof digits, "%016llx%016llx", static_cast<unsigned long long>(high_),
                static_cast<unsigned long long>(low_));
  return digits;
}

std::string CacheKey::FileName() const { return label_ + "-" + Digits() + kExtension; }

std::string CacheFolder() {
  if (const char* named = std::getenv("JAX_PERSISTENT_CACHE_DIR")) return named;
  const char* base = std::getenv("XDG_CACHE_HOME");
  if (base != nullptr && *base == '/') return std::string(base) + "/jax_persistent";
  const char* home = std::getenv("HOME");
  return home != nullptr && *home == '/' ? std::string(home) + "/.cache/jax_persistent" : "";
}

std::optional<std::string> ReadCached(const CacheKey& key) {
  const std::string folder = CacheFolder();
  if (folder.empty()) return std::nullopt;
  std::ifstream file(fs::path(folder) / key.FileName(), std::ios::binary);
  if (!file) return std::nullopt;
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (text.size() < sizeof(Header)) return std::nullopt;
  const std::string_view entry = std::string_view(text).substr(sizeof(Header));
  const Header expected = HeaderOf(entry);
  if (std::memcmp(text.data(), &expected, sizeof(Header)) != 0) return std::nullopt;
  return std::string(entry);
}

void WriteCached(const CacheKey& key, const std::string& entry) {
  static std::atomic<int> count = 0;
  const std::string folder = CacheFolder();
  if (folder.empty()) return;
  std::error_code error;
  const bool is_new = fs::create_directories(folder, error);
  if (error) return;
  if (is_new) fs::permissions(folder, fs::perms::owner_all, error);
  const std::string name = (fs::path(folder) / key.FileName()).string();
  const std::string beside =
      name + "." + std::to_string(getpid()) + "." + std::to_string(count++) + ".new";
  const int file = open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return;
  const Header header = HeaderOf(entry);
  bool whole = WriteAll(file, {reinterpret_cast<const char*>(&header), sizeof header}) &&
               WriteAll(file, entry);
  whole = close(file) == 0 && whole;
  if (!whole || std::rename(beside.c_str(), name.c_str()) != 0) unlink(beside.c_str());
}

CacheSize SizeOfCache() {
  CacheSize size;
  std::error_code error;
  const std::string folder = CacheFolder();
  if (folder.empty()) return size;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != kExtension) continue;
    const auto bytes = it->file_size(error);
    if (error) break;
    ++size.kernels;
    size.bytes += static_cast<int64_t>(bytes);
  }
  return size;
}

}  // namespace jp::cuda
