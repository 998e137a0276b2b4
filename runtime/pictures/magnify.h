// From grid×grid codes to twice as many on a side, by windows that overlap (CogView, section 3.3
// of arXiv:2105.13290): 32×32 becomes 64×64 in nine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/pictures/picture_config.h"

namespace qianyi {

struct MagnifyWindow {
  int32_t row = 0, column = 0;  // of the window, in halves of the source block
  int32_t lines = 0;            // of the target block that take part
};
// In the order in which they are filled.
inline constexpr MagnifyWindow kMagnifyWindows[] = {{0, 0, 18}, {0, 1, 30}, {0, 2, 30},
                                                    {1, 1, 30}, {1, 0, 30}, {1, 2, 30},
                                                    {2, 0, 32}, {2, 1, 32}, {2, 2, 32}};
inline constexpr int32_t kMagnifySourceGrid = 32;

// The query of one window: `text` ends in [BASE] [BOI1]; then 16×16 of the 32×32 codes `source`,
// [EOI1] [ROI2] [POS0] [BASE] [BOI2], and the lines of a 32×32 block of the 64×64 codes `target`,
// in which what is not known yet is -1.
std::vector<int32_t> MagnifyQuery(const MagnifyWindow& window, std::span<const int32_t> text,
                                  std::span<const int32_t> source, std::span<const int32_t> target,
                                  const PictureConfig& config);
// Writes the finished query's codes back into `target`.
void TakeMagnified(const MagnifyWindow& window, std::span<const int32_t> finished,
                   std::vector<int32_t>* target);

}  // namespace qianyi
