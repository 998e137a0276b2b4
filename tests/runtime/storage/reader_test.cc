#include "runtime/storage/reader.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>

#include "runtime/storage/file_util.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/reader_parts.h"
#include "tests/runtime/storage/storage_testing.h"
#include "tests/support/child.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::PassesInChild;
using testing::TempFolder;

std::string Pattern(uint64_t bytes) {
  std::string text(bytes, '\0');
  for (uint64_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 31 + i / 4096 * 7);
  return text;
}

// Every way of reading that this machine grants, and plain reads in any case.
std::vector<ReaderKind> Kinds() {
  return {ReaderKind::kAuto, ReaderKind::kUring, ReaderKind::kPread};
}

// Opens the reader, or returns null where io_uring was asked for and a sandbox forbids it.
std::unique_ptr<Reader> OpenOrNull(const std::string& path, ReaderKind kind, int depth = 4) {
  absl::StatusOr<std::unique_ptr<Reader>> reader = OpenReader(path, {.kind = kind, .depth = depth});
  if (!reader.ok()) {
    EXPECT_EQ(kind, ReaderKind::kUring) << reader.status();
    EXPECT_EQ(reader.status().code(), StatusCode::kUnavailable) << reader.status();
    return nullptr;
  }
  return *std::move(reader);
}

class ReaderOfKind : public ::testing::TestWithParam<ReaderKind> {
 protected:
  TempFolder folder_;
};

TEST_P(ReaderOfKind, ReadsEverythingInAnyOrderAtFullDepth) {
  const std::string text = Pattern((3 << 20) + 5 * kPageBytes + 123);
  testing::WriteText(folder_ / "f", text);
  const std::unique_ptr<Reader> reader = OpenOrNull(folder_ / "f", GetParam(), 5);
  if (reader == nullptr) return;  // checked above: only where the kernel refuses io_uring
  EXPECT_EQ(reader->size(), text.size());
  EXPECT_EQ(reader->depth(), 5);
  const uint64_t step = 256 << 10;
  const uint64_t requests = (text.size() + step - 1) / step;
  const PageBuffer buffer = AllocatePages(requests * step);
  std::memset(buffer.get(), 0xee, requests * step);
  uint64_t in_flight = 0, done = 0;
  const auto wait = [&] {
    const ReadCompletion completion = reader->Wait();
    ASSERT_OK(completion.status);
    const uint64_t offset = completion.cookie * step;
    EXPECT_EQ(completion.bytes, std::min<uint64_t>(step, text.size() - offset));
    --in_flight;
    ++done;
  };
  for (uint64_t i = requests; i-- > 0;) {  // from the end, so no order can be assumed
    const uint64_t offset = i * step;
    const uint64_t rest = (text.size() - offset + kPageBytes - 1) / kPageBytes * kPageBytes;
    if (in_flight == 5) wait();
    ASSERT_OK(reader->Submit({offset, std::min(step, rest), buffer.get() + offset, i}));
    ++in_flight;
  }
  while (in_flight > 0) wait();
  EXPECT_EQ(done, requests);
  EXPECT_EQ(std::memcmp(buffer.get(), text.data(), text.size()), 0);
}

TEST_P(ReaderOfKind, RefusesWhatIsNotAligned) {
  testing::WriteText(folder_ / "f", Pattern(3 * kPageBytes + 1));
  const std::unique_ptr<Reader> reader = OpenOrNull(folder_ / "f", GetParam());
  if (reader == nullptr) return;
  const PageBuffer page = AllocatePages(8 * kPageBytes);
  std::byte* const to = page.get();
  for (const ReadRequest& request : {ReadRequest{1, kPageBytes, to, 0},
                                     {0, 100, to, 0},
                                     {0, 0, to, 0},
                                     {0, kPageBytes, to + 64, 0},
                                     {0, 5 * kPageBytes, to, 0},
                                     {4 * kPageBytes, kPageBytes, to, 0},
                                     {kPageBytes, ~uint64_t{0} - kPageBytes + 1, to, 0}}) {
    EXPECT_TRUE(
        FailsWith(reader->Submit(request), StatusCode::kInvalidArgument, "not page-aligned"));
  }
  EXPECT_TRUE(FailsWith(reader->Wait().status, StatusCode::kFailedPrecondition, "none is under"));
  EXPECT_OK(reader->Submit({0, 4 * kPageBytes, to, 0}));
  EXPECT_EQ(reader->Wait().bytes, 3 * kPageBytes + 1);
}

TEST_P(ReaderOfKind, RefusesMoreThanItsDepth) {
  testing::WriteText(folder_ / "f", Pattern(4 * kPageBytes));
  const std::unique_ptr<Reader> reader = OpenOrNull(folder_ / "f", GetParam(), 2);
  if (reader == nullptr) return;
  const PageBuffer pages = AllocatePages(3 * kPageBytes);
  for (uint64_t i = 0; i < 2; ++i) {
    ASSERT_OK(reader->Submit({i * kPageBytes, kPageBytes, pages.get() + i * kPageBytes, i}));
  }
  EXPECT_TRUE(FailsWith(reader->Submit({0, kPageBytes, pages.get() + 2 * kPageBytes, 2}),
                        StatusCode::kFailedPrecondition, "2 reads are under way"));
  EXPECT_OK(reader->Wait().status);
  EXPECT_OK(reader->Submit({0, kPageBytes, pages.get() + 2 * kPageBytes, 2}));
  // The destructor waits for the two that are left; their memory outlives it.
}

TEST_P(ReaderOfKind, AFileThatShrinksIsDataLoss) {
  const std::string path = folder_ / "f";
  testing::WriteText(path, Pattern(64 * kPageBytes));
  const std::unique_ptr<Reader> reader = OpenOrNull(path, GetParam());
  if (reader == nullptr) return;
  const PageBuffer pages = AllocatePages(64 * kPageBytes);
  std::filesystem::resize_file(path, 10 * kPageBytes + 17);
  ASSERT_OK(reader->Submit({0, 64 * kPageBytes, pages.get(), 1}));
  ReadCompletion completion = reader->Wait();
  EXPECT_EQ(completion.cookie, 1u);
  EXPECT_LE(completion.bytes, 10 * kPageBytes);
  EXPECT_TRUE(FailsWith(completion.status, StatusCode::kDataLoss,
                        path + ": ends at byte 40977, but had bytes up to 262144"));
  ASSERT_OK(reader->Submit({32 * kPageBytes, kPageBytes, pages.get(), 2}));
  EXPECT_TRUE(FailsWith(reader->Wait().status, StatusCode::kDataLoss, path));
  std::filesystem::resize_file(path, 0);
  ASSERT_OK(reader->Submit({0, kPageBytes, pages.get(), 3}));
  EXPECT_TRUE(FailsWith(reader->Wait().status, StatusCode::kDataLoss, "ends at byte 0"));
  // What is still there, or there again, can be read.
  testing::WriteText(path, Pattern(64 * kPageBytes));
  ASSERT_OK(reader->Submit({0, kPageBytes, pages.get(), 4}));
  EXPECT_OK(reader->Wait().status);
}

TEST_P(ReaderOfKind, MissingFilesFoldersAndDevicesAreNamed) {
  const ReaderOptions options{.kind = GetParam()};
  EXPECT_TRUE(FailsWith(OpenReader(folder_ / "none", options).status(), StatusCode::kNotFound,
                        folder_ / "none"));
  EXPECT_TRUE(FailsWith(OpenReader(folder_.path(), options).status(), StatusCode::kInvalidArgument,
                        "is a folder"));
  EXPECT_TRUE(FailsWith(OpenReader("/dev/zero", options).status(), StatusCode::kInvalidArgument,
                        "/dev/zero: is not a regular file"));
  ASSERT_EQ(mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  EXPECT_TRUE(FailsWith(OpenReader(folder_ / "fifo", options).status(),
                        StatusCode::kInvalidArgument, "is not a regular file"));
  for (const int depth : {0, -1, 1000}) {
    EXPECT_TRUE(
        FailsWith(OpenReader(folder_ / "none", {.kind = GetParam(), .depth = depth}).status(),
                  StatusCode::kInvalidArgument, "depth must be 1 to 256"));
  }
}

TEST_P(ReaderOfKind, EmptyFilesOpen) {
  testing::WriteText(folder_ / "empty", "");
  const std::unique_ptr<Reader> reader = OpenOrNull(folder_ / "empty", GetParam());
  if (reader == nullptr) return;
  EXPECT_EQ(reader->size(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Kinds, ReaderOfKind, ::testing::ValuesIn(Kinds()), [](const auto& param) {
  return param.param == ReaderKind::kAuto    ? "Auto"
         : param.param == ReaderKind::kUring ? "Uring"
                                             : "Pread";
});

// Makes a system call fail with EPERM from now on, as container sandboxes do.
void Forbid(unsigned number) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = 4, .filter = filter};
  ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

TEST(Reader, FallsBackWhereASandboxForbidsIoUring) {
  TempFolder folder;
  const std::string text = Pattern(5 * kPageBytes);
  testing::WriteText(folder / "f", text);
  EXPECT_TRUE(PassesInChild([&] {
    Forbid(__NR_io_uring_setup);
    EXPECT_TRUE(FailsWith(OpenReader(folder / "f", {.kind = ReaderKind::kUring}).status(),
                          StatusCode::kUnavailable, "io_uring is not to be had here"));
    const auto reader = OpenReader(folder / "f", {});
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_TRUE((*reader)->name().starts_with("pread"));
    const PageBuffer pages = AllocatePages(text.size());
    ASSERT_OK((*reader)->Submit({0, text.size(), pages.get(), 0}));
    ASSERT_OK((*reader)->Wait().status);
    EXPECT_EQ(std::memcmp(pages.get(), text.data(), text.size()), 0);
  }));
}

TEST(Reader, RunningOutOfDescriptorsIsAnError) {
  TempFolder folder;
  testing::WriteText(folder / "f", Pattern(kPageBytes));
  EXPECT_TRUE(PassesInChild([&] {
    const rlimit none = {0, 0};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    EXPECT_TRUE(FailsWith(OpenReader(folder / "f", {}).status(), StatusCode::kResourceExhausted,
                          "Too many open files"));
  }));
}

// What a device's answers mean, tried without a device.
class Progress : public ::testing::Test {
 protected:
  std::byte memory_[8 * kPageBytes];
  // Eight pages of a file that ends 100 bytes into the last.
  ReadProgress read_{{16 * kPageBytes, 8 * kPageBytes, memory_, 9}, 23 * kPageBytes + 100};
};

TEST_F(Progress, InterruptedAndShortReadsGoOn) {
  EXPECT_EQ(read_.Advance(-EINTR, "f"), std::nullopt);
  EXPECT_EQ(read_.Advance(-EAGAIN, "f"), std::nullopt);
  EXPECT_EQ(read_.offset(), 16 * kPageBytes);
  EXPECT_EQ(read_.Advance(2 * kPageBytes + 5, "f"), std::nullopt);
  EXPECT_EQ(read_.offset(), 18 * kPageBytes);
  EXPECT_EQ(read_.bytes(), 6 * kPageBytes);
  EXPECT_EQ(read_.to(), memory_ + 2 * kPageBytes);
  const auto done = read_.Advance(5 * kPageBytes + 100, "f");
  ASSERT_TRUE(done.has_value());
  EXPECT_OK(done->status);
  EXPECT_EQ(done->cookie, 9u);
  EXPECT_EQ(done->bytes, 7 * kPageBytes + 100);
}

TEST_F(Progress, ErrorsNameFilePlaceAndReason) {
  EXPECT_EQ(read_.Advance(kPageBytes, "f"), std::nullopt);
  const auto broken = read_.Advance(-EIO, "disk/f");
  ASSERT_TRUE(broken.has_value());
  EXPECT_TRUE(FailsWith(broken->status, StatusCode::kDataLoss,
                        "disk/f: cannot read 28672 bytes at 69632: Input/output error"));
  EXPECT_EQ(broken->bytes, kPageBytes);
  const auto other = read_.Advance(-ENXIO, "disk/f");
  ASSERT_TRUE(other.has_value());
  EXPECT_TRUE(FailsWith(other->status, StatusCode::kUnavailable, "No such device or address"));
}

TEST_F(Progress, AnEarlyEndIsDataLoss) {
  const auto none = read_.Advance(0, "f");
  ASSERT_TRUE(none.has_value());
  EXPECT_TRUE(FailsWith(none->status, StatusCode::kDataLoss, "ends at byte 65536"));
  const auto crumb = read_.Advance(17, "f");
  ASSERT_TRUE(crumb.has_value());
  EXPECT_TRUE(FailsWith(crumb->status, StatusCode::kDataLoss, "ends at byte 65553"));
}

}  // namespace
}  // namespace qianyi
