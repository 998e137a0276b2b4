#include "runtime/pictures/conv_stack.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace qianyi {
namespace {

using Kind = VqvaeBlock::Kind;

constexpr PackedFormat kFloat = {DType::kF32, 0};
// Of each of a band's three buffers: windows, and two of what comes of them.
constexpr int64_t kBandFloats = 4 << 20;
// Which row (or column) of a transposed 4x4 kernel meets the first and second pixel of the 2x2
// window of an even and of an odd place.
constexpr int64_t kQuarterTaps[2][2] = {{3, 1}, {2, 0}};

absl::StatusOr<std::vector<float>> ReadTensor(const Checkpoint& checkpoint,
                                              const VqvaeConfig& config, const std::string& name,
                                              const std::vector<int64_t>& shape) {
  const std::vector<TensorPlace> places = checkpoint.Find(absl::StrCat(config.prefix, name));
  if (places.empty()) {
    return absl::NotFoundError(
        absl::StrCat("the VQ-VAE lacks the tensor '", config.prefix, name, "'"));
  }
  const std::string& path = places[0].file->path;
  const SourceTensor& tensor = *places[0].tensor;
  if (tensor.shape != shape) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor '%s' has the shape [%s], but vqvae/config.json asks for [%s]", path,
        tensor.name, absl::StrJoin(tensor.shape, ", "), absl::StrJoin(shape, ", ")));
  }
  std::vector<float> values(tensor.elements());
  absl::Status status = ReadFloatRows(path, tensor, 0, tensor.rows(), values.data());
  if (!status.ok()) return status;
  return values;
}

// A weight [out, in, window, window] (or [in, out, …]) as rows [out] of window² · in columns: pixel
// by pixel of the window that `taps` picks from the kernel, as Unfold writes it.
std::vector<float> ByPixel(const std::vector<float>& weight, const VqvaeBlock& block, int64_t rows,
                           int64_t cols, std::span<const std::pair<int64_t, int64_t>> taps) {
  const int64_t window = block.window;
  std::vector<float> out;
  out.reserve(rows * cols * taps.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (const auto& [y, x] : taps) {
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t plane = block.in_first ? c * rows + r : r * cols + c;
        out.push_back(weight[(plane * window + y) * window + x]);
      }
    }
  }
  return out;
}

std::vector<std::pair<int64_t, int64_t>> AllTaps(int64_t window) {
  std::vector<std::pair<int64_t, int64_t>> taps;
  for (int64_t i = 0; i < window * window; ++i) taps.emplace_back(i / window, i % window);
  return taps;
}

absl::StatusOr<std::vector<ConvMatrix>> LoadMatrices(const VqvaeBlock& block,
                                                     const VqvaeConfig& config,
                                                     const Checkpoint& checkpoint,
                                                     const Backend& backend) {
  std::vector<ConvMatrix> matrices;
  const auto load = [&](const VqvaeBlock& part,
                        std::span<const std::vector<std::pair<int64_t, int64_t>>> taps) {
    const int64_t first = part.in_first ? part.in : part.out;
    const int64_t second = part.in_first ? part.out : part.in;
    absl::StatusOr<std::vector<float>> weight = ReadTensor(
        checkpoint, config, part.name + ".weight", {first, second, part.window, part.window});
    if (!weight.ok()) return weight.status();
    absl::StatusOr<std::vector<float>> bias =
        ReadTensor(checkpoint, config, part.name + ".bias", {part.out});
    if (!bias.ok()) return bias.status();
    for (const auto& some : taps) {
      absl::StatusOr<ConvMatrix> matrix =
          ConvMatrix::Pack(ByPixel(*weight, part, part.out, part.in, some), part.out,
                           part.in * static_cast<int64_t>(some.size()), *bias, backend);
      if (!matrix.ok()) return matrix.status();
      matrices.push_back(*std::move(matrix));
    }
    return absl::OkStatus();
  };
  absl::Status status;
  if (block.kind == Kind::kConvolution) {
    const auto taps = AllTaps(block.window);
    status = load(block, {&taps, 1});
  } else if (block.kind == Kind::kTransposed) {
    std::vector<std::vector<std::pair<int64_t, int64_t>>> quarters;
    for (int64_t quarter = 0; quarter < 4; ++quarter) {
      auto& taps = quarters.emplace_back();
      for (int64_t i = 0; i < 4; ++i) {
        taps.emplace_back(kQuarterTaps[quarter / 2][i / 2], kQuarterTaps[quarter % 2][i % 2]);
      }
    }
    status = load(block, quarters);
  } else if (block.kind == Kind::kResidual) {
    const VqvaeBlock wide = {
        .name = block.name + ".conv.1", .in = block.in, .out = config.n_res_channel, .window = 3};
    const VqvaeBlock point = {
        .name = block.name + ".conv.3", .in = config.n_res_channel, .out = block.out, .window = 1};
    const auto taps = AllTaps(3), one = AllTaps(1);
    status = load(wide, {&taps, 1});
    if (status.ok()) status = load(point, {&one, 1});
  }
  if (!status.ok()) return status;
  return matrices;
}

}  // namespace

absl::StatusOr<ConvMatrix> ConvMatrix::Pack(std::span<const float> weights, int64_t rows,
                                            int64_t cols, std::span<const float> bias,
                                            const Backend& backend) {
  ConvMatrix matrix(backend);
  const uint64_t bias_begin = (PackedBytes(kFloat, rows, cols) + 255) / 256 * 256;
  matrix.bytes_ = bias_begin + bias.size_bytes();
  matrix.data_ = static_cast<std::byte*>(backend.alloc(matrix.bytes_));
  std::byte* const here = backend.host_memory
                              ? matrix.data_
                              : static_cast<std::byte*>(backend.alloc_host(matrix.bytes_));
  if (matrix.data_ == nullptr || here == nullptr) {
    return absl::ResourceExhaustedError("no memory for the VQ-VAE");
  }
  PackRows(kFloat, weights.data(), rows, cols, cols, here);
  std::memcpy(here + bias_begin, bias.data(), bias.size_bytes());
  matrix.rows_ = {matrix.data_, kFloat, rows, cols};
  matrix.bias_ = reinterpret_cast<const float*>(matrix.data_ + bias_begin);
  if (backend.host_memory) return matrix;
  const Stream copies = backend.create_stream(0);
  backend.upload(matrix.data_, here, matrix.bytes_, copies);
  backend.synchronize(copies);
  backend.destroy_stream(copies);
  backend.free_host(here, matrix.bytes_);
  return matrix;
}

ConvMatrix::ConvMatrix(ConvMatrix&& other) noexcept
    : backend_(other.backend_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_),
      rows_(other.rows_),
      bias_(other.bias_) {}

ConvMatrix::~ConvMatrix() {
  if (data_ != nullptr) backend_->free(data_, bytes_);
}

void ConvMatrix::Multiply(Tensor x, Tensor residual, Tensor out, Stream stream) const {
  Linear task;
  task.x = x;
  task.weight = rows_;
  task.bias = bias_;
  task.residual = residual;
  task.out = out;
  backend_->linear(task, stream);
}

absl::StatusOr<ConvStack> ConvStack::Load(std::vector<VqvaeBlock> blocks, const VqvaeConfig& config,
                                          const Checkpoint& checkpoint, const Backend& backend) {
  ConvStack stack(backend);
  for (VqvaeBlock& block : blocks) {
    absl::StatusOr<std::vector<ConvMatrix>> matrices =
        LoadMatrices(block, config, checkpoint, backend);
    if (!matrices.ok()) return matrices.status();
    stack.layers_.push_back({std::move(block), *std::move(matrices)});
  }
  return stack;
}

uint64_t ConvStack::weight_bytes() const {
  uint64_t bytes = 0;
  for (const Layer& layer : layers_) {
    for (const ConvMatrix& matrix : layer.matrices) bytes += matrix.bytes();
  }
  return bytes;
}

bool ConvStack::IsPointwise(const VqvaeBlock& block) {
  return block.kind == Kind::kRelu || (block.kind == Kind::kConvolution && block.window == 1);
}

size_t ConvStack::GroupEnd(size_t begin, bool alone) const {
  size_t end = begin + 1;
  while (!alone && end < layers_.size() && IsPointwise(layers_[end].block)) ++end;
  return end;
}

ConvStack::Size ConvStack::OutputSize(const VqvaeBlock& block, Size in) {
  if (block.kind == Kind::kTransposed) return {2 * in.height, 2 * in.width};
  return {in.height / block.stride, in.width / block.stride};
}

// Rows of places in a band, and the floats that a buffer needs for them.
int64_t ConvStack::BandRows(size_t begin, size_t end, Size in, int64_t* floats) const {
  const VqvaeBlock& block = layers_[begin].block;
  const bool transposed = block.kind == Kind::kTransposed;
  const Size places = transposed ? in : OutputSize(block, in);
  const int64_t window = transposed ? 2 : block.window;
  int64_t widest = block.in * window * window;  // of one place
  for (size_t i = begin; i < end; ++i) {
    for (const ConvMatrix& matrix : layers_[i].matrices) {
      widest = std::max(widest, (transposed ? 4 : 1) * matrix.rows().rows);
    }
  }
  const int64_t row = widest * places.width;
  const int64_t rows =
      std::clamp<int64_t>(kBandFloats / std::max<int64_t>(1, row), 1, places.height);
  *floats = rows * row;
  return rows;
}

uint64_t ConvStack::WorkspaceBytes(int64_t height, int64_t width) const {
  Size size = {height, width};
  int64_t widest = 0, band = 0;
  int64_t channels = layers_.front().block.in;
  for (size_t i = 0; i < layers_.size(); ++i) {  // each block alone is the most
    const VqvaeBlock& block = layers_[i].block;
    int64_t floats = 0;
    BandRows(i, GroupEnd(i, false), size, &floats);
    band = std::max(band, floats);
    size = OutputSize(block, size);
    if (block.out > 0) channels = block.out;
    widest = std::max(widest, size.height * size.width * channels);
  }
  return static_cast<uint64_t>(2 * widest + 3 * band) * sizeof(float);
}

Tensor ConvStack::RunPointwise(size_t begin, size_t end, Tensor x, float* spare,
                               Stream stream) const {
  for (size_t i = begin; i < end; ++i) {
    const Layer& layer = layers_[i];
    if (layer.block.kind == Kind::kRelu) {
      backend_->activate({.kind = Activation::kRelu, .x = x, .out = x}, stream);
      continue;
    }
    const Tensor out = F32(spare, x.rows, layer.block.out);
    layer.matrices[0].Multiply(x, {}, out, stream);
    spare = x.f32();
    x = out;
  }
  return x;
}

void ConvStack::RunGroup(size_t begin, size_t end, Tensor in, Size size, Tensor out, float* band,
                         Stream stream, const Pause& pause) const {
  const Layer& layer = layers_[begin];
  const VqvaeBlock& block = layer.block;
  const bool transposed = block.kind == Kind::kTransposed;
  const bool residual = block.kind == Kind::kResidual;
  const Size places = transposed ? size : OutputSize(block, size);
  int64_t floats = 0;
  const int64_t band_rows = BandRows(begin, end, size, &floats);
  float* const windows = band;
  float* const made = band + floats;
  float* const spare = band + 2 * floats;
  if (residual) backend_->activate({.kind = Activation::kRelu, .x = in, .out = in}, stream);
  for (int64_t first = 0; first < places.height; first += band_rows) {
    if (pause) {
      backend_->synchronize(stream);
      pause();
    }
    const int64_t rows = std::min(band_rows, places.height - first);
    const int64_t count = rows * places.width;
    const int64_t window = transposed ? 2 : block.window;
    Unfold unfold = {.picture = in,
                     .height = size.height,
                     .width = size.width,
                     .window = window,
                     .stride = transposed ? 1 : block.stride,
                     .out_width = places.width,
                     .first_row = first,
                     .out = F32(windows, count, window * window * in.cols)};
    if (block.kind == Kind::kRelu) {
      const Tensor from = in.Rows(first * places.width, count);
      backend_->activate(
          {.kind = Activation::kRelu, .x = from, .out = out.Rows(first * places.width, count)},
          stream);
      continue;
    }
    if (!transposed) {
      unfold.offset_y = unfold.offset_x = block.window > 1 ? -1 : 0;
      backend_->unfold(unfold, stream);
      Tensor x = F32(made, count, layer.matrices[0].rows().rows);
      layer.matrices[0].Multiply(unfold.out, {}, x, stream);
      if (residual) {
        backend_->activate({.kind = Activation::kRelu, .x = x, .out = x}, stream);
        const Tensor sum = F32(spare, count, block.out);
        layer.matrices[1].Multiply(x, in.Rows(first * places.width, count), sum, stream);
        x = RunPointwise(begin + 1, end, sum, made, stream);
      } else {
        x = RunPointwise(begin + 1, end, x, spare, stream);
      }
      backend_->copy_rows({.x = x, .ids = nullptr, .out = out.Rows(first * places.width, count)},
                          stream);
      continue;
    }
    for (int64_t quarter = 0; quarter < 4; ++quarter) {
      unfold.offset_y = quarter / 2 == 0 ? -1 : 0;
      unfold.offset_x = quarter % 2 == 0 ? -1 : 0;
      backend_->unfold(unfold, stream);
      layer.matrices[quarter].Multiply(
          unfold.out, {}, F32(made + quarter * count * block.out, count, block.out), stream);
    }
    const Tensor x = RunPointwise(begin + 1, end, F32(made, 4 * count, block.out), spare, stream);
    for (int64_t i = 0; i < 4 * rows; ++i) {  // row `i / 4` of one quarter: every other pixel
      const int64_t quarter = i % 4, y = 2 * (first + i / 4) + quarter / 2;
      Tensor pixels = out.Rows(y * 2 * places.width + quarter % 2, places.width);
      pixels.stride = 2 * out.stride;
      backend_->copy_rows({.x = x.Rows(quarter * count + i / 4 * places.width, places.width),
                           .ids = nullptr,
                           .out = pixels},
                          stream);
    }
  }
}

Tensor ConvStack::Run(Tensor pixels, int64_t height, int64_t width, std::byte* workspace,
                      Stream stream, const Watcher& watch, const Pause& pause) const {
  // Two buffers for what blocks make, in turn, and the band behind them.
  Size size = {height, width};
  int64_t widest = 0, channels = pixels.cols;
  for (const Layer& layer : layers_) {
    size = OutputSize(layer.block, size);
    if (layer.block.out > 0) channels = layer.block.out;
    widest = std::max(widest, size.height * size.width * channels);
  }
  float* const base = reinterpret_cast<float*>(workspace);
  float* const buffers[2] = {base, base + widest};
  float* const band = base + 2 * widest;
  size = {height, width};
  Tensor x = pixels;
  int turn = 0;
  for (size_t begin = 0; begin < layers_.size();) {
    const size_t end = GroupEnd(begin, static_cast<bool>(watch));
    const Size after = OutputSize(layers_[begin].block, size);
    int64_t cols = x.cols;
    for (size_t i = begin; i < end; ++i) {
      if (layers_[i].block.out > 0) cols = layers_[i].block.out;
    }
    const Tensor out = F32(buffers[turn], after.height * after.width, cols);
    RunGroup(begin, end, x, size, out, band, stream, pause);
    backend_->synchronize(stream);
    if (watch) watch(begin, out);
    x = out;
    size = after;
    turn = 1 - turn;
    begin = end;
  }
  return x;
}

}  // namespace qianyi
