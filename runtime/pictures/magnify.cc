#include "runtime/pictures/magnify.h"

namespace qianyi {
namespace {

constexpr int32_t kSourceBlock = 16;  // codes on a side
constexpr int32_t kTargetBlock = 32;
constexpr int32_t kTargetGrid = 64;

// The codes of the window's target block, line by line, as indices of the 64×64.
template <typename Visit>
void ForEachTarget(const MagnifyWindow& window, Visit visit) {
  for (int32_t line = 0; line < window.lines; ++line) {
    for (int32_t i = 0; i < kTargetBlock; ++i) {
      visit((kSourceBlock * window.row + line) * kTargetGrid + kSourceBlock * window.column + i);
    }
  }
}

}  // namespace

std::vector<int32_t> MagnifyQuery(const MagnifyWindow& window, std::span<const int32_t> text,
                                  std::span<const int32_t> source, std::span<const int32_t> target,
                                  const PictureConfig& config) {
  std::vector<int32_t> query(text.begin(), text.end());
  for (int32_t y = 0; y < kSourceBlock; ++y) {
    const auto row = source.begin() + (kSourceBlock / 2 * window.row + y) * kMagnifySourceGrid +
                     kSourceBlock / 2 * window.column;
    query.insert(query.end(), row, row + kSourceBlock);
  }
  for (const char* word : {"[EOI1]", "[ROI2]", "[POS0]", "[BASE]", "[BOI2]"}) {
    query.push_back(config.Command(word));
  }
  ForEachTarget(window, [&](int32_t at) { query.push_back(target[at]); });
  return query;
}

void TakeMagnified(const MagnifyWindow& window, std::span<const int32_t> finished,
                   std::vector<int32_t>* target) {
  const size_t count = static_cast<size_t>(window.lines) * kTargetBlock;
  size_t next = finished.size() - count;
  ForEachTarget(window, [&](int32_t at) { (*target)[at] = finished[next++]; });
}

}  // namespace qianyi
