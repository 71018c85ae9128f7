// SPDX-License-Identifier: Apache-2.0
// Problems from attributes, the arrays that they have, and the rule of when a row runs.
#include <exception>
#include <string>
#include <vector>

#include "native/problem/operands.h"
#include "native/problem/parse.h"
#include "native/problem/rows.h"
#include "tests/native/check.h"

namespace {

using jp::Attributes;
using jp::Part;
using jp::Pass;
using jp::Problem;

Attributes Valid() {
  return {{"cell", "lstm"},
          {"dtype", "float32"},
          {"groups", 2L},
          {"batch", 3L},
          {"steps", 5L},
          {"inputs", 7L},
          {"hidden", 4L},
          {"directions", "both"},
          {"time_major", true},
          {"tf32", false},
          {"packed_lanes", 0L},
          {"weights", "one"},
          {"parts", "inputs lengths resets reset_state residuals"}};
}

void TestParsing() {
  Attributes attributes = Valid();
  attributes["exchange"] = "grid";
  const auto [problem, options] = ParseProblem(Pass::kForward, attributes);
  CHECK(std::string_view(problem.cell.name) == "lstm" && problem.cell.states == 2);
  CHECK(problem.groups == 2 && problem.batch == 3 && problem.steps == 5 && problem.inputs == 7 &&
        problem.hidden == 4);
  CHECK(problem.ways() == 2 && !problem.Reverses(0) && problem.Reverses(1) && problem.Reverses(3));
  CHECK(problem.time_major && !problem.tf32);
  for (Part part : {Part::inputs, Part::lengths, Part::resets, Part::reset_state, Part::residuals,
                    Part::always}) {
    CHECK(problem.has(part), NameOf(part));
  }
  CHECK(!problem.has(Part::bias) && !problem.has(Part::d_x));
  CHECK(options.size() == 1 && options.at("exchange") == "grid");
  CHECK(HasAllSizes(problem));
}

void CheckFails(Pass pass, const char* name, const jp::Attribute& value, const std::string& says) {
  Attributes attributes = Valid();
  attributes[name] = value;
  try {
    ParseProblem(pass, attributes);
    CHECK(false, name, says);
  } catch (const std::exception& error) {
    CHECK(std::string(error.what()).find(says) != std::string::npos, error.what(), says);
  }
}

void TestWhatIsWrong() {
  const auto forward = [](const char* name, const jp::Attribute& value, const std::string& says) {
    CheckFails(Pass::kForward, name, value, says);
  };
  forward("cell", "peephole", "cell: got unknown 'peephole'");
  forward("cell", true, "cell: expected a string; got another type");
  forward("dtype", "int8", "dtype: expected 'float32', 'bfloat16', 'float16' or 'float64'; got");
  forward("batch", 0L, "batch: expected at least 1; got 0");
  forward("inputs", -2L, "inputs: expected at least 0; got -2");
  forward("inputs", 0L, "x: expected every size to be at least 1; got 0");
  forward("steps", int64_t{1} << 31, "steps: expected at most 2^31 - 1");
  forward("hidden", int64_t{1} << 40, "expected at most 2^45 values");
  forward("groups", INT64_MAX - 1, "groups: expected at most 2^45; got 9223372036854775806");
  forward("hidden", INT64_MAX, "hidden: expected at most 2^45; got 9223372036854775807");
  forward("groups", 3L, "groups: expected an even number, two of each layer; got 3");
  forward("directions", "sideways", "directions: expected 'forward', 'reverse' or 'both'; got 'si");
  forward("weights", "per_unit", "weights: expected 'one', 'per_direction' or 'per_gate'; got 'pe");
  forward("speed", 3L, "speed: unknown attribute");
  forward("parts", "inputs speed", "parts: got unknown 'speed'");
  forward("parts", "inputs  bias", "parts: got unknown ''");
  forward("parts", "bias inputs", "parts: expected each once, in order; got 'inputs' after 'bias'");
  forward("parts", "inputs inputs", "parts: expected each once");
  forward("parts", "", "parts: expected either inputs or input_gates");
  forward("parts", "inputs input_gates", "parts: expected either inputs or input_gates");
  forward("parts", "input_gates bias", "parts: bias needs inputs");
  forward("parts", "inputs recurrent_bias", "parts: recurrent_bias needs a cell that resets after");
  forward("parts", "inputs reset_state", "parts: reset_state needs resets");
  forward("packed_lanes", -3L, "packed_lanes: expected at least 0; got -3");
  forward("packed_lanes", 4096L, "packed_lanes: expected 0 to 1024; got 4096");
  const auto backward = [](const char* parts, const std::string& says) {
    CheckFails(Pass::kBackward, "parts", parts, says);
  };
  backward("d_x", "parts: expected residuals of cell 'lstm'");
  backward("chunked residuals", "parts: chunked needs a forward pass");
  backward("residuals d_bias", "parts: d_bias needs d_weights");
  backward("residuals d_gates d_recurrent_gates", "parts: expected no d_recurrent_gates");
  backward("residuals d_weights d_recurrent_bias", "parts: d_recurrent_bias needs");
  Attributes packed = Valid();
  packed["parts"] = "residuals d_x";
  packed["packed_lanes"] = 8L;
  try {
    ParseProblem(Pass::kBackward, packed);
    CHECK(false);
  } catch (const std::exception& error) {
    CHECK(std::string(error.what()).find("packed_lanes: expected 0 but in a forward") == 0);
  }
  packed["parts"] = "inputs";
  packed["weights"] = "per_gate";
  try {
    ParseProblem(Pass::kForward, packed);
    CHECK(false);
  } catch (const std::exception& error) {
    CHECK(error.what() == std::string("weights: expected 'one', as the kernels are packed"));
  }
  Attributes missing = Valid();
  missing.erase("tf32");
  try {
    ParseProblem(Pass::kForward, missing);
    CHECK(false);
  } catch (const std::exception& error) {
    CHECK(error.what() == std::string("tf32: expected a boolean; the attribute is missing"));
  }
}

void TestUnknownSizes() {
  Attributes attributes = Valid();
  attributes["batch"] = int64_t{jp::kUnknownSize};
  const Problem problem = ParseProblem(Pass::kForward, attributes).problem;
  CHECK(!HasAllSizes(problem));
  // The size of what no array has does not matter.
  attributes = Valid();
  attributes["inputs"] = int64_t{jp::kUnknownSize};
  attributes["parts"] = "input_gates";
  CHECK(HasAllSizes(ParseProblem(Pass::kForward, attributes).problem));
}

void CheckArrays(const std::vector<jp::ArrayType>& got, const std::vector<std::string>& expected) {
  CHECK(got.size() == expected.size(), got.size(), expected.size());
  for (size_t i = 0; i < got.size() && i < expected.size(); ++i) {
    std::string text = got[i].name;
    for (int64_t size : got[i].sizes) text.append(" ").append(std::to_string(size));
    CHECK(text == expected[i], text, expected[i]);
  }
}

void TestArrays() {
  const jp::ArrayTypes types = ArrayTypesOf(ParseProblem(Pass::kForward, Valid()).problem);
  CheckArrays(types.operands,
              {"x 1 5 3 7", "input_kernel 1 2 7 16", "recurrent_kernel 1 2 4 16", "lengths 1 3",
               "resets 1 2 5 3", "reset_state[0] 1 2 3 4", "reset_state[1] 1 2 3 4",
               "initial_state[0] 1 2 3 4", "initial_state[1] 1 2 3 4"});
  CheckArrays(types.results, {"outputs 1 5 3 2 4", "final_state[0] 1 2 3 4",
                              "final_state[1] 1 2 3 4", "residuals 1 5 3 2 20"});
  // Of 4 units, in vectors of 3: two for each of four gates, as wide as a panel, K made even.
  Attributes packed = Valid();
  packed["packed_lanes"] = 3L;
  packed["parts"] = "inputs bias";
  CheckArrays(ArrayTypesOf(ParseProblem(Pass::kForward, packed).problem).operands,
              {"x 1 5 3 7", "input_kernel 1 2 2 8 12", "bias 1 2 16", "recurrent_kernel 1 2 2 4 12",
               "initial_state[0] 1 2 3 4", "initial_state[1] 1 2 3 4"});
  packed["hidden"] = int64_t{jp::kUnknownSize};
  CHECK(!HasAllSizes(ParseProblem(Pass::kForward, packed).problem));
  Attributes apart = Valid();
  apart["parts"] = "inputs bias";
  apart["weights"] = "per_direction";
  CheckArrays(ArrayTypesOf(ParseProblem(Pass::kForward, apart).problem).operands,
              {"x 1 5 3 7", "input_kernel[0] 1 7 16", "input_kernel[1] 1 7 16", "bias[0] 1 16",
               "bias[1] 1 16", "recurrent_kernel[0] 1 4 16", "recurrent_kernel[1] 1 4 16",
               "initial_state[0] 1 2 3 4", "initial_state[1] 1 2 3 4"});
  Attributes attributes = Valid();
  attributes["cell"] = "gru";
  attributes["directions"] = "reverse";
  attributes["time_major"] = false;
  attributes["parts"] = "residuals d_weights d_recurrent_bias d_gates d_recurrent_gates";
  const jp::ArrayTypes gru = ArrayTypesOf(ParseProblem(Pass::kBackward, attributes).problem);
  CheckArrays(gru.operands, {"x 2 3 5 7", "recurrent_kernel 2 1 4 12", "initial_state[0] 2 1 3 4",
                             "outputs 2 3 5 1 4", "residuals 2 3 5 1 16", "d_outputs 2 3 5 1 4",
                             "d_final_state[0] 2 1 3 4"});
  CheckArrays(gru.results, {"d_input_kernel 2 1 7 12", "d_recurrent_kernel 2 1 4 12",
                            "d_recurrent_bias 2 1 12", "d_input_gates 2 3 5 1 12",
                            "d_recurrent_gates 2 3 5 1 12", "d_initial_state[0] 2 1 3 4"});
  attributes["weights"] = "per_gate";
  attributes["parts"] = "residuals d_weights";
  CheckArrays(ArrayTypesOf(ParseProblem(Pass::kBackward, attributes).problem).results,
              {"d_input_kernel[0] 2 7 4", "d_input_kernel[1] 2 7 4", "d_input_kernel[2] 2 7 4",
               "d_recurrent_kernel[0] 2 4 4", "d_recurrent_kernel[1] 2 4 4",
               "d_recurrent_kernel[2] 2 4 4", "d_initial_state[0] 2 1 3 4"});
}

// What a row of length 2 of 4 does at each time: "." nothing, "f" its first step, "s" a step; in
// capitals where it is reset.
std::string Drawn(const jp::Rows<int64_t>& rows, int64_t b) {
  std::string drawn;
  for (int64_t t = 0; t < rows.steps; ++t) {
    const char step = !rows.Runs(b, t) ? '.' : rows.IsFirst(b, t) ? 'f' : 's';
    drawn += rows.IsReset(b, t) ? static_cast<char>(step - 'a' + 'A') : step;
  }
  return drawn;
}

void TestRows() {
  const int32_t lengths[] = {4, 2, 0, 9};
  const bool resets[] = {false, true, false, true, true,  true, true, true,
                         true,  true, true,  true, false, true, true, false};
  jp::Rows<int64_t> rows{4, 4, false, false, lengths, resets};
  CHECK(Drawn(rows, 0) == "fSsS" && Drawn(rows, 1) == "FS.." && Drawn(rows, 2) == "....");
  CHECK(Drawn(rows, 3) == "fSSs", Drawn(rows, 3));
  CHECK(!rows.IsReset(0, -1) && !rows.IsReset(0, 4));
  CHECK(rows.Time(1) == 1 && rows.Before(1) == 0 && rows.After(1) == 2);
  rows.reverse = true;
  CHECK(Drawn(rows, 0) == "sSsF" && Drawn(rows, 1) == "SF..", Drawn(rows, 0), Drawn(rows, 1));
  CHECK(rows.Time(1) == 2 && rows.Before(1) == 2 && rows.After(1) == 0);
  rows.time_major = true;  // row 0 has the resets of 0, 4, 8 and 12
  CHECK(Drawn(rows, 0) == "sSSf", Drawn(rows, 0));
  rows.resets = nullptr;
  rows.lengths = nullptr;
  CHECK(Drawn(rows, 2) == "sssf", Drawn(rows, 2));
}

}  // namespace

int main() {
  TestParsing();
  TestWhatIsWrong();
  TestUnknownSizes();
  TestArrays();
  TestRows();
  return jp::test::Finish("problem");
}
