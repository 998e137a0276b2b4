#include "server/server_info.h"

#include "server/batch_request.h"
#include "server/parameters.h"

namespace qianyi {

std::string_view ServerVersion() { return QIANYI_VERSION; }

const std::vector<std::pair<std::string_view, int64_t>>& RequestLimits() {
  static const std::vector<std::pair<std::string_view, int64_t>> limits = [] {
    auto table = ParameterLimits();
    table.emplace_back("continuations", kMaxContinuations);
    table.emplace_back("embedding_inputs", kMaxEmbeddingInputs);
    return table;
  }();
  return limits;
}

}  // namespace qianyi
