// SPDX-License-Identifier: Apache-2.0
// Where a statement ends, and what it consists of.
#include "tests/cuda/software_gpu/statements.h"

#include <algorithm>
#include <stdexcept>

namespace jp::software_gpu {

Words Split(std::string_view text, char separator) {
  Words parts;
  int depth = 0;
  std::string current;
  const auto flush = [&] {
    const auto first = current.find_first_not_of(" \t\n");
    if (first != std::string::npos) {
      parts.push_back(current.substr(first, current.find_last_not_of(" \t\n") - first + 1));
    }
    current.clear();
  };
  for (const char c : text) {
    depth += c == '{' || c == '[' || c == '(';
    depth -= c == '}' || c == ']' || c == ')';
    if (c == separator && depth == 0) {
      flush();
    } else {
      current += c;
    }
  }
  flush();
  return parts;
}

bool Has(const Words& parts, std::string_view part) {
  return std::find(parts.begin(), parts.end(), part) != parts.end();
}

Words Inside(const std::string& braces) {
  return braces[0] == '{' ? Split(braces.substr(1, braces.size() - 2), ',') : Words{braces};
}

std::vector<Statement> StatementsOf(const std::string& text, uint32_t line) {
  std::vector<Statement> statements;
  std::string current;
  uint32_t began = line;
  const auto blank = [&] { return current.find_first_not_of(" \t\r") == std::string::npos; };
  const auto push = [&](std::string what) {
    statements.push_back({std::move(what), began});
    current.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (text.compare(i, 2, "//") == 0) {
      while (i < text.size() && text[i] != '\n') ++i;
      ++line;
      current += ' ';
    } else if (c == '\n') {
      ++line;
      current += ' ';
    } else if ((c == '{' || c == '}') && blank()) {
      began = line;
      push(std::string(1, c));
    } else if (c == ';') {
      push(Split(current, '\0').empty() ? "" : Split(current, '\0')[0]);
    } else if (c == ':' && current.find_first_of("$") != std::string::npos &&
               current.find(' ') == std::string::npos &&
               (i + 1 == text.size() || text[i + 1] != ':')) {
      push(current + ":");
    } else {
      if (blank()) {
        began = line;
        current.clear();
        if (c == ' ' || c == '\t' || c == '\r') continue;
      }
      current += c == '\t' ? ' ' : c;
    }
  }
  return statements;
}

std::string BodyOf(const std::string& text, size_t open) {
  int depth = 0;
  for (size_t i = open; i < text.size(); ++i) {
    depth += text[i] == '{';
    depth -= text[i] == '}';
    if (depth == 0) return text.substr(open + 1, i - open - 1);
  }
  throw std::invalid_argument("PTX: a brace is not closed");
}

uint32_t LineAt(const std::string& text, size_t at) {
  return static_cast<uint32_t>(1 + std::count(text.begin(), text.begin() + at, '\n'));
}

}  // namespace jp::software_gpu
