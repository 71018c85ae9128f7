#include "native/ffi/decode.h"

#include <algorithm>
#include <sstream>

namespace jp::ffi {
namespace {

template <class Sizes>
std::string Join(const Sizes& sizes) {
  std::string text = "[";
  for (int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

std::string TypeName(xffi::DataType type) {
  std::ostringstream text;
  text << type;
  return text.str();
}

}  // namespace

void Decoder::Fail(const std::string& message) {
  if (ok()) message_ = target_ + ": " + message;
}

bool Decoder::Matches(const char* name, const xffi::AnyBuffer& buffer, xffi::DataType type,
                      const std::vector<int64_t>& sizes) {
  const auto got = buffer.dimensions();
  const bool same = got.size() == sizes.size() && std::equal(got.begin(), got.end(), sizes.begin());
  if (same && buffer.element_type() == type) return true;
  Fail(std::string(name) + ": expected " + TypeName(type) + Join(sizes) + "; got " +
       TypeName(buffer.element_type()) + Join(got));
  return false;
}

const void* Decoder::Operand(const char* name, xffi::DataType type,
                             const std::vector<int64_t>& sizes) {
  if (!ok()) return nullptr;
  auto buffer = operands_.get<xffi::AnyBuffer>(next_operand_++);
  if (!buffer.has_value()) {
    Fail(std::string("expected operand ") + name + "; got only " +
         std::to_string(operands_.size()) + " operands");
    return nullptr;
  }
  return Matches(name, *buffer, type, sizes) ? buffer->untyped_data() : nullptr;
}

void* Decoder::Result(const char* name, xffi::DataType type, const std::vector<int64_t>& sizes) {
  if (!ok()) return nullptr;
  auto buffer = results_.get<xffi::AnyBuffer>(next_result_++);
  if (!buffer.has_value()) {
    Fail(std::string("expected result ") + name + "; got only " + std::to_string(results_.size()) +
         " results");
    return nullptr;
  }
  return Matches(name, **buffer, type, sizes) ? (*buffer)->untyped_data() : nullptr;
}

Decoder::Type Decoder::Peek(size_t index, const char* name, size_t rank) {
  if (!ok()) return {};
  auto buffer = operands_.get<xffi::AnyBuffer>(index);
  if (!buffer.has_value()) {
    Fail(std::string("expected operand ") + name + "; got only " +
         std::to_string(operands_.size()) + " operands");
    return {};
  }
  const auto sizes = buffer->dimensions();
  if (sizes.size() != rank) {
    Fail(std::string(name) + ": expected rank " + std::to_string(rank) + "; got " + Join(sizes));
    return {};
  }
  if (std::any_of(sizes.begin(), sizes.end(), [](int64_t size) { return size < 1; })) {
    Fail(std::string(name) + ": expected every size to be at least 1; got " + Join(sizes));
    return {};
  }
  return {buffer->element_type(), {sizes.begin(), sizes.end()}};
}

void Decoder::Finish() {
  if (!ok()) return;
  if (next_operand_ != operands_.size()) {
    Fail("expected " + std::to_string(next_operand_) + " operands; got " +
         std::to_string(operands_.size()));
  }
  if (next_result_ != results_.size()) {
    Fail("expected " + std::to_string(next_result_) + " results; got " +
         std::to_string(results_.size()));
  }
}

}  // namespace jp::ffi
