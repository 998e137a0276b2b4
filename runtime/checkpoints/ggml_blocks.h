// The block formats of GGUF files as floats. Blocks as ggml has them (ggml-common.h), 32 or 256
// elements of a row; `elements` is a multiple of that. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qianyi::ggml {

void Q8_0ToFloats(const std::byte* from, int64_t elements, float* to);
void Q4_0ToFloats(const std::byte* from, int64_t elements, float* to);
void Q4_1ToFloats(const std::byte* from, int64_t elements, float* to);
void Q5_0ToFloats(const std::byte* from, int64_t elements, float* to);
void Q5_1ToFloats(const std::byte* from, int64_t elements, float* to);
void Q4_KToFloats(const std::byte* from, int64_t elements, float* to);
void Q5_KToFloats(const std::byte* from, int64_t elements, float* to);
void Q6_KToFloats(const std::byte* from, int64_t elements, float* to);

}  // namespace qianyi::ggml
