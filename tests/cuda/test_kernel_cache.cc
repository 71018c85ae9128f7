// SPDX-License-Identifier: Apache-2.0
// The cache of kernels: found, damaged, written by several at once, and where it cannot be written.
#include "cuda/kernel_cache.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "tests/native/check.h"

namespace {

namespace fs = std::filesystem;
using namespace jp::cuda;
using jp::test::Finish;

CacheKey KeyOf(const std::vector<std::string>& parts) {
  CacheKey key("kernel");
  for (const std::string& part : parts) key.Add(part);
  return key;
}

std::string Contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

size_t FilesIn(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

void CheckKeys() {
  std::set<std::string> names;
  const std::vector<std::vector<std::string>> all = {
      {}, {""}, {"", ""}, {"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}, {"1:a"}, {"c", "ab"}};
  for (const auto& parts : all) names.insert(KeyOf(parts).FileName());
  CHECK(names.size() == all.size(), names.size());
  CHECK(KeyOf({"a", "bc"}).FileName() == KeyOf({"a", "bc"}).FileName());
}

void CheckDamage(const fs::path& folder) {
  const CacheKey key = KeyOf({"damage"});
  CHECK(!ReadCached(key));
  const std::string entry("a kernel\0with a zero", 20);
  WriteCached(key, entry);
  CHECK(ReadCached(key) == entry);
  const fs::path path = folder / key.FileName();
  const std::string whole = Contents(path);
  for (size_t i = 0; i < whole.size(); ++i) {  // a bit each
    std::string damaged = whole;
    damaged[i] ^= 1;
    std::ofstream(path, std::ios::binary) << damaged;
    CHECK(!ReadCached(key), i);
  }
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    std::ofstream(path, std::ios::binary) << whole.substr(0, bytes);
    CHECK(!ReadCached(key), bytes);
  }
  std::ofstream(path, std::ios::binary) << whole << "more";
  CHECK(!ReadCached(key));
  WriteCached(key, entry);
  CHECK(ReadCached(key) == entry);
  CHECK(SizeOfCache().kernels == 1 && SizeOfCache().bytes == static_cast<int64_t>(whole.size()));
}

// Processes that write the same entry over and over, and one that reads it: whole or not at all.
void CheckManyProcesses(const fs::path& folder) {
  const CacheKey key = KeyOf({"many"});
  const std::string entry(1 << 18, 'k');
  std::vector<pid_t> writers;
  for (int i = 0; i < 3; ++i) {
    const pid_t writer = fork();
    if (writer == 0) {
      for (int n = 0; n < 20; ++n) WriteCached(key, entry);
      _exit(0);
    }
    writers.push_back(writer);
  }
  int found = 0;
  for (int n = 0; n < 200; ++n) {
    const auto read = ReadCached(key);
    found += read.has_value();
    CHECK(!read || *read == entry, n);
  }
  for (const pid_t writer : writers) waitpid(writer, nullptr, 0);
  CHECK(ReadCached(key) == entry && found >= 0);
  CHECK(FilesIn(folder) == 2, FilesIn(folder));  // and none of those that were being written
}

// A disk that is full half way, as a limit on the size of files: no entry, and nothing is left.
void CheckFullDisk(const fs::path& folder) {
  const size_t before = FilesIn(folder);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    WriteCached(KeyOf({"full"}), std::string(5000, 'x'));
    _exit(ReadCached(KeyOf({"full"})) ? 1 : 0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  CHECK(status == 0 && FilesIn(folder) == before, status, FilesIn(folder));
}

void CheckNoPlace(const fs::path& folder) {
  const CacheKey key = KeyOf({"damage"});
  for (const std::string& place : {std::string(), std::string("/proc/no/such/place"),
                                   (folder / key.FileName() / "below").string()}) {
    setenv("JAX_PERSISTENT_CACHE_DIR", place.c_str(), 1);
    WriteCached(key, "x");
    CHECK(!ReadCached(key), place);
    CHECK(SizeOfCache().kernels == 0, place);
  }
}

void CheckFolder() {
  unsetenv("JAX_PERSISTENT_CACHE_DIR");
  setenv("XDG_CACHE_HOME", "/x", 1);
  setenv("HOME", "/h", 1);
  CHECK(CacheFolder() == "/x/jax_persistent");
  setenv("XDG_CACHE_HOME", "relative", 1);
  CHECK(CacheFolder() == "/h/.cache/jax_persistent");
  unsetenv("XDG_CACHE_HOME");
  CHECK(CacheFolder() == "/h/.cache/jax_persistent");
  unsetenv("HOME");
  CHECK(CacheFolder().empty());
}

}  // namespace

int main() {
  char name[] = "/tmp/kernel_cache.XXXXXX";
  const fs::path folder = fs::path(mkdtemp(name)) / "made/when/needed";
  setenv("JAX_PERSISTENT_CACHE_DIR", folder.c_str(), 1);
  CheckKeys();
  CheckDamage(folder);
  struct stat mode{};
  CHECK(stat(folder.c_str(), &mode) == 0 && (mode.st_mode & 077) == 0, mode.st_mode);
  CheckManyProcesses(folder);
  CheckFullDisk(folder);
  CheckNoPlace(folder);
  CheckFolder();
  fs::remove_all(name);
  return Finish("kernel cache");
}
