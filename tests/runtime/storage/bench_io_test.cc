#include "runtime/storage/bench_io.h"

#include <string>

#include "runtime/storage/model_file.h"
#include "tests/runtime/storage/storage_testing.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::TempFolder;

TEST(BenchIo, ReadsTheWholeFileOnce) {
  TempFolder folder;
  const uint64_t size = (5 << 20) + 4321;
  testing::WriteText(folder / "f", std::string(size, 'x'));
  for (const ReaderKind kind : {ReaderKind::kAuto, ReaderKind::kPread}) {
    const absl::StatusOr<IoReport> report = BenchIo(folder / "f", {.kind = kind, .depth = 3});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->bytes, size);
    EXPECT_EQ(report->depth, 3);
    EXPECT_EQ(report->chunk_bytes, kReadChunkBytes);
    EXPECT_GT(report->seconds, 0);
    EXPECT_GE(report->cpu_seconds, 0);
    EXPECT_NEAR(report->gb_per_second(), size * 1e-9 / report->seconds, 1e-9);
    EXPECT_FALSE(report->reader.empty());
  }
}

TEST(BenchIo, ReadsIntoAsMuchMemoryAsItIsTold) {
  TempFolder folder;
  const uint64_t size = (9 << 20) + 5;
  testing::WriteText(folder / "f", std::string(size, 'x'));
  absl::StatusOr<IoReport> report = BenchIo(folder / "f", {.depth = 2, .buffer_bytes = 5 << 20});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes, size);
  EXPECT_EQ(report->buffer_bytes, 5u << 20);
  report = BenchIo(folder / "f", {.depth = 2});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->buffer_bytes, 2u << 20);
  for (const uint64_t bytes : {uint64_t{1} << 20, uint64_t{1} << 40}) {
    EXPECT_TRUE(FailsWith(BenchIo(folder / "f", {.depth = 2, .buffer_bytes = bytes}).status(),
                          StatusCode::kInvalidArgument, "a buffer must hold"));
  }
}

TEST(BenchIo, StopsAtItsLimits) {
  TempFolder folder;
  testing::WriteText(folder / "f", std::string(9 << 20, 'x'));
  absl::StatusOr<IoReport> report = BenchIo(folder / "f", {.max_bytes = (3 << 20) + 1});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes, (3u << 20) + kPageBytes);
  report = BenchIo(folder / "f", {.chunk_bytes = 64 << 10, .max_seconds = 1e-9});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes, 4 * (64u << 10));  // what was under way already
}

TEST(BenchIo, StretchesLieEvenlyInTheFile) {
  const uint64_t bytes = 160 * kPageBytes + 5;
  EXPECT_EQ(StretchBegin(0, 16, bytes), 0u);
  EXPECT_EQ(StretchBegin(0.0624, 16, bytes), 0u);
  EXPECT_EQ(StretchBegin(0.0626, 16, bytes), 10 * kPageBytes);
  EXPECT_EQ(StretchBegin(0.51, 16, bytes), 80 * kPageBytes);
  EXPECT_EQ(StretchBegin(0.99, 16, bytes), 150 * kPageBytes);
  EXPECT_EQ(StretchBegin(0.7, 1, bytes), 0u);
}

TEST(BenchIo, WithTimeEnoughStretchesAreTheWholeFileOnce) {
  TempFolder folder;
  testing::WriteText(folder / "f", std::string(5 << 20, 'x'));
  const absl::StatusOr<IoReport> report =
      BenchIo(folder / "f", {.chunk_bytes = 64 << 10, .max_seconds = 600, .stretches = 16});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes, 5u << 20);
}

TEST(BenchIo, RefusesWhatItCannotMeasure) {
  TempFolder folder;
  testing::WriteText(folder / "empty", "");
  testing::WriteText(folder / "f", "x");
  EXPECT_TRUE(
      FailsWith(BenchIo(folder / "empty", {}).status(), StatusCode::kInvalidArgument, "is empty"));
  EXPECT_TRUE(
      FailsWith(BenchIo(folder / "none", {}).status(), StatusCode::kNotFound, folder / "none"));
  for (const uint64_t chunk : {uint64_t{0}, uint64_t{1000}, uint64_t{1} << 40}) {
    EXPECT_TRUE(FailsWith(BenchIo(folder / "f", {.chunk_bytes = chunk}).status(),
                          StatusCode::kInvalidArgument, "a chunk must be a multiple of 4096"));
  }
  const absl::StatusOr<IoReport> tiny = BenchIo(folder / "f", {});
  ASSERT_TRUE(tiny.ok()) << tiny.status();
  EXPECT_EQ(tiny->bytes, 1u);
}

}  // namespace
}  // namespace qianyi
