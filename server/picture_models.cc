#include "server/picture_models.h"

#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

bool SameCodes(const PictureConfig& a, const PictureConfig& b) {
  return a.image_tokens == b.image_tokens && a.text_tokens == b.text_tokens && a.grid == b.grid;
}

PictureEngine InRole(const ServedModel& model, std::span<const std::unique_ptr<ServedModel>> all,
                     bool PictureConfig::*role) {
  if ((*model.picture).*role) return {model.engine.get(), model.picture.get()};
  for (const auto& other : all) {
    if (other->picture != nullptr && (*other->picture).*role &&
        SameCodes(*model.picture, *other->picture)) {
      return {other->engine.get(), other->picture.get()};
    }
  }
  return {};
}

}  // namespace

absl::StatusOr<Painter> PainterOf(const ServedModel& model,
                                  std::span<const std::unique_ptr<ServedModel>> all) {
  if (model.picture == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("model %s is one of text; pictures need a CogView model", model.name));
  }
  Painter::Parts parts;
  parts.paint = InRole(model, all, &PictureConfig::paints);
  parts.caption = InRole(model, all, &PictureConfig::captions);
  parts.magnify = InRole(model, all, &PictureConfig::magnifies);
  parts.vqvae = model.vqvae.get();
  parts.tokenizer = model.tokenizer.get();
  for (const auto& other : all) {
    if (parts.vqvae == nullptr && other->picture != nullptr &&
        SameCodes(*model.picture, *other->picture)) {
      parts.vqvae = other->vqvae.get();
    }
  }
  return Painter(parts);
}

}  // namespace qianyi
