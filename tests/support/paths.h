// Where this build's program and the fixtures are. Compiled into one file only: what one clone has
// compiled serves another.
#pragma once

#include <string>

namespace qianyi::testing {

std::string FixturePath(const std::string& name = "");  // tests/fixtures/NAME
const char* ProgramPath();                              // of qianyi

}  // namespace qianyi::testing
