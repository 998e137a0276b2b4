#include "tests/support/paths.h"

namespace qianyi::testing {

std::string FixturePath(const std::string& name) {
  return name.empty() ? QIANYI_FIXTURES : std::string(QIANYI_FIXTURES) + "/" + name;
}

const char* ProgramPath() { return QIANYI_BINARY; }

}  // namespace qianyi::testing
