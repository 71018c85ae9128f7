// SPDX-License-Identifier: Apache-2.0
// PTX text, cut into statements and words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace jp::software_gpu {

using Words = std::vector<std::string>;

// Without the blanks around them; nothing is cut inside of brackets.
Words Split(std::string_view text, char separator);

bool Has(const Words& parts, std::string_view part);

// What "{a, b}" has in it; of "a", "a".
Words Inside(const std::string& braces);

struct Statement {
  std::string text;
  uint32_t line;
};

// Without comments. A brace that opens or closes a scope is a statement of its own, as is a label.
std::vector<Statement> StatementsOf(const std::string& text, uint32_t line);

// The text between a brace at `open` and its partner.
std::string BodyOf(const std::string& text, size_t open);

uint32_t LineAt(const std::string& text, size_t at);

}  // namespace jp::software_gpu
