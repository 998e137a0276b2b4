#include "runtime/storage/read_ahead.h"

#include <gtest/gtest.h>

#include <array>

namespace qianyi {
namespace {

constexpr uint64_t kBlock = 2 << 20;

// Reads `bytes` at the rates of the two shapes, in GB/s; returns the bytes of each shape.
std::array<uint64_t, 2> Read(ReadAhead& ahead, uint64_t bytes, std::array<double, 2> rates,
                             double* seconds, bool pauses = false) {
  std::array<uint64_t, 2> read = {};
  for (uint64_t done = 0; done < bytes; done += kBlock) {
    const int shape = ahead.shape().in_flight == 2 ? 0 : 1;
    read[shape] += kBlock;
    *seconds += kBlock / (rates[shape] * 1e9);
    ahead.Came(kBlock, *seconds);
    if (pauses) ahead.Paused();
  }
  return read;
}

TEST(ReadAheadTest, TheFasterShapeIsUsed) {
  for (const std::array<double, 2> rates : {std::array{3.2, 2.6}, std::array{1.9, 2.6}}) {
    ReadAhead ahead(ReadAhead::Shapes(4));
    double seconds = 0;
    Read(ahead, 400 << 20, rates, &seconds);
    const auto read = Read(ahead, 20ull << 30, rates, &seconds);
    const int faster = rates[0] > rates[1] ? 0 : 1;
    EXPECT_GT(read[faster], 10 * read[1 - faster]) << rates[0];
    EXPECT_GT(read[1 - faster], 0u) << "the other is looked at now and then";
  }
}

TEST(ReadAheadTest, WhatTurnsFasterIsFound) {
  ReadAhead ahead(ReadAhead::Shapes(4));
  double seconds = 0;
  Read(ahead, 8ull << 30, {3.2, 2.6}, &seconds);
  Read(ahead, 6ull << 30, {1.9, 2.6}, &seconds);
  auto read = Read(ahead, 20ull << 30, {1.9, 2.6}, &seconds);
  EXPECT_GT(read[1], 10 * read[0]);
  Read(ahead, 6ull << 30, {3.2, 2.6}, &seconds);
  read = Read(ahead, 20ull << 30, {3.2, 2.6}, &seconds);
  EXPECT_GT(read[0], 10 * read[1]);
}

// A rate that something else has limited is none.
TEST(ReadAheadTest, PausesAreNotMeasured) {
  ReadAhead ahead(ReadAhead::Shapes(4));
  double seconds = 0;
  const auto read = Read(ahead, 20ull << 30, {3.2, 2.6}, &seconds, true);
  EXPECT_EQ(read[1], 0u);
}

TEST(ReadAheadTest, AReaderOfOneReadAtATime) {
  for (const ReadAhead::Shape& shape : ReadAhead::Shapes(1)) EXPECT_EQ(shape.in_flight, 1);
}

}  // namespace
}  // namespace qianyi
