// Counts what the test program takes from the heap.
#pragma once

#include <cstdint>

namespace qianyi::testing {

// How often this thread has called operator new; 0 under a sanitizer.
int64_t Allocations();

}  // namespace qianyi::testing
