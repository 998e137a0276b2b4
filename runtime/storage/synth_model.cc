// Invented weights behind the doors of real ones: a reader and a folder.
#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "runtime/storage/model_layout.h"
#include "runtime/storage/model_writer.h"
#include "runtime/storage/reader_parts.h"
#include "runtime/storage/synth.h"

namespace qianyi {
namespace {

constexpr std::string_view kSynthPrefix = "synth:";
constexpr int kMaxSynthThreads = 8;

class SynthReader : public BlockingReader {
 public:
  SynthReader(const ModelFile& model, uint64_t seed, int depth)
      : BlockingReader(model.files[0], model.file_bytes[0], depth),
        tensors_(model.tensors),
        order_(FileOrder(model)),
        seed_(seed) {}

  std::string_view name() const override { return "synth"; }

 private:
  const Block& At(const BlockIndex& index) const {
    return tensors_[index.tensor].blocks[index.block];
  }

  ReadCompletion Read(const ReadRequest& request) override {
    // The first block that ends after the request begins.
    auto next = std::partition_point(order_.begin(), order_.end(), [&](const BlockIndex& index) {
      return At(index).offset + At(index).bytes <= request.offset;
    });
    const uint64_t end = request.offset + request.bytes;
    uint64_t at = request.offset;
    while (at < end) {
      const uint64_t block_begin = next == order_.end() ? end : At(*next).offset;
      if (at < block_begin) {
        const uint64_t gap = std::min(end, block_begin) - at;
        std::memset(request.to + (at - request.offset), 0, gap);
        at += gap;
        continue;
      }
      const StoredTensor& tensor = tensors_[next->tensor];
      const Block& block = At(*next);
      const uint64_t bytes = std::min(end, block.offset + block.bytes) - at;
      SynthBytes(tensor.spec, tensor.format, seed_, block, at - block.offset, bytes,
                 request.to + (at - request.offset));
      at += bytes;
      ++next;
    }
    return {request.cookie, request.bytes, absl::OkStatus()};
  }

  const std::vector<StoredTensor> tensors_;
  const std::vector<BlockIndex> order_;
  const uint64_t seed_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Reader>> OpenSynthReader(const ModelFile& model,
                                                        ReaderOptions options) {
  uint64_t seed = 0;
  if (model.files.size() != 1 || !model.files[0].starts_with(kSynthPrefix) ||
      !absl::SimpleAtoi(model.files[0].substr(kSynthPrefix.size()), &seed)) {
    return absl::InvalidArgumentError("this model has files: it was not made by ModelFile::Lay");
  }
  return std::make_unique<SynthReader>(model, seed, std::max(1, options.depth));
}

absl::Status SetRouterSkew(double skew, ModelSpec* spec) {
  if (skew == 0) return absl::OkStatus();
  bool found = false;
  for (TensorSpec& tensor : spec->tensors) {
    if (tensor.routed == 0) continue;
    tensor.router_skew = skew;
    found = true;
  }
  if (found) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--router-skew is for models with a router of experts; leave it out");
}

absl::StatusOr<std::unique_ptr<Reader>> OpenModelReader(const ModelFile& model, int index,
                                                        ReaderOptions options) {
  if (model.files[index].starts_with(kSynthPrefix)) return OpenSynthReader(model, options);
  return OpenReader(model.files[index], options);
}

absl::Status WriteSynth(const ModelSpec& spec, PackedFormat format, uint64_t seed,
                        const std::string& destination, const ProgressFn& progress) {
  absl::StatusOr<ModelFile> model = ModelFile::Lay(spec, format, seed);
  if (!model.ok()) return model.status();
  absl::StatusOr<std::unique_ptr<ModelWriter>> writer =
      ModelWriter::Create(*std::move(model), destination, {});
  if (!writer.ok()) return writer.status();
  const ModelFile& layout = (*writer)->model();
  const int threads =
      std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxSynthThreads);
  return WriteModel(
      **writer, threads,
      [&](int tensor, int block, std::byte* out) {
        const StoredTensor& stored = layout.tensors[tensor];
        SynthBlock(stored.spec, stored.format, seed, stored.blocks[block], out);
        return absl::OkStatus();
      },
      progress);
}

}  // namespace qianyi
