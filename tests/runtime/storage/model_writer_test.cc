#include "runtime/storage/model_writer.h"

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/storage/convert.h"
#include "runtime/storage/model_layout.h"
#include "tests/runtime/storage/storage_testing.h"
#include "tests/support/child.h"

namespace qianyi {
namespace {

using absl::StatusCode;
using testing::FailsWith;
using testing::PassesInChild;
using testing::TempFolder;

ModelFile Layout() {
  const absl::StatusOr<ModelFile> model =
      ModelFile::Lay(testing::Describe(testing::TinyChatGlm2Config()), {DType::kI8, 0});
  EXPECT_TRUE(model.ok()) << model.status();
  return *model;
}

// Writes all blocks: 0x41 for the first tensor and so on.
absl::Status Fill(ModelWriter& writer) {
  for (const BlockIndex& index : FileOrder(writer.model())) {
    const Block& block = writer.model().tensors[index.tensor].blocks[index.block];
    const std::string bytes(block.bytes, static_cast<char>('A' + index.tensor));
    const absl::Status status =
        writer.Write(index.tensor, index.block, reinterpret_cast<const std::byte*>(bytes.data()));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

TEST(ModelWriter, WritesUnderAHiddenNameUntilItIsDone) {
  TempFolder folder;
  auto writer = ModelWriter::Create(Layout(), folder / "out", {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::string partial = ".out.partial-" + std::to_string(getpid());
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{partial}));
  EXPECT_EQ(std::filesystem::file_size(folder / (partial + "/model.safetensors")),
            (*writer)->model().file_bytes[0]);
  ASSERT_OK(Fill(**writer));
  // As after a kill: the header is not there yet, so nothing takes this for a model.
  EXPECT_FALSE(ModelFile::Open(folder / partial).ok());
  ASSERT_OK((*writer)->Finish());
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{"out"}));
  writer->reset();
  const absl::StatusOr<ModelFile> model = ModelFile::Open(folder / "out");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(testing::ReadBlock(*model, model->tensors[1].blocks[0])[0], 'B');
}

TEST(ModelWriter, PaddingIsZero) {
  TempFolder folder;
  auto writer = ModelWriter::Create(Layout(), folder / "out", {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_OK(Fill(**writer));
  ASSERT_OK((*writer)->Finish());
  std::string text = testing::ReadText(folder / "out/model.safetensors");
  uint64_t first = text.size();
  for (const StoredTensor& tensor : (*writer)->model().tensors) {
    for (const Block& block : tensor.blocks) {
      std::fill_n(text.begin() + block.offset, block.bytes, '\0');
      first = std::min(first, block.offset);
    }
  }
  EXPECT_EQ(text.find_first_not_of('\0', first), text.npos);
}

TEST(ModelWriter, GivingUpRemovesEverything) {
  TempFolder folder;
  {
    auto writer = ModelWriter::Create(Layout(), folder / "out", {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE(FailsWith((*writer)->Finish(), StatusCode::kFailedPrecondition,
                          "0 blocks were written of 10"));
    EXPECT_EQ(folder.Names().size(), 1u);
  }
  EXPECT_TRUE(folder.Names().empty());
}

TEST(ModelWriter, TwoWritersDoNotMeetAndTheSecondToFinishFails) {
  TempFolder folder;
  auto first = ModelWriter::Create(Layout(), folder / "out", {});
  auto second = ModelWriter::Create(Layout(), folder / "out", {});
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_EQ(folder.Names().size(), 2u);
  ASSERT_OK(Fill(**first));
  ASSERT_OK(Fill(**second));
  ASSERT_OK((*first)->Finish());
  EXPECT_TRUE(FailsWith((*second)->Finish(), StatusCode::kAlreadyExists, folder / "out"));
  second->reset();
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{"out"}));
  EXPECT_TRUE(ModelFile::Open(folder / "out").ok());
}

TEST(ModelWriter, DestinationsThatCannotBe) {
  TempFolder folder;
  testing::WriteText(folder / "file", "x");
  const auto create = [&](const std::string& destination) {
    return ModelWriter::Create(Layout(), destination, {}).status();
  };
  EXPECT_TRUE(FailsWith(create(folder / "file"), StatusCode::kAlreadyExists, folder / "file"));
  EXPECT_TRUE(FailsWith(create(folder / "none/out"), StatusCode::kNotFound,
                        "there is no folder " + (folder / "none")));
  EXPECT_TRUE(FailsWith(create(""), StatusCode::kInvalidArgument, "is not a path"));
  EXPECT_FALSE(create(folder / "file/out").ok());
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{"file"}));
}

TEST(ModelWriter, ALinkToAnEmptyFolderIsFollowed) {
  TempFolder folder;
  std::filesystem::create_directory(folder / "target");
  std::filesystem::create_directory_symlink(folder / "target", folder / "link");
  auto writer = ModelWriter::Create(Layout(), folder / "link", {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_OK(Fill(**writer));
  ASSERT_OK((*writer)->Finish());
  EXPECT_TRUE(ModelFile::Open(folder / "link").ok());
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
}

// In a child of its own.
void LimitFiles(uint64_t bytes) {
  signal(SIGXFSZ, SIG_IGN);  // then writes fail with EFBIG
  const rlimit limit = {bytes, bytes};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

TEST(DiskFull, ALimitThatIsTooSmallIsSeenBeforeAnythingIsWritten) {
  TempFolder folder;
  testing::WriteCheckpoint(folder / "source", testing::TinyChatGlm2Config());
  EXPECT_TRUE(PassesInChild([&] {
    LimitFiles(64 << 10);
    const absl::Status status =
        Convert({.source = folder / "source", .destination = folder / "out"}, nullptr);
    EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "at most 65536 bytes"));
    EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, folder / "out"));
    EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "are free in"));
  }));
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{"source"}));
}

TEST(DiskFull, AWriteThatFailsHalfwayLeavesNothing) {
  TempFolder folder;
  testing::WriteCheckpoint(folder / "source", testing::TinyChatGlm2Config());
  EXPECT_TRUE(PassesInChild([&] {
    uint64_t calls = 0;
    const absl::Status status = Convert({.source = folder / "source",
                                         .destination = folder / "out",
                                         .format = {DType::kF32, 0},
                                         .threads = 2},
                                        [&](const Progress&) {
                                          if (++calls == 3) LimitFiles(24 << 10);
                                        });
    EXPECT_GE(calls, 3u);
    EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "cannot write at byte"));
    EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "File too large"));
    EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "The model needs "));
    EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "Free some space"));
  }));
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{"source"}));
}

// Writes the first `count` blocks of a model in a process that is then killed.
void WriteAndBeKilled(const std::string& destination, const std::string& work, int count) {
  EXPECT_FALSE(PassesInChild([&] {
    auto writer = ModelWriter::Create(Layout(), destination, {}, work);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const BlockIndex& index : FileOrder((*writer)->model())) {
      if (count-- == 0) break;
      const Block& block = (*writer)->model().tensors[index.tensor].blocks[index.block];
      const std::string bytes(block.bytes, static_cast<char>('A' + index.tensor));
      ASSERT_OK((*writer)->Write(index.tensor, index.block,
                                 reinterpret_cast<const std::byte*>(bytes.data())));
    }
    raise(SIGKILL);
  }));
}

// The blocks that need not be written again; the others are written.
int Resume(ModelWriter& writer) {
  int kept = 0;
  for (const BlockIndex& index : FileOrder(writer.model())) {
    const Block& block = writer.model().tensors[index.tensor].blocks[index.block];
    std::string bytes(block.bytes, '?');
    if (writer.WasWritten(index.tensor, index.block, reinterpret_cast<std::byte*>(bytes.data()))) {
      ++kept;
      continue;
    }
    bytes.assign(block.bytes, static_cast<char>('A' + index.tensor));
    EXPECT_OK(
        writer.Write(index.tensor, index.block, reinterpret_cast<const std::byte*>(bytes.data())));
  }
  return kept;
}

std::string WrittenAtOnce() {
  TempFolder folder;
  auto writer = ModelWriter::Create(Layout(), folder / "out", {});
  EXPECT_OK(Fill(**writer));
  EXPECT_OK((*writer)->Finish());
  return testing::ReadText(folder / "out/model.safetensors");
}

TEST(Resuming, GoesOnAfterAKill) {
  TempFolder folder;
  WriteAndBeKilled(folder / "out", "work", 4);
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{".out.partial"}));
  auto writer = ModelWriter::Create(Layout(), folder / "out", {}, "work");
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->earlier_blocks(), 4u);
  EXPECT_EQ(Resume(**writer), 4);
  ASSERT_OK((*writer)->Finish());
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{"out"}));
  EXPECT_EQ(testing::NamesIn(folder / "out"),
            (std::vector<std::string>{"config.json", "model.safetensors"}));
  EXPECT_TRUE(testing::ReadText(folder / "out/model.safetensors") == WrittenAtOnce());
}

TEST(Resuming, BlocksThatWereLostAreWrittenAgain) {
  TempFolder folder;
  WriteAndBeKilled(folder / "out", "work", 4);
  // As after a power cut: the journal has what the file lost. And its last record is cut off.
  const std::string file = folder / ".out.partial/model.safetensors";
  std::string text = testing::ReadText(file);
  text[Layout().tensors[FileOrder(Layout())[1].tensor].blocks[0].offset] ^= 1;
  testing::WriteText(file, text);
  const std::string journal = folder / ".out.partial/progress";
  testing::WriteText(journal, testing::ReadText(journal) + "12345");
  auto writer = ModelWriter::Create(Layout(), folder / "out", {}, "work");
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ(Resume(**writer), 3);
  ASSERT_OK((*writer)->Finish());
  EXPECT_TRUE(testing::ReadText(folder / "out/model.safetensors") == WrittenAtOnce());
}

TEST(Resuming, OtherWorkBeginsAnew) {
  TempFolder folder;
  WriteAndBeKilled(folder / "out", "work", 4);
  testing::WriteText(folder / ".out.partial/tokenizer.json", "of the earlier one");
  auto writer = ModelWriter::Create(Layout(), folder / "out", {}, "other work");
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->earlier_blocks(), 0u);
  EXPECT_EQ(Resume(**writer), 0);
  ASSERT_OK((*writer)->Finish());
  EXPECT_EQ(testing::NamesIn(folder / "out"),
            (std::vector<std::string>{"config.json", "model.safetensors"}));
}

TEST(Resuming, TwoAtOnceDoNotMeet) {
  TempFolder folder;
  auto first = ModelWriter::Create(Layout(), folder / "out", {}, "work");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(FailsWith(ModelWriter::Create(Layout(), folder / "out", {}, "work").status(),
                        StatusCode::kAlreadyExists, "another process is writing"));
  EXPECT_EQ(Resume(**first), 0);
  ASSERT_OK((*first)->Finish());
  EXPECT_TRUE(ModelFile::Open(folder / "out").ok());
}

TEST(DiskFull, ALeftoverOfAKilledRunIsNamed) {
  TempFolder folder;
  EXPECT_FALSE(PassesInChild([&] {
    auto writer = ModelWriter::Create(Layout(), folder / "out", {});
    ASSERT_TRUE(writer.ok());
    raise(SIGKILL);
  }));
  ASSERT_EQ(folder.Names().size(), 1u);
  const std::string leftover = folder / folder.Names()[0];
  EXPECT_TRUE(PassesInChild([&] {
    LimitFiles(4096);
    EXPECT_TRUE(FailsWith(ModelWriter::Create(Layout(), folder / "out", {}).status(),
                          StatusCode::kResourceExhausted, leftover + " is a leftover to remove"));
  }));
  // It does not get in the way of a new run.
  EXPECT_TRUE(PassesInChild([&] {
    auto writer = ModelWriter::Create(Layout(), folder / "out", {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_OK(Fill(**writer));
    EXPECT_OK((*writer)->Finish());
  }));
  EXPECT_TRUE(ModelFile::Open(folder / "out").ok());
}

TEST(DiskFull, AModelLargerThanTheDiskIsRefusedAtOnce) {
  TempFolder folder;
  ModelFile model = Layout();
  model.file_bytes[0] = uint64_t{1} << 60;
  const absl::Status status = ModelWriter::Create(model, folder / "out", {}).status();
  EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "not enough room"));
  EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted,
                        "The model needs 1152921504606846976 bytes; "));
  EXPECT_TRUE(folder.Names().empty());
}

// On a file system of its own, which takes root to make; the tests above cover the same
// code on any machine.
TEST(DiskFull, ARealFileSystemThatIsFull) {
  TempFolder folder;
  std::filesystem::create_directory(folder / "small");
  const std::string small = folder / "small";
  // Room for int4, with config.json and the folders, but not for f32.
  const ModelSpec spec = testing::Describe(testing::TinyChatGlm2Config());
  const uint64_t room = ModelFile::Lay(spec, {DType::kF32, 0})->file_bytes[0] - kPageBytes;
  ASSERT_LT(ModelFile::Lay(spec, {DType::kI4, 32})->file_bytes[0] + 4 * kPageBytes, room);
  const std::string option = "size=" + std::to_string(room);
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, option.c_str()) != 0) {
    GTEST_SKIP() << "no right to mount: " << std::strerror(errno);
  }
  testing::WriteCheckpoint(folder / "source", testing::TinyChatGlm2Config());
  const auto convert = [&](PackedFormat format, const ProgressFn& progress) {
    return Convert({.source = folder / "source", .destination = small + "/out", .format = format},
                   progress);
  };
  absl::Status status = convert({DType::kF32, 0}, nullptr);
  EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "not enough room"));
  EXPECT_TRUE(std::filesystem::is_empty(small));
  EXPECT_TRUE(FailsWith(Convert({.source = folder / "source", .destination = small}, nullptr),
                        StatusCode::kInvalidArgument, "is a mount point"));
  status = convert({DType::kI4, 32}, nullptr);
  EXPECT_OK(status);
  EXPECT_EQ(umount(small.c_str()), 0);
}

}  // namespace
}  // namespace qianyi
