// The binary under test, as a process, and what its contract says of every failure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/process.h"
#include "tests/support/safetensors_text.h"
#include "tests/support/temp_folder.h"

namespace qianyi::testing {

using Arguments = std::vector<std::string>;

Arguments operator+(Arguments left, const Arguments& right);

ProcessResult Qianyi(const Arguments& arguments, const ProcessOptions& options = {});
// Its standard output, which must come with exit status 0.
std::string Output(const Arguments& arguments);
// The same as JSON.
nlohmann::json OutputJson(const Arguments& arguments);

// That a command failed as a user may expect: exit status 1 (2 for a bad command line), nothing on
// standard output, and as its last words one line that begins with "qianyi: " and says all
// `words`.
::testing::AssertionResult Fails(const ProcessResult& result, int exit_code,
                                 const std::vector<std::string>& words);

// Small models of both families: a few MB in int4.
enum class Family { kChatGlm2, kBlockLm };
std::string SmallConfig(Family family);
// Writes SmallConfig into `folder` and returns its path.
std::string WriteConfig(const TempFolder& folder, Family family);

// The tensors of a ChatGLM2 without biases, as a checkpoint names them.
std::vector<TestShape> ChatGlm2Tensors(const nlohmann::json& config);

// The least --host-memory that a command asks for when it is given next to none. In MiB.
uint64_t LeastHostMiB(const Arguments& arguments);

std::string Fixture(const std::string& name);

}  // namespace qianyi::testing
