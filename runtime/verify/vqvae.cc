// The kind "vqvae": encoding, decoding and reading of pictures, for each variant in the folder.
#include "runtime/pictures/vqvae.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/pictures/picture.h"
#include "runtime/storage/checkpoint.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/safetensors.h"
#include "runtime/verify/fixture.h"
#include "runtime/verify/verify.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

constexpr double kFloatTolerance = 1e-3;
constexpr double kMarginTolerance = 2e-3;
constexpr double kAsTheyAre = 512;  // values above it have a tolerance in proportion
constexpr int64_t kMostSide = 1 << 12;

class VqvaeCases {
 public:
  VqvaeCases(std::string prefix, const Json& margins, const Safetensors& tensors, Vqvae& model,
             VerifyReport& report, std::set<std::string>* replayed)
      : prefix_(std::move(prefix)),
        margins_(margins),
        tensors_(tensors),
        model_(model),
        report_(report),
        replayed_(replayed) {}

  absl::Status Replay() {
    absl::Status status = ReplayDecode();
    if (status.ok()) status = ReplayEncode();
    for (const SafetensorsEntry& entry : tensors_.entries()) {
      const std::string start = prefix_ + "read.";
      if (!status.ok() || !absl::StartsWith(entry.name, start) ||
          !absl::EndsWith(entry.name, ".input_u8")) {
        continue;
      }
      status =
          ReplayRead(entry.name.substr(prefix_.size(), entry.name.size() - prefix_.size() - 9));
    }
    return status;
  }

 private:
  // Shape of an input that must have `rank` dimensions, none of them above kMostSide.
  absl::StatusOr<std::vector<int64_t>> ShapeOf(const std::string& name, size_t rank) {
    const SafetensorsEntry* entry = tensors_.Find(prefix_ + name);
    bool good = entry != nullptr && entry->shape.size() == rank;
    for (size_t i = 0; good && i < rank; ++i) {
      good = entry->shape[i] >= 1 && entry->shape[i] <= kMostSide;
    }
    if (!good) {
      return absl::InvalidArgumentError(
          absl::StrCat(prefix_, name, " is missing, or has not ", rank, " dimensions"));
    }
    replayed_->insert(prefix_ + name);
    return entry->shape;
  }

  void Add(const std::string& name, double difference, double tolerance) {
    replayed_->insert(prefix_ + name);
    report_.Add(
        {.name = prefix_ + name,
         .difference = difference,
         .tolerance = tolerance,
         .result = difference <= tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail,
         .note = {}});
  }
  template <typename T, typename U>
  static double Worst(const std::vector<T>& actual, const std::vector<U>& expected) {
    if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
    double worst = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
      const double difference =
          std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
      worst = std::max(
          worst, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
    }
    return worst;
  }
  void Compare(const std::string& name, const std::vector<float>& actual) {
    if (tensors_.Find(prefix_ + name) == nullptr) return;
    const std::vector<float> expected =
        tensors_.ReadFloats(prefix_ + name).value_or(std::vector<float>());
    double largest = 0;
    for (const float value : expected) largest = std::max(largest, std::abs(double{value}));
    // Squared distances of long features are large, and f32 rounds them in proportion.
    Add(name, Worst(actual, expected), kFloatTolerance * std::max(1.0, largest / kAsTheyAre));
  }
  template <typename T>
  void CompareWhole(const std::string& name, const std::vector<T>& actual, double tolerance) {
    if (tensors_.Find(prefix_ + name) == nullptr) return;
    const auto expected = tensors_.ReadIntegers(prefix_ + name);
    Add(name, Worst(actual, expected.value_or(std::vector<int64_t>())), tolerance);
  }
  void CompareMargin(const std::string& field, double actual, double tolerance) {
    const auto wanted = margins_.find(field);
    if (wanted == margins_.end()) return;
    Add(field,
        wanted->is_number() ? std::abs(actual - wanted->get<double>())
                            : std::numeric_limits<double>::infinity(),
        tolerance);
  }

  // [n, channels] pixel by pixel to [channels, n].
  static void AppendPlanes(const std::vector<float>& pixels, int64_t channels,
                           std::vector<float>* out) {
    const int64_t count = static_cast<int64_t>(pixels.size()) / channels;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < count; ++i) out->push_back(pixels[i * channels + c]);
    }
  }
  static std::vector<float> ByPixel(const float* planes, int64_t channels, int64_t count) {
    std::vector<float> pixels(channels * count);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t c = 0; c < channels; ++c) pixels[i * channels + c] = planes[c * count + i];
    }
    return pixels;
  }
  std::vector<float> Denormalised(std::vector<float> pixels) const {
    const VqvaeConfig& config = model_.config();
    for (size_t i = 0; i < pixels.size(); ++i) {
      pixels[i] = pixels[i] * config.deviation[i % 3] + config.mean[i % 3];
    }
    return pixels;
  }
  // As the original writes pictures: stretched from their least to their greatest value.
  static std::vector<uint8_t> Stretched(const std::vector<float>& values) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const float range = std::max(*most - *least, 1e-5f);
    std::vector<uint8_t> bytes;
    for (const float value : values) {
      bytes.push_back(ToByte(std::clamp((value - *least) / range, 0.0f, 1.0f)));
    }
    return bytes;
  }
  static std::vector<uint8_t> Clamped(const std::vector<float>& values) {
    std::vector<uint8_t> bytes;
    for (const float value : values) bytes.push_back(ToByte(std::clamp(value, 0.0f, 1.0f)));
    return bytes;
  }
  // Pictures in one row with two black pixels around and between them.
  static std::vector<uint8_t> Sheet(const std::vector<std::vector<uint8_t>>& pictures,
                                    int64_t side) {
    constexpr int64_t kGap = 2;
    const int64_t count = static_cast<int64_t>(pictures.size());
    const int64_t width = count * (side + kGap) + kGap, height = side + 2 * kGap;
    std::vector<uint8_t> sheet(width * height * 3, 0);
    for (int64_t n = 0; n < count; ++n) {
      for (int64_t y = 0; y < side; ++y) {
        std::copy_n(pictures[n].begin() + y * side * 3, side * 3,
                    sheet.begin() + ((y + kGap) * width + kGap + n * (side + kGap)) * 3);
      }
    }
    return sheet;
  }

  absl::Status ReplayDecode() {
    const auto shape = ShapeOf("decode.codes", 2);
    if (!shape.ok()) return shape.status();
    const auto codes = tensors_.ReadIntegers(prefix_ + "decode.codes");
    if (!codes.ok()) return codes.status();
    const int64_t batch = (*shape)[0], count = (*shape)[1];
    const int64_t grid = std::llround(std::sqrt(static_cast<double>(count)));
    for (const int64_t code : *codes) {
      if (code < 0 || code >= model_.config().n_embed || grid * grid != count ||
          grid > model_.grid()) {
        return absl::InvalidArgumentError(
            absl::StrCat(prefix_, "decode.codes is no square of codes"));
      }
    }
    const int64_t side = grid * model_.config().factor();
    std::vector<float> raw, image, quantized, every;
    std::vector<std::vector<uint8_t>> stretched, clamped;
    std::vector<std::vector<float>> images;
    std::vector<std::vector<float>> stages;
    for (int64_t n = 0; n < batch; ++n) {
      const std::vector<int32_t> one(codes->begin() + n * count, codes->begin() + (n + 1) * count);
      const std::vector<float> pixels = model_.Decode(one, grid, grid);
      model_.Decode(one, grid, grid, [&](size_t block, Tensor out) {
        if (stages.size() <= block) stages.resize(block + 1);
        AppendPlanes({out.f32(), out.f32() + out.rows * out.cols}, out.cols, &stages[block]);
      });
      const std::vector<float> colours = Denormalised(pixels);
      AppendPlanes(pixels, 3, &raw);
      AppendPlanes(colours, 3, &image);
      AppendPlanes(model_.Quantized(one), model_.config().embed_dim, &quantized);
      images.push_back(colours);
      stretched.push_back(Stretched(colours));
      clamped.push_back(Clamped(colours));
      every.insert(every.end(), colours.begin(), colours.end());
    }
    Compare("decode.raw", raw);
    Compare("decode.image", image);
    Compare("decode.quantized", quantized);
    for (size_t i = 0; i < stages.size(); ++i) Compare(absl::StrCat("decode.stage", i), stages[i]);
    const auto all = [](const std::vector<std::vector<uint8_t>>& parts) {
      std::vector<uint8_t> joined;
      for (const auto& part : parts) joined.insert(joined.end(), part.begin(), part.end());
      return joined;
    };
    CompareWhole("decode.uint8_minmax", all(stretched), 1);
    CompareWhole("decode.uint8_clamped", all(clamped), 1);
    const std::vector<uint8_t> together = Stretched(every);
    std::vector<std::vector<uint8_t>> parts;
    for (int64_t n = 0; n < batch; ++n) {
      parts.emplace_back(together.begin() + n * side * side * 3,
                         together.begin() + (n + 1) * side * side * 3);
    }
    CompareWhole("decode.uint8_concat_minmax", Sheet(parts, side), 1);
    CompareWhole("decode.uint8_concat_clamped", Sheet(clamped, side), 1);
    if (const auto wanted = margins_.find("raw_minmax"); wanted != margins_.end()) {
      const auto [least, most] = std::minmax_element(image.begin(), image.end());
      const bool listed = wanted->is_array() && wanted->size() == 2 && (*wanted)[0].is_number() &&
                          (*wanted)[1].is_number();
      Add("raw_minmax",
          listed ? std::max(std::abs((*wanted)[0].get<double>() - *least),
                            std::abs((*wanted)[1].get<double>() - *most))
                 : std::numeric_limits<double>::infinity(),
          kFloatTolerance);
    }
    return absl::OkStatus();
  }

  // The gap between the nearest and the second nearest code, where it is smallest.
  double LeastMargin(const std::vector<float>& distances) const {
    double least = std::numeric_limits<double>::infinity();
    for (auto row = distances.begin(); row != distances.end(); row += model_.config().n_embed) {
      std::vector<float> sorted(row, row + model_.config().n_embed);
      if (sorted.size() < 2) continue;
      std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end());
      least = std::min(least, double{sorted[1]} - sorted[0]);
    }
    return least;
  }

  absl::Status ReplayEncode() {
    const auto shape = ShapeOf("encode.pixels", 4);
    if (!shape.ok()) return shape.status();
    const auto planes = tensors_.ReadFloats(prefix_ + "encode.pixels");
    if (!planes.ok()) return planes.status();
    const int64_t height = (*shape)[2], width = (*shape)[3], pixels = height * width;
    const int64_t most = model_.grid() * model_.config().factor();
    if ((*shape)[1] != 3 || height > most || width > most) {
      return absl::InvalidArgumentError(absl::StrCat(prefix_, "encode.pixels is too large"));
    }
    std::vector<float> features, distances, quantized;
    std::vector<int32_t> codes;
    double squares = 0;
    for (int64_t n = 0; n < (*shape)[0]; ++n) {
      const std::vector<float> one =
          model_.Features(ByPixel(planes->data() + n * 3 * pixels, 3, pixels), height, width);
      const std::vector<int32_t> nearest = model_.Nearest(one);
      const std::vector<float> away = model_.Distances(one), chosen = model_.Quantized(nearest);
      for (size_t i = 0; i < one.size(); ++i) squares += std::pow(double{chosen[i]} - one[i], 2);
      features.insert(features.end(), one.begin(), one.end());
      distances.insert(distances.end(), away.begin(), away.end());
      codes.insert(codes.end(), nearest.begin(), nearest.end());
      AppendPlanes(chosen, model_.config().embed_dim, &quantized);
    }
    if (tensors_.Find(prefix_ + "roundtrip.image") != nullptr) {  // of the first picture
      const int64_t rows = height / model_.config().factor();
      const int64_t columns = width / model_.config().factor();
      const std::span<const int32_t> first(codes.data(), static_cast<size_t>(rows * columns));
      std::vector<float> back;
      AppendPlanes(Denormalised(model_.Decode(first, rows, columns)), 3, &back);
      Compare("roundtrip.image", back);
    }
    Compare("encode.features", features);
    CompareWhole("encode.codes", codes, 0);
    Compare("encode.distance", distances);
    Compare("encode.quantized", quantized);
    Compare("encode.diff", {static_cast<float>(squares / static_cast<double>(features.size()))});
    CompareMargin("encode_min_margin", LeastMargin(distances), kMarginTolerance);
    return absl::OkStatus();
  }

  absl::Status ReplayRead(const std::string& name) {
    const auto shape = ShapeOf(name + ".input_u8", 3);
    if (!shape.ok()) return shape.status();
    const auto side = ShapeOf(name + ".resized_u8", 3);
    if (!side.ok()) return side.status();
    const auto bytes = tensors_.ReadIntegers(prefix_ + name + ".input_u8");
    if (!bytes.ok()) return bytes.status();
    const int64_t channels = (*shape)[2], target = (*side)[0];
    if ((channels != 3 && channels != 4) || target > model_.grid() * model_.config().factor()) {
      return absl::InvalidArgumentError(absl::StrCat(prefix_, name, " is no RGB picture"));
    }
    Picture picture = {(*shape)[1], (*shape)[0], channels, {}};
    for (const int64_t byte : *bytes) picture.bytes.push_back(static_cast<uint8_t>(byte));
    const Picture sized = ResizeAndCrop(picture, target);
    const std::vector<float> pixels = ToPixels(sized, model_.config());
    const std::vector<float> features = model_.Features(pixels, target, target);
    const std::vector<int32_t> codes = model_.Nearest(features);
    std::vector<float> planes;
    AppendPlanes(pixels, 3, &planes);
    CompareWhole(name + ".resized_u8", sized.bytes, 0);
    Compare(name + ".pixels", planes);
    CompareWhole(name + ".codes", codes, 0);
    std::string field = name + "_min_margin";
    std::replace(field.begin(), field.end(), '.', '_');
    CompareMargin(field, LeastMargin(model_.Distances(features)), kMarginTolerance);
    return absl::OkStatus();
  }

  const std::string prefix_;  // "main."
  const Json& margins_;
  const Safetensors& tensors_;
  Vqvae& model_;
  VerifyReport& report_;
  std::set<std::string>* const replayed_;
};

}  // namespace

absl::Status VerifyVqvae(const std::string& folder, VerifyReport& report) {
  const absl::StatusOr<Json> config = ReadJson(JoinPath(folder, "config.json"));
  if (!config.ok()) return config.status();
  const absl::StatusOr<Json> cases = ReadJson(JoinPath(folder, "cases.json"));
  if (!cases.ok()) return cases.status();
  absl::StatusOr<Safetensors> tensors = Safetensors::Open(JoinPath(folder, "cases.safetensors"));
  if (!tensors.ok()) return tensors.status();
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(JoinPath(folder, "weights.safetensors"));
  if (!checkpoint.ok()) return checkpoint.status();
  const Json variants = config->value("variants", Json());
  if (!variants.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(folder, "/config.json has no \"variants\""));
  }
  const Backend* const device = report.device().backend;
  std::set<std::string> replayed;
  for (const auto& [name, fields] : variants.items()) {
    Json shape = fields.is_object() ? fields : Json::object();
    for (const char* colours : {"mean_rgb", "std_rgb"}) {
      if (config->contains(colours)) shape[colours] = (*config)[colours];
    }
    const absl::StatusOr<VqvaeConfig> parsed = VqvaeConfig::Read(shape);
    if (!parsed.ok()) return parsed.status();
    const int64_t side = shape.contains("img_size") && shape["img_size"].is_number_integer()
                             ? std::clamp<int64_t>(shape["img_size"].get<int64_t>(), 8, kMostSide)
                             : 256;
    absl::StatusOr<std::unique_ptr<Vqvae>> model =
        Vqvae::Load(*parsed, *checkpoint, side / parsed->factor(), /*threads=*/1,
                    device != nullptr ? *device : Cpu());
    if (!model.ok()) return model.status();
    const Json margins = cases->value(name, Json::object());
    absl::Status status =
        VqvaeCases(name + ".", margins, *tensors, **model, report, &replayed).Replay();
    if (!status.ok()) return status;
    for (const auto& [field, value] : margins.items()) {
      if (replayed.contains(absl::StrCat(name, ".", field))) continue;
      report.Add({.name = absl::StrCat(name, ".", field),
                  .result = VerifyLine::Result::kUnknown,
                  .note = "nothing here replays this field"});
    }
  }
  for (const SafetensorsEntry& entry : tensors->entries()) {
    if (replayed.contains(entry.name)) continue;
    report.Add({.name = entry.name,
                .result = VerifyLine::Result::kUnknown,
                .note = "nothing here replays this tensor"});
  }
  return absl::OkStatus();
}

}  // namespace qianyi
