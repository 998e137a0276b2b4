// The input is up to three stop strings, each with its length in one byte before it (0 ends
// them), then token ids of one byte; 240 and above are commands, merges and unknown ids.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/detokenizer.h"
#include "tests/fuzz/tiny_bpe.h"

namespace {

// The text before the stop that is complete first, the longest of those.
std::string CutAtStop(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (qianyi::WellFormedPrefix(stop) != stop.size() || stop.size() > end) continue;
      if (text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qianyi;
  static const std::unique_ptr<Tokenizer> tokenizer = TinyBpe();
  if (size > 4096) return 0;  // the oracle is quadratic
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> stops;
  while (stops.size() < 3 && !rest.empty()) {
    const size_t length = static_cast<uint8_t>(rest[0]);
    rest.remove_prefix(1);
    if (length == 0) break;
    stops.emplace_back(rest.substr(0, length));
    rest.remove_prefix(stops.back().size());
  }
  std::vector<int32_t> ids;
  for (const char byte : rest) {
    const int32_t value = static_cast<uint8_t>(byte);
    ids.push_back(value < 240 ? value : 256 + value % 8 + (value >= 248 ? 40 : 0));
  }
  std::vector<int32_t> known;
  for (const int32_t id : ids) {
    if (tokenizer->Decode(std::vector<int32_t>{id}).ok()) known.push_back(id);
  }
  Detokenizer detokenizer(*tokenizer, stops);
  std::string text;
  for (const int32_t id : ids) {
    detokenizer.Append(id, &text);
    Require(WellFormedPrefix(text) == text.size());
  }
  detokenizer.Finish(&text);
  const std::string whole = *tokenizer->Decode(known);
  const std::string want = CutAtStop(whole, stops);
  Require(text == want);
  Require(detokenizer.stopped() == (want != whole));
  return 0;
}
